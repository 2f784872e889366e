"""Signatures that we make: over the manifest of a model folder, and over records.

Manifests are signed in the OpenSSF Model Signing form, which `model_signing verify` reads too, with
an EC key or a certificate; nothing touches the network. The library gets the files and digests that
we listed and hashed ourselves, hidden ones too, so that what is signed is what was looked at.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from pipelines.canonical import Frozen, atomic_path, canonical_json
from pipelines.digest import FileEntry, build_manifest, list_files
from pipelines.errors import MalformedFile, SignatureRefused, WrongKindOfPath
from pipelines.signatures.bundle import parse_bundle, read_bundle
from pipelines.signatures.keys import create_key, load_private_key, load_public_key, public_pem
from pipelines.signatures.publishers import check_key, check_self_consistent
from pipelines.signatures.statement import parse_statement
from pipelines.verification.findings import quoted
from pipelines.verification.strict_json import parse_strict

__all__ = [
    "Certificate",
    "check_manifest_signature",
    "create_key",
    "sign_bytes",
    "sign_manifest",
    "verify_bytes",
]

RECORD_SIGNATURE = "weighbridge-record-signature-v1"


class Certificate(Frozen):
    """The signer's certificate and what vouches for it (the root, if nothing else), as PEM."""

    leaf: Path
    chain: tuple[Path, ...] = Field(min_length=1)


def sign_manifest(
    private_key: Path,
    weights: Path,
    bundle_path: Path,
    certificate: Certificate | None = None,
) -> tuple[FileEntry, ...]:
    """Sign every file under `weights`, hidden ones too, and write the bundle outside that folder.

    Returns what was signed. ECDSA signatures are randomised, so two bundles over the same bytes
    differ. Raises WrongKindOfPath for a folder with links, SignatureRefused when the key cannot be
    used, when the folder changes meanwhile, or when the bundle would lie among the files that it
    signs.
    """
    key = load_private_key(private_key)
    if not list_files(weights):
        raise SignatureRefused(weights, "there is nothing to sign")
    if bundle_path.resolve().is_relative_to(weights.resolve()):
        raise SignatureRefused(bundle_path, "a signature cannot lie in the folder that it signs")
    from model_signing import signing

    config = signing.Config()
    if certificate is None:
        config.use_elliptic_key_signer(private_key=private_key)
    else:
        _use_certificate(config, private_key, certificate)
    before = _state(weights)
    files = build_manifest(weights)
    with atomic_path(bundle_path) as temporary:
        config.set_hashing_config(_Hashed(files)).sign(weights, temporary)
        envelope = parse_bundle(temporary.read_bytes(), bundle_path)
        if certificate is None:
            check_key(envelope, public_pem(key.public_key()))
        check_self_consistent(envelope)
        if difference := parse_statement(envelope.payload, bundle_path).compare(files, None):
            raise SignatureRefused(weights, str(difference))
        if _state(weights) != before:
            raise SignatureRefused(weights, "it changed while it was signed")
    return files


def check_manifest_signature(public_key: Path, weights: Path, bundle_path: Path) -> None:
    """Check that `public_key` signed exactly the bytes that lie under `weights`.

    Raises SignatureRefused with the first reason: no bundle, another key, a statement that ignores
    paths, and files that are missing, extra or changed, each by name.
    """
    for path, what in ((bundle_path, "signature"), (public_key, "public key")):
        if not path.is_file():
            raise SignatureRefused(path, f"there is no {what}")
    envelope = read_bundle(bundle_path, bundle_path)
    check_key(envelope, public_key.read_bytes())
    statement = parse_statement(envelope.payload, bundle_path)
    try:
        files = build_manifest(weights)
    except WrongKindOfPath as error:
        raise SignatureRefused(weights, str(error)) from error
    if difference := statement.compare(files, weights):
        raise SignatureRefused(weights, str(difference))


def sign_bytes(private_key: Path, data: bytes) -> bytes:
    """Sign a record with ECDSA and SHA-256 (RFC 6979: the same bytes, the same signature).

    Returns a small JSON document: {"kind", "key_sha256", "signature" (base64 of DER)}.
    """
    key = load_private_key(private_key)
    signature = key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    document = {
        "kind": RECORD_SIGNATURE,
        "key_sha256": hashlib.sha256(public_pem(key.public_key())).hexdigest(),
        "signature": base64.b64encode(signature).decode("ascii"),
    }
    return canonical_json(document) + b"\n"


def verify_bytes(public_pem: bytes, data: bytes, signature: bytes, subject: Path | str) -> None:
    """Check what `sign_bytes` made; raises SignatureRefused naming `subject`."""
    key = load_public_key(public_pem, subject)
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


class _Hashed:
    """Stands in for the library's hashing configuration: files that we have hashed already."""

    def __init__(self, files: Iterable[FileEntry]) -> None:
        self._files = tuple(files)

    def hash(self, model_path: Path) -> Any:
        """The library's manifest of these files; it ignores nothing."""
        from model_signing import manifest

        form = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        items = [
            manifest.FileManifestItem(
                path=Path(entry.path),
                digest=manifest.hashing.Digest("sha256", bytes.fromhex(entry.sha256)),
            )
            for entry in self._files
        ]
        kind = manifest.SerializationType.from_args(form)
        return manifest.Manifest(Path(model_path).name, items, kind)


def _use_certificate(config: Any, private_key: Path, certificate: Certificate) -> None:
    for path in (certificate.leaf, *certificate.chain):
        if not path.is_file():
            raise SignatureRefused(path, "there is no certificate")
    try:
        config.use_certificate_signer(
            private_key=private_key,
            signing_certificate=certificate.leaf,
            certificate_chain=list(certificate.chain),
        )
    except ValueError as error:  # no PEM certificate, or another key's
        fact = f"the certificate cannot be used ({error})"
        raise SignatureRefused(certificate.leaf, fact) from error


def _state(folder: Path) -> list[tuple[str, int, int, int]]:
    """Names, sizes, change times and inodes: what cannot stay the same when bytes are written."""
    found = []
    for path in list_files(folder):
        status = path.stat()
        found.append((str(path), status.st_size, status.st_ctime_ns, status.st_ino))
    return found
