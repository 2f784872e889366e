from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.canonical import sha256_bytes
from pipelines.digest import build_manifest
from pipelines.errors import (
    BadReference,
    SourceChanged,
    SourceClosed,
    SourceNotFound,
    SourceUnreachable,
    TransferCutOff,
    UnusableSource,
)
from pipelines.ingest import IngestConfig, ingest
from pipelines.models_file import ModelEntry
from pipelines.references import Reference, parse_reference
from pipelines.sources import dispatch, ollama_registry
from pipelines.sources.dispatch import Fetched
from pipelines.sources.intake import Wanted
from pipelines.store import resuming
from pipelines.store.objects import ObjectStore
from tests.ollama_server import (
    GGUF_CONFIG,
    OllamaServer,
    digest_of,
    manifest_of,
    ollama_server,
)

SIZE = 3_000_000
WEIGHTS = random.Random(7).randbytes(SIZE)
BLOB = digest_of(WEIGHTS)
LICENCE = b"Apache License, Version 2.0 ..."
TEMPLATE = b"{{ .System }} {{ .Prompt }}"
PARAMS = b'{"stop": ["<|im_end|>"]}'
LAYERS = [
    ("model", WEIGHTS),
    ("template", TEMPLATE),
    ("license", LICENCE),
    ("params", PARAMS),
    ("license", b"and another"),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def registry() -> Iterator[OllamaServer]:
    with ollama_server() as server:
        server.push("library/tiny:latest", LAYERS)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "home")


def resolve(text: str, store: ObjectStore) -> Reference:
    return dispatch.resolve(Wanted(reference=parse_reference(text)), store)


def fetch(reference: Reference, store: ObjectStore, out: Path) -> Fetched:
    (out / "model").mkdir(parents=True)
    (out / "origin").mkdir()
    return dispatch.fetch(Wanted(reference=reference), store, out / "model", out / "origin")


def pinned(registry: OllamaServer, store: ObjectStore, name: str = "tiny") -> Reference:
    return resolve(f"ollama://{registry.host}/{name}", store)


def partial_bytes(store: ObjectStore) -> int:
    return sum(path.stat().st_size for path in store.incoming.iterdir())


def test_a_tag_is_pinned_to_the_sha256_of_its_manifest(
    registry: OllamaServer, store: ObjectStore
) -> None:
    found = pinned(registry, store)

    assert found.pin == sha256_bytes(registry.manifests["library/tiny:latest"])
    assert str(found) == f"ollama://{registry.host}/tiny:latest#sha256={found.pin}"
    assert all("/manifests/" in path for path, _ in registry.asked)


def test_each_layer_goes_where_it_belongs(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    fetched = fetch(pinned(registry, store), store, tmp_path)

    assert [(e.path, e.size_bytes, e.sha256) for e in fetched.files] == [
        ("model.gguf", SIZE, sha256_bytes(WEIGHTS))
    ]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.gguf"]
    assert [(c.source, c.text_sha256) for c in fetched.licences] == [
        ("LICENSE", sha256_bytes(LICENCE)),
        ("LICENSE-2", sha256_bytes(b"and another")),
    ]
    papers = tmp_path / "origin/publisher/ollama"
    assert (papers / "template").read_bytes() == TEMPLATE
    assert (papers / "params.json").read_bytes() == PARAMS
    assert json.loads((papers / "config.json").read_bytes()) == GGUF_CONFIG
    manifest = (papers / "manifest.json").read_bytes()
    assert manifest == registry.manifests["library/tiny:latest"]
    assert digest_of(TEMPLATE).encode() in manifest
    assert fetched.left_out == ()


def test_several_models_projector_and_adapters_keep_their_order(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    layers = [
        ("model", b"one"),
        ("projector", b"sees"),
        ("model", b"two"),
        ("adapter", b"tuned"),
        ("adapter", b"tuned again"),
        ("draft", b"guesses"),
    ]
    registry.push("acme/seer:7b", layers)

    fetched = fetch(pinned(registry, store, "acme/seer:7b"), store, tmp_path)

    assert {entry.path: entry.sha256 for entry in fetched.files} == {
        "model-00001-of-00002.gguf": sha256_bytes(b"one"),
        "model-00002-of-00002.gguf": sha256_bytes(b"two"),
        "projector.gguf": sha256_bytes(b"sees"),
        "adapter.gguf": sha256_bytes(b"tuned"),
        "adapter-2.gguf": sha256_bytes(b"tuned again"),
    }
    assert fetched.left_out == ("draft.gguf",)
    assert not any(digest_of(b"guesses") in path for path, _ in registry.asked)


def test_blobs_on_another_host_are_fetched_from_there(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    registry.redirects = True

    fetched = fetch(pinned(registry, store), store, tmp_path)

    assert fetched.files[0].sha256 == sha256_bytes(WEIGHTS)


def test_blobs_that_are_here_already_are_not_asked_for(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    fetch(pinned(registry, store), store, tmp_path / "first")
    registry.push("library/other:v2", [("model", WEIGHTS)])
    registry.asked.clear()

    fetch(pinned(registry, store, "other:v2"), store, tmp_path / "second")

    assert not any(BLOB in path for path, _ in registry.asked)


def test_a_registry_that_fails_for_a_while_is_waited_for(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    registry.failing = 3
    found = pinned(registry, store)
    registry.failing = 3

    assert fetch(found, store, tmp_path).files[0].sha256 == sha256_bytes(WEIGHTS)


def test_a_registry_that_fails_for_ever_is_unreachable(
    registry: OllamaServer, store: ObjectStore
) -> None:
    registry.failing = 1000

    with pytest.raises(SourceUnreachable, match=r"answered 500.*what was fetched is kept"):
        pinned(registry, store)


def test_a_stream_that_breaks_off_goes_on_at_the_byte_that_it_reached(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    registry.cuts = {BLOB: [1_000_000, 0, 7, 500_000], digest_of(LICENCE): [5]}

    fetched = fetch(found, store, tmp_path)

    assert fetched.files[0].sha256 == sha256_bytes(WEIGHTS)
    assert (tmp_path / "origin/licences/LICENSE").read_bytes() == LICENCE
    assert registry.sent[BLOB] == SIZE
    spans = [span for path, span in registry.asked if BLOB in path]
    assert spans == ["", *(f"bytes={n}-" for n in (1_000_000, 1_000_000, 1_000_007, 1_500_007))]


def test_a_second_run_asks_only_for_what_is_missing(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pinned(registry, store)
    registry.cuts = {BLOB: [2_000_000]}
    monkeypatch.setattr(resuming, "_ATTEMPTS", 1)

    with pytest.raises(TransferCutOff, match="2000000 of 3000000 bytes came"):
        fetch(found, store, tmp_path / "first")
    assert partial_bytes(store) == 2_000_000
    assert not list((tmp_path / "first/model").iterdir())
    registry.asked.clear()

    fetched = fetch(found, store, tmp_path / "second")

    assert fetched.files[0].sha256 == sha256_bytes(WEIGHTS)
    assert [span for path, span in registry.asked if BLOB in path] == ["bytes=2000000-"]
    assert registry.sent[BLOB] == SIZE
    assert partial_bytes(store) == 0


def test_a_registry_that_knows_no_ranges_is_read_past_what_is_here(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    registry.ignores_range = True
    registry.cuts = {BLOB: [2_000_000, 1_000_000]}

    assert fetch(found, store, tmp_path).files[0].sha256 == sha256_bytes(WEIGHTS)


@pytest.mark.parametrize("data", [WEIGHTS, LICENCE], ids=["weights", "licence"])
def test_other_bytes_of_the_same_size_are_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path, data: bytes
) -> None:
    found = pinned(registry, store)
    registry.served[digest_of(data)] = data[:-1] + bytes([data[-1] ^ 1])

    with pytest.raises(SourceChanged, match=digest_of(data)[7:]):
        fetch(found, store, tmp_path / "first")
    assert not list((tmp_path / "first/model").iterdir())
    registry.served.clear()
    registry.sent.clear()

    fetch(found, store, tmp_path / "second")

    assert digest_of(data) in registry.sent
    assert (tmp_path / "second/model/model.gguf").read_bytes() == WEIGHTS


def test_bytes_that_came_wrong_before_the_end_are_fetched_anew(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pinned(registry, store)
    registry.served[BLOB] = b"?" + WEIGHTS[1:]
    registry.cuts = {BLOB: [2_000_000]}
    monkeypatch.setattr(resuming, "_ATTEMPTS", 1)
    with pytest.raises(TransferCutOff):
        fetch(found, store, tmp_path / "first")
    registry.served.clear()

    assert fetch(found, store, tmp_path / "second").files[0].sha256 == sha256_bytes(WEIGHTS)


def test_a_configuration_of_other_bytes_is_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    config = json.dumps(GGUF_CONFIG).encode()
    registry.served[digest_of(config)] = config.replace(b"llama", b"mamba")

    with pytest.raises(SourceChanged, match=r"config\.json"):
        fetch(found, store, tmp_path)


def test_a_blob_of_another_size_than_its_manifest_says_is_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    registry.served[BLOB] = WEIGHTS + b"more"

    with pytest.raises(SourceChanged, match="more than 3000000 bytes"):
        fetch(found, store, tmp_path)


def test_a_blob_that_shrank_below_what_is_here_is_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    registry.served[BLOB] = WEIGHTS[:1000]

    with pytest.raises(SourceChanged, match="no more than 1000 bytes"):
        fetch(found, store, tmp_path)


def test_a_blob_that_the_registry_lost_is_not_found(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    del registry.blobs[BLOB]

    with pytest.raises(SourceNotFound, match=f"does not have the blob {BLOB}"):
        fetch(found, store, tmp_path)


def test_a_tag_that_moved_is_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    registry.push("library/tiny:latest", [("model", b"newer")])

    with pytest.raises(SourceChanged, match=found.pin):
        fetch(found, store, tmp_path)
    assert not list((tmp_path / "model").iterdir())


@pytest.mark.parametrize("removed", [False, True])
def test_a_tag_that_moved_is_followed_by_digest_where_the_registry_can(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path, removed: bool
) -> None:
    found = pinned(registry, store)
    registry.push("library/tiny:latest", [("model", b"newer")])
    if removed:
        del registry.manifests["library/tiny:latest"]
    registry.keeps_old = True

    assert fetch(found, store, tmp_path).files[0].sha256 == sha256_bytes(WEIGHTS)


def test_a_manifest_by_digest_of_other_bytes_is_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path
) -> None:
    found = pinned(registry, store)
    newer = registry.push("library/tiny:latest", [("model", b"newer")])
    registry.manifests[f"library/tiny:sha256:{found.pin}"] = newer
    registry.keeps_old = True

    with pytest.raises(SourceChanged, match=found.pin):
        fetch(found, store, tmp_path)


def test_an_absent_tag_is_not_found(registry: OllamaServer, store: ObjectStore) -> None:
    with pytest.raises(SourceNotFound, match="has no library/tiny:v9"):
        pinned(registry, store, "tiny:v9")


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_asks_for_a_login_is_closed(
    registry: OllamaServer, store: ObjectStore, status: int
) -> None:
    registry.status = status

    with pytest.raises(SourceClosed, match=r"asks for a login.*`ollama pull`"):
        pinned(registry, store)


def test_an_answer_of_no_use_is_named(registry: OllamaServer, store: ObjectStore) -> None:
    registry.status = 418

    with pytest.raises(SourceUnreachable, match="answers with 418"):
        pinned(registry, store)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:99999"])
def test_a_registry_that_is_down_is_unreachable(store: ObjectStore, host: str) -> None:
    with pytest.raises(SourceUnreachable, match="does not answer as it should"):
        resolve(f"ollama://{host}/tiny", store)


@pytest.mark.parametrize("text", ["ollama:///..:tag", "ollama:///tiny:..", "ollama://h:1/../x:y"])
def test_a_name_that_leads_out_of_the_store_is_a_bad_reference(
    store: ObjectStore, text: str
) -> None:
    with pytest.raises(BadReference, match="begin with a dot"):
        resolve(text, store)


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"<html>please log in</html>", r"its manifest is none \(JSON"),
        (b"[]", r"its manifest is none"),
        (b'{"layers": []}', r"its manifest is none \(config: Field required"),
        (b"x" * (ollama_registry.MAX_MANIFEST_BYTES + 1), "gives more than"),
    ],
)
def test_what_is_no_manifest_is_refused(
    registry: OllamaServer, store: ObjectStore, data: bytes, fact: str
) -> None:
    registry.manifests["library/tiny:latest"] = data

    with pytest.raises((UnusableSource, SourceUnreachable), match=fact):
        pinned(registry, store)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"digest": "sha256:../../etc"}, r"layers\.0\.digest"),
        ({"digest": "md5:" + "0" * 64}, r"layers\.0\.digest"),
        ({"size": -1}, r"layers\.0\.size"),
        ({"mediaType": "application/vnd.ollama.image.tensor"}, "single tensors"),
        ({"mediaType": "application/vnd.ollama.image.news"}, "image.news"),
        ({"mediaType": "application/vnd.ollama.image.system"}, "no model layer"),
        ({"mediaType": "application/vnd.ollama.image.license", "size": 9**9}, "no model layer"),
    ],
)
def test_layers_that_cannot_be_taken_are_refused_before_a_blob_is_fetched(
    registry: OllamaServer, store: ObjectStore, change: dict[str, object], fact: str
) -> None:
    document = json.loads(registry.push("library/tiny:latest", [("model", WEIGHTS)]))
    document["layers"][0] |= change
    registry.manifests["library/tiny:latest"] = json.dumps(document).encode()

    with pytest.raises(UnusableSource, match=fact):
        pinned(registry, store)
    assert all("/manifests/" in path for path, _ in registry.asked)


def test_a_licence_of_gigabytes_is_refused(registry: OllamaServer, store: ObjectStore) -> None:
    document = json.loads(registry.push("library/tiny:latest", LAYERS))
    document["layers"][2]["size"] = 10**10
    registry.manifests["library/tiny:latest"] = json.dumps(document).encode()

    with pytest.raises(UnusableSource, match="LICENSE is longer than"):
        pinned(registry, store)


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        ({"model_format": "safetensors"}, "'safetensors', not 'gguf'"),
        ({"remote_host": "https://ollama.com"}, "'', not 'gguf'"),
        ([], "no JSON object"),
    ],
)
def test_weights_that_are_not_gguf_are_refused(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path, config: object, fact: str
) -> None:
    registry.push("library/tiny:latest", LAYERS, config)

    with pytest.raises(UnusableSource, match=fact):
        fetch(pinned(registry, store), store, tmp_path)
    assert BLOB not in registry.sent


@pytest.mark.parametrize(
    ("host", "insecure", "scheme"),
    [
        ("registry.ollama.ai", "", "https"),
        ("localhost:11434", "", "http"),
        ("127.0.0.2", "", "http"),
        ("127.0.0.1.example.com", "", "https"),
        ("models.corp:5000", "other, models.corp:5000", "http"),
        ("models.corp:5000", "models.corp", "http"),
        ("models.corp:5000", "models.corp:6000", "https"),
    ],
)
def test_only_loopback_and_named_hosts_are_spoken_to_without_tls(
    monkeypatch: pytest.MonkeyPatch, host: str, insecure: str, scheme: str
) -> None:
    monkeypatch.setenv(ollama_registry.INSECURE_VARIABLE, insecure)

    assert ollama_registry._scheme(host) == scheme


def test_a_model_of_a_registry_is_ingested_whole(
    registry: OllamaServer, store: ObjectStore, tmp_path: Path, tiny_gguf: Path
) -> None:
    layers = [("model", tiny_gguf.read_bytes()), ("license", LICENCE), ("template", TEMPLATE)]
    registry.push("acme/tiny:gguf", layers)
    entry = ModelEntry(
        reference=str(pinned(registry, store, "acme/tiny:gguf")), convert="dequantise"
    )
    config = IngestConfig(name="tiny", entry=entry, code_digest="c" * 64, home=store.home)

    record = ingest(config, tmp_path / "weights", tmp_path / "origin")

    assert record.files == build_manifest(tmp_path / "weights")
    assert record.derivation is not None
    (source,) = record.derivation.source_files
    assert (source.path, source.sha256) == ("model.gguf", sha256_bytes(layers[0][1]))
    assert sorted((claim.source, claim.identifier) for claim in record.licences) == [
        ("LICENSE", ""),
        ("gguf:general.license", "apache-2.0"),
    ]
    assert (tmp_path / "origin/publisher/ollama/template").read_bytes() == TEMPLATE


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ollama's store with library/tiny:latest in it."""
    root = tmp_path / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(root))
    blobs: dict[str, bytes] = {}
    manifest = root / "manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(manifest_of(LAYERS, GGUF_CONFIG, blobs))
    (root / "blobs").mkdir()
    for digest, data in blobs.items():
        (root / "blobs" / digest.replace(":", "-")).write_bytes(data)
    return root


def blob_path(local: Path) -> Path:
    return local / "blobs" / BLOB.replace(":", "-")


def test_a_model_of_the_local_store_is_taken_by_name(
    local: Path, store: ObjectStore, tmp_path: Path
) -> None:
    found = resolve("ollama:///tiny", store)

    fetched = fetch(found, store, tmp_path)

    manifest = local / "manifests/registry.ollama.ai/library/tiny/latest"
    assert str(found) == f"ollama:///tiny:latest#sha256={sha256_bytes(manifest.read_bytes())}"
    assert [entry.sha256 for entry in fetched.files] == [sha256_bytes(WEIGHTS)]
    assert (tmp_path / "origin/publisher/ollama/template").read_bytes() == TEMPLATE


def test_registry_and_local_store_pin_one_model_alike(
    registry: OllamaServer, local: Path, store: ObjectStore, tmp_path: Path
) -> None:
    pulled, kept = pinned(registry, store), resolve("ollama:///tiny", store)
    fetch(pulled, store, tmp_path / "first")
    blob_path(local).unlink()

    assert pulled.pin == kept.pin
    assert fetch(kept, store, tmp_path / "second").files[0].sha256 == sha256_bytes(WEIGHTS)


def test_a_model_that_ollama_replaced_is_refused(
    local: Path, store: ObjectStore, tmp_path: Path
) -> None:
    found = resolve("ollama:///tiny", store)
    manifest = local / "manifests/registry.ollama.ai/library/tiny/latest"
    manifest.write_bytes(manifest.read_bytes() + b"\n")

    with pytest.raises(SourceChanged, match=found.pin):
        fetch(found, store, tmp_path)


def test_a_missing_blob_is_named(local: Path, store: ObjectStore, tmp_path: Path) -> None:
    blob_path(local).unlink()

    with pytest.raises(SourceNotFound, match=r"sha256-\w+ is missing.*`ollama pull`"):
        fetch(resolve("ollama:///tiny", store), store, tmp_path)


def test_a_corrupt_blob_is_refused(local: Path, store: ObjectStore, tmp_path: Path) -> None:
    blob_path(local).write_bytes(b"?" + WEIGHTS[1:])

    with pytest.raises(SourceChanged, match=BLOB[7:]):
        fetch(resolve("ollama:///tiny", store), store, tmp_path)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_blob_of_another_size_is_refused(
    local: Path, store: ObjectStore, tmp_path: Path, size: int
) -> None:
    blob_path(local).write_bytes((WEIGHTS + b"more")[:size])

    with pytest.raises(SourceChanged, match=f"{size} bytes at"):
        fetch(resolve("ollama:///tiny", store), store, tmp_path)


def test_a_local_store_without_the_model_says_how_to_get_it(
    local: Path, store: ObjectStore
) -> None:
    with pytest.raises(SourceNotFound, match=r"holds no other:v1.*`ollama pull other:v1`"):
        resolve("ollama:///other:v1", store)


def test_a_machine_without_a_local_store_says_where_it_looked(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "")
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(SourceNotFound, match=r"no Ollama store at .*/\.ollama/models"):
        resolve("ollama:///tiny", store)
