"""The publisher's signature: required or not, and right if it is there.

A publisher signs a repository. What lies in the model folder is that repository, or was made from
it; then the files named in the manifest's derivation must be the ones that were signed.

A signature by nobody that the policy names is a warning, since taking it away would be none; but
whoever made it, it must speak of these bytes and hold by its own certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.digest import FileEntry
from pipelines.errors import SignatureRefused
from pipelines.records import Finding, ManifestRecord
from pipelines.signatures.bundle import SignedEnvelope, read_bundle
from pipelines.signatures.publishers import check_self_consistent, check_signer
from pipelines.signatures.statement import GIT_NAMES, Difference, parse_statement
from pipelines.sources.selection import select
from pipelines.verification.contents import Contents
from pipelines.verification.findings import info, quoted, refusal, refusals, warning
from pipelines.verification.policy import VerificationPolicy

SIGNATURE_NAMES = ("model.sig", "publisher/model.sig")
_ASK = "Ask the publisher for the right signature, or take another source."
_UNSIGNED = "Take a signed source, or change the policy."
_NAME_IT = "Name the publisher in the policy under publishers (docs/signatures.md)."


@dataclass(frozen=True)
class Signed:
    """The files that a signature should speak of, and what of it may be absent here."""

    files: tuple[FileEntry, ...]
    root: Path | None = None  # where their bytes lie, if they are kept
    taken_in: bool = False  # ingest chose among the publisher's files
    derived: bool = False  # made from these files, which need not be all that were signed


def check(
    origin: Path, manifest: ManifestRecord, weights: Path, policy: VerificationPolicy
) -> Iterator[Finding]:
    """Judge the signature file that ingest kept in `origin`, if there is one."""
    if manifest.reference.startswith("tuning:"):
        fact = "made here from weights that were verified; the registry's key signs it"
        yield info("signature.own", "", fact)
        return
    bundles = [origin / name for name in SIGNATURE_NAMES if (origin / name).is_file()]
    if not bundles:
        yield absent(policy)
    if manifest.derivation is not None:
        signed = Signed(manifest.derivation.source_files, taken_in=True, derived=True)
    else:
        signed = Signed(manifest.files, weights, taken_in=True)
    for bundle in bundles:
        yield from check_bundle(bundle, signed, policy)


def check_folder(contents: Contents, policy: VerificationPolicy) -> Iterator[Finding]:
    """Judge the signature files of a folder that no registry describes."""
    names = [name for name in SIGNATURE_NAMES if name in contents.formats]
    if not names:
        yield absent(policy)
    files = tuple(entry for entry in contents.files if entry.path not in names)
    for name in names:
        yield from check_bundle(contents.root / name, Signed(files, contents.root), policy)


def absent(policy: VerificationPolicy) -> Finding:
    """The finding that nobody signed."""
    fact = "its publisher did not sign it"
    if policy.require_signature:
        return refusal("signature.absent", "", fact, _UNSIGNED)
    return info("signature.absent", "", fact)


def check_bundle(bundle: Path, signed: Signed, policy: VerificationPolicy) -> Iterator[Finding]:
    """One bundle against the files that it should speak of and the publishers of the policy."""
    name = bundle.name
    try:
        envelope = read_bundle(bundle, name)
        publisher = _publisher(envelope, policy)
        statement = parse_statement(envelope.payload, name)
        difference = _relevant(statement.compare(signed.files, signed.root), signed, publisher)
    except SignatureRefused as error:
        yield refusal("signature.wrong", name, error.fact, _ASK)
        return
    if difference:
        yield refusal("signature.wrong", name, str(difference), _ASK)
        who = quoted(publisher) if publisher else "an unknown signer"
        for files, what in (
            (difference.changed, f"it is not the file that {who} signed"),
            (difference.unsigned, f"{who} did not sign it"),
            (difference.missing, f"{who} signed it, and it is not here"),
        ):
            yield from refusals("signature.file", files, what, _ASK)
    elif publisher:
        fact = f"signed by {quoted(publisher)}: {len(statement.digests)} files"
        yield info("signature.valid", name, fact)
    else:
        fact = "there is a signature, and no publisher of the policy to check its signer with"
        make = refusal if policy.require_signature else warning
        yield make("signature.unchecked", name, fact, _NAME_IT)


def _publisher(envelope: SignedEnvelope, policy: VerificationPolicy) -> str:
    """Who signed, or '' when the policy names nobody who signs in this way.

    Raises SignatureRefused when the policy names some, and none of them did.
    """
    reasons = []
    for name, publisher in sorted(policy.publishers.items()):
        if publisher.material != envelope.material:
            continue
        try:
            check_signer(envelope, publisher)
        except SignatureRefused as error:
            reasons.append(f"{quoted(name)}: {error.fact}")
        else:
            return name
    if reasons:
        fact = f"no publisher of the policy made it ({'; '.join(reasons)})"
        raise SignatureRefused(envelope.subject, fact)
    check_self_consistent(envelope)
    return ""


def _relevant(difference: Difference, signed: Signed, publisher: str) -> Difference:
    """What counts of a difference: all of it in a folder that holds what its publisher signed."""
    missing, unsigned = difference.missing, difference.unsigned
    if signed.derived:
        missing = ()
    elif signed.taken_in:
        names = {*(entry.path for entry in signed.files), *missing}
        missing = tuple(name for name in missing if name in select(names).model)
    if not publisher:
        # Signers leave git's files out by default, and this signature is only a warning anyway.
        unsigned = tuple(name for name in unsigned if name.split("/")[0] not in GIT_NAMES)
    return Difference(difference.changed, unsigned, missing)
