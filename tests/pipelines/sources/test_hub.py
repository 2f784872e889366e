from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.canonical import sha256_bytes
from pipelines.errors import BadReference, SourceChanged, SourceNotFound, UnusableSource
from pipelines.references import Reference, parse_reference
from pipelines.sources import dispatch
from pipelines.sources.intake import Fetched
from tests.hub_server import COMMIT, HubServer, Repository, hub_server

WEIGHTS = b"weights of a model, large enough to be kept apart" * 100
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
LICENCE = b"Apache License, Version 2.0 ..."
CONFIG = b'{"model_type": "llama"}'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        server.repositories["acme/tiny"] = Repository(
            files={
                "model.safetensors": WEIGHTS,
                "config.json": CONFIG,
                "README.md": CARD,
                "LICENSE": LICENCE,
                "pytorch_model.bin": b"a pickle",
                ".gitattributes": b"*.safetensors filter=lfs\n",
            },
            large=frozenset({"model.safetensors"}),
        )
        # The test run is offline as a whole; this server is on the loopback.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def pinned() -> Reference:
    return parse_reference(f"hf://acme/tiny@{COMMIT}")


def fetch(reference: Reference, folder: Path, cache: Path | None = None) -> Fetched:
    cache = cache or folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir(parents=True)
    return dispatch.fetch(reference, cache, folder / "model", folder / "origin")


def test_a_branch_is_resolved_to_the_commit_that_it_names(hub: HubServer, tmp_path: Path) -> None:
    resolved = dispatch.resolve(parse_reference("hf://acme/tiny@main"), tmp_path)

    assert str(resolved) == f"hf://acme/tiny@{COMMIT}"
    assert resolved.resolved


def test_weights_and_configuration_come_in_and_nothing_else(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    fetched = fetch(pinned, tmp_path)

    model = tmp_path / "model"
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {
        "model.safetensors": WEIGHTS,
        "config.json": CONFIG,
    }
    assert not any(path.is_symlink() for path in model.iterdir())
    assert fetched.left_out == (".gitattributes", "pytorch_model.bin")
    assert not any("pytorch_model.bin" in asked for asked in hub.requests)
    assert {entry.path: entry.sha256 for entry in fetched.files} == {
        "model.safetensors": sha256_bytes(WEIGHTS),
        "config.json": sha256_bytes(CONFIG),
    }


def test_licence_claims_come_from_the_card_and_the_text(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    fetched = fetch(pinned, tmp_path)

    assert [(c.source, c.identifier, c.text_sha256) for c in fetched.licences] == [
        ("LICENSE", "", sha256_bytes(LICENCE)),
        ("README.md:license", "apache-2.0", ""),
    ]
    assert (tmp_path / "origin/licences/LICENSE").read_bytes() == LICENCE
    assert (tmp_path / "origin/publisher/README.md").read_bytes() == CARD


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_other_bytes_of_the_same_size_are_refused(
    hub: HubServer, pinned: Reference, tmp_path: Path, path: str
) -> None:
    repository = hub.repositories["acme/tiny"]
    repository.served[path] = repository.files[path][:-1] + b"?"

    with pytest.raises(SourceChanged, match=path):
        fetch(pinned, tmp_path / "first", tmp_path / "cache")

    repository.served.clear()
    fetch(pinned, tmp_path / "second", tmp_path / "cache")
    assert (tmp_path / "second/model" / path).read_bytes() == repository.files[path]


def test_finished_files_are_not_fetched_again(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    fetch(pinned, tmp_path / "first", tmp_path / "cache")
    hub.requests.clear()

    fetch(pinned, tmp_path / "second", tmp_path / "cache")

    assert not [asked for asked in hub.requests if asked.startswith("GET /blobs/")]


def test_a_cached_file_that_changed_on_disk_is_fetched_again(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    fetch(pinned, tmp_path / "first", tmp_path / "cache")
    for blob in (tmp_path / "cache/hub").rglob(f"blobs/{sha256_bytes(WEIGHTS)}"):
        blob.write_bytes(WEIGHTS[:-1] + b"?")

    fetch(pinned, tmp_path / "second", tmp_path / "cache")

    assert (tmp_path / "second/model/model.safetensors").read_bytes() == WEIGHTS


def test_a_hub_that_fails_in_between_costs_nothing_that_had_come(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    failing = hub.repositories["acme/tiny"].failing
    failing.add("model.safetensors")
    with pytest.raises(SourceNotFound, match="the Hub answered 500"):
        fetch(pinned, tmp_path / "first", tmp_path / "cache")
    failing.clear()
    hub.requests.clear()

    fetch(pinned, tmp_path / "second", tmp_path / "cache")

    assert (tmp_path / "second/model/model.safetensors").read_bytes() == WEIGHTS
    assert f"GET /acme/tiny/resolve/{COMMIT}/config.json" not in hub.requests


def test_a_gated_repository_names_the_token(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    hub.repositories["acme/tiny"].gated = True

    with pytest.raises(SourceNotFound, match=r"acme/tiny is gated\. .*HF_TOKEN"):
        fetch(pinned, tmp_path)


@pytest.mark.parametrize(
    ("reference", "fact"),
    [
        ("hf://acme/tiny@nowhere", "no revision nowhere"),
        ("hf://acme/absent@main", "there is no repository acme/absent"),
    ],
)
def test_what_does_not_exist_is_not_found(
    hub: HubServer, tmp_path: Path, reference: str, fact: str
) -> None:
    with pytest.raises(SourceNotFound, match=fact):
        dispatch.resolve(parse_reference(reference), tmp_path)


def test_an_absent_commit_is_not_found(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no revision"):
        fetch(parse_reference("hf://acme/tiny@" + "1" * 40), tmp_path)


def test_a_hub_that_is_down_is_not_found(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(SourceNotFound, match="connection to the Hub failed"):
        dispatch.resolve(parse_reference("hf://acme/tiny@main"), tmp_path)


def test_a_name_that_the_hub_cannot_have_is_a_bad_reference(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(BadReference):
        dispatch.resolve(parse_reference("hf://acme/ti--ny@main"), tmp_path)


def test_names_that_differ_only_by_case_are_refused(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    hub.repositories["acme/tiny"].files["CONFIG.json"] = CONFIG

    with pytest.raises(UnusableSource, match="are one name where case"):
        fetch(pinned, tmp_path)


def test_a_repository_of_pickles_is_refused(
    hub: HubServer, pinned: Reference, tmp_path: Path
) -> None:
    del hub.repositories["acme/tiny"].files["model.safetensors"]

    with pytest.raises(
        UnusableSource, match=r"no weights in an allowed format.*pytorch_model\.bin"
    ):
        fetch(pinned, tmp_path)
