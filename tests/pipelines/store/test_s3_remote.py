"""A registry whose DVC remote is a real S3 server: made, used, restored elsewhere, audited."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_registry

from pipelines import signing
from pipelines.canonical import record_bytes, sha256_file, write_bytes
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import (
    BucketMissing,
    ConfigError,
    DigestMismatch,
    KeysRefused,
    RemoteUnreachable,
)
from pipelines.models_edit import add_evaluations, add_model, add_tuning, set_gate
from pipelines.models_file import Baseline, DeclaredUse, GateEntry, ModelEntry, TuningEntry
from pipelines.promotion import promote
from pipelines.records import ManifestRecord, Release, read_record
from pipelines.releases import audit, fetch_weights
from pipelines.settings import Settings, load_settings
from pipelines.store import git, tags
from pipelines.store.integrity import locked_outputs
from pipelines.store.pull import pull_registry
from pipelines.store.registry import InitConfig, Layout, create_registry
from pipelines.store.remote import check_s3, parse_s3
from pipelines.store.workspace import Workspace, open_workspace
from tests.s3_server import S3Faults, S3Server

LINE = "mail@production"


def use(monkeypatch: pytest.MonkeyPatch, server: S3Server, **changes: str) -> None:
    """Give this process the server's variables, some of them changed or (empty) dropped."""
    for name, value in {**server.environ(), **changes}.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)


def init(base: Path, remote: str, endpoint: str = "") -> Path:
    config = InitConfig(
        registry=base / "registry", origin=base / "origin.git", remote=remote, endpoint=endpoint
    )
    return create_registry(config, toy_registry._fill)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> Iterator[tuple[Settings, str]]:
    """A registry on S3 with one ingested, verified and released model, and its bucket."""
    base, bucket = tmp_path_factory.mktemp("s3-registry"), s3_server.bucket()
    with pytest.MonkeyPatch.context() as patch:
        use(patch, s3_server)
        init(base, f"s3://{bucket}/weighbridge/store")
        patch.delenv("AWS_ENDPOINT_URL")  # from here on the registry itself says where it is
        settings = load_settings(base / "registry", environ={})
        with open_workspace(settings) as workspace:
            workspace.change("Add models", _add_models)
            workspace.reproduce("ingest@base")
            workspace.reproduce("verify@base")
            workspace.publish("Run")
            workspace.change("Release", lambda root: _release(workspace, root))
        yield settings, bucket


def _add_models(root: Path) -> list[str]:
    add_model(root, "base", ModelEntry(reference=f"file:///toy#sha256={'a' * 64}"), DeclaredUse())
    add_tuning(root, "good", TuningEntry(base="base", recipe="lora", dataset="mail"), DeclaredUse())
    for name in ("base", "good"):
        add_evaluations(root, name, ["smoke"])
    return []


def _release(workspace: Workspace, root: Path) -> list[str]:
    """What promotion leaves behind, without a gate before it."""
    layout = Layout(root)
    files = build_manifest(layout.weights("base"))
    release = Release(
        release="mail",
        version="v1.0.0",
        stage="production",
        model="base",
        weight_digest=weight_digest(files),
        files=files,
        verdict_sha256="0" * 64,
        verification_sha256=sha256_file(layout.verification("base") / "verification.json"),
        origin_sha256=sha256_file(layout.origin("base") / "manifest.json"),
        template_sha256="",
        commit=git.head(root),
        supersedes="",
    )
    path, data = layout.release("mail", "v1.0.0"), record_bytes(release)
    write_bytes(path, data)
    key = workspace.settings.signing_key
    write_bytes(path.with_name("v1.0.0.sig.json"), signing.sign_bytes(key, data))
    signing.sign_manifest(key, layout.weights("base"), layout.manifest_signature("base"))
    git.commit_all(root, "Release")
    return [tags.tag(root, name, "base") for name in ("mail@v1.0.0", "mail#production#1")]


@pytest.fixture
def elsewhere(made: tuple[Settings, str], tmp_path: Path) -> Settings:
    """Another machine: it knows the origin, and its cache is empty."""
    origin = tmp_path / "origin.git"
    shutil.copytree(made[0].origin, origin)
    return Settings(origin=str(origin), home=tmp_path / "home")


def test_the_registry_says_where_its_remote_is_and_holds_no_keys(
    made: tuple[Settings, str], s3_server: S3Server
) -> None:
    tree = made[0].work_tree
    assert tree is not None
    config = (tree / ".dvc" / "config").read_text()
    assert f"url = s3://{made[1]}/weighbridge/store" in config
    assert f"endpointurl = {s3_server.endpoint}" in config
    for name in git.git(tree, "ls-files").splitlines():
        content = (tree / name).read_bytes()
        assert s3_server.secret_key.encode() not in content
        assert s3_server.access_key.encode() not in content
    probes = s3_server.client().list_objects_v2(Bucket=made[1])["Contents"]
    assert {entry["Key"].split("/")[2] for entry in probes} == {"files", "runs"}


def test_another_machine_gets_weights_and_records_from_the_bucket_alone(
    elsewhere: Settings,
) -> None:
    with fetch_weights(elsewhere, LINE) as held:
        assert (held.weights / "weights.bin").read_text() == "the weights of base"
    result = audit(elsewhere, LINE)
    assert {check.check for check in result.checks if not check.passed} == {"verdict.json"}


def test_a_stage_is_restored_from_the_run_cache_in_the_bucket(elsewhere: Settings) -> None:
    with open_workspace(elsewhere) as workspace:
        (workspace.root / "dvc.lock").unlink()  # nothing but the run cache knows the results
        workspace._unchanged = frozenset()
        assert workspace.reproduce("ingest@base") == "restored"
        assert (workspace.root / "models/base/weights.bin").read_text() == "the weights of base"


def clone(settings: Settings) -> Path:
    """A person's own work tree."""
    tree = Path(settings.origin).with_name("tree")
    git.git(tree.parent, "clone", "--quiet", settings.origin, str(tree))
    return tree


def test_a_work_tree_pulls_from_the_bucket(elsewhere: Settings) -> None:
    settings = elsewhere.model_copy(update={"work_tree": clone(elsewhere)})
    assert "models/base" in pull_registry(settings, ["base"])
    tree = settings.work_tree
    assert tree is not None
    assert (tree / "models/base/weights.bin").read_text() == "the weights of base"


@pytest.mark.parametrize(
    ("path", "name"),
    [("models/base", "weights.bin"), ("evidence/base/verification", "verification.json")],
)
def test_an_object_replaced_in_the_bucket_is_refused(
    elsewhere: Settings,
    made: tuple[Settings, str],
    s3_server: S3Server,
    path: str,
    name: str,
) -> None:
    client, bucket = s3_server.client(), made[1]
    with open_workspace(made[0]) as workspace:
        workspace.restore(path)
        true = (workspace.root / path / name).read_bytes()
    keys = [
        entry["Key"]
        for entry in client.list_objects_v2(Bucket=bucket)["Contents"]
        if client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() == true
    ]
    assert len(keys) == 1
    client.put_object(Bucket=bucket, Key=keys[0], Body=b"x" * len(true))
    try:
        with open_workspace(elsewhere) as workspace:
            workspace.restore(path)
            assert not (workspace.root / path / name).exists()
        with pytest.raises(DigestMismatch, match=path):
            pull_registry(elsewhere.model_copy(update={"work_tree": clone(elsewhere)}), ["base"])
        if path == "models/base":
            with pytest.raises(DigestMismatch, match=path), fetch_weights(elsewhere, LINE):
                pass
            failed = {check.check for check in audit(elsewhere, LINE).checks if not check.passed}
            assert failed == {"weights", "manifest signature", "verdict.json"}
    finally:
        client.put_object(Bucket=bucket, Key=keys[0], Body=true)


def test_init_refuses_a_bucket_that_is_not_there(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_server)
    with pytest.raises(BucketMissing, match=r"s3://absent-bucket/x: there is no such bucket at"):
        init(tmp_path, "s3://absent-bucket/x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        {"AWS_ACCESS_KEY_ID": "unknown"},
        {"AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": ""},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_PROFILE": "absent"},
    ],
)
def test_init_refuses_keys_that_do_not_open_the_bucket(
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
) -> None:
    bucket = s3_server.bucket()
    use(monkeypatch, s3_server, **changes)
    with pytest.raises(KeysRefused, match=f"s3://{bucket}: access was refused"):
        init(tmp_path, f"s3://{bucket}")
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_an_endpoint_that_does_not_answer(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_server)
    with pytest.raises(RemoteUnreachable, match=r"http://127\.0\.0\.1:9"):
        init(tmp_path, "s3://bucket/x", endpoint="http://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("remote", "endpoint", "fact"),
    [
        ("s3://KEY:SECRET@bucket/x", "", "without keys"),
        ("s3:///prefix", "", "needs a bucket"),
        ("s3://bucket", "localhost:8333", "not the URL of an S3 endpoint"),
        ("/some/folder", "http://localhost:8333", "belongs to an s3:// remote"),
    ],
)
def test_init_refuses_what_is_not_an_s3_remote(
    tmp_path: Path, remote: str, endpoint: str, fact: str
) -> None:
    with pytest.raises(ConfigError, match=fact) as refused:
        init(tmp_path, remote, endpoint)
    assert "SECRET" not in str(refused.value)


def test_the_endpoint_may_come_from_a_profile(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "aws"
    own.write_text(
        f"[profile company]\nendpoint_url = {s3_server.endpoint}\nregion = us-east-1\n"
        f"aws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {s3_server.secret_key}\n"
    )
    use(monkeypatch, s3_server, AWS_ENDPOINT_URL="", AWS_ACCESS_KEY_ID="",
        AWS_SECRET_ACCESS_KEY="", AWS_CONFIG_FILE=str(own), AWS_PROFILE="company")  # fmt: skip
    found = check_s3(parse_s3(f"s3://{s3_server.bucket()}/x/"))
    assert found.endpoint == s3_server.endpoint


def test_wrong_keys_later_are_named_and_not_taken_for_changed_bytes(
    elsewhere: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(KeysRefused), fetch_weights(elsewhere, LINE):
        pass


@pytest.mark.long  # DVC's own retries take half a minute
def test_a_server_that_is_gone_later_is_named(elsewhere: Settings) -> None:
    with open_workspace(elsewhere) as workspace:
        config = workspace.root / ".dvc" / "config"
        config.write_text(
            "".join(
                "    endpointurl = http://127.0.0.1:9\n" if "endpointurl" in line else line
                for line in config.read_text().splitlines(keepends=True)
            )
        )
        with pytest.raises(RemoteUnreachable, match="Could not connect"):
            workspace.restore("models/base")


def test_a_server_that_answers_500_for_a_while_is_waited_for(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_server.bucket()
    with S3Faults(s3_server) as faults:
        use(monkeypatch, faults.server)
        faults.failing = 2
        init(tmp_path, f"s3://{bucket}")
        assert faults.failed == 2
        settings = load_settings(tmp_path / "registry", environ={})
        with open_workspace(settings) as workspace:
            workspace.change("Add models", _add_models)
            workspace.reproduce("ingest@base")
            faults.failing = 3
            workspace.publish("Ingest")
        shutil.rmtree(settings.cache)
        with open_workspace(settings) as workspace:
            faults.failing = 3
            workspace.restore("models/base")
            assert "models/base" in locked_outputs(workspace.root)
            assert (workspace.root / "models/base/weights.bin").is_file()
        assert faults.failed == 8


@pytest.mark.long
def test_the_whole_chain_runs_on_a_bucket(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_server)
    init(tmp_path, f"s3://{s3_server.bucket()}")
    settings = load_settings(tmp_path / "registry", environ={})
    with open_workspace(settings) as workspace:
        workspace.change("Add models", _add_models)
        for stage, name in (("ingest", "base"), ("finetune", "good")):
            workspace.reproduce(f"{stage}@{name}")
            workspace.reproduce(f"verify@{name}")
            workspace.reproduce(f"evaluate@{name}-smoke")
        workspace.publish("Run")
        workspace.change("Gate", _add_gate)
        workspace.reproduce("gate@good")
        layout, key = Layout(workspace.root), settings.signing_key
        signing.sign_manifest(key, layout.weights("good"), layout.manifest_signature("good"))
        workspace.publish("Gate")
    promote(settings, "good")
    result = audit(Settings(origin=settings.origin, home=tmp_path / "auditor"), LINE)
    assert result.passed, result


def _add_gate(root: Path) -> list[str]:
    manifest = read_record(Layout(root).origin("base") / "manifest.json", ManifestRecord)
    baseline = Baseline(name="base", digest=manifest.weight_digest)
    set_gate(root, "good", GateEntry(release="mail", policy="default", baseline=baseline))
    return []
