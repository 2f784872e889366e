from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.canonical import sha256_bytes
from pipelines.errors import (
    BadReference,
    BadShardIndex,
    ConfigError,
    LinkInSource,
    SourceClosed,
    SourceNotFound,
    SourceUnreachable,
    UnusableSource,
    WrongAnswer,
)
from pipelines.references import parse_reference
from pipelines.sources.shard_index import check_indexes
from tests.hub_server import COMMIT, Fault, HubServer, Repository, git_oid
from tests.pipelines.sources.hub_model import (
    CARD,
    CONFIG,
    LICENCE,
    NAME,
    TAKEN,
    WEIGHTS,
    contents,
    fetch,
    resolve,
    serving,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def repository(hub: HubServer) -> Repository:
    return hub.repositories[NAME]


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", COMMIT[:10]])
def test_branch_tag_and_short_commit_are_resolved_to_the_commit(
    repository: Repository, tmp_path: Path, revision: str
) -> None:
    repository.branches = frozenset({"main", "v1.0", "refs/pr/1"})

    resolved = resolve(tmp_path, f"hf://acme/tiny@{revision}")

    assert str(resolved) == f"hf://acme/tiny@{COMMIT}"
    assert resolved.resolved


def test_a_branch_that_moves_after_it_was_resolved_does_not_matter(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    resolved = resolve(tmp_path, "hf://acme/tiny@main")
    newer = Repository(files={"model.safetensors": b"newer"}, commit="beef" * 10)
    newer.older[COMMIT] = repository
    hub.repositories[NAME] = newer

    fetch(tmp_path / "home", tmp_path / "out", resolved)

    assert contents(tmp_path / "out") == TAKEN


def test_weights_and_configuration_come_in_and_nothing_else(hub: HubServer, tmp_path: Path) -> None:
    fetched = fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN
    assert fetched.left_out == (".gitattributes", "pytorch_model.bin")
    assert not hub.contents("pytorch_model.bin")
    assert {entry.path: entry.sha256 for entry in fetched.files} == {
        "model.safetensors": sha256_bytes(WEIGHTS),
        "config.json": sha256_bytes(CONFIG),
    }


def test_licence_claims_come_from_the_card_and_the_text(hub: HubServer, tmp_path: Path) -> None:
    fetched = fetch(tmp_path / "home", tmp_path / "out")

    assert [(c.source, c.identifier, c.text_sha256) for c in fetched.licences] == [
        ("LICENSE", "", sha256_bytes(LICENCE)),
        ("README.md:license", "apache-2.0", ""),
    ]
    assert (tmp_path / "out/origin/licences/LICENSE").read_bytes() == LICENCE
    assert (tmp_path / "out/origin/publisher/README.md").read_bytes() == CARD


def test_what_a_pattern_leaves_out_is_not_asked_for(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.files["original/model.safetensors"] = b"the same again"

    fetched = fetch(tmp_path / "home", tmp_path / "out", exclude=("original/*",))

    assert contents(tmp_path / "out") == TAKEN
    assert "original/model.safetensors" in fetched.left_out
    assert not hub.contents("original/model.safetensors")


def test_a_tree_of_several_pages_comes_whole(repository: Repository, tmp_path: Path) -> None:
    repository.page_size = 2

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN


def test_a_model_that_came_once_is_taken_from_the_store(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path / "home", tmp_path / "first")
    hub.requests.clear()

    fetch(tmp_path / "home", tmp_path / "second")

    assert contents(tmp_path / "second") == TAKEN
    assert not hub.requests


def test_of_a_new_commit_only_what_it_changed_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path / "home", tmp_path / "first")
    hub.requests.clear()
    older = hub.repositories[NAME]
    files = {**older.files, "config.json": b"{}"}
    hub.repositories[NAME] = Repository(files=files, large=older.large, commit="beef" * 10)

    fetch(tmp_path / "home", tmp_path / "second", parse_reference(f"hf://{NAME}@{'beef' * 10}"))

    assert contents(tmp_path / "second") == {"model.safetensors": WEIGHTS, "config.json": b"{}"}
    assert [request.path.rpartition("/")[2] for request in hub.contents()] == ["config.json"]


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_file_that_lies_at_two_paths_comes_once(
    hub: HubServer, repository: Repository, tmp_path: Path, path: str
) -> None:
    copy = f"copy/{path}"
    repository.files[copy] = repository.files[path]
    repository.large |= {f"copy/{name}" for name in repository.large}

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == {**TAKEN, copy: repository.files[path]}
    assert len(hub.contents(path)) == 1


def test_an_object_that_changed_on_disk_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path / "home", tmp_path / "first")
    damaged = tmp_path / "first/model/model.safetensors"  # a link to the store's object
    os.chmod(damaged, 0o644)
    damaged.write_bytes(WEIGHTS[:-1] + b"?")

    fetch(tmp_path / "home", tmp_path / "second")

    assert contents(tmp_path / "second") == TAKEN


def test_a_token_opens_a_gated_repository_and_goes_to_no_other_host(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    hub.tokens, repository.readers = frozenset({"hf_reader"}), frozenset({"hf_reader"})
    repository.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_reader")

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN
    tokens = {request.host: request.token for request in hub.requests}
    assert tokens == {"127.0.0.1": "hf_reader", "localhost": ""}


@pytest.mark.parametrize(
    ("token", "fact"),
    [
        ("", r"acme/tiny is gated, and this machine has no token\. .*set HF_TOKEN"),
        ("hf_other", r"this machine's token may not read acme/tiny \(.*403.*fine-grained"),
        ("hf_expired", r"may not read acme/tiny \(Invalid credentials"),
    ],
)
def test_a_gated_repository_says_what_is_wrong_with_the_token(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path, token: str, fact: str
) -> None:
    hub.tokens = frozenset({"hf_reader", "hf_other"})
    hub.repositories[NAME].gated = True
    monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(SourceClosed, match=fact):
        fetch(tmp_path / "home", tmp_path / "out")

    assert not contents(tmp_path / "out")


def test_a_repository_that_was_renamed_is_followed(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    hub.tokens, repository.readers = frozenset({"hf_reader"}), frozenset({"hf_reader"})
    repository.gated = True
    hub.repositories["acme/old"] = Repository(files={}, moved_to=NAME)
    old = parse_reference(f"hf://acme/old@{COMMIT}")

    with pytest.raises(SourceClosed, match="this machine has no token"):
        fetch(tmp_path / "home", tmp_path / "first", old)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    fetch(tmp_path / "home", tmp_path / "second", resolve(tmp_path / "home", "hf://acme/old@main"))

    assert contents(tmp_path / "second") == TAKEN


@pytest.mark.parametrize("token", ["hf_“quoted”", "hf_a\x7fb"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    for revision in ("main", COMMIT):
        with pytest.raises(ConfigError, match="HF_TOKEN: the token holds") as refused:
            resolve_and_fetch(tmp_path, revision)
        assert "hf_" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["hub.example.com", "http://", "http://[", "http://a b", "https://u:p@hub"]
)
def test_an_endpoint_that_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)

    for revision in ("main", COMMIT):
        with pytest.raises(ConfigError, match="HF_ENDPOINT: it is no address"):
            resolve_and_fetch(tmp_path, revision)


def resolve_and_fetch(tmp_path: Path, revision: str, name: str = NAME) -> None:
    """Both in one, into new folders; a commit needs no resolving."""
    resolved = resolve(tmp_path / "home", f"hf://{name}@{revision}")
    fetch(tmp_path / "home", tmp_path / f"out-{revision}", resolved)


@pytest.mark.parametrize(
    ("reference", "fact"),
    [
        ("hf://acme/tiny@nowhere", "acme/tiny has no revision nowhere"),
        ("hf://acme/absent@main", "there is no repository acme/absent, or it needs HF_TOKEN"),
    ],
)
def test_what_does_not_exist_is_not_found(
    hub: HubServer, tmp_path: Path, reference: str, fact: str
) -> None:
    with pytest.raises(SourceNotFound, match=fact):
        resolve(tmp_path, reference)


def test_an_absent_commit_is_not_found(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no revision 1111"):
        fetch(tmp_path / "home", tmp_path / "out", parse_reference(f"hf://{NAME}@{'1' * 40}"))


def test_a_file_that_the_tree_lists_and_the_hub_lacks_is_not_found(
    repository: Repository, tmp_path: Path
) -> None:
    repository.tree = [{"type": "file", "path": "a.safetensors", "size": 1, "oid": "0" * 40}]

    with pytest.raises(SourceNotFound, match=r"lists a file that .* does not have .*a\.safeten"):
        fetch(tmp_path / "home", tmp_path / "out")


@pytest.mark.parametrize("reference", ["hf://acme/tiny@main", f"hf://acme/tiny@{COMMIT}"])
def test_a_hub_that_is_down_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path, reference: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")

    with pytest.raises(SourceUnreachable, match=r"connection to http://127\.0\.0\.1:9 failed"):
        fetch(tmp_path / "home", tmp_path / "out", resolve(tmp_path / "home", reference))


@pytest.mark.parametrize("call", ["revision", "tree"])
@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        (Fault(status=500), "answered 500"),
        (Fault(status=429, headers={"Retry-After": "0"}), "answered 429"),
        (Fault(then="silence"), "ReadTimeout"),
        (Fault(then="reset"), "failed"),
    ],
    ids=["500", "429", "silence", "reset"],
)
def test_a_hub_that_cannot_answer_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    tmp_path: Path,
    call: str,
    fault: Fault,
    fact: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    repository.faults[call] = fault

    with pytest.raises(SourceUnreachable, match=fact):
        fetch(tmp_path / "home", tmp_path / "out", resolve(tmp_path / "home", f"hf://{NAME}@main"))


def test_offline_mode_is_named(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(SourceUnreachable, match="Unset HF_HUB_OFFLINE"):
        fetch(tmp_path / "home", tmp_path / "out")


@pytest.mark.parametrize("name", ["ti--ny", "..", "tiny.git"])
def test_a_name_that_the_hub_cannot_have_is_a_bad_reference(
    hub: HubServer, tmp_path: Path, name: str
) -> None:
    for revision in ("main", COMMIT):
        with pytest.raises(BadReference):
            resolve_and_fetch(tmp_path, revision, f"acme/{name}")


ENTRY = {"type": "file", "path": "model.safetensors", "size": 3, "oid": git_oid(b"abc")}


@pytest.mark.parametrize(
    ("tree", "fact"),
    [
        ([{"type": "file", "path": "model.safetensors"}], "is no Hub's answer"),
        ([{**ENTRY, "oid": "abc"}], "states no size and digest"),
        ([{**ENTRY, "size": "3"}], "states no size and digest"),
        ([ENTRY, ENTRY], "lists 'model.safetensors' twice"),
        ([{**ENTRY, "lfs": {"oid": "0" * 40, "size": 3, "pointerSize": 1}}], "states no size"),
    ],
)
def test_a_tree_that_states_no_digests_is_a_wrong_answer(
    repository: Repository, tmp_path: Path, tree: list[dict[str, object]], fact: str
) -> None:
    repository.tree = tree

    with pytest.raises(WrongAnswer, match=fact):
        fetch(tmp_path / "home", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("../model.safetensors", "is unsafe"),
        ("/etc/model.safetensors", "is unsafe"),
        ("a//model.safetensors", "is unsafe"),
        ("a\\model.safetensors", "is unsafe"),
        ("Config.JSON", "are one name where case"),
    ],
)
def test_an_unsafe_name_in_the_tree_is_refused_before_anything_is_fetched(
    hub: HubServer, repository: Repository, tmp_path: Path, name: str, fact: str
) -> None:
    repository.files[name] = b"x"

    with pytest.raises(UnusableSource, match=fact):
        fetch(tmp_path / "home", tmp_path / "out")

    assert not hub.contents()


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("tokenizer.json", "config.json"),
        ("sub/config.json", "../config.json"),
        ("tokenizer.json", "../../elsewhere/tokenizer.json"),
        ("other.safetensors", "/etc/passwd"),
    ],
)
def test_a_symbolic_link_is_refused(
    repository: Repository, tmp_path: Path, path: str, target: str
) -> None:
    repository.files[path] = target.encode()

    with pytest.raises(LinkInSource, match=f"{path} is a symbolic link to '{target}'"):
        fetch(tmp_path / "home", tmp_path / "out")

    assert not contents(tmp_path / "out")


def test_a_repository_of_pickles_is_refused(repository: Repository, tmp_path: Path) -> None:
    del repository.files["model.safetensors"]

    with pytest.raises(
        UnusableSource, match=r"no weights in an allowed format.*pytorch_model\.bin"
    ):
        fetch(tmp_path / "home", tmp_path / "out")


@pytest.mark.parametrize(
    ("shard", "fact"),
    [
        ("../model.safetensors", "is no file beside it"),
        ("/etc/passwd", "is no file beside it"),
        ("sub/model.safetensors", "is no file beside it"),
        ("model-00002-of-00002.safetensors", "did not come with it"),
    ],
)
def test_an_index_that_names_what_is_not_beside_it_is_refused(
    repository: Repository, tmp_path: Path, shard: str, fact: str
) -> None:
    weight_map = f'{{"weight_map": {{"a": "model.safetensors", "lm_head.weight": "{shard}"}}}}'
    repository.files["model.safetensors.index.json"] = weight_map.encode()

    with pytest.raises(BadShardIndex, match=rf"model\.safetensors\.index.*'lm_head.*{fact}"):
        fetch(tmp_path / "home", tmp_path / "out")


def test_an_index_of_pickles_may_name_what_was_left_out(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}')

    check_indexes("hf://acme/tiny", tmp_path)
