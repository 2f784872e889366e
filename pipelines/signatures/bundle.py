"""The outer form of a signature: a Sigstore bundle v0.3 with one DSSE signature."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import MalformedFile, SignatureRefused
from pipelines.verification.findings import listed
from pipelines.verification.strict_json import parse_strict

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BUNDLE_BYTES = 64 * 1024 * 1024
MAX_CERTIFICATES = 10

Material = Literal["public_key", "certificate", "sigstore"]
# The library puts a private chain under x509CertificateChain; Sigstore's own form is `certificate`.
_MATERIALS: dict[str, Material] = {
    "publicKey": "public_key",
    "x509CertificateChain": "certificate",
    "certificate": "sigstore",
}


@dataclass(frozen=True)
class SignedEnvelope:
    """One bundle as read, before anything in it is trusted."""

    subject: str  # what error messages call it
    data: bytes
    material: Material
    key_hint: str  # sha256 of the signer's PEM public key as the bundle claims it, or ''
    certificates: tuple[bytes, ...]  # DER, the signer's first
    signature: bytes
    payload: bytes

    @property
    def signed_bytes(self) -> bytes:
        """DSSE's PAE: what is signed (github.com/secure-systems-lab/dsse, protocol.md)."""
        kind = PAYLOAD_TYPE.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


def read_bundle(path: Path, subject: Path | str) -> SignedEnvelope:
    """Read a bundle file, at most 64 MiB of it; raises SignatureRefused."""
    with path.open("rb") as file:
        data = file.read(MAX_BUNDLE_BYTES + 1)
    return parse_bundle(data, subject)


def parse_bundle(data: bytes, subject: Path | str) -> SignedEnvelope:
    """Parse a bundle strictly; raises SignatureRefused for any other form."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise SignatureRefused(subject, f"it has more than {MAX_BUNDLE_BYTES} bytes")
    try:
        document = parse_strict(data, str(subject))
    except MalformedFile as error:
        raise SignatureRefused(subject, f"it cannot be read ({error.fact})") from error
    envelope = member(document, "dsseEnvelope", dict, subject)
    if document.get("mediaType") != BUNDLE_TYPE or envelope.get("payloadType") != PAYLOAD_TYPE:
        raise SignatureRefused(subject, f"it is not a bundle of type {BUNDLE_TYPE}")
    signatures = member(envelope, "signatures", list, subject)
    if len(signatures) != 1:
        raise SignatureRefused(subject, f"it holds {len(signatures)} signatures, not one")
    found = member(document, "verificationMaterial", dict, subject)
    materials = [name for name in _MATERIALS if found.get(name) is not None]
    if len(materials) != 1:
        fact = f"it names its signer by {listed(materials) or 'nothing'}, and one form is needed"
        raise SignatureRefused(subject, fact)
    return SignedEnvelope(
        subject=str(subject),
        data=data,
        material=_MATERIALS[materials[0]],
        key_hint=_hint(found, subject),
        certificates=_certificates(found, subject),
        signature=_decode(signatures[0], "sig", subject),
        payload=_decode(envelope, "payload", subject),
    )


def member(value: Any, name: str, kind: type[Any], subject: Path | str) -> Any:
    """A member of a JSON object, of the type that it must have; raises SignatureRefused."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise SignatureRefused(subject, f"it has no {name}")
    return found


def _hint(material: dict[str, Any], subject: Path | str) -> str:
    if material.get("publicKey") is None:
        return ""
    hint = member(material, "publicKey", dict, subject).get("hint")
    return hint if isinstance(hint, str) else ""


def _certificates(material: dict[str, Any], subject: Path | str) -> tuple[bytes, ...]:
    if material.get("certificate") is not None:
        return (_decode(material["certificate"], "rawBytes", subject),)
    if material.get("x509CertificateChain") is None:
        return ()
    chain = member(material, "x509CertificateChain", dict, subject)
    entries = member(chain, "certificates", list, subject)
    if not 1 <= len(entries) <= MAX_CERTIFICATES:
        raise SignatureRefused(subject, f"it holds a chain of {len(entries)} certificates")
    return tuple(_decode(entry, "rawBytes", subject) for entry in entries)


def _decode(value: Any, name: str, subject: Path | str) -> bytes:
    text = member(value, name, str, subject)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureRefused(subject, f"its {name} is not base64") from error
