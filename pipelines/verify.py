"""Verify: one verdict about one weight digest, from its bytes and its origin, offline.

A refusal is a record with `passed` false. No check loads the weights or runs code that came with
them, and none can be skipped: what a check cannot read, it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

from pydantic import Field

from pipelines.canonical import Frozen, record_bytes, sha256_bytes
from pipelines.errors import MalformedFile
from pipelines.licence import decide_licence, subjects_of
from pipelines.licence_claims import Subject
from pipelines.models_file import DeclaredUse
from pipelines.records import (
    Finding,
    LicenceDecision,
    ManifestRecord,
    TrainingRecord,
    VerificationRecord,
    read_record,
)
from pipelines.verification import (
    adapter,
    architecture,
    authenticity,
    filesystem,
    generation,
    gguf_model,
    hooks,
    index,
    integrity,
    repository,
    second_opinion,
    templates,
    tensors,
    tokenizer,
)
from pipelines.verification.base_diff import compare_with_base
from pipelines.verification.bom import Paper
from pipelines.verification.contents import Contents, read_contents
from pipelines.verification.findings import info, ordered, printable, refusal
from pipelines.verification.folder_claims import check_bases, read_claims
from pipelines.verification.model_facts import ModelFacts, read_model_facts
from pipelines.verification.passport import Judged, origin_papers, write_verification
from pipelines.verification.policy import VerificationPolicy
from pipelines.verification.waivers import WaiverEntry, apply_waivers, today

STATEMENT = (
    "The absence of a backdoor put in during training is not proven: no static check can show "
    "it. Where these weights pass, the bytes are those of the manifest that pins them, their "
    "format carries no code, their files agree with each other, the chat template and the "
    "tokenizer do nothing that an honest one needs not do, and the licence, as far as it is "
    "known here, allows the declared use, except for what a waiver answers. Nothing is said "
    "about how well or how safely the model answers."
)

# A check is a function of what was read. To add one, write a module and name it here.
CHECKS = (
    index.check,
    architecture.check,
    adapter.check,
    gguf_model.check,
    repository.check,
    generation.check,
    hooks.check,
    tokenizer.check,
)


class VerifyConfig(Frozen):
    """What a verification needs besides the bytes."""

    name: str
    use: DeclaredUse
    policy: VerificationPolicy
    policy_sha256: str
    code_digest: str
    waivers: tuple[WaiverEntry, ...] = ()
    today: date = Field(default_factory=today, description="the day that waivers must reach")
    base: Path | None = Field(default=None, description="folder of the model that it was made from")


def verify(config: VerifyConfig, weights: Path, origin: Path, out: Path) -> VerificationRecord:
    """Judge the model folder `weights` with the evidence `origin` that ingest or finetune wrote.

    Writes verification.json, report.md, bom.cdx.json and NOTICE into `out`, which does not exist
    yet, and returns the record; a refusal is a record too. Raises WrongKindOfPath when `weights` is
    not a folder or `origin` has no manifest.json, and ConfigError when that is not a
    ManifestRecord.
    """
    manifest = read_record(origin / "manifest.json", ManifestRecord)
    training = _training(origin)
    contents = read_contents(weights, config.policy)
    facts = read_model_facts(contents)
    findings = [
        *_check_contents(contents, config.policy),
        *_check_manifest(contents, manifest, config.name),
        *authenticity.check(origin, manifest, weights, config.policy),
        *_check_training(contents, training),
        *_check_derivation(manifest, config.policy),
    ]
    texts = _licence_texts(origin / "licences")
    licence, found = decide_licence(
        subjects_of(manifest), texts, config.use, config.policy, text_only=facts.text_only
    )
    judged = Judged(
        record=_record(config, contents, facts, [*findings, *found], licence),
        contents=contents,
        facts=facts,
        licence_files=tuple(_licence_names(origin / "licences")),
        papers=tuple(origin_papers(origin)),
        manifest=manifest,
        training=training,
    )
    write_verification(judged, out)
    return judged.record


def verify_folder(
    path: Path, use: DeclaredUse, policy: VerificationPolicy, manifest: Path | None = None
) -> VerificationRecord:
    """Judge any model folder, outside a registry; nothing is written. See `judge_folder`."""
    config = VerifyConfig(
        name=printable(path.resolve().name),
        use=use,
        policy=policy,
        policy_sha256=sha256_bytes(record_bytes(policy)),
        code_digest="",
    )
    return judge_folder(path, config, manifest).record


def judge_folder(path: Path, config: VerifyConfig, manifest: Path | None = None) -> Judged:
    """Judge any model folder, for `write_verification` to write down where that is asked for.

    `manifest` pins the bytes (JSON or sha256sum lines). Licence claims are those of the folder's
    own papers. Raises WrongKindOfPath when `path` is not a folder, ConfigError for a manifest that
    cannot be read.
    """
    policy = config.policy
    pinned = integrity.read_manifest(manifest) if manifest is not None else None
    contents = read_contents(path, policy)
    facts = read_model_facts(contents)
    findings = _check_contents(contents, policy)
    findings += filesystem.linked_outside(contents.paths)
    if pinned is not None:
        findings += integrity.compare(pinned, contents.files)
    else:
        fact = "no manifest was given: these bytes were not compared with any that are known"
        remedy = "Name one with --manifest to pin them."
        findings.append(info("integrity.unpinned", "", fact, remedy))
    signatures = [name for name in authenticity.SIGNATURE_NAMES if name in contents.formats]
    findings += authenticity.check_folder(contents, policy)
    if config.base is not None:
        findings += against_base(config.base, path)
    claims = read_claims(contents)
    licence, found = decide_licence(
        [Subject("", tuple(claims.claims))],
        claims.texts,
        config.use,
        policy,
        text_only=facts.text_only,
    )
    bases = [*claims.findings, *check_bases(claims, licence.family)]
    if any(finding.severity == "refusal" for finding in bases):
        licence = licence.model_copy(update={"allowed": False})
    return Judged(
        record=_record(config, contents, facts, [*findings, *found, *bases], licence),
        contents=contents,
        facts=facts,
        licence_files=tuple(c.source for c in claims.claims if c.text_sha256),
        papers=tuple(Paper("digital-signature", name) for name in signatures),
        stated_bases=tuple(name for _, name in claims.bases),
    )


def against_base(base: Path, model: Path, trained: frozenset[str] | None = None) -> list[Finding]:
    """Findings of `compare_with_base`; files that cannot be read for it are a refusal."""
    try:
        return list(compare_with_base(base, model, trained))
    except MalformedFile as error:
        fact = f"it cannot be compared with its base: {error.fact}"
        return [refusal("base.unreadable", str(error.path), fact, "Fetch both again.")]


def _check_contents(contents: Contents, policy: VerificationPolicy) -> list[Finding]:
    """Everything that the folder alone can show."""
    findings = list(contents.findings)
    for check in CHECKS:
        findings += check(contents)
    findings += templates.check(contents, policy)
    findings += tensors.check(contents)
    findings += second_opinion.check(contents, policy)
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


def _training(origin: Path) -> TrainingRecord | None:
    path = origin / "training.json"
    return read_record(path, TrainingRecord) if path.is_file() else None


def _check_training(contents: Contents, training: TrainingRecord | None) -> Iterable[Finding]:
    """Weights trained here: the record must be about them, and about their chat template."""
    if training is None:
        return
    if training.weight_digest != contents.weight_digest:
        fact = f"the training record is about the weights {training.weight_digest}"
        yield refusal("training.digest", "", fact, "Train again.")
    if training.template_sha256 != templates.chosen_sha256(contents):
        fact = f"it was trained with the chat template {training.template_sha256 or 'none'}"
        yield refusal("training.template", "", fact, "Ship the template it was trained with.")


def _check_derivation(manifest: ManifestRecord, policy: VerificationPolicy) -> Iterable[Finding]:
    """Weights that ingest converted from pickles come in only where the policy admits that."""
    made = manifest.derivation
    if made is None or made.method != "depickle":
        return
    files = ", ".join(entry.path for entry in made.source_files[:5])
    scanners = made.settings.get("scanners") or "nobody"
    if policy.pickle != "depickle":
        fact = f"its weights were converted from pickles ({files}), and the policy refuses them"
        remedy = "Take a revision in safetensors, or set `pickle: depickle` in the policy."
        yield refusal("pickle.converted", "", fact, remedy)
    elif any(scanner not in str(scanners) for scanner in policy.pickle_scanners):
        fact = f"its pickles ({files}) were judged by {scanners}, the policy asks for "
        remedy = "Ingest it again under this policy, with a new name."
        yield refusal("pickle.judge", "", fact + ", ".join(policy.pickle_scanners), remedy)
    else:
        fact = f"converted from pickles ({files}) that {scanners} passed; nothing loaded them"
        yield info("pickle.converted", "", fact)


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
    facts: ModelFacts,
    findings: Iterable[Finding],
    licence: LicenceDecision,
) -> VerificationRecord:
    digest = contents.weight_digest
    listed = ordered(apply_waivers(findings, config.waivers, digest, config.today))
    refused = any(finding.severity == "refusal" for finding in listed)
    waived = any(f.severity == "waived" and f.rule.startswith("licence.") for f in listed)
    counts: dict[str, int] = {}
    for kind in contents.formats.values():
        counts[kind] = counts.get(kind, 0) + 1
    parameters = sum(
        tensor.elements for header in contents.safetensors.values() for tensor in header.tensors
    ) + sum(tensor.elements for header in contents.ggufs.values() for tensor in header.tensors)
    return VerificationRecord(
        name=config.name,
        weight_digest=digest,
        code_digest=config.code_digest,
        policy_sha256=config.policy_sha256,
        passed=bool(digest) and (licence.allowed or waived) and not refused,
        findings=listed,
        formats=dict(sorted(counts.items())),
        parameters=parameters,
        template_sha256=templates.chosen_sha256(contents),
        licence=licence,
        saved_with=facts.saved_with,
        statement=STATEMENT,
    )
