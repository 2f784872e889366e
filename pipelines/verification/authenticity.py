"""The publisher's signature: required or not, and right if it is there.

A publisher signs a repository. What lies in the model folder is that repository, or was made from
it; then the files named in the manifest's derivation must be the ones that were signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.digest import FileEntry
from pipelines.errors import SignatureRefused
from pipelines.records import Finding, ManifestRecord
from pipelines.signing import signed_files
from pipelines.verification.findings import info, listed, quoted, refusal, warning
from pipelines.verification.policy import VerificationPolicy

SIGNATURE_NAMES = ("model.sig", "publisher/model.sig")
_PAPERS = re.compile(
    r"(.*/)?(readme|licen[cs]e|notice|copying|use[_-]policy|\.gitattributes|model_card)([._-].*)?",
    re.IGNORECASE,
)
_ASK = "Ask the publisher for the right signature, or take another source."


def check(origin: Path, manifest: ManifestRecord, policy: VerificationPolicy) -> Iterator[Finding]:
    """Judge the signature file that ingest kept in `origin`, if there is one."""
    bundles = [origin / name for name in SIGNATURE_NAMES if (origin / name).is_file()]
    if not bundles:
        fact = "its publisher did not sign it"
        if policy.require_signature:
            yield refusal(
                "signature.absent", "", fact, "Take a signed source, or change the policy."
            )
        else:
            yield info("signature.absent", "", fact)
        return
    files = manifest.derivation.source_files if manifest.derivation else manifest.files
    for bundle in bundles:
        yield from check_bundle(bundle, files, policy)


def check_bundle(
    bundle: Path, files: tuple[FileEntry, ...], policy: VerificationPolicy
) -> Iterator[Finding]:
    """One bundle against the files that it should speak of, with every key of the policy."""
    if not policy.publisher_keys:
        fact = "there is a signature, and the policy names no publisher's key to check it with"
        remedy = "Add the publisher's public key to the policy under publisher_keys."
        make = refusal if policy.require_signature else warning
        yield make("signature.unchecked", bundle.name, fact, remedy)
        return
    reasons = []
    for publisher, pem in sorted(policy.publisher_keys.items()):
        try:
            signed = signed_files(pem.encode(), bundle.read_bytes(), bundle.name)
        except SignatureRefused as error:
            reasons.append(f"{quoted(publisher)}: {error}")
            continue
        if problem := _problem(signed, {entry.path: entry.sha256 for entry in files}):
            yield refusal("signature.wrong", bundle.name, problem, _ASK)
        else:
            yield info("signature.valid", bundle.name, f"signed by {quoted(publisher)}")
        return
    fact = f"no key of the policy made this signature ({'; '.join(reasons)})"
    yield refusal("signature.wrong", bundle.name, fact, _ASK)


def _problem(signed: dict[str, str], actual: dict[str, str]) -> str:
    """Every file here is signed, and every signed file that is no mere paper is here."""
    unsigned = [name for name, digest in actual.items() if signed.get(name) != digest]
    absent = [n for n in signed if n not in actual and not _PAPERS.fullmatch(n)]
    if unsigned:
        return f"{listed(sorted(unsigned))} are not the bytes that were signed"
    return f"{listed(sorted(absent))} were signed and are not here" if absent else ""
