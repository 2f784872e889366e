"""A stored block is what was scored, or it is scored again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evals.block_store import BlockResult, BlockStore, ScoredItem, ScoredTask, Tokens
from evals.blocks import Block, plan_blocks
from evals.suite_runs import joined
from evals.suites import load_suite
from tests.evals.conftest import SMOKE

KEY = "ab" * 32
BOUND = {"weights": "a" * 64, "template": "b" * 64, "code": "c" * 64, "engine": "transformers"}


def block(*scores: float | None, outputs: tuple[float, ...] = (-0.1, -2.5)) -> BlockResult:
    items = tuple(
        ScoredItem(
            doc_id=n,
            doc_hash=f"d{n}",
            prompt_hash="p",
            target_hash="t",
            score=score,
            answer="A",
            gold="B",
            prompt="Which?",
            outputs=outputs,
        )
        for n, score in enumerate(scores)
    )
    known = [score for score in scores if score is not None]
    scored = ScoredTask(value=sum(known) / len(scores), higher_is_better=True, items=items)
    return BlockResult(engine="e", scored=scored, tokens=Tokens(prompt=5, generated=1))


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    assert store.get(KEY) is None
    assert store.put(KEY, block(1.0, 0.0))
    assert store.get(KEY) == block(1.0, 0.0)
    assert store.damaged == 0


@pytest.mark.parametrize("position", [0, 70, -2])
def test_a_changed_byte_is_seen_said_and_removed(
    tmp_path: Path, position: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = BlockStore(tmp_path)
    store.put(KEY, block(1.0, 0.0))
    content = bytearray(store.path(KEY).read_bytes())
    content[position] ^= 1
    store.path(KEY).write_bytes(content)
    assert store.get(KEY) is None
    assert store.damaged == 1
    assert "scoring these items again" in capsys.readouterr().err
    assert not store.path(KEY).exists()


def test_a_truncated_block_is_scored_again(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    store.put(KEY, block(1.0, 0.0))
    store.path(KEY).write_bytes(store.path(KEY).read_bytes()[:-20])
    assert store.get(KEY) is None


@pytest.mark.parametrize(
    "odd",
    [
        block(1.0, math.nan),
        block(1.0, math.inf),
        block(1.0, None),
        block(1.0, 0.0, outputs=(-0.1, math.nan)),
        block(1.0, 0.0, outputs=(-math.inf,)),
        block(1.0, 0.0, outputs=()),  # texts without a probe
    ],
)
def test_what_is_not_finite_is_never_kept(tmp_path: Path, odd: BlockResult) -> None:
    assert not BlockStore(tmp_path).put(KEY, odd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", list(BOUND))
def test_other_weights_template_code_or_engine_share_no_block(part: str) -> None:
    suite = load_suite(SMOKE)
    other = "vllm" if part == "engine" else "f" * 64
    mine = keys(plan_blocks(suite, SMOKE, BOUND))
    assert mine == keys(plan_blocks(suite, SMOKE, BOUND))
    assert not mine & keys(plan_blocks(suite, SMOKE, BOUND | {part: other}))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"},
        {"max_length": 511},
        {"seed": 1},
        {"batch_size": 4},
        {"apply_chat_template": False},
    ],
)
def test_other_settings_share_no_block(change: dict[str, object]) -> None:
    suite = load_suite(SMOKE)
    changed = suite.model_copy(update=change)
    assert not keys(plan_blocks(suite, SMOKE, BOUND)) & keys(plan_blocks(changed, SMOKE, BOUND))


def test_a_changed_task_or_item_leaves_the_other_task_alone(suite: Path) -> None:
    before = plan_blocks(load_suite(suite), suite, BOUND)
    data = suite / "everyday.jsonl"
    data.write_text(data.read_text().replace("?", "??", 1))
    after = plan_blocks(load_suite(suite), suite, BOUND)
    assert before["everyday"] != after["everyday"]
    assert before["repeat"] == after["repeat"]
    task = suite / "repeat.yaml"
    task.write_text(task.read_text().replace("max_gen_toks: 8", "max_gen_toks: 9"))
    assert plan_blocks(load_suite(suite), suite, BOUND)["repeat"] != after["repeat"]


def test_what_one_block_lacks_the_task_lacks() -> None:
    parts = [Block(start=0, stop=2, key="x"), Block(start=2, stop=3, key="y")]
    whole = joined([block(1.0, 0.0), block(1.0)], parts)
    assert [item.doc_id for item in whole.items] == [0, 1, 2]
    assert whole.value == pytest.approx(2 / 3)
    assert whole.stderr == pytest.approx(1 / 3)
    assert whole.higher_is_better is True
    bad = block(1.0)
    empty = bad.model_copy(update={"scored": bad.scored.model_copy(update={"value": None})})
    assert joined([block(1.0, 0.0), empty], parts).value is None
    blind = bad.model_copy(update={"scored": bad.scored.model_copy(update={"probe": math.nan})})
    assert math.isnan(joined([blind, blind], parts).probe or 0.0)


def keys(blocks: dict[str, list[Block]]) -> set[str]:
    return {block.key for part in blocks.values() for block in part}
