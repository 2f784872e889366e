"""Promotion, releases and audit, on a real registry with real git, DVC, signatures and bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import toy_registry

from pipelines import signing
from pipelines.batch.shadow import Arm, ShadowRecord
from pipelines.canonical import write_record
from pipelines.errors import (
    ApprovalsMissing,
    BadReference,
    BaselineMoved,
    DigestMismatch,
    EvidenceTooOld,
    ShadowInsufficient,
    SignatureRefused,
    UnknownName,
    VerdictForOtherDigest,
    VerdictMissing,
    VerdictNotPassing,
    VerdictStale,
    WaiverExpired,
)
from pipelines.models_edit import add_evaluations, add_model, add_tuning, set_gate
from pipelines.models_file import Baseline, DeclaredUse, GateEntry, ModelEntry, TuningEntry
from pipelines.promotion import promote
from pipelines.records import (
    ManifestRecord,
    Requirements,
    RunInfo,
    ShadowRequirement,
    Verdict,
    read_record,
)
from pipelines.releases import audit, fetch_weights, resolve_release
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace

LINE = "mail@production"
NAMES = ("base", "good", "other")


@pytest.fixture(scope="module")
def gated_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a base and two gated, signed candidates, nothing promoted."""
    made = toy_registry.make(tmp_path_factory.mktemp("promotion"))
    base = tmp_path_factory.mktemp("gated") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        settings = toy_registry.copied(made, base, patch)
        with open_workspace(settings) as workspace:
            workspace.change("Add models", _add_models)
            for name in NAMES:
                workspace.reproduce(f"{'ingest' if name == 'base' else 'finetune'}@{name}")
                workspace.reproduce(f"verify@{name}")
                workspace.reproduce(f"evaluate@{name}-smoke")
            workspace.publish("Run")
            pin = Baseline(name="base", digest=_digest(workspace, "base"))
            workspace.change("Gate", lambda root: _add_gates(root, pin))
            for name in NAMES[1:]:
                workspace.reproduce(f"gate@{name}")
                _sign(workspace, name)
            workspace.publish("Gate")
    return base


@pytest.fixture
def gated(gated_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return toy_registry.copied(gated_template, tmp_path / "toy", monkeypatch)


def _add_models(root: Path) -> list[str]:
    add_model(root, "base", ModelEntry(reference=f"file:///toy#sha256={'a' * 64}"), DeclaredUse())
    for name in NAMES[1:]:
        entry = TuningEntry(base="base", recipe="lora", dataset="mail")
        add_tuning(root, name, entry, DeclaredUse())
    for name in NAMES:
        add_evaluations(root, name, ["smoke"])
    return []


def _add_gates(root: Path, baseline: Baseline) -> list[str]:
    for name in NAMES[1:]:
        set_gate(root, name, GateEntry(release="mail", policy="default", baseline=baseline))
    return []


def _digest(workspace: Workspace, name: str) -> str:
    path = Layout(workspace.root).origin(name) / "manifest.json"
    return read_record(path, ManifestRecord).weight_digest


def _sign(workspace: Workspace, name: str) -> None:
    layout = Layout(workspace.root)
    key = workspace.settings.signing_key
    signing.sign_manifest(key, layout.weights(name), layout.manifest_signature(name))


def _edit(settings: Settings, apply: Callable[[Path], object]) -> None:
    """Change what git holds, as somebody with a clone would."""
    with open_workspace(settings) as workspace:
        apply(workspace.root)
        workspace.publish("Edit")


def _change_verdict(settings: Settings, name: str = "good", **fields: object) -> None:
    """Let DVC record another verdict as if the gate had written it."""
    with open_workspace(settings) as workspace:
        workspace.restore()
        path = Layout(workspace.root).verdict(name) / "verdict.json"
        verdict = read_record(path, Verdict).model_copy(update=fields)
        path.unlink()
        write_record(path, verdict)
        workspace.dvc("commit", "--force", f"gate@{name}")
        workspace.dvc("push", "--quiet", f"gate@{name}")
        workspace.publish("Change the verdict")


def _tags(settings: Settings) -> set[str]:
    with open_workspace(settings) as workspace:
        return set(git.git(workspace.root, "tag").split())


def test_a_promoted_candidate_is_found_fetched_and_audited(gated: Settings) -> None:
    release = promote(gated, "good")
    assert _tags(gated) == {"mail@v1.0.0", "mail#production#1"}
    assert resolve_release(gated, LINE) == release
    with fetch_weights(gated, LINE) as held:
        assert (held.weights / "weights.bin").read_text() == "the weights of good"
    result = audit(gated, LINE)
    assert result.passed, result
    assert [check.check for check in result.checks][:2] == ["release record", "weights"]


def test_gto_and_dvc_read_the_release(gated: Settings) -> None:
    promote(gated, "good")
    with open_workspace(gated) as workspace:
        shown = workspace.dvc("artifacts", "get", str(workspace.root), "mail", "-o", "got")
        assert shown is not None
        assert (workspace.root / "got" / "weights.bin").read_text() == "the weights of good"
        argv = [
            str(Path(sys.executable).with_name("gto")),
            "show",
            "mail",
            "--json",
            "--repo",
            str(workspace.root),
        ]
        run = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert "v1.0.0" in run.stdout


def test_promoting_what_is_in_production_changes_nothing(gated: Settings) -> None:
    first = promote(gated, "good")
    assert promote(gated, "good") == first
    assert _tags(gated) == {"mail@v1.0.0", "mail#production#1"}


def test_promote_refuses_a_candidate_without_a_verdict(gated: Settings) -> None:
    with pytest.raises(VerdictMissing, match="base has no verdict"):
        promote(gated, "base")
    with pytest.raises(UnknownName, match="There are: base, good, other"):
        promote(gated, "nobody")


def test_promote_refuses_a_verdict_that_does_not_pass(gated: Settings) -> None:
    _change_verdict(gated, outcome="cannot_tell", reasons=("100 items see 12 points at best",))
    with pytest.raises(VerdictNotPassing, match=r"'cannot_tell': 100 items see"):
        promote(gated, "good")
    assert _tags(gated) == set()


def test_promote_refuses_a_verdict_for_another_digest(gated: Settings) -> None:
    _change_verdict(gated, weight_digest="d" * 64)
    with pytest.raises(VerdictForOtherDigest, match="d" * 64):
        promote(gated, "good")


@pytest.mark.parametrize(
    "changed",
    ["policy/gates/default.yaml", "suites/smoke/suite.yaml", "code/verify.json",
     "datasets/mail/train.jsonl", "recipes/lora.yaml"],
)  # fmt: skip
def test_promote_refuses_a_verdict_that_is_out_of_date(gated: Settings, changed: str) -> None:
    def edit(root: Path) -> None:
        (root / changed).write_text((root / changed).read_text() + "\n")

    _edit(gated, edit)
    with pytest.raises(VerdictStale, match="out of date"):
        promote(gated, "good")
    assert _tags(gated) == set()


def test_promote_refuses_weights_that_changed_in_the_remote(gated: Settings) -> None:
    remote = Path(gated.origin).parent / "remote"
    for path in remote.rglob("*"):
        if path.is_file() and path.read_bytes() == b"the weights of good":
            path.chmod(0o644)
            path.write_bytes(b"the weights of evil")
    with pytest.raises(DigestMismatch, match="models/good"):
        promote(gated, "good")


def test_promote_refuses_weights_whose_signature_does_not_hold(gated: Settings) -> None:
    bundle = Path("evidence", "good", "manifest.sig.json")
    _edit(
        gated,
        lambda root: (root / bundle).write_bytes(
            (root / "evidence/other/manifest.sig.json").read_bytes()
        ),
    )
    with pytest.raises(SignatureRefused, match="weights"):
        promote(gated, "good")


def test_promote_refuses_without_the_signing_key(gated: Settings) -> None:
    gated.signing_key.unlink()
    with pytest.raises(SignatureRefused, match="signing key"):
        promote(gated, "good")


def test_promote_refuses_when_production_is_not_the_pinned_baseline(gated: Settings) -> None:
    promote(gated, "good")
    with pytest.raises(BaselineMoved, match="compared with base"):
        promote(gated, "other")


def test_promote_refuses_evidence_that_is_too_old_or_of_unknown_age(gated: Settings) -> None:
    evaluation = "evidence/good/evaluations/smoke"
    requirements = {"max_evidence_age_days": 30.0, "approvals": 0}
    _change_verdict(
        gated,
        requirements=requirements,
        evidence={f"{evaluation}/evaluation.json": "0" * 64},
    )
    with pytest.raises(EvidenceTooOld, match=r"no run\.json"):
        promote(gated, "good")

    def made(days: int) -> Callable[[Path], object]:
        when = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        info = RunInfo(
            stage="evaluate@good-smoke",
            started_at=when,
            finished_at=when,
            wall_s=1,
            cpu_s=1,
            peak_memory_bytes=1,
            host="here",
        )
        return lambda root: write_record(root / f"{evaluation}.run.json", info)

    _edit(gated, made(days=31))
    with pytest.raises(EvidenceTooOld, match=r"31\.0 days old"):
        promote(gated, "good")
    _edit(gated, made(days=1))
    measured = (datetime.now(UTC) - timedelta(days=40)).date().isoformat()
    _change_verdict(gated, requirements=requirements | {"cost_measured_on": measured})
    with pytest.raises(EvidenceTooOld, match="its cost was measured 40 days ago"):
        promote(gated, "good")
    _change_verdict(gated, requirements=requirements)
    assert promote(gated, "good").version == "v1.0.0"


def _shadow(weights: str, production: str, agreed: int) -> ShadowRecord:
    arm = Arm(model="m", weight_digest=production, answered=100, schema_failures=0, refusals=0,
              mean_answer_tokens=10.0)  # fmt: skip
    return ShadowRecord(
        name="other",
        weight_digest=weights,
        job_id="job",
        corpus_sha256="",
        prompt_sha256="",
        schema_sha256="",
        documents=100,
        rows=100,
        unpaired=0,
        agreed=agreed,
        agreement=agreed / 100,
        agreement_interval=(agreed / 100 - 0.08, agreed / 100),
        similarity=1.0,
        fields=(),
        candidate=arm.model_copy(update={"weight_digest": weights}),
        production=arm,
    )


def test_promote_asks_for_the_shadow_run_that_the_policy_wants(gated: Settings) -> None:
    held = promote(gated, "good").weight_digest
    wanted = ShadowRequirement(min_rows=100, min_agreement=0.85)
    requirements = Requirements(shadow=wanted).model_dump()
    _change_verdict(gated, "other", baseline_digest=held, requirements=requirements)
    with pytest.raises(ShadowInsufficient, match="there is none"):
        promote(gated, "other")
    with open_workspace(gated) as workspace:
        workspace.restore("evidence/other/origin")
        own = read_record(
            Layout(workspace.root).origin("other") / "manifest.json", ManifestRecord
        ).weight_digest

    def publish(record: ShadowRecord) -> None:
        def apply(root: Path) -> None:
            folder = Layout(root).shadow("other")
            folder.mkdir(parents=True, exist_ok=True)
            write_record(folder / "shadow.json", record)

        _edit(gated, apply)

    for record, words in [
        (_shadow("0" * 64, held, 100), "the shadow run is about weights 0000"),
        (_shadow(own, "0" * 64, 100), "it compares with 0000"),
        (_shadow(own, held, 90), "at least 0.820 for certain"),
    ]:
        publish(record)
        with pytest.raises(ShadowInsufficient, match=words):
            promote(gated, "other")
    publish(_shadow(own, held, 98))
    assert promote(gated, "other").version == "v1.1.0"


def test_promote_counts_only_approvals_whose_signature_holds(
    gated: Settings, tmp_path: Path
) -> None:
    _change_verdict(gated, requirements={"max_evidence_age_days": None, "approvals": 1})
    with open_workspace(gated) as workspace:
        workspace.restore()
        digest = _digest(workspace, "good")
    for who in ("alice", "mallory"):
        _ssh("keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", str(tmp_path / who))
    allowed = f'alice namespaces="weighbridge" {(tmp_path / "alice.pub").read_text()}'

    def approve(who: str, signer: str) -> Callable[[Path], object]:
        signed = tmp_path / f"{who}-{signer}"
        signed.write_text(digest)
        _ssh(
            "keygen",
            "-q",
            "-Y",
            "sign",
            "-n",
            "weighbridge",
            "-f",
            str(tmp_path / signer),
            str(signed),
        )

        def apply(root: Path) -> None:
            (root / "policy" / "allowed_signers").write_text(allowed)
            folder = root / "approvals" / "good"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{who}.sig").write_bytes(signed.with_name(f"{signed.name}.sig").read_bytes())

        return apply

    _edit(gated, approve("alice", "mallory"))
    with pytest.raises(ApprovalsMissing, match="needs 1 approvals, valid: none"):
        promote(gated, "good")
    _edit(gated, approve("alice", "alice"))
    assert promote(gated, "good").approvers == ("alice",)


def _ssh(*arguments: str) -> None:
    subprocess.run(
        [f"ssh-{arguments[0]}", *arguments[1:]], check=True, capture_output=True, timeout=60
    )


def test_a_changed_release_record_is_refused(gated: Settings) -> None:
    promote(gated, "good")

    def forge(root: Path) -> None:
        path = root / "releases" / "mail" / "v1.0.0.json"
        record = json.loads(path.read_text())
        record["approvers"] = ["alice"]
        path.write_text(json.dumps(record))

    with open_workspace(gated) as workspace:
        forge(workspace.root)
        git.commit_all(workspace.root, "forge")
        git.git(workspace.root, "tag", "mail#production#2")
        assert git.push(workspace.root, "refs/tags/mail#production#2")
    with pytest.raises(SignatureRefused, match=r"v1\.0\.0\.json"):
        resolve_release(gated, LINE)


def test_an_audit_names_weights_that_changed(gated: Settings) -> None:
    promote(gated, "good")
    remote = Path(gated.origin).parent / "remote"
    for path in remote.rglob("*"):
        if path.is_file() and path.read_bytes() == b"the weights of good":
            path.chmod(0o644)
            path.write_bytes(b"the weights of evil")
    result = audit(gated, LINE)
    assert not result.passed
    assert {check.check for check in result.checks if not check.passed} >= {"weights"}


def test_a_batch_job_never_gets_weights_that_changed_in_the_cache(gated: Settings) -> None:
    promote(gated, "good")
    with fetch_weights(gated, LINE):
        pass
    for path in gated.cache.rglob("*"):
        if path.is_file() and path.read_bytes() == b"the weights of good":
            path.chmod(0o644)
            path.write_bytes(b"the weights of evil")
            path.chmod(0o444)
    with pytest.raises(DigestMismatch, match="models/good"), fetch_weights(gated, LINE):
        pass


def test_a_release_that_is_not_there_is_named_with_those_that_are(gated: Settings) -> None:
    promote(gated, "good")
    with pytest.raises(UnknownName, match="There are: mail@production"):
        resolve_release(gated, "mail@staging")
    with pytest.raises(BadReference, match="line@stage"):
        resolve_release(gated, "mail")


def _waive(settings: Settings, expires: str) -> None:
    """Let DVC record a verification that rests on a waiver, and the verdict as current."""
    with open_workspace(settings) as workspace:
        workspace.restore()
        path = Layout(workspace.root).verification("good") / "verification.json"
        record = json.loads(path.read_text())
        record["findings"] = [
            {
                "rule": "template.date",
                "severity": "waived",
                "file": "chat_template.jinja",
                "fact": "a date",
                "remedy": "x",
                "waiver": {"reason": "shown only", "approver": "Jane", "expires": expires},
            }
        ]
        path.unlink()
        path.write_text(json.dumps(record))
        stages = ("verify@good", "evaluate@good-smoke", "gate@good")
        for stage in stages:
            workspace.dvc("commit", "--force", stage)
        workspace.dvc("push", "--quiet", *stages)
        workspace.publish("Rest on a waiver")


def test_promote_refuses_a_verification_whose_waiver_has_ended(gated: Settings) -> None:
    _waive(gated, "2020-01-01")
    with pytest.raises(WaiverExpired, match="by Jane, until 2020-01-01"):
        promote(gated, "good")
    assert _tags(gated) == set()


def test_audit_looks_at_the_day_on_which_a_waiver_ends(
    gated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _waive(gated, "2999-01-01")
    promote(gated, "good")
    checks = {check.check: check for check in audit(gated, LINE).checks}
    assert checks["waivers"].passed
    monkeypatch.setattr("pipelines.releases.today", lambda: date(2999, 1, 2))
    result = audit(gated, LINE)
    assert not result.passed
    assert [check.check for check in result.checks if not check.passed] == ["waivers"]
