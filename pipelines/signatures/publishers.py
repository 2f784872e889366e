"""Whose signature counts: the publishers of a verification policy, and how each is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.canonical import Frozen, sha256_bytes
from pipelines.errors import ConfigError, SignatureRefused
from pipelines.signatures.bundle import Material, SignedEnvelope

PUBLIC_GOOD = "public-good"
_PEM = r"^-----BEGIN {0}-----\n[\s\S]+-----END {0}-----\n?$"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SigstoreIdentity(Frozen):
    """A keyless signer: who, vouched for by whom, under which root of trust."""

    identity: str = Field(min_length=1, description="the certificate's e-mail address or URI")
    issuer: str = Field(min_length=1, description="the OpenID Connect issuer's URL")
    trust_root: str = Field(
        min_length=1,
        description="'public-good' for the public instance as the installed sigstore knows it, or "
        "a JSON file beside the policy",
    )
    trust_root_sha256: Sha256 | None = Field(default=None, description="of that file")


class Publisher(Frozen):
    """One publisher: a public key, or roots with the expected name, or a Sigstore identity."""

    public_key: str | None = Field(default=None, pattern=_PEM.format("PUBLIC KEY"))
    certificate_roots: str | None = Field(
        default=None,
        pattern=_PEM.format("CERTIFICATE"),
        description="PEM certificates of the authorities that may vouch for the signer",
    )
    subject: str = Field(default="", description="expected distinguished name, as RFC 4514 text")
    san: str = Field(default="", description="expected e-mail address, URI or DNS name")
    sigstore: SigstoreIdentity | None = None

    @model_validator(mode="after")
    def _one_way_to_know_it(self) -> Self:
        ways = [self.public_key, self.certificate_roots, self.sigstore]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("exactly one of public_key, certificate_roots and sigstore is needed")
        if self.certificate_roots is not None and not (self.subject or self.san):
            raise ValueError("certificate_roots need the subject or the san that is expected")
        if self.certificate_roots is None and (self.subject or self.san):
            raise ValueError("subject and san belong to certificate_roots")
        self._check_parts()
        return self

    def _check_parts(self) -> None:
        """Parse what the checks will use, so that a typing error is found when it is read."""
        from cryptography import x509

        from pipelines.signatures.keys import load_public_key

        try:
            if self.public_key is not None:
                load_public_key(self.public_key.encode(), "public_key")
            if self.certificate_roots is not None:
                x509.load_pem_x509_certificates(self.certificate_roots.encode())
            if self.subject:
                x509.Name.from_rfc4514_string(self.subject)
        except SignatureRefused as error:
            raise ValueError(error.fact) from error

    @property
    def material(self) -> Material:
        """Which kind of bundle this publisher signs."""
        if self.public_key is not None:
            return "public_key"
        return "certificate" if self.certificate_roots is not None else "sigstore"


def with_trust_roots(publishers: Mapping[str, Publisher], policy: Path) -> dict[str, Publisher]:
    """The same publishers with the text of each trust root in place of its file's name.

    The file lies beside the policy, which names its sha256, so that the policy's own digest speaks
    for it. Raises ConfigError when it is absent or other bytes.
    """
    return {name: _with_text(publisher, policy) for name, publisher in publishers.items()}


def _with_text(publisher: Publisher, policy: Path) -> Publisher:
    known = publisher.sigstore
    if known is None or known.trust_root == PUBLIC_GOOD or known.trust_root.startswith("{"):
        return publisher
    path = policy.parent / known.trust_root
    if not path.is_file():
        raise ConfigError(policy, f"there is no trust root {path}", "Put it there, or correct it.")
    data = path.read_bytes()
    if sha256_bytes(data) != known.trust_root_sha256:
        fact = f"trust_root_sha256 is {known.trust_root_sha256}, {path} has {sha256_bytes(data)}"
        raise ConfigError(policy, fact, "Compare the file with its source, then name its sha256.")
    try:
        json.loads(data)
    except ValueError as error:
        raise ConfigError(path, f"not JSON ({error})", "Take a trusted_root.json.") from error
    text = data.decode()
    return publisher.model_copy(update={"sigstore": known.model_copy(update={"trust_root": text})})


def check_signer(envelope: SignedEnvelope, publisher: Publisher) -> None:
    """Check that `publisher` made this bundle's signature; raises SignatureRefused if not.

    What the signed statement says is not looked at.
    """
    if publisher.public_key is not None:
        check_key(envelope, publisher.public_key.encode())
    elif publisher.certificate_roots is not None:
        from pipelines.signatures.certificates import check_chain

        check_self_consistent(envelope)
        check_chain(envelope, publisher.certificate_roots, publisher.subject, publisher.san)
    elif publisher.sigstore is not None:
        from pipelines.signatures.keyless import check_keyless

        known = publisher.sigstore
        check_keyless(envelope, known.identity, known.issuer, known.trust_root)


def check_key(envelope: SignedEnvelope, pem: bytes) -> None:
    """Check a bundle that was signed with a bare key; raises SignatureRefused."""
    from pipelines.signatures.keys import load_public_key, public_pem, signed_by

    if envelope.material != "public_key":
        raise SignatureRefused(envelope.subject, "it was made with a certificate, not a bare key")
    key = load_public_key(pem, envelope.subject)
    named = not envelope.key_hint or envelope.key_hint == sha256_bytes(public_pem(key))
    if not named or not signed_by(key, envelope.signature, envelope.signed_bytes):
        raise SignatureRefused(envelope.subject, "it was not made with the expected key")


def check_self_consistent(envelope: SignedEnvelope) -> None:
    """Check the signature with the certificate that the bundle brings, whoever it is.

    A bundle with a bare key brings nothing to check it with. Raises SignatureRefused.
    """
    from pipelines.signatures.certificates import leaf_key
    from pipelines.signatures.keys import signed_by

    if envelope.certificates and not signed_by(
        leaf_key(envelope), envelope.signature, envelope.signed_bytes
    ):
        raise SignatureRefused(envelope.subject, "it was not made with its certificate's key")
