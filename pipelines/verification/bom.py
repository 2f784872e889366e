"""bom.cdx.json: the model as a CycloneDX 1.7 ML-BOM, the same bytes for the same evidence.

The model is one component of type machine-learning-model: its hash is the weight digest, its files
lie under it with their own. There is no timestamp; the serial number is a UUID of version 5 made
from the digest. What is not known is left out. Specification: cyclonedx.org, JSON schema 1.7.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pipelines.canonical import canonical_json
from pipelines.digest import FileEntry
from pipelines.licence_facts import licence_facts
from pipelines.records import ManifestRecord, TrainingRecord, VerificationRecord
from pipelines.verification.findings import printable
from pipelines.verification.model_facts import ModelFacts

NAMESPACE = uuid.UUID("6f0c9d0e-54a4-5d0c-9d57-0b1f7a4f3c11")  # of weight digests as serial numbers
MAX_FINDINGS = 500
_HUB = "hf://"
_MODEL = "machine-learning-model"
_PREFIX = "weighbridge:"


@dataclass(frozen=True)
class Paper:
    """A file that speaks about the model: where it lies, what it is, the sha256 of its bytes."""

    kind: str  # a type of external reference of CycloneDX
    path: str  # relative to the BOM
    sha256: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Subject:
    """Everything that a BOM tells of."""

    record: VerificationRecord
    files: Sequence[FileEntry]
    facts: ModelFacts
    papers: Sequence[Paper] = ()
    manifest: ManifestRecord | None = None
    training: TrainingRecord | None = None
    stated_bases: Sequence[str] = ()  # names from a card or configuration; no digest is known


def bom_bytes(subject: Subject) -> bytes:
    """The BOM as canonical JSON with a final newline."""
    record = subject.record
    identity = record.weight_digest or f"none:{record.name}"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, identity)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [_tool(record)]},
            "properties": _properties(
                {
                    "verdict": "passed" if record.passed else "refused",
                    "policy-sha256": record.policy_sha256,
                    "statement": record.statement,
                }
            ),
        },
        "components": [_model(subject)],
    }
    return canonical_json(document) + b"\n"


def _tool(record: VerificationRecord) -> dict[str, Any]:
    tool: dict[str, Any] = {"type": "application", "name": "weighbridge"}
    if record.code_digest:
        tool["properties"] = _properties({"code-digest": record.code_digest})
    return tool


def _model(subject: Subject) -> dict[str, Any]:
    record = subject.record
    model: dict[str, Any] = {
        "type": _MODEL,
        "bom-ref": "model",
        "name": printable(record.name),
        "modelCard": _model_card(subject),
        "components": [_file(entry) for entry in subject.files],
        "properties": _properties(dict(_model_properties(subject))) + _findings(record),
    }
    if record.weight_digest:
        model["version"] = f"sha256:{record.weight_digest}"
        model["hashes"] = _hashes(record.weight_digest)
    if purl := _purl(subject.manifest):
        model["purl"] = purl
    if licences := _licences(
        dict.fromkeys(family for step in record.licence.path for family in step.families)
    ):
        model["licenses"] = licences
    if pedigree := _pedigree(subject):
        model["pedigree"] = pedigree
    if references := [_reference(paper) for paper in subject.papers]:
        model["externalReferences"] = references
    return model


def _model_card(subject: Subject) -> dict[str, Any]:
    facts, record = subject.facts, subject.record
    parameters: dict[str, Any] = {
        "task": facts.task,
        "architectureFamily": facts.architecture_family,
        "modelArchitecture": facts.architecture,
        "datasets": _datasets(subject.training),
        "inputs": [{"format": kind} for kind in facts.inputs],
        "outputs": [{"format": kind} for kind in facts.outputs],
    }
    if subject.training is not None:
        parameters["approach"] = {"type": "supervised"}
    card: dict[str, Any] = {
        "considerations": {
            "useCases": [f"declared use: {record.licence.use}"],
            "technicalLimitations": [record.statement],
        },
        "properties": _properties(
            {
                "parameters": str(record.parameters),
                **{f"tensors:{kind}": str(n) for kind, n in facts.tensor_types.items()},
                **{f"saved-with:{name}": text for name, text in facts.saved_with.items()},
                "chat-template-sha256": record.template_sha256,
            }
        ),
    }
    if known := {key: value for key, value in parameters.items() if value}:
        card["modelParameters"] = known
    return card


def _datasets(training: TrainingRecord | None) -> list[dict[str, Any]]:
    """The data of the last step, where it was trained here; nothing is known of earlier steps."""
    if training is None:
        return []
    contents = {"properties": _properties({"sha256": training.dataset_sha256})}
    return [{"type": "dataset", "name": printable(training.dataset), "contents": contents}]


def _file(entry: FileEntry) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{printable(entry.path)}",
        "name": printable(entry.path),
        "hashes": _hashes(entry.sha256),
        "properties": _properties({"size-bytes": str(entry.size_bytes)}),
    }


def _licences(families: dict[str, None]) -> list[dict[str, Any]]:
    """Every licence on the path, for all of them hold; SPDX ids where there are any."""
    listed = []
    for family in families:
        spdx = licence_facts().rows[family].spdx
        named = {"id": spdx} if spdx and not spdx.startswith("LicenseRef-") else {"name": family}
        listed.append({"license": {**named, "acknowledgement": "concluded"}})
    return listed


def _pedigree(subject: Subject) -> dict[str, Any]:
    """Ancestors from the nearest on, each by digest; those of a bare folder by stated name only."""
    families = {step.subject: step.families for step in subject.record.licence.path}
    ancestors: list[dict[str, Any]] = []
    for ancestor in subject.manifest.pedigree if subject.manifest else ():
        component: dict[str, Any] = {
            "type": _MODEL,
            "name": printable(ancestor.name),
            "version": f"sha256:{ancestor.weight_digest}",
            "hashes": _hashes(ancestor.weight_digest),
            "properties": _properties({"relation": ancestor.relation}),
        }
        if licences := _licences(dict.fromkeys(families.get(ancestor.name, ()))):
            component["licenses"] = licences
        ancestors.append(component)
    for name in dict.fromkeys(subject.stated_bases):
        note = _properties({"relation": "stated by the publisher, not verified"})
        ancestors.append({"type": _MODEL, "name": printable(name), "properties": note})
    derivation = subject.manifest.derivation if subject.manifest else None
    pedigree: dict[str, Any] = {"ancestors": ancestors} if ancestors else {}
    if derivation is not None:
        tools = ", ".join(f"{name} {text}" for name, text in sorted(derivation.tools.items()))
        pedigree["notes"] = f"{derivation.method}{f' with {tools}' if tools else ''}"
    return pedigree


def _model_properties(subject: Subject) -> Iterator[tuple[str, str]]:
    record = subject.record
    yield "verdict", "passed" if record.passed else "refused"
    yield "weight-digest", record.weight_digest or "none: the folder has no digest"
    if subject.manifest is not None and not subject.manifest.reference.startswith("file:"):
        yield "reference", printable(subject.manifest.reference)
    yield "licence", record.licence.family
    yield "licence-allowed", "yes" if record.licence.allowed else "no"
    yield "declared-use", record.licence.use
    for number, obligation in enumerate(record.licence.obligations, 1):
        yield f"obligation:{number}", obligation


def _findings(record: VerificationRecord) -> list[dict[str, str]]:
    listed = [
        {
            "name": f"{_PREFIX}finding:{finding.severity}:{finding.rule}",
            "value": f"{finding.file}: {finding.fact}" if finding.file else finding.fact,
        }
        for finding in record.findings[:MAX_FINDINGS]
    ]
    if (more := len(record.findings) - MAX_FINDINGS) > 0:
        listed.append({"name": f"{_PREFIX}finding:more", "value": f"{more}: see the record"})
    return listed


def _reference(paper: Paper) -> dict[str, Any]:
    reference: dict[str, Any] = {"type": paper.kind, "url": quote(paper.path, safe="/:@=+.")}
    if paper.sha256:
        reference["hashes"] = _hashes(paper.sha256)
    if paper.comment:
        reference["comment"] = paper.comment
    return reference


def _purl(manifest: ManifestRecord | None) -> str:
    """The package URL of a repository of the Hub whose bytes are here as they were published."""
    if manifest is None or manifest.derivation or not manifest.reference.startswith(_HUB):
        return ""
    name, _, revision = manifest.reference.removeprefix(_HUB).partition("@")
    return f"pkg:huggingface/{quote(name)}@{quote(revision.lower())}" if revision else ""


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": f"{_PREFIX}{name}", "value": value} for name, value in values.items() if value]
