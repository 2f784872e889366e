"""An evaluation that was killed goes on block by block, and ends with the same bytes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.scoring import Scored, ScoringConfig, score
from evals.suites import suite_digest
from pipelines.template import template_sha256
from tests.evals.conftest import SMOKE

ITEMS, BLOCKS = 14 * 64, 14


def config_for(weights: Path, suite: Path) -> ScoringConfig:
    return ScoringConfig(
        name="tiny",
        weight_digest="a" * 64,
        template_sha256=template_sha256(weights),
        suite_name="long",
        suite_sha256=suite_digest(suite),
        code_digest="c" * 64,
        engine="transformers",
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(cache: Path) -> dict[Path, int]:
    """Each stored block with the time of its writing, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in cache.glob("*/*.json")}


def run_apart(config: ScoringConfig, *paths: Path) -> list[str]:
    """The command line of a process that scores, then names the engines that it imported."""
    code = (
        "import sys; from pathlib import Path; from evals.scoring import ScoringConfig, score\n"
        "config = ScoringConfig.model_validate_json(sys.argv[1])\n"
        "found = score(config, *map(Path, sys.argv[2:]))\n"
        "engines = {'torch', 'transformers', 'vllm', 'lm_eval'} & set(sys.modules)\n"
        "print(found.outcome.cached_items, sorted(engines))"
    )
    return [sys.executable, "-c", code, config.model_dump_json(), *map(str, paths)]


@pytest.fixture(scope="module")
def long_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task of 14 blocks."""
    folder = Path(shutil.copytree(SMOKE, tmp_path_factory.mktemp("long") / "long"))
    suite = folder / "suite.yaml"
    suite.write_text(suite.read_text().partition("  repeat:")[0])
    rows = [json.loads(line) for line in (folder / "everyday.jsonl").read_text().splitlines()]
    (folder / "everyday.jsonl").write_text(
        "".join(
            json.dumps(row | {"id": f"{turn}-{row['id']}"}) + "\n"
            for turn in range(64)
            for row in rows
        )
    )
    return folder


class Killed:
    """What a killed evaluation left, and what the one after it made of that."""

    def __init__(self, weights: Path, suite: Path, place: Path) -> None:
        self.cache = place / "cache"
        self.config = config_for(weights, suite)
        argv = run_apart(self.config, weights, suite, place / "killed", self.cache)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not stored(self.cache):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.left = self._settled()
        assert not (place / "killed").exists()
        self.resumed: Scored = score(self.config, weights, suite, place / "resumed", self.cache)
        self.after = stored(self.cache)
        self.out = place / "resumed"

    def _settled(self) -> dict[Path, int]:
        """What is stored once the child is gone: it dies with its parent."""
        before: dict[Path, int] = {}
        while (now := stored(self.cache)) != before:
            before = now
            time.sleep(0.3)
        return now


@pytest.fixture(scope="module")
def killed(tiny_llama: Path, long_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return Killed(tiny_llama, long_suite, tmp_path_factory.mktemp("killed"))


def test_blocks_done_before_a_kill_are_not_run_again(killed: Killed) -> None:
    assert 0 < len(killed.left) < BLOCKS
    assert killed.resumed.outcome.cached_items == 64 * len(killed.left)
    assert {path: killed.after[path] for path in killed.left} == killed.left
    assert len(killed.after) == BLOCKS
    assert killed.resumed.details()["cached_share"] == len(killed.left) / BLOCKS


def test_a_resumed_evaluation_has_the_bytes_of_one_that_was_not_interrupted(
    killed: Killed, tiny_llama: Path, long_suite: Path, tmp_path: Path
) -> None:
    whole = score(killed.config, tiny_llama, long_suite, tmp_path / "whole")
    assert whole.outcome.cached_items == 0
    assert whole.outcome.tokens.prompt > killed.resumed.outcome.tokens.prompt > 0
    assert files(tmp_path / "whole") == files(killed.out)
    assert stored(killed.cache) == killed.after  # without a cache, nothing is read or kept


def test_an_evaluation_from_the_cache_imports_no_engine(
    killed: Killed, tiny_llama: Path, long_suite: Path, tmp_path: Path
) -> None:
    argv = run_apart(killed.config, tiny_llama, long_suite, tmp_path / "out", killed.cache)
    said = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert said.stdout.strip() == f"{ITEMS} []"
    assert files(tmp_path / "out") == files(killed.out)


def test_an_unchanged_task_in_a_changed_suite_is_not_run_again(
    killed: Killed, tiny_llama: Path, long_suite: Path, tmp_path: Path
) -> None:
    suite = Path(shutil.copytree(long_suite, tmp_path / "long"))
    text = (suite / "suite.yaml").read_text()
    (suite / "suite.yaml").write_text(text.replace("min_items: 14", "min_items: 20"))
    config = config_for(tiny_llama, suite)
    assert config.suite_sha256 != killed.config.suite_sha256
    found = score(config, tiny_llama, suite, tmp_path / "out", killed.cache)
    assert found.outcome.cached_items == ITEMS
    assert found.outcome.tokens.prompt == 0


@pytest.mark.long
def test_a_damaged_block_is_scored_again_and_counted(
    killed: Killed, tiny_llama: Path, long_suite: Path, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(killed.cache, tmp_path / "cache"))
    broken = sorted(stored(cache))[3]
    broken.write_bytes(broken.read_bytes().replace(b'"score":0.0', b'"score":1.0', 1))
    found = score(killed.config, tiny_llama, long_suite, tmp_path / "out", cache)
    assert found.outcome.cached_items == ITEMS - 64
    assert found.details()["damaged_cache_blocks"] == 1
    assert files(tmp_path / "out") == files(killed.out)
