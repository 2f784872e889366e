"""`weighbridge verify` on a folder and on a model of a registry, and `weighbridge advisories`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import toy_registry
from osv_zip import advisory, write_zip

from flows.stage_command import run_stage
from flows.verifying import FolderOptions, judge, judge_or_refuse
from pipelines.canonical import write_record
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import (
    ConfigError,
    DigestMismatch,
    NotJudged,
    NotVerified,
    UnknownName,
    WrongKindOfPath,
    exit_code,
)
from pipelines.models_edit import add_model
from pipelines.models_file import DeclaredUse, ModelEntry
from pipelines.records import LicenceClaim, ManifestRecord, VerificationRecord, read_record
from pipelines.settings import Settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace
from tests.corpus.bases import single

Run = Callable[..., subprocess.CompletedProcess[str]]
ENTRY = ModelEntry(reference=f"file:///tiny#sha256={'a' * 64}")
WAIVER = """\
waivers:
  - digest: {digest}
    rule: {rule}
    reason: the publisher told us in writing
    approver: Jane Doe
    expires: {expires}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the model `tiny`, ingested by hand and verified by the real stage."""
    made = toy_registry.make(tmp_path_factory.mktemp("made"))
    base = tmp_path_factory.mktemp("verified") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        settings = toy_registry.copied(made, base, patch)
        with open_workspace(settings) as workspace:
            workspace.change("Add", _add)
            _ingest(workspace)
            run_stage("verify", "tiny", workspace.root)
            _keep(workspace, "ingest@tiny", "verify@tiny")
    return base


@pytest.fixture
def registry(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return toy_registry.copied(template, tmp_path / "toy", monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def weighbridge(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "flows.cli", *arguments]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    return weighbridge


def _add(root: Path) -> list[str]:
    for name in ("tiny", "absent"):
        add_model(root, name, ENTRY, DeclaredUse())
    return []


def _write_folder(folder: Path) -> None:
    """A folder of plain text: no weights, so refused, and read in no time."""
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("nothing to load here\n")


def _ingest(workspace: Workspace) -> None:
    layout = Layout(workspace.root)
    _write_folder(layout.weights("tiny"))
    files = build_manifest(layout.weights("tiny"))
    manifest = ManifestRecord(
        name="tiny",
        weight_digest=weight_digest(files),
        files=files,
        reference=ENTRY.reference,
        code_digest="c" * 64,
        licences=(LicenceClaim(source="README.md:license", identifier="mit"),),
    )
    write_record(layout.origin("tiny") / "manifest.json", manifest)


def _keep(workspace: Workspace, *stages: str) -> None:
    """Let DVC record what lies in the clone as the outputs of these stages."""
    for stage in stages:
        workspace.dvc("commit", "--force", stage)
    workspace.dvc("push", "--quiet", *stages)
    workspace.publish("Run")


def stored(settings: Settings) -> VerificationRecord:
    with open_workspace(settings) as workspace:
        workspace.restore("evidence/tiny/verification")
        path = Layout(workspace.root).verification("tiny") / "verification.json"
        return read_record(path, VerificationRecord)


def test_a_name_is_proved_again_from_the_bytes_of_the_store(
    registry: Settings, tmp_path: Path
) -> None:
    verified = judge("tiny", FolderOptions(out=tmp_path / "new" / "out"))
    assert verified.stored == "same"
    assert verified.record == stored(registry)
    assert "the model tiny" in verified.taken
    names = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert names == {"verification.json", "report.md", "bom.cdx.json", "NOTICE"}


def test_a_stored_record_that_says_something_else_is_reported(registry: Settings) -> None:
    with open_workspace(registry) as workspace:
        workspace.restore()
        path = Layout(workspace.root).verification("tiny") / "verification.json"
        record = read_record(path, VerificationRecord)
        path.unlink()
        write_record(path, record.model_copy(update={"passed": True, "findings": ()}))
        _keep(workspace, "verify@tiny")
    verified = judge("tiny", FolderOptions())
    assert verified.stored == "differs"
    assert not verified.record.passed


def test_bytes_that_the_store_lost_are_an_error(registry: Settings) -> None:
    for objects in (registry.cache, registry.home.parents[1] / "remote"):
        for path in objects.rglob("files/md5/*/*"):
            path.chmod(0o644)
            path.unlink()
    with pytest.raises(DigestMismatch):
        judge("tiny", FolderOptions())


def test_what_was_never_ingested_and_what_nobody_knows_are_told_apart(registry: Settings) -> None:
    with pytest.raises(NotVerified, match="nothing was ingested"):
        judge("absent", FolderOptions())
    with pytest.raises(UnknownName, match="absent, tiny"):
        judge("nobody", FolderOptions())
    with pytest.raises(ConfigError, match="--use, --policy belongs"):
        judge("tiny", FolderOptions(use="research", policy=Path("x.yaml")))


def test_a_folder_wins_over_a_name_and_what_was_taken_is_said(
    registry: Settings, tmp_path: Path, run: Run
) -> None:
    _write_folder(tmp_path / "tiny")
    done = run("verify", "tiny", "--json")
    assert "verified the folder tiny" in done.stderr
    assert "stored" not in json.loads(done.stdout)
    (tmp_path / "tiny" / "notes.txt").unlink()
    (tmp_path / "tiny").rmdir()
    done = run("verify", "tiny", "--json")
    assert "verified the model tiny" in done.stderr
    assert "what these bytes give" in done.stderr
    assert json.loads(done.stdout)["stored"] == "same"
    assert done.returncode == 1


def test_outside_a_registry_a_name_that_is_no_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHBRIDGE_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongKindOfPath, match="a folder of weights"):
        judge("nobody", FolderOptions())
    with pytest.raises(WrongKindOfPath, match="a folder of weights"):
        judge("some/where", FolderOptions())


def test_out_must_be_new(tmp_path: Path) -> None:
    _write_folder(tmp_path / "model")
    with pytest.raises(WrongKindOfPath, match="does not exist yet"):
        judge(str(tmp_path / "model"), FolderOptions(out=tmp_path / "model"))


def test_a_waiver_in_the_registry_makes_the_verification_stale_and_is_used(
    registry: Settings,
) -> None:
    before = stored(registry)
    rules = {finding.rule for finding in before.findings if finding.severity == "refusal"}
    assert rules == {"weights.absent"}
    with open_workspace(registry) as workspace:
        fields = {"digest": before.weight_digest, "rule": "weights.absent"}
        waivers = workspace.root / "policy" / "waivers"
        (waivers / "tiny.yaml").write_text(WAIVER.format(**fields, expires="2999-12-31"))
        workspace.restore("models/tiny", "evidence/tiny/origin")
        assert "policy/waivers" in workspace.dvc.changes(["verify@tiny"])["verify@tiny"]
        run_stage("verify", "tiny", workspace.root)
        path = Layout(workspace.root).verification("tiny") / "verification.json"
        after = read_record(path, VerificationRecord)
    assert after.passed
    waived = [finding for finding in after.findings if finding.severity == "waived"]
    assert [(finding.rule, finding.waiver and finding.waiver.approver) for finding in waived] == [
        ("weights.absent", "Jane Doe")
    ]


def test_a_folders_waivers_come_from_a_file(tmp_path: Path, run: Run) -> None:
    _write_folder(tmp_path / "model")
    digest = weight_digest(build_manifest(tmp_path / "model"))
    path = tmp_path / "waivers.yaml"
    path.write_text(WAIVER.format(digest=digest, rule="weights.absent", expires="2999-12-31"))
    done = run("verify", "model", "--waivers", "waivers.yaml", "--json")
    severities = {f["rule"]: f["severity"] for f in json.loads(done.stdout)["findings"]}
    assert severities["weights.absent"] == "waived"
    path.write_text(WAIVER.format(digest=digest, rule="integrity.changed", expires="2999-12-31"))
    done = run("verify", "model", "--waivers", "waivers.yaml")
    assert (done.returncode, "cannot be waived" in done.stderr) == (1, True)


def _policy(settings: Settings, text: str) -> None:
    with open_workspace(settings) as workspace:

        def apply(root: Path) -> list[str]:
            (root / "policy" / "verification.yaml").write_text(text)
            return []

        workspace.change("Policy", apply)


def test_a_registry_that_requires_a_snapshot_fails_closed_without_one(
    registry: Settings, tmp_path: Path, run: Run
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("demo==1.0\n")
    loose = run("advisories", "check", "--lock", "lock.txt")
    assert (loose.returncode, "there is no snapshot" in loose.stdout) == (0, True)
    _policy(registry, "advisories: {required: true, max_age_days: 100000, fail_on: high}\n")
    assert run("advisories", "check", "--lock", "lock.txt").returncode == 1
    checks = json.loads(run("doctor", "--json").stdout)["findings"]
    assert not next(f for f in checks if f["check"] == "advisories")["passed"]
    source = write_zip(tmp_path / "all.zip", advisory("GHSA-1", "other", versions=("1.0",)))
    taken = run("advisories", "update", str(source), "--json")
    assert json.loads(taken.stdout)["advisories"] == 1
    assert run("advisories", "check", "--lock", "lock.txt").returncode == 0
    lock.write_text("other==1.0\n")
    found = run("advisories", "check", "--lock", "lock.txt", "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["matches"][0]["ids"] == ["GHSA-1"]
    _policy(registry, "advisories: {required: true, max_age_days: 0, fail_on: none}\n")
    stale = run("advisories", "check", "--lock", "lock.txt")
    assert (stale.returncode, "days old, the policy admits 0" in stale.stdout) == (1, True)


def test_advisories_work_without_a_registry(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHBRIDGE_REGISTRY", raising=False)
    source = write_zip(tmp_path / "all.zip", advisory("GHSA-1", versions=("1.0",)))
    (tmp_path / "lock.txt").write_text("demo==1.0\n")
    assert run("advisories", "update", str(source)).returncode == 2
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    assert run("advisories", "update", str(source)).returncode == 0
    found = run("advisories", "check", "--lock", "lock.txt")
    assert found.returncode == 1
    assert "GHSA-1" in found.stdout


@pytest.fixture
def weights() -> Iterator[Path]:
    """A whole model where another user may look: pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        single(folder / "model")
        (folder / "model" / "model.safetensors").chmod(0o644)  # safetensors writes 0600
        (folder / "model" / "chat_template.jinja").unlink()  # it is rendered by another process
        yield folder / "model"


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Without root's right to read everything."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


BAD: dict[str, tuple[str, FolderOptions, str]] = {
    "a file": ("config.json", FolderOptions(), "a folder of weights is needed here"),
    "nothing": ("absent", FolderOptions(), "there is nothing"),
    "a pipe": ("pipe", FolderOptions(), "a folder of weights is needed here"),
    "a long name": ("x" * 5000, FolderOptions(), "File name too long"),
    "a typo in the policy": (".", FolderOptions(policy=Path("typo.yaml")), "alowed_formats: unkn"),
    "an absent policy": (".", FolderOptions(policy=Path("absent.yaml")), "a YAML file is needed"),
    "no manifest": (".", FolderOptions(manifest=Path("typo.yaml")), "line 1 is not 'SHA256"),
    "an unknown use": (".", FolderOptions(use="comercial"), "a YAML file is needed here"),
    "an absent base": (".", FolderOptions(base=Path("absent")), "a folder of weights is needed"),
    "a closed policy": (".", FolderOptions(policy=Path("closed.yaml")), "Permission denied"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_judged_is_refused_with_the_fact_and_the_remedy(
    case: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights)
    os.mkfifo("pipe")
    Path("typo.yaml").write_text("alowed_formats: [gguf]\n")
    Path("closed.yaml").write_text("{}\n")
    Path("closed.yaml").chmod(0)
    target, options, words = BAD[case]
    with as_somebody_else(), pytest.raises(NotJudged, match=words) as caught:
        judge_or_refuse(f"./{target}", options)
    assert exit_code(caught.value) == 1


@pytest.mark.parametrize("closed", ["model.safetensors", "sub", "."])
def test_what_cannot_be_read_is_named(closed: str, weights: Path) -> None:
    (weights / "sub").mkdir()
    (weights / closed).chmod(0)
    with as_somebody_else():
        verified = judge_or_refuse(str(weights), FolderOptions())
    named = {f.file for f in verified.record.findings if f.rule == "filesystem.unreadable"}
    assert named & {closed, ""} or closed in named
    assert not verified.passed


def test_an_enormous_file_and_header_end_at_once(weights: Path) -> None:
    (weights / "huge.safetensors").write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    with (weights / "sparse.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    record = judge(str(weights), FolderOptions()).record
    refused = {(f.rule, f.file) for f in record.findings if f.severity == "refusal"}
    assert ("safetensors.header-length", "huge.safetensors") in refused
    assert ("filesystem.sparse", "sparse.safetensors") in refused


def test_an_empty_base_compares_nothing_and_refuses(weights: Path, tmp_path: Path) -> None:
    record = judge(str(weights), FolderOptions(base=tmp_path)).record
    assert "base.unreadable" in {f.rule for f in record.findings if f.severity == "refusal"}


def test_json_says_what_could_not_be_judged(run: Run, tmp_path: Path) -> None:
    done = run("verify", str(tmp_path / "absent"), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["passed"]) == (1, False)
    assert "there is nothing" in answer["problem"]
