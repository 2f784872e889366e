"""A private authority for tests: roots, intermediates and leaves, right and wrong ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
CODE_SIGNING = ExtendedKeyUsageOID.CODE_SIGNING
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Wish:
    """What a certificate should say."""

    name: str = "Acme Release"
    authority: bool = False
    path_length: int | None = None
    days: tuple[int, int] = (-1, 30)  # first and last day, counted from now
    purposes: tuple[x509.ObjectIdentifier, ...] = (CODE_SIGNING,)
    signs_data: bool = True
    san: str = "release@acme.example"
    key: Key = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    extra: tuple[x509.ExtensionType, ...] = ()


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def write(self, folder: Path) -> tuple[Path, Path]:
        """(certificate, private key) as PEM files."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / "leaf.pem", folder / "leaf.key"
        certificate.write_text(self.pem)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        key.chmod(0o600)
        return certificate, key


def root(wish: Wish | None = None) -> Issued:
    wish = wish or Wish(name="Acme Root")
    return issue(replace(wish, authority=True, days=(-300, 300), purposes=(), san=""), None)


def issue(wish: Wish, issuer: Issued | None) -> Issued:
    """A certificate as wished for; without an issuer it is signed by its own key."""
    subject = _name(wish.name)
    signer = issuer or Issued(x509.Certificate, wish.key)  # type: ignore[arg-type]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(wish.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=wish.days[0]))
        .not_valid_after(NOW + timedelta(days=wish.days[1]))
        .add_extension(_usage(wish), critical=True)
        .add_extension(
            x509.BasicConstraints(ca=wish.authority, path_length=wish.path_length), critical=True
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(wish.key.public_key()), critical=False
        )
    )
    for extension in _optional(wish):
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(signer.key, wish.hash), wish.key)


def _optional(wish: Wish) -> Iterable[x509.ExtensionType]:
    if wish.purposes:
        yield x509.ExtendedKeyUsage(wish.purposes)
    if wish.san:
        kind = x509.RFC822Name if "@" in wish.san else x509.UniformResourceIdentifier
        yield x509.SubjectAlternativeName([kind(wish.san)])
    yield from wish.extra


def _name(common: str) -> x509.Name:
    attributes = [(NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.COMMON_NAME, common)]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


def _usage(wish: Wish) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=wish.signs_data and not wish.authority,
        content_commitment=False,
        key_encipherment=not wish.signs_data,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=wish.authority,
        crl_sign=wish.authority,
        encipher_only=False,
        decipher_only=False,
    )
