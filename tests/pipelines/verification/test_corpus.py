"""Honest repositories pass, tampered ones are refused with the right file named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.models_file import DeclaredUse
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder
from tests.corpus.honest import HONEST
from tests.corpus.judging import TAMPERINGS, judge_all
from tests.corpus.tampering import Tampering

# A toy vocabulary without merges may be honest; a real one is refused (test below).
KNOWN_MISSES = {"tokenizer/merges-gone"}
EVERY = 7  # one tampering in seven in the fast run
QUICK = ("plain", "shards", "gguf-llama", "adapter-plain", "gptq", "awq", "eight-bits", "four-bits",
         "fp8", "publisher", "templates", "split-vocabulary", "llama-old", "dtype-key",
         "tokenizer-files", "processors", "papers", "mistral-form", "mistral-both", "mlx",
         "gptqmodel", "compressed-tensors", "adapter-dora", "adapter-saves-head", "many-tokens",
         "two-ggufs", "paths-of-root", "eos-default-ids", "rope-longrope")  # fmt: skip


def missed(tamperings: Iterator[Tampering] | list[Tampering], work: Path) -> set[str]:
    return {judged.tampering.title for judged in judge_all(tamperings, work) if not judged.named}


def test_titles_are_unique_and_there_are_a_thousand() -> None:
    titles = {tampering.title for tampering in TAMPERINGS}
    assert len(titles) == len(TAMPERINGS) > 1_000


def test_a_sample_of_tampered_repositories_is_refused_by_name(tmp_path: Path) -> None:
    assert missed(list(TAMPERINGS[::EVERY]), tmp_path) <= KNOWN_MISSES


@pytest.mark.long
def test_every_tampered_repository_is_refused_by_name(tmp_path: Path) -> None:
    assert missed(list(TAMPERINGS), tmp_path) == KNOWN_MISSES


def refused(name: str, folder: Path) -> list[str]:
    HONEST[name](folder)
    record = verify_folder(folder, DeclaredUse(), VerificationPolicy())
    return [f"{f.rule}@{f.file}: {f.fact}" for f in record.findings if f.severity == "refusal"]


@pytest.mark.parametrize("name", QUICK)
def test_honest_repositories_pass(name: str, tmp_path: Path) -> None:
    assert refused(name, tmp_path / name) == []


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(HONEST) - set(QUICK)))
def test_honest_repositories_of_many_architectures_pass(name: str, tmp_path: Path) -> None:
    assert refused(name, tmp_path / name) == []


def test_a_large_vocabulary_without_merges_is_refused() -> None:
    from pipelines.verification.tokenizer_tokens import judge_model

    vocabulary = {f"token{number}": number for number in range(2_000)}
    found = list(judge_model({"type": "BPE", "merges": []}, vocabulary, set()))
    assert [rule for rule, _ in found] == ["tokenizer.merges"]
