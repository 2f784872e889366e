"""Slices block on shown harm, and for lack of power only where the policy gives them a margin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_evidence import SMALLEST, Model, answers, models, run

from evals.gate_report import verdict_markdown
from evals.pairing import PairedTask
from evals.policy import GatePolicy
from evals.slices import judge_slices
from pipelines.errors import UnusableEvidence

LANGUAGES = ("de", "en", "fr")


def in_languages(candidate: list[float], baseline: list[float]) -> tuple[Model, Model]:
    """Items in three languages, in turn."""
    made = models(candidate, baseline)
    for model in made:
        model.suites["general"]["hellaswag"] = [
            item._replace(slices={"language": LANGUAGES[item.doc_id % 3]})
            for item in model.suites["general"]["hellaswag"]
        ]
    return made


def with_slices(**rule: Any) -> dict[str, Any]:
    return SMALLEST | {"tasks": {"*": {"margin": 0.05}}, "slices": {"language": rule}}


def test_every_slice_is_in_the_verdict_and_its_page(tmp_path: Path) -> None:
    scores = answers(900, range(600))
    verdict = run(tmp_path, *in_languages(scores, scores))
    assert verdict.outcome == "pass"
    assert [(s.task, s.key, s.value, s.items) for s in verdict.slices] == [
        ("general/hellaswag", "language", name, 300) for name in LANGUAGES
    ]
    page = verdict_markdown(verdict)
    assert "### Slices" in page
    assert "| general/hellaswag | language de | pass | 300 |" in page


def test_a_slice_that_collapses_blocks_though_the_task_passes(tmp_path: Path) -> None:
    baseline = answers(900, range(900))
    # 15 German items lost, and nothing else: 1.7 points of the task, 5 points of German.
    candidate = answers(900, set(range(900)) - set(range(0, 45, 3)))
    verdict = run(tmp_path, *in_languages(candidate, baseline), with_slices())
    assert verdict.tasks[0].outcome == "pass"
    assert {s.value: s.outcome for s in verdict.slices} == {
        "de": "block", "en": "pass", "fr": "pass",
    }  # fmt: skip
    assert verdict.outcome == "block"
    assert "general/hellaswag, language de" in verdict.reasons[1]
    assert "Holm-adjusted p = 9.2e-05" in verdict.reasons[1]


def test_a_small_slice_blocks_only_where_the_policy_gives_a_margin(tmp_path: Path) -> None:
    scores = answers(300, range(200))
    assert run(tmp_path / "1", *in_languages(scores, scores), with_slices()).outcome == "pass"
    verdict = run(tmp_path / "2", *in_languages(scores, scores), with_slices(margin=0.02))
    assert verdict.outcome == "cannot_tell"
    assert "100 items see 0.026 at best, and 0.020 was asked" in verdict.reasons[1]
    verdict = run(tmp_path / "3", *in_languages(scores, scores), with_slices(margin=0.05))
    assert verdict.outcome == "pass"
    rule = with_slices(margin=0.05, min_items=150)
    verdict = run(tmp_path / "4", *in_languages(scores, scores), rule)
    assert verdict.outcome == "cannot_tell"


def test_a_loss_that_is_shown_to_be_smaller_than_the_slices_margin_passes(tmp_path: Path) -> None:
    baseline = answers(3000, range(3000))
    candidate = answers(3000, set(range(3000)) - set(range(0, 30, 3)))  # 10 of 1,000 German items
    made = in_languages(candidate, baseline)
    assert run(tmp_path / "1", *made, with_slices()).outcome == "block"
    verdict = run(tmp_path / "2", *made, with_slices(margin=0.05))
    assert verdict.outcome == "pass"
    assert "by less than the margin" in verdict.slices[0].reason


def test_a_key_that_no_item_or_only_some_items_carry_is_refused(tmp_path: Path) -> None:
    scores = answers(300, range(200))
    with pytest.raises(UnusableEvidence, match="slice dialect: the policy asks for slices by it"):
        run(tmp_path / "1", *in_languages(scores, scores), SMALLEST | {"slices": {"dialect": {}}})
    made = in_languages(scores, scores)
    for model in made:
        first, *rest = model.suites["general"]["hellaswag"]
        model.suites["general"]["hellaswag"] = [first._replace(slices={"length": "short"}), *rest]
    with pytest.raises(UnusableEvidence, match="1 of 300 items have no language"):
        run(tmp_path / "2", *made, with_slices())


def test_equal_models_are_blocked_by_any_of_many_slices_in_at_most_alpha_of_cases() -> None:
    generator = np.random.default_rng(23)
    policy = GatePolicy.model_validate(SMALLEST)
    labels = tuple(str(n % 12) for n in range(600))
    blocked = 0
    for _ in range(80):
        chance = generator.random(600)
        task = PairedTask(
            task="own/triage",
            metric="acc",
            higher_is_better=True,
            candidate=(chance < 0.1).astype(np.float64),
            baseline=((chance > 0.05) & (chance < 0.15)).astype(np.float64),
            slices={"language": labels},
        )
        blocked += any(part.outcome == "block" for part in judge_slices(policy, [task]))
    assert blocked / 80 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 80)
