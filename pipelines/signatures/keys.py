"""Keys: elliptic curves of NIST only, as the Model Signing specification has them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.canonical import write_bytes
from pipelines.errors import ConfigError, SignatureRefused

# Which hash belongs to which curve (sigstore's protobuf specification, PublicKeyDetails).
_HASHES: dict[str, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_LOOSE = stat.S_IWGRP | stat.S_IRWXO


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
    write_bytes(public, public_pem(key.public_key()))


def load_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """An unencrypted PEM private key on P-256, P-384 or P-521.

    Raises SignatureRefused when there is none, when it is of another kind, and when others than
    its owner and group may read it: such a key signs for anybody on the machine.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SignatureRefused(path, "there is no private key") from error
    except OSError as error:
        fact = f"the private key cannot be read ({error.strerror})"
        raise SignatureRefused(path, fact) from error
    if mode & _LOOSE:
        fact = f"the private key has the permissions {stat.S_IMODE(mode):04o} (`chmod 600` it)"
        raise SignatureRefused(path, fact)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureRefused(path, "it is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise SignatureRefused(path, "it is not a private key on P-256, P-384 or P-521")
    return key


def load_public_key(pem: bytes, subject: Path | str) -> ec.EllipticCurvePublicKey:
    """A PEM public key on P-256, P-384 or P-521; raises SignatureRefused for any other."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        fact = "the key to check it with is not a PEM public key"
        raise SignatureRefused(subject, fact) from error
    return signing_key(key, subject)


def signing_key(key: Any, subject: Path | str) -> ec.EllipticCurvePublicKey:
    """The same key, if it is of a kind that may sign; raises SignatureRefused otherwise."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise SignatureRefused(subject, "the key to check it with is not on P-256, P-384 or P-521")
    return key


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The PEM form whose sha256 a bundle gives as its key's hint."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` (ECDSA, DER, with the hash of the key's curve) is of `data`."""
    try:
        key.verify(signature, data, ec.ECDSA(_HASHES[key.curve.name]()))
    except InvalidSignature:
        return False
    return True
