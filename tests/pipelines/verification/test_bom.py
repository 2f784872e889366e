"""The ML-BOM: valid CycloneDX 1.7, the same bytes every time, and nothing that is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tiny_model import edit_json, write_model

from pipelines.canonical import sha256_bytes, write_record
from pipelines.digest import FileEntry, build_manifest, weight_digest
from pipelines.models_file import DeclaredUse
from pipelines.records import (
    Ancestor,
    Derivation,
    Finding,
    LicenceClaim,
    ManifestRecord,
    TrainingRecord,
    VerificationRecord,
)
from pipelines.verification.bom import Paper, Subject, bom_bytes
from pipelines.verification.model_facts import ModelFacts
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import VerifyConfig, judge_folder, verify

BASE, ADAPTER = "b" * 64, "a" * 64
APACHE = LicenceClaim(source="README.md:license", identifier="apache-2.0")
LLAMA = LicenceClaim(source="README.md:license", identifier="llama3.1")


def validated(data: bytes) -> Any:
    """The BOM as JSON, once CycloneDX's own validator has nothing to say about it."""
    problem = JsonStrictValidator(SchemaVersion.V1_7).validate_str(data.decode())
    assert problem is None, problem
    return json.loads(data)


def config(name: str) -> VerifyConfig:
    return VerifyConfig(
        name=name,
        use=DeclaredUse(monthly_users=10),
        policy=VerificationPolicy(),
        policy_sha256="p" * 64,
        code_digest="c" * 64,
    )


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Evidence of weights that were trained here: adapter of a base, merged, then quantised."""
    weights = write_model(tmp_path / "models" / "tuned")
    for name in ("README.md", "LICENSE"):
        (weights / name).unlink()
    files = build_manifest(weights)
    digest = weight_digest(files)
    manifest = ManifestRecord(
        name="tuned",
        weight_digest=digest,
        files=files,
        reference="tuning:tuned",
        code_digest="c" * 64,
        derivation=Derivation(method="lora-merge", source_files=(), tools={"peft": "0.21.0"}),
        pedigree=(
            Ancestor(
                name="lora", weight_digest=ADAPTER, relation="merged-from", licences=(APACHE,)
            ),
            Ancestor(name="base", weight_digest=BASE, relation="adapter-of", licences=(LLAMA,)),
        ),
    )
    origin = tmp_path / "origin"
    origin.mkdir()
    write_record(origin / "manifest.json", manifest)
    from pipelines.template import template_sha256

    training = TrainingRecord(
        name="tuned",
        weight_digest=digest,
        adapter_digest=ADAPTER,
        base="base",
        base_digest=BASE,
        recipe_sha256="r" * 64,
        dataset="mail",
        dataset_sha256="d" * 64,
        code_digest="c" * 64,
        rows=1,
        rows_without_loss=0,
        steps=1,
        losses=(1.0,),
        template_sha256=template_sha256(weights),
        data_checks_sha256="e" * 64,
        parity_max_logprob_difference=0.0,
        settings={},
        tools={},
    )
    write_record(origin / "training.json", training)
    return tmp_path


def run(root: Path, out: str) -> tuple[VerificationRecord, bytes]:
    folder = root / out
    record = verify(config("tuned"), root / "models" / "tuned", root / "origin", folder)
    return record, (folder / "bom.cdx.json").read_bytes()


def test_the_bom_of_tuned_weights_is_valid_and_tells_where_they_come_from(tuned: Path) -> None:
    record, data = run(tuned, "out")
    model = validated(data)["components"][0]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": record.weight_digest}]
    ancestors = model["pedigree"]["ancestors"]
    assert [(a["name"], a["hashes"][0]["content"]) for a in ancestors] == [
        ("lora", ADAPTER),
        ("base", BASE),
    ]
    assert ancestors[0]["licenses"][0]["license"]["id"] == "Apache-2.0"
    assert ancestors[1]["licenses"][0]["license"]["name"] == "Llama 3.1"
    assert model["pedigree"]["notes"] == "lora-merge with peft 0.21.0"
    assert {licence["license"].get("id", "Llama 3.1") for licence in model["licenses"]} == {
        "Apache-2.0",
        "Llama 3.1",
    }
    parameters = model["modelCard"]["modelParameters"]
    assert parameters["modelArchitecture"] == "LlamaForCausalLM"
    assert parameters["architectureFamily"] == "llama"
    assert parameters["task"] == "text-generation"
    assert parameters["datasets"][0]["name"] == "mail"
    assert "quantitativeAnalysis" not in model["modelCard"]
    considerations = model["modelCard"]["considerations"]
    assert "not proven" in considerations["technicalLimitations"][0]
    assert considerations.keys() == {"technicalLimitations", "useCases"}


def test_every_file_is_a_component_with_its_digest_and_every_paper_a_reference(
    tuned: Path,
) -> None:
    _, data = run(tuned, "out")
    model = validated(data)["components"][0]
    files = {file["name"]: file["hashes"][0]["content"] for file in model["components"]}
    assert files == {f.path: f.sha256 for f in build_manifest(tuned / "models" / "tuned")}
    for reference in model["externalReferences"]:
        path = tuned / "out" / reference["url"]
        assert sha256_bytes(path.read_bytes()) == reference["hashes"][0]["content"]
    kinds = {reference["url"]: reference["type"] for reference in model["externalReferences"]}
    assert kinds["verification.json"] == "attestation"
    assert kinds["report.md"] == "evidence"
    assert kinds["../origin/training.json"] == "formulation"


def test_the_same_evidence_gives_the_same_bytes_and_no_time_stands_in_them(tuned: Path) -> None:
    (_, one), (_, two) = run(tuned, "one"), run(tuned, "two")
    assert one == two
    document = validated(one)
    assert "timestamp" not in document["metadata"]
    assert document["serialNumber"].startswith("urn:uuid:")
    assert document["serialNumber"][len("urn:uuid:") + 14] == "5"


def test_a_refused_folder_has_a_valid_bom_that_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "weights.bin").write_bytes(b"\x80\x04N.")
    (folder / "a name with spaces & ü.txt").write_text("x")
    judged = judge_folder(folder, config("model"))
    data = bom_bytes(Subject(judged.record, judged.contents.files, judged.facts))
    document = validated(data)
    properties = {p["name"]: p["value"] for p in document["components"][0]["properties"]}
    assert properties["weighbridge:verdict"] == "refused"
    assert any(name.startswith("weighbridge:finding:refusal:") for name in properties)


def test_a_bare_folders_base_is_named_as_stated_and_not_as_verified(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    edit_json(folder / "config.json", lambda c: c.update(_name_or_path="org/tiny-base"))
    judged = judge_folder(folder, config("model"))
    subject = Subject(
        judged.record, judged.contents.files, judged.facts, stated_bases=judged.stated_bases
    )
    ancestor = validated(bom_bytes(subject))["components"][0]["pedigree"]["ancestors"][0]
    assert ancestor["name"] == "org/tiny-base"
    assert "hashes" not in ancestor
    assert "not verified" in ancestor["properties"][0]["value"]


def bare(**fields: Any) -> Subject:
    from pipelines.records import LicenceDecision

    decision = LicenceDecision(family="unknown", spdx="", use="research", allowed=False, source="")
    record = VerificationRecord(
        name="x",
        weight_digest=fields.pop("digest", "f" * 64),
        code_digest="",
        policy_sha256="p" * 64,
        passed=False,
        findings=fields.pop("findings", ()),
        formats={},
        parameters=0,
        template_sha256="",
        licence=decision,
        statement="not proven",
    )
    return Subject(record, (), ModelFacts(), **fields)


def test_what_is_not_known_is_left_out() -> None:
    model = validated(bom_bytes(bare()))["components"][0]
    for key in ("licenses", "pedigree", "externalReferences", "purl"):
        assert key not in model
    assert "modelParameters" not in model["modelCard"]
    nameless = validated(bom_bytes(bare(digest="")))["components"][0]
    assert "hashes" not in nameless
    assert "version" not in nameless


def test_a_repository_of_the_hub_has_its_package_url_only_as_published() -> None:
    fields = {
        "name": "x",
        "weight_digest": "f" * 64,
        "files": (),
        "reference": "hf://Org/Name@" + "0" * 40,
        "code_digest": "",
    }
    manifest = ManifestRecord.model_validate(fields)
    model = validated(bom_bytes(bare(manifest=manifest)))["components"][0]
    assert model["purl"] == "pkg:huggingface/Org/Name@" + "0" * 40
    made = manifest.model_copy(
        update={"derivation": Derivation(method="dequantise-gguf", source_files=())}
    )
    assert "purl" not in validated(bom_bytes(bare(manifest=made)))["components"][0]


def test_a_signature_is_referred_to_and_hostile_names_stay_valid() -> None:
    papers = (Paper("digital-signature", "../origin/publisher/model sig\n<b>.sig", "0" * 64),)
    finding = Finding(rule="x.y", severity="warning", file='a"\\n', fact="{}", remedy="")
    subject = bare(papers=papers, findings=(finding,))
    files = (FileEntry(path='we"ird\\name', size_bytes=1, sha256="0" * 64),)
    strange = Subject(subject.record, files, subject.facts, papers)
    reference = validated(bom_bytes(strange))["components"][0]["externalReferences"][0]
    assert reference["type"] == "digital-signature"
    assert " " not in reference["url"]
