"""Stages that take no time and write real records: the work of real ones takes minutes.

`python toy_stages.py STAGE KEY` in a registry stands for `weighbridge stage STAGE KEY`. What a
model is like is said by lists of names: toy/unverified, toy/broken (its evaluation fails) and
toy/worse (the gate refuses it).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evals.items import ItemResult, write_items
from pipelines.canonical import sha256_bytes, sha256_file, write_record
from pipelines.digest import build_manifest, weight_digest
from pipelines.models_file import load_models
from pipelines.records import (
    EvaluationRecord,
    Finding,
    LicenceDecision,
    ManifestRecord,
    TaskResult,
    TaskVerdict,
    Verdict,
    VerificationRecord,
)
from pipelines.store.registry import Layout

CODE = "c" * 64


def is_so(trait: str, name: str) -> bool:
    return name in Path("toy", trait).read_text().split()


def main(stage: str, key: str) -> None:
    layout = Layout(Path.cwd())
    print(f"@progress {json.dumps({'what': stage, 'done': 1, 'total': 1, 'unit': 'toy'})}")
    if stage in ("ingest", "finetune"):
        make_weights(layout, key)
    elif stage == "verify":
        verify(layout, key)
    elif stage == "evaluate":
        evaluate(layout, key)
    else:
        gate(layout, key)


def make_weights(layout: Layout, name: str) -> None:
    layout.weights(name).mkdir(parents=True)
    (layout.weights(name) / "weights.bin").write_text(f"the weights of {name}")
    files = build_manifest(layout.weights(name))
    manifest = ManifestRecord(
        name=name,
        weight_digest=weight_digest(files),
        files=files,
        reference="file:///toy",
        code_digest=CODE,
    )
    write_record(layout.origin(name) / "manifest.json", manifest)


def manifest_of(layout: Layout, name: str) -> ManifestRecord:
    data = (layout.origin(name) / "manifest.json").read_bytes()
    return ManifestRecord.model_validate_json(data)


def verify(layout: Layout, name: str) -> None:
    passed = not is_so("unverified", name)
    finding = Finding(
        rule="format.pickle",
        severity="refusal",
        file="weights.bin",
        fact="a pickle runs code",
        remedy="Ask for safetensors.",
    )
    record = VerificationRecord(
        name=name,
        weight_digest=manifest_of(layout, name).weight_digest,
        code_digest=CODE,
        policy_sha256=CODE,
        passed=passed,
        findings=() if passed else (finding,),
        formats={"toy": 1},
        parameters=1,
        template_sha256="",
        licence=LicenceDecision(
            family="mit", spdx="MIT", use="commercial", allowed=True, source="toy"
        ),
        statement="toy",
    )
    write_record(layout.verification(name) / "verification.json", record)
    (layout.verification(name) / "report.md").write_text(f"# {name}\n")


def evaluate(layout: Layout, key: str) -> None:
    entry = load_models(layout.root).evaluations[key]
    if is_so("broken", entry.model):
        print("weighbridge: the weights do not load. Ingest them again.")
        sys.exit(3)
    folder = layout.evaluation(entry.model, entry.suite)
    folder.mkdir(parents=True)
    # "forgetful-NAME" in toy/broken: it answers thirty items fewer.
    right = 120 if is_so("broken", f"forgetful-{entry.model}") else 150
    items = [toy_item(number, number < right) for number in range(300)]
    write_items(folder / "items.parquet", items)
    task = TaskResult(
        task="toy",
        metric="acc",
        higher_is_better=True,
        items=300,
        value=right / 300,
        stderr=0.02,
        task_sha256=CODE,
        data_sha256=CODE,
    )
    record = EvaluationRecord(
        name=entry.model,
        weight_digest=manifest_of(layout, entry.model).weight_digest,
        suite=entry.suite,
        suite_sha256=CODE,
        code_digest=CODE,
        engine="toy",
        dtype="bfloat16",
        template_sha256="",
        tasks=(task,),
        items_sha256=sha256_file(folder / "items.parquet"),
    )
    write_record(folder / "evaluation.json", record)


def toy_item(number: int, right: bool) -> ItemResult:
    return ItemResult(
        task="toy",
        doc_id=number,
        doc_hash=sha256_bytes(b"document %d" % number),
        prompt_hash=sha256_bytes(b"prompt %d" % number),
        target_hash=CODE,
        metric="acc",
        score=float(right),
        answer="yes" if right else "no",
        gold="yes",
        item_id=f"toy-{number}",
        prompt=f"Is {number} | a number?",
    )


def gate(layout: Layout, name: str) -> None:
    baseline = load_models(layout.root).gates[name].baseline
    outcome = "block" if is_so("worse", name) else "pass"
    task = TaskVerdict(
        task="smoke/toy",
        outcome=outcome,
        items=300,
        candidate=0.5,
        baseline=0.5,
        difference=0.0,
        interval=(-0.05, 0.05),
        reason=f"toy says {outcome}",
    )
    verdict = Verdict(
        name=name,
        weight_digest=manifest_of_evidence(layout, name),
        baseline=baseline.name,
        baseline_digest=baseline.digest,
        outcome=outcome,
        reasons=(task.reason,),
        tasks=(task,),
        policy="default",
        policy_sha256=CODE,
        code_digest=CODE,
        evidence={"toy": sha256_bytes(b"toy")},
    )
    write_record(layout.verdict(name) / "verdict.json", verdict)


def manifest_of_evidence(layout: Layout, name: str) -> str:
    """The gate's dependencies hold no manifest: the digest stands in the verification."""
    data = (layout.verification(name) / "verification.json").read_bytes()
    return VerificationRecord.model_validate_json(data).weight_digest


if __name__ == "__main__":
    main(*sys.argv[1:])
