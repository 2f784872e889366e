"""The stage: one record about one digest, deterministic, and refusing by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import CARD, apache_text, write_model

from pipelines.canonical import record_bytes, sha256_bytes, write_record
from pipelines.digest import build_manifest, check_digest, weight_digest
from pipelines.errors import ConfigError, MalformedFile, WrongKindOfPath
from pipelines.models_file import DeclaredUse
from pipelines.records import LicenceClaim, ManifestRecord, TrainingRecord, VerificationRecord
from pipelines.template import template_sha256
from pipelines.verification.policy import DEFAULT_POLICY, VerificationPolicy, load_policy
from pipelines.verify import VerifyConfig, verify


class Stage:
    """A model folder and its origin, as ingest leaves them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.weights = write_model(root / "models" / "tiny")
        (self.weights / "README.md").unlink()
        (self.weights / "LICENSE").unlink()
        self.origin = root / "origin"
        (self.origin / "licences").mkdir(parents=True)
        text = apache_text().encode()
        (self.origin / "licences" / "LICENSE").write_bytes(text)
        claims = (
            LicenceClaim(source="LICENSE", text_sha256=sha256_bytes(text)),
            LicenceClaim(source="README.md:license", identifier="apache-2.0"),
        )
        files = build_manifest(self.weights)
        self.manifest = ManifestRecord(
            name="tiny",
            weight_digest=weight_digest(files),
            files=files,
            reference="file:///x",
            code_digest="c" * 64,
            licences=claims,
        )
        self.runs = 0

    def run(self, **policy: object) -> VerificationRecord:
        write_record(self.origin / "manifest.json", self.manifest)
        config = VerifyConfig(
            name="tiny",
            use=DeclaredUse(),
            policy=VerificationPolicy.model_validate(policy),
            policy_sha256="p" * 64,
            code_digest="c" * 64,
        )
        self.runs += 1
        self.out = self.root / f"out{self.runs}"
        return verify(config, self.weights, self.origin, self.out)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def refusals(record: VerificationRecord) -> set[str]:
    return {finding.rule for finding in record.findings if finding.severity == "refusal"}


def test_an_honest_model_passes_and_the_record_is_about_its_bytes(stage: Stage) -> None:
    record = stage.run()
    assert record.passed
    assert refusals(record) == set()
    assert check_digest(stage.weights, record.weight_digest)
    assert record.template_sha256 == template_sha256(stage.weights)
    assert record.formats == {"json": 4, "safetensors": 1, "template": 1}
    assert record.parameters == 40 * 16 + 16 + 2 * (4 * 16 * 16 + 3 * 32 * 16 + 2 * 16)
    assert record.licence.family == "Apache-2.0"
    assert "backdoor" in record.statement
    assert "not proven" in record.statement


def test_two_runs_write_the_same_bytes(stage: Stage) -> None:
    record = stage.run()
    first = {path.name: path.read_bytes() for path in stage.out.iterdir()}
    assert first.keys() == {"verification.json", "report.md", "bom.cdx.json", "NOTICE"}
    assert first["verification.json"] == record_bytes(record)
    stage.run()
    assert {path.name: path.read_bytes() for path in stage.out.iterdir()} == first


def test_the_report_and_the_notice_say_what_counts(stage: Stage) -> None:
    record = stage.run()
    report = (stage.out / "report.md").read_text()
    notice = (stage.out / "NOTICE").read_text()
    for expected in ("not proven", record.weight_digest, "Apache-2.0", "model.safetensors"):
        assert expected in report
    assert "NOTICE on redistribution" in notice
    assert "- LICENSE" in notice


def test_untrusted_names_cannot_write_markup_into_the_report(stage: Stage) -> None:
    (stage.weights / "a|<b>`c`\n# d.txt").write_text("x")
    record = stage.run()
    assert not record.passed
    report = (stage.out / "report.md").read_text()
    assert "<b>" not in report
    assert "\n# d" not in report


def test_bytes_other_than_the_manifests_are_refused(stage: Stage) -> None:
    data = bytearray((stage.weights / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (stage.weights / "model.safetensors").write_bytes(data)
    record = stage.run()
    assert not record.passed
    assert {"integrity.changed", "integrity.digest"} <= refusals(record)
    (stage.weights / "more.txt").write_text("x")
    assert "integrity.extra" in refusals(stage.run())


def test_a_manifest_about_another_model_is_refused(stage: Stage) -> None:
    stage.manifest = stage.manifest.model_copy(update={"name": "other"})
    assert refusals(stage.run()) == {"integrity.other-model"}


def test_a_licence_text_that_origin_lost_is_refused(stage: Stage) -> None:
    (stage.origin / "licences" / "LICENSE").unlink()
    record = stage.run()
    assert refusals(record) == {"licence.text-missing"}
    assert not record.licence.allowed


def test_a_model_without_a_licence_is_refused(stage: Stage) -> None:
    stage.manifest = stage.manifest.model_copy(update={"licences": ()})
    assert refusals(stage.run()) == {"licence.absent"}


def test_a_signature_can_be_required(stage: Stage) -> None:
    assert refusals(stage.run(require_signature=True)) == {"signature.absent"}


def training(stage: Stage, **changes: str) -> TrainingRecord:
    fields = {
        "weight_digest": stage.manifest.weight_digest,
        "template_sha256": template_sha256(stage.weights),
        **changes,
    }
    return TrainingRecord(
        name="tiny",
        adapter_digest="a" * 64,
        base="base",
        base_digest="b" * 64,
        recipe_sha256="r" * 64,
        dataset="d",
        dataset_sha256="d" * 64,
        code_digest="c" * 64,
        rows=1,
        rows_without_loss=0,
        steps=1,
        losses=(1.0,),
        data_checks_sha256="e" * 64,
        parity_max_logprob_difference=0.0,
        settings={},
        tools={},
        **fields,
    )


def test_a_training_record_must_be_about_these_weights_and_this_template(stage: Stage) -> None:
    path = stage.origin / "training.json"
    write_record(path, training(stage))
    assert stage.run().passed
    write_record(path, training(stage, weight_digest="0" * 64))
    assert refusals(stage.run()) == {"training.digest"}
    write_record(path, training(stage, template_sha256="0" * 64))
    assert refusals(stage.run()) == {"training.template"}


def test_an_origin_without_a_manifest_is_an_error(stage: Stage, tmp_path: Path) -> None:
    config = VerifyConfig(
        name="tiny",
        use=DeclaredUse(),
        policy=VerificationPolicy(),
        policy_sha256="",
        code_digest="",
    )
    with pytest.raises(WrongKindOfPath):
        verify(config, stage.weights, tmp_path / "nothing", tmp_path / "out")


def test_a_malformed_shard_is_a_finding_that_names_it(stage: Stage) -> None:
    path = stage.weights / "model.safetensors"
    path.write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    found = {(f.rule, f.file) for f in stage.run().findings}
    assert ("safetensors.header-length", "model.safetensors") in found


def test_the_default_policy_file_says_what_the_defaults_are() -> None:
    assert load_policy(DEFAULT_POLICY) == VerificationPolicy()


@pytest.mark.parametrize(
    "text",
    ["alowed_formats: [json]\n", "allowed_formats: [pickle]\n", "max_json_bytes: 0\n", "a: [\n"],
)
def test_a_policy_with_a_mistake_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "verification.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_policy(path)


def test_malformed_file_says_rule_and_remedy() -> None:
    error = MalformedFile("x.json", "json.syntax", "it is not JSON")
    assert "json.syntax" in str(error)
    assert "Fetch it again" in str(error)
    assert error.rule == "json.syntax"


def test_a_card_that_states_no_licence_leaves_the_model_refused(tmp_path: Path) -> None:
    from pipelines.verify import verify_folder

    model = write_model(tmp_path / "model")
    (model / "LICENSE").unlink()
    (model / "README.md").write_text(CARD.replace("license: apache-2.0", "tags: [x]"))
    record = verify_folder(model, DeclaredUse(), VerificationPolicy())
    assert refusals(record) == {"licence.absent"}


def test_the_real_model_passes_as_ingest_left_it(smollm2: Path, tmp_path: Path) -> None:
    config = VerifyConfig(
        name="smollm2",
        use=DeclaredUse(monthly_users=1000, redistribution=True),
        policy=load_policy(DEFAULT_POLICY),
        policy_sha256="p" * 64,
        code_digest="c" * 64,
    )
    record = verify(config, smollm2, smollm2.parent / "origin", tmp_path / "out")
    assert refusals(record) == set()
    assert record.passed
    assert record.licence.family == "Apache-2.0"
    assert record.parameters == 134_515_008
