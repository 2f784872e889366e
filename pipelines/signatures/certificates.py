"""Signatures by certificate: the chain, its validity now, and what its leaf may do.

The `model-signing` library checks a chain at the moment its leaf became valid, so that it never
expires, and takes any leaf with the usage digitalSignature, a TLS server's too. Here the chain must
hold now (a bundle of this kind carries no time that a third party vouches for), the leaf must be
made for code signing, and it must name the subject that the policy expects. Names, dates, path
lengths, name constraints and the strength of keys and hashes (RSA from 2048 bits, NIST curves, no
SHA-1) are checked by `cryptography.x509.verification` (RFC 5280).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from pipelines.errors import SignatureRefused
from pipelines.signatures.bundle import SignedEnvelope
from pipelines.signatures.keys import signing_key
from pipelines.verification.findings import quoted

_NOISE = re.compile(
    r"^validation failed: |Python extension validator failed: (ValueError: )?"
    r"| \(encountered processing <.*$",
    re.DOTALL,
)


def leaf_key(envelope: SignedEnvelope) -> ec.EllipticCurvePublicKey:
    """The key of the signer's certificate, which nobody has vouched for yet."""
    leaf = _load(envelope)[0]
    return signing_key(leaf.public_key(), envelope.subject)


def check_chain(
    envelope: SignedEnvelope, roots: str, subject: str, san: str, now: datetime | None = None
) -> None:
    """Check the bundle's certificates against the policy's roots and the identity it expects.

    `roots` are PEM certificates; `subject` is a distinguished name (RFC 4514) and `san` an e-mail
    address, URI or DNS name, each '' where the policy expects none. Raises SignatureRefused.
    """
    leaf, *others = _load(envelope)
    store = Store(x509.load_pem_x509_certificates(roots.encode()))
    builder = PolicyBuilder().store(store).time(now or datetime.now(UTC)).max_chain_depth(8)
    verifier = builder.extension_policies(
        ca_policy=_authority_policy(), ee_policy=_leaf_policy()
    ).build_client_verifier()
    try:
        verifier.verify(leaf, others)
    except (VerificationError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as error:
        fact = f"the policy's roots do not vouch for its certificate ({_reason(error)})"
        raise SignatureRefused(envelope.subject, fact) from error
    if subject and leaf.subject != x509.Name.from_rfc4514_string(subject):
        fact = f"it was signed by {quoted(leaf.subject.rfc4514_string())}, not {quoted(subject)}"
        raise SignatureRefused(envelope.subject, fact)
    if san and san not in (names := _alternative_names(leaf)):
        fact = f"its certificate is for {quoted(sorted(names))}, not {quoted(san)}"
        raise SignatureRefused(envelope.subject, fact)


def _load(envelope: SignedEnvelope) -> list[x509.Certificate]:
    try:
        return [x509.load_der_x509_certificate(der) for der in envelope.certificates]
    except ValueError as error:
        raise SignatureRefused(envelope.subject, "it holds a malformed certificate") from error


def _authority_policy() -> ExtensionPolicy:
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
        .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
        .may_be_present(x509.NameConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_code_signing)
    )


def _leaf_policy() -> ExtensionPolicy:
    return (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_no_authority)
        .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_data)
        .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_code_signing)
        .may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    )


def _is_authority(
    policy: Policy, certificate: x509.Certificate, extension: x509.BasicConstraints
) -> None:
    if not extension.ca:
        raise ValueError("a certificate of the chain is no authority")


def _is_no_authority(
    policy: Policy, certificate: x509.Certificate, extension: x509.BasicConstraints | None
) -> None:
    if extension is not None and extension.ca:
        raise ValueError("the signer's certificate is an authority's")


def _signs_certificates(
    policy: Policy, certificate: x509.Certificate, extension: x509.KeyUsage
) -> None:
    if not extension.key_cert_sign:
        raise ValueError("an authority of the chain may not sign certificates (key usage)")


def _signs_data(policy: Policy, certificate: x509.Certificate, extension: x509.KeyUsage) -> None:
    if not extension.digital_signature or extension.key_cert_sign:
        raise ValueError("its key usage is not digitalSignature")


def _for_code_signing(
    policy: Policy, certificate: x509.Certificate, extension: x509.ExtendedKeyUsage | None
) -> None:
    if extension is not None and ExtendedKeyUsageOID.CODE_SIGNING not in extension:
        raise ValueError("its extended key usage is not codeSigning")


def _alternative_names(leaf: x509.Certificate) -> set[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return {str(value) for kind in kinds for value in names.get_values_for_type(kind)}


def _reason(error: Exception) -> str:
    """What the verifier says, without the Python objects that it shows."""
    text = _NOISE.sub("", str(error))
    return text.strip() or type(error).__name__
