from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.adapters import adapter_base, base_name, resolve_base
from pipelines.errors import (
    AdapterForOtherBase,
    AdapterWithoutBase,
    MalformedFile,
    UnusableSource,
)
from pipelines.models_file import Base, DeclaredUse, ModelEntry, ModelsFile
from pipelines.records import Ancestor, ManifestRecord, read_record
from pipelines.smoke.result import SmokeResult
from tests.pipelines.test_families import run
from tests.tiny_families import adapter

BASE = Base(name="base", digest="b" * 64)
REFERENCE = "hf://maker/adapter@" + "a" * 40
COMMITS = {"base-old": "1" * 40, "base-new": "2" * 40}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An adapter as PEFT saves it, which a test may break."""
    adapter(tmp_path / "source")
    return tmp_path / "source"


def entry(base: Base | None = BASE) -> ModelEntry:
    return ModelEntry(reference=REFERENCE, base=base)


def change_config(source: Path, **changes: object) -> None:
    path = source / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(source: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    path = source / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def first(tensors: dict[str, Any], part: str) -> str:
    return next(name for name in sorted(tensors) if f"lora_{part}" in name)


def registry(**references: str) -> ModelsFile:
    return ModelsFile(
        models={name: ModelEntry(reference=said) for name, said in references.items()},
        uses={name: DeclaredUse() for name in references},
    )


def test_an_adapter_is_ingested_with_its_base_as_its_ancestor(source: Path, tmp_path: Path) -> None:
    ingested = run(source, tmp_path, base=BASE)

    assert {file.path for file in ingested.record.files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert ingested.record.pedigree == (
        Ancestor(name="base", weight_digest="b" * 64, relation="adapter-of"),
    )
    record = read_record(ingested.origin / "manifest.json", ManifestRecord)
    assert record.pedigree == ingested.record.pedigree
    assert read_record(ingested.origin / "smoke.json", SmokeResult).reason == (
        "an adapter; its base is base"
    )


def test_an_adapter_without_a_base_is_refused_with_what_it_calls_it(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterWithoutBase, match=r"calls its base 'maker/base'.*--base BASE"):
        run(source, tmp_path)


def test_a_base_that_the_adapter_names_by_another_digest_is_refused(source: Path) -> None:
    change_config(source, base_model_name_or_path="sha256:" + "c" * 64)

    with pytest.raises(AdapterForOtherBase, match=f"trained on {'c' * 64}"):
        adapter_base(entry(), source)


def test_whole_weights_have_no_base(tiny_llama: Path) -> None:
    assert adapter_base(entry(None), tiny_llama) is None
    with pytest.raises(UnusableSource, match="these are not an adapter"):
        adapter_base(entry(), tiny_llama)


def test_an_adapter_among_whole_weights_is_refused(source: Path) -> None:
    """transformers would load the base that adapter_config.json names, from wherever it says."""
    (source / "model.safetensors").write_bytes(b"")

    with pytest.raises(UnusableSource, match="load the base that it names instead"):
        adapter_base(entry(), source)


def test_an_adapter_configuration_that_is_no_object_is_refused(source: Path) -> None:
    (source / "adapter_config.json").write_text("[]")

    with pytest.raises(MalformedFile, match="no JSON object"):
        adapter_base(entry(), source)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda t: t.pop(first(t, "B")), "q_proj has no lora_B"),
        (lambda t: t.pop(first(t, "A")), "q_proj has no lora_A"),
        (lambda t: t.update({first(t, "B"): t[first(t, "B")][:, :1].clone()}), "do not multiply"),
        (lambda t: t.clear(), "no tensors"),
        (lambda t: [t.pop(name) for name in list(t) if "v_proj" in name], "it targets 'v_proj'"),
    ],
)
def test_matrices_that_do_not_belong_together_are_refused(
    source: Path, change: Callable[[dict[str, Any]], object], fact: str
) -> None:
    change_tensors(source, change)

    with pytest.raises(UnusableSource, match=re.escape(fact)):
        adapter_base(entry(), source)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"r": 8}, "has rank 2, and the configuration says 8"),
        ({"target_modules": ["q_proj", "v_proj", "up_proj"]}, "it targets 'up_proj'"),
        ({"target_modules": None}, "it names no target modules"),
    ],
)
def test_a_configuration_that_the_matrices_do_not_bear_out_is_refused(
    source: Path, changes: dict[str, object], fact: str
) -> None:
    change_config(source, **changes)

    with pytest.raises(UnusableSource, match=fact):
        adapter_base(entry(), source)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 8, "rank_pattern": {"q_proj": 2, "v_proj": 2}},
        {"target_modules": "all-linear"},
        {"peft_type": "IA3", "r": None},
    ],
)
def test_what_cannot_be_told_from_the_adapter_alone_is_not_refused(
    source: Path, changes: dict[str, object]
) -> None:
    change_config(source, **changes)

    assert adapter_base(entry(), source) is not None


def test_the_base_is_found_by_its_repository() -> None:
    models = registry(base=f"hf://maker/base@{'1' * 40}", other=f"hf://maker/other@{'1' * 40}")

    assert resolve_base({"base_model_name_or_path": "maker/base"}, models) == "base"


def test_of_two_revisions_the_one_that_the_adapter_names_is_its_base() -> None:
    models = registry(**{name: f"hf://maker/base@{commit}" for name, commit in COMMITS.items()})
    config = {"base_model_name_or_path": "maker/base", "revision": COMMITS["base-new"]}

    assert resolve_base(config, models) == "base-new"
    with pytest.raises(AdapterWithoutBase, match="base-new, base-old of the registry are all"):
        resolve_base(config | {"revision": None}, models)


@pytest.mark.parametrize(
    ("stated", "fact"),
    [
        ("maker/base", r"weighbridge add hf://maker/base@REVISION --name BASE"),
        ("/home/someone/llama", "a path on the machine that trained it"),
        ("./output", "a path on the machine that trained it"),
        ("C:\\models\\base", "a path on the machine that trained it"),
        ("sha256:" + "d" * 64, "Find the model with this weight digest"),
        (None, "does not say what its base is"),
    ],
)
def test_a_base_that_is_not_in_the_registry_is_named_with_what_to_do(
    stated: str | None, fact: str
) -> None:
    config = {"base_model_name_or_path": stated}

    assert base_name(config) == (stated or "")
    with pytest.raises(AdapterWithoutBase, match=fact):
        resolve_base(config, registry())


def test_an_adapters_base_must_be_in_the_models_file() -> None:
    with pytest.raises(ValueError, match=r"models names \['base'\]"):
        ModelsFile(models={"mine": entry()}, uses={"mine": DeclaredUse()})
