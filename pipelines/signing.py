"""Signatures: over the manifest of a model folder, and over records.

Manifests are signed in the OpenSSF Model Signing form (a Sigstore bundle around a DSSE envelope
around an in-toto statement, predicate `https://model_signing/signature/v1.0`) with the
`model-signing` library and an EC P-256 key; nothing touches the network. The library alone accepts
too much: files under `.git` and `.github` that nobody signed, and whatever the signer listed in
`ignore_paths`. So a signature counts here only when its statement ignores nothing and names
exactly the files that are there, with the digests that we compute ourselves.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.canonical import canonical_json, write_bytes
from pipelines.digest import build_manifest, list_files
from pipelines.errors import ConfigError, MalformedFile, SignatureRefused, WrongKindOfPath
from pipelines.verification.findings import listed, quoted
from pipelines.verification.strict_json import parse_strict

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
RECORD_SIGNATURE = "weighbridge-record-signature-v1"
MAX_BUNDLE_BYTES = 64 * 1024 * 1024
_HASHES: dict[int, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    256: hashes.SHA256,
    384: hashes.SHA384,
    521: hashes.SHA512,
}


def create_key(private: Path, public: Path) -> None:
    """Create an EC P-256 key pair as PEM files; the private one is readable by its owner only.

    Raises ConfigError when one of the files exists: a key is never overwritten.
    """
    for path in (private, public):
        if path.exists():
            raise ConfigError(path, "a key is already there", "Move it away, or keep using it.")
        path.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    write_bytes(public, _public_pem(key.public_key()))


def sign_manifest(private_key: Path, weights: Path, bundle_path: Path) -> None:
    """Sign every file under `weights`, hidden ones too, and write the bundle outside that folder.

    ECDSA signatures are randomised, so two bundles over the same bytes differ. Raises
    WrongKindOfPath for a folder with links, SignatureRefused when the key cannot be used or the
    bundle would lie among the files that it signs.
    """
    key = _private_key(private_key)
    if not list_files(weights):
        raise SignatureRefused(weights, "there is nothing to sign")
    if bundle_path.resolve().is_relative_to(weights.resolve()):
        raise SignatureRefused(bundle_path, "a signature cannot lie in the folder that it signs")
    from model_signing import hashing, signing

    everything = hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)
    config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    temporary = bundle_path.with_name(f".{bundle_path.name}.partial")
    bundle_path.parent.mkdir(parents=True, exist_ok=True)
    config.set_hashing_config(everything).sign(weights, temporary)
    signed_files(_public_pem(key.public_key()), temporary.read_bytes(), bundle_path)
    os.replace(temporary, bundle_path)


def check_manifest_signature(public_key: Path, weights: Path, bundle_path: Path) -> None:
    """Check that `public_key` signed exactly the bytes that lie under `weights`.

    Raises SignatureRefused with the first reason: no bundle, another key, a statement that ignores
    paths, and files that are missing, extra or changed, each by name.
    """
    for path, what in ((bundle_path, "signature"), (public_key, "public key")):
        if not path.is_file():
            raise SignatureRefused(path, f"there is no {what}")
    try:
        actual = {entry.path: entry.sha256 for entry in build_manifest(weights)}
    except WrongKindOfPath as error:
        raise SignatureRefused(weights, str(error)) from error
    key = _public_key(public_key.read_bytes(), public_key)
    signed = signed_files(_public_pem(key), bundle_path.read_bytes(), bundle_path)
    if problem := difference(signed, actual):
        raise SignatureRefused(weights, problem)


def signed_files(public_pem: bytes, bundle: bytes, subject: Path | str) -> dict[str, str]:
    """Names and sha256 digests that a bundle's statement holds, once its signature is checked.

    Raises SignatureRefused when the bundle has another form, another key, another predicate, a
    hash other than sha256 over whole files, links allowed, or paths that it ignores.
    """
    key = _public_key(public_pem, subject)
    payload = _verified_payload(key, bundle, subject)
    predicate = payload.get("predicate")
    if payload.get("_type") != STATEMENT_TYPE or payload.get("predicateType") != PREDICATE_TYPE:
        raise SignatureRefused(subject, f"it is no statement of type {PREDICATE_TYPE}")
    settings = _member(predicate, "serialization", dict, subject)
    if ignored := settings.get("ignore_paths"):
        raise SignatureRefused(subject, f"its statement ignores {quoted(ignored)}")
    wanted = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    for name, value in wanted.items():
        if settings.get(name) != value:
            fact = f"its statement has {name} {quoted(settings.get(name))}, not {quoted(value)}"
            raise SignatureRefused(subject, fact)
    return _resources(predicate, payload, subject)


def difference(signed: Mapping[str, str], actual: Mapping[str, str]) -> str:
    """What differs between the files that were signed and those that are there, or ''."""
    changed = sorted(n for n in signed.keys() & actual.keys() if signed[n] != actual[n])
    parts = [
        (sorted(signed.keys() - actual.keys()), "signed and missing"),
        (sorted(actual.keys() - signed.keys()), "here and not signed"),
        (changed, "changed since they were signed"),
    ]
    return "; ".join(f"{what}: {listed(names)}" for names, what in parts if names)


def sign_bytes(private_key: Path, data: bytes) -> bytes:
    """Sign a record with ECDSA P-256 and SHA-256 (RFC 6979: the same bytes, the same signature).

    Returns a small JSON document: {"kind", "key_sha256", "signature" (base64 of DER)}.
    """
    key = _private_key(private_key)
    signature = key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    document = {
        "kind": RECORD_SIGNATURE,
        "key_sha256": hashlib.sha256(_public_pem(key.public_key())).hexdigest(),
        "signature": base64.b64encode(signature).decode("ascii"),
    }
    return canonical_json(document) + b"\n"


def verify_bytes(public_pem: bytes, data: bytes, signature: bytes, subject: Path | str) -> None:
    """Check what `sign_bytes` made; raises SignatureRefused naming `subject`."""
    key = _public_key(public_pem, subject)
    try:
        document = parse_strict(signature, str(subject))
        if document["kind"] != RECORD_SIGNATURE:
            raise SignatureRefused(subject, f"its signature is a {quoted(document['kind'])}")
        raw = base64.b64decode(document["signature"], validate=True)
    except (MalformedFile, KeyError, TypeError, ValueError) as error:
        raise SignatureRefused(subject, "its signature file cannot be read") from error
    try:
        key.verify(raw, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise SignatureRefused(
            subject, "the signature is not of these bytes by this key"
        ) from error


def _verified_payload(
    key: ec.EllipticCurvePublicKey, bundle: bytes, subject: Path | str
) -> dict[str, Any]:
    """The in-toto statement of a bundle, after its one DSSE signature was checked."""
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise SignatureRefused(subject, f"it has {len(bundle)} bytes")
    try:
        document = parse_strict(bundle, str(subject))
        envelope = _member(document, "dsseEnvelope", dict, subject)
        signatures = _member(envelope, "signatures", list, subject)
        if document.get("mediaType") != BUNDLE_TYPE or envelope.get("payloadType") != PAYLOAD_TYPE:
            raise SignatureRefused(subject, f"it is not a bundle of type {BUNDLE_TYPE}")
        if len(signatures) != 1:
            raise SignatureRefused(subject, f"it holds {len(signatures)} signatures, not one")
        raw = base64.b64decode(_member(signatures[0], "sig", str, subject), validate=True)
        payload = base64.b64decode(_member(envelope, "payload", str, subject), validate=True)
    except (MalformedFile, ValueError) as error:
        raise SignatureRefused(subject, f"it cannot be read ({error})") from error
    try:
        key.verify(raw, _pre_authentication(payload), ec.ECDSA(_HASHES[key.curve.key_size]()))
    except InvalidSignature as error:
        raise SignatureRefused(subject, "it was not made with the expected key") from error
    statement = parse_strict(payload, str(subject))
    if not isinstance(statement, dict):
        raise SignatureRefused(subject, "its payload is no statement")
    return statement


def _pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE: what is signed (github.com/secure-systems-lab/dsse, protocol.md)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _resources(predicate: Any, payload: Mapping[str, Any], subject: Path | str) -> dict[str, str]:
    """Resources by name, checked against the statement's root digest."""
    signed: dict[str, str] = {}
    root = hashlib.sha256()
    for resource in _member(predicate, "resources", list, subject):
        name = _member(resource, "name", str, subject)
        digest = _member(resource, "digest", str, subject)
        if name in signed or resource.get("algorithm") != "sha256" or not _is_sha256(digest):
            raise SignatureRefused(subject, f"its entry for {quoted(name)} cannot be used")
        signed[name] = digest
        root.update(bytes.fromhex(digest))
    subjects = payload.get("subject")
    digests = [s.get("digest") for s in subjects if isinstance(s, dict)] if subjects else []
    if digests != [{"sha256": root.hexdigest()}]:
        raise SignatureRefused(subject, "its root digest is not that of its entries")
    return signed


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def _member(value: Any, name: str, kind: type[Any], subject: Path | str) -> Any:
    """A member of a JSON object, of the type that it must have."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise SignatureRefused(subject, f"it has no {name}")
    return found


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise SignatureRefused(path, "there is no private key") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureRefused(path, "it is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.key_size != 256:
        raise SignatureRefused(path, "it is not an EC P-256 private key")
    return key


def _public_key(pem: bytes, subject: Path | str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureRefused(
            subject, "the key to check it with is not a PEM public key"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in _HASHES:
        raise SignatureRefused(subject, "the key to check it with is not an elliptic-curve key")
    return key


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
