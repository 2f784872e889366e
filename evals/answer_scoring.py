"""Scores that are ours: a generated text, judged by a rule or by running it, in place of a metric.

lm-eval asks and generates; what suite.yaml names under `scorer` then gives each item its score.
The scorers are a closed set, and part of the stage's code digest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from evals.answer_rules import Row, Score, score_injection, score_leakage, score_refusal
from evals.block_store import ScoredItem, ScoredTask
from evals.suite_runs import standard_error
from evals.suites import Suite, SuiteTask

_RULES: dict[str, Callable[[Row, str], Score]] = {
    "refusal": score_refusal,
    "leakage": score_leakage,
    "injection": score_injection,
}
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def score_answers(
    about: str, task: SuiteTask, found: ScoredTask, rows: Sequence[Row]
) -> ScoredTask:
    """The task with our scores in place of lm-eval's; unchanged when it names no scorer.

    `rows` are the data that were asked, by `doc_id`. Items that are not among them are left alone
    (evals.outcomes refuses them). Raises what `run_trials` raises.
    """
    if task.scorer is None or not found.items:
        return found
    asked = [item for item in found.items if 0 <= item.doc_id < len(rows)]
    scores = _scores(about, task, asked, rows)
    items = tuple(
        item.model_copy(update={"score": score.value, "note": score.note})
        for item, score in zip(asked, scores, strict=True)
    )
    values = [score.value for score in scores]
    mean = math.fsum(values) / len(values) if values else None
    return found.model_copy(
        update={
            "items": items,
            "value": mean,
            "stderr": standard_error(values),
            "higher_is_better": True,
        }
    )


def check_scorers(suite: Suite) -> None:
    """Raise SandboxUnavailable now, where it would be raised after hours of generating."""
    if any(task.scorer == "humaneval" for task in suite.tasks.values()):
        from evals.code_execution import Trial, run_trials

        test = "def check(candidate): assert candidate() is None"
        source = "def nothing(): pass"
        run_trials([Trial(id="", program=source, prompt="", test=test, entry_point="nothing")])


def program(row: Row, text: str) -> str:
    """The program that an answer means: HumanEval's `prompt`, and what the model added to it.

    A fenced block, or a text, that defines `entry_point` itself stands after the prompt and
    replaces what it began; any other text continues the prompt, up to the end of its code block.
    """
    prompt, name = str(row["prompt"]), re.escape(str(row["entry_point"]))
    defines = re.compile(rf"^(?:async )?def {name}\b", re.MULTILINE)
    whole = [block for block in _BLOCK.findall(text) if defines.search(block)]
    continued = text.partition("```")[0]
    if not whole and defines.search(continued):
        whole = [continued]
    return f"{prompt}\n{whole[0]}" if whole else prompt + continued


def _scores(
    about: str, task: SuiteTask, items: Sequence[ScoredItem], rows: Sequence[Row]
) -> list[Score]:
    if task.scorer in _RULES:
        rule = _RULES[task.scorer]
        return [rule(rows[item.doc_id], item.answer) for item in items]
    from evals.code_execution import Trial, run_trials

    trials = [
        Trial(
            id=row["id"],
            program=program(row, item.answer),
            prompt=row["prompt"],
            test=row["test"],
            entry_point=row["entry_point"],
        )
        for item in items
        for row in [rows[item.doc_id]]
    ]
    outcomes = run_trials(trials, what=f"{about}: programs")
    return [Score(float(outcome.passed), outcome.reason) for outcome in outcomes]
