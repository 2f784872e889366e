"""Verify: one verdict about one weight digest, from its bytes and its origin, offline.

A refusal is a record with `passed` false. No check loads the weights or runs code that came with
them, and none can be skipped: what a check cannot read, it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.canonical import Frozen, record_bytes, sha256_bytes, write_record
from pipelines.licence import decide_licence, subjects_of
from pipelines.licence_claims import Subject
from pipelines.models_file import DeclaredUse
from pipelines.notice import notice_text
from pipelines.records import (
    Finding,
    LicenceDecision,
    ManifestRecord,
    TrainingRecord,
    VerificationRecord,
    read_record,
)
from pipelines.verification import (
    architecture,
    authenticity,
    hooks,
    index,
    integrity,
    repository,
    templates,
    tensors,
    tokenizer,
)
from pipelines.verification.contents import Contents, read_contents
from pipelines.verification.findings import ordered, printable, refusal
from pipelines.verification.folder_claims import check_bases, read_claims
from pipelines.verification.policy import VerificationPolicy
from pipelines.verification.report import render_report

RECORD = "verification.json"
REPORT = "report.md"
NOTICE = "NOTICE"
STATEMENT = (
    "The absence of a backdoor put in during training is not proven: no static check can show "
    "it. This verdict says that the bytes are the ones that were recorded, that their format "
    "carries no code, that files agree with each other, that the chat template and the "
    "tokenizer do nothing that an honest one needs not do, and that the licence, as far as it "
    "is known here, allows the declared use. It says nothing about how well or how safely the "
    "model answers."
)

# A check is a function of what was read. To add one, write a module and name it here.
CHECKS = (index.check, architecture.check, repository.check, hooks.check, tokenizer.check)


class VerifyConfig(Frozen):
    """What a verification needs besides the bytes."""

    name: str
    use: DeclaredUse
    policy: VerificationPolicy
    policy_sha256: str
    code_digest: str


def verify(config: VerifyConfig, weights: Path, origin: Path, out: Path) -> VerificationRecord:
    """Judge the model folder `weights` with the evidence `origin` that ingest or finetune wrote.

    Writes verification.json, report.md and NOTICE into `out`, which does not exist yet, and
    returns the record; a refusal is a record too. Raises WrongKindOfPath when `weights` is not a
    folder or `origin` has no manifest.json, and ConfigError when that is not a ManifestRecord.
    """
    manifest = read_record(origin / "manifest.json", ManifestRecord)
    contents = read_contents(weights, config.policy)
    findings = [
        *_check_contents(contents, config.policy),
        *_check_manifest(contents, manifest, config.name),
        *authenticity.check(origin, manifest, config.policy),
        *_check_training(contents, origin),
    ]
    texts = _licence_texts(origin / "licences")
    licence, found = decide_licence(subjects_of(manifest), texts, config.use, config.policy)
    record = _record(config, contents, [*findings, *found], licence)
    write_verification(record, contents, out, _licence_names(origin / "licences"))
    return record


def verify_folder(
    path: Path,
    use: DeclaredUse,
    policy: VerificationPolicy,
    manifest: Path | None = None,
    code_digest: str = "",
) -> VerificationRecord:
    """Judge any model folder, outside a registry; nothing is written.

    `manifest` pins the bytes (JSON or sha256sum lines). Licence claims are those of the folder's
    own papers. Raises WrongKindOfPath when `path` is not a folder, ConfigError for a manifest that
    cannot be read.
    """
    return judge_folder(path, use, policy, manifest, code_digest)[0]


def judge_folder(
    path: Path,
    use: DeclaredUse,
    policy: VerificationPolicy,
    manifest: Path | None = None,
    code_digest: str = "",
) -> tuple[VerificationRecord, Contents]:
    """`verify_folder`, with what was read of the folder, for `write_verification`."""
    pinned = integrity.read_manifest(manifest) if manifest is not None else None
    contents = read_contents(path, policy)
    findings = _check_contents(contents, policy)
    if pinned is not None:
        findings += integrity.compare(pinned, contents.files)
    for name in authenticity.SIGNATURE_NAMES:
        if name in contents.formats:
            files = tuple(entry for entry in contents.files if entry.path != name)
            findings += authenticity.check_bundle(path / name, files, policy)
    claims = read_claims(contents)
    subject = Subject("", tuple(claims.claims))
    licence, found = decide_licence([subject], claims.texts, use, policy)
    bases = [*claims.findings, *check_bases(claims, licence.family)]
    if any(finding.severity == "refusal" for finding in bases):
        licence = licence.model_copy(update={"allowed": False})
    config = VerifyConfig(
        name=printable(path.resolve().name),
        use=use,
        policy=policy,
        policy_sha256=sha256_bytes(record_bytes(policy)),
        code_digest=code_digest,
    )
    return _record(config, contents, [*findings, *found, *bases], licence), contents


def write_verification(
    record: VerificationRecord, contents: Contents, out: Path, licence_files: Iterable[str] = ()
) -> None:
    """Write the record, the report and the notice into a new folder `out`."""
    out.mkdir()
    write_record(out / RECORD, record)
    report = render_report(record, contents.files)
    (out / REPORT).write_text(report, encoding="utf-8")
    (out / NOTICE).write_text(notice_text(record, tuple(licence_files)), encoding="utf-8")


def _check_contents(contents: Contents, policy: VerificationPolicy) -> list[Finding]:
    """Everything that the folder alone can show."""
    findings = list(contents.findings)
    for check in CHECKS:
        findings += check(contents)
    findings += templates.check(contents, policy)
    findings += tensors.check(contents)
    return findings


def _check_manifest(contents: Contents, manifest: ManifestRecord, name: str) -> Iterable[Finding]:
    """The folder must be, byte for byte, what ingest or finetune recorded under this name."""
    yield from integrity.compare(manifest.files, contents.files)
    if manifest.name != name:
        fact = f"the manifest is about {manifest.name!r}, not {name!r}"
        yield refusal("integrity.other-model", "", fact, "Ingest the model under this name.")
    if contents.weight_digest != manifest.weight_digest:
        fact = f"the weight digest is {contents.weight_digest or 'none'}, the manifest says "
        remedy = "Restore the recorded bytes (`weighbridge pull`), or ingest them under a new name."
        yield refusal("integrity.digest", "", fact + manifest.weight_digest, remedy)


def _check_training(contents: Contents, origin: Path) -> Iterable[Finding]:
    """Weights trained here: the record must be about them, and about their chat template."""
    path = origin / "training.json"
    if not path.is_file():
        return
    training = read_record(path, TrainingRecord)
    if training.weight_digest != contents.weight_digest:
        fact = f"the training record is about the weights {training.weight_digest}"
        yield refusal("training.digest", "", fact, "Train again.")
    if training.template_sha256 != templates.chosen_sha256(contents):
        fact = f"it was trained with the chat template {training.template_sha256 or 'none'}"
        yield refusal("training.template", "", fact, "Ship the template it was trained with.")


def _licence_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _licence_texts(folder: Path) -> Mapping[str, str]:
    """Licence texts that ingest kept, by the sha256 of their bytes."""
    texts = {}
    for name in _licence_names(folder):
        data = (folder / name).read_bytes()
        texts[sha256_bytes(data)] = data.decode("utf-8", errors="replace")
    return texts


def _record(
    config: VerifyConfig,
    contents: Contents,
    findings: Iterable[Finding],
    licence: LicenceDecision,
) -> VerificationRecord:
    listed = ordered(findings)
    refused = any(finding.severity == "refusal" for finding in listed)
    counts: dict[str, int] = {}
    for kind in contents.formats.values():
        counts[kind] = counts.get(kind, 0) + 1
    parameters = sum(
        tensor.elements for header in contents.safetensors.values() for tensor in header.tensors
    ) + sum(tensor.elements for header in contents.ggufs.values() for tensor in header.tensors)
    return VerificationRecord(
        name=config.name,
        weight_digest=contents.weight_digest,
        code_digest=config.code_digest,
        policy_sha256=config.policy_sha256,
        passed=bool(contents.weight_digest) and licence.allowed and not refused,
        findings=listed,
        formats=dict(sorted(counts.items())),
        parameters=parameters,
        template_sha256=templates.chosen_sha256(contents),
        licence=licence,
        statement=STATEMENT,
    )
