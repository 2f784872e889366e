"""Tests of the gate on real records and item files: every outcome, and every refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_evidence import (
    BASELINE,
    CANDIDATE,
    SMALLEST,
    Model,
    answers,
    config,
    digest,
    items,
    models,
    run,
    twins,
)

from evals.gate import gate
from evals.items import write_items
from pipelines.canonical import record_bytes, sha256_file
from pipelines.errors import ConfigError, DigestMismatch, UnusableEvidence
from pipelines.records import Finding, Verdict, read_record


def test_a_candidate_that_lost_nothing_passes_on_enough_items(tmp_path: Path) -> None:
    verdict = run(tmp_path, *twins(200))
    assert verdict.outcome == "pass"
    assert (verdict.weight_digest, verdict.baseline_digest) == (CANDIDATE, BASELINE)
    assert verdict.reasons == ("1 of 1 tasks pass",)
    assert verdict.tasks[0].task == "general/hellaswag"


def test_the_same_candidate_on_few_items_cannot_be_told(tmp_path: Path) -> None:
    verdict = run(tmp_path, *twins(50))
    assert verdict.outcome == "cannot_tell"
    assert verdict.reasons[0] == "0 of 1 tasks pass"
    assert "smallest margin these 50 items could have shown: 0.051" in verdict.reasons[1]


def test_a_candidate_that_is_shown_worse_is_blocked(tmp_path: Path) -> None:
    verdict = run(tmp_path, *models(answers(200, range(60)), answers(200, range(100))))
    assert verdict.outcome == "block"
    assert verdict.reasons[1].startswith("general/hellaswag: acc of the candidate 0.300")


def test_an_average_cannot_hide_a_collapse(tmp_path: Path) -> None:
    candidate, baseline = models(answers(300, range(300)), answers(300, range(100)))
    candidate.suites["general"]["gsm8k"] = items("gsm8k", answers(300, range(50)))
    baseline.suites["general"]["gsm8k"] = items("gsm8k", answers(300, range(100)))
    verdict = run(tmp_path, candidate, baseline)
    assert {task.task: task.outcome for task in verdict.tasks} == {
        "general/gsm8k": "block",
        "general/hellaswag": "pass",
    }
    assert verdict.outcome == "block"
    assert verdict.reasons[0] == "1 of 2 tasks pass"


def test_superiority_that_is_asked_and_not_shown_blocks(tmp_path: Path) -> None:
    policy = {"alpha": 0.05, "tasks": {"*": {"superiority": {"min_effect": 0.05}}}}
    scores = answers(300, range(120)), answers(300, range(110))
    verdict = run(tmp_path / "1", *models(*scores), policy)
    assert (verdict.outcome, verdict.tasks[0].superiority) == ("block", "not shown")
    scores = answers(300, range(200)), answers(300, range(110))
    verdict = run(tmp_path / "2", *models(*scores), policy)
    assert (verdict.outcome, verdict.tasks[0].superiority) == ("pass", "shown")


def test_superiority_on_any_of_several_tasks_is_corrected(tmp_path: Path) -> None:
    policy = SMALLEST | {"superior_on_any": {"tasks": ["general/a", "general/b"]}}

    def pair_with(gains: int) -> tuple[Model, Model]:
        candidate, baseline = models(
            answers(300, range(100 + gains)), answers(300, range(100)), "a"
        )
        candidate.suites["general"]["b"] = items("b", answers(300, range(100)))
        baseline.suites["general"]["b"] = items("b", answers(300, range(100)))
        return candidate, baseline

    # Three items gained of 300: p = 0.042 on its own, 0.083 after Holm.
    verdict = run(tmp_path / "1", *pair_with(3), policy)
    assert verdict.outcome == "block"
    assert "better on none of general/a, general/b" in verdict.reasons[-1]
    verdict = run(tmp_path / "2", *pair_with(12), policy)
    assert verdict.outcome == "pass"
    assert "better on general/a (Holm-adjusted" in verdict.reasons[-1]


def test_the_order_of_items_does_not_matter(tmp_path: Path) -> None:
    candidate, baseline = models(answers(200, range(80)), answers(200, range(10, 95)))
    verdict = run(tmp_path / "1", candidate, baseline)
    candidate.suites["general"]["hellaswag"].reverse()
    again = run(tmp_path / "2", candidate, baseline)
    assert again.tasks == verdict.tasks


def test_the_verdict_is_the_same_bytes_twice_and_names_all_it_rests_on(tmp_path: Path) -> None:
    first = run(tmp_path / "1", *twins())
    second = run(tmp_path / "2", *twins())
    assert record_bytes(first) == record_bytes(second)
    written = tmp_path / "1" / "verdict" / "verdict.json"
    assert read_record(written, Verdict) == first
    root = tmp_path / "1"
    assert first.evidence == {
        f"evidence/{name}/{file}": sha256_file(root / "evidence" / name / file)
        for name in ("tuned", "base")
        for file in (
            "evaluations/general/evaluation.json",
            "evaluations/general/items.parquet",
            "verification/verification.json",
        )
    }
    assert (first.policy, first.policy_sha256) == ("default", digest("policy"))


def test_the_verdict_carries_what_promotion_must_enforce(tmp_path: Path) -> None:
    policy = SMALLEST | {"max_evidence_age_days": 30.0, "approvals": {"required": 2}}
    verdict = run(tmp_path, *twins(), policy)
    assert verdict.requirements.max_evidence_age_days == 30
    assert verdict.requirements.approvals == 2


def test_suites_that_no_rule_names_are_left_out_and_mentioned(tmp_path: Path) -> None:
    candidate, baseline = twins()
    candidate.suites["smoke"] = {"smoke": items("smoke", [1.0])}
    policy = {"alpha": 0.05, "tasks": {"general/hellaswag": {"margin": 0.02}}}
    verdict = run(tmp_path, candidate, baseline, policy)
    assert [task.task for task in verdict.tasks] == ["general/hellaswag"]
    assert verdict.reasons[-1] == "evaluated, but named by no rule: smoke"


def test_another_dtype_is_compared_and_said(tmp_path: Path) -> None:
    candidate, baseline = twins()
    candidate.record = {"dtype": "float16"}
    verdict = run(tmp_path, candidate, baseline)
    assert "the candidate ran in float16, the baseline in bfloat16" in verdict.reasons[-1]


def test_a_failed_verification_blocks_even_where_the_policy_asks_for_none(tmp_path: Path) -> None:
    candidate, baseline = twins()
    finding = Finding(rule="x", severity="refusal", file="", fact="holds a pickle", remedy="x")
    candidate.verification = {"passed": False, "findings": (finding,)}
    verdict = run(tmp_path, candidate, baseline)
    assert verdict.outcome == "block"
    assert verdict.reasons[-1] == "verification refused tuned: holds a pickle"


def test_a_missing_verification_blocks_where_the_policy_asks_for_it(tmp_path: Path) -> None:
    candidate, baseline = twins()
    candidate.verification = None
    assert run(tmp_path / "1", candidate, baseline).outcome == "pass"
    verdict = run(tmp_path / "2", candidate, baseline, SMALLEST | {"verification": "pass"})
    assert verdict.outcome == "block"
    assert "the policy asks for it, and there is no record" in verdict.reasons[-1]


def test_the_template_may_differ_only_where_the_policy_says_so(tmp_path: Path) -> None:
    def retemplated() -> tuple[Model, Model]:
        candidate, baseline = twins()
        other = digest("other template")
        candidate.record = {"template_sha256": other}
        candidate.verification = {"template_sha256": other}
        prompts = candidate.suites["general"]["hellaswag"]
        candidate.suites["general"]["hellaswag"] = [
            i._replace(prompt_hash=digest(f"other {i.doc_id}")) for i in prompts
        ]
        return candidate, baseline

    with pytest.raises(UnusableEvidence, match="another chat template"):
        run(tmp_path / "1", *retemplated())
    verdict = run(tmp_path / "2", *retemplated(), SMALLEST | {"template_change": True})
    assert verdict.outcome == "pass"
    assert "paired without prompts" in verdict.reasons[-1]


Change = Callable[[Model, Model], None]


def _set_items(**changes: Any) -> Change:
    def change(candidate: Model, _: Model) -> None:
        first, *rest = candidate.suites["general"]["hellaswag"]
        candidate.suites["general"]["hellaswag"] = [first._replace(**changes), *rest]

    return change


def _set(part: str, **changes: Any) -> Change:
    return lambda candidate, _: setattr(candidate, part, changes)


def _without_suites(candidate: Model, _: Model) -> None:
    candidate.suites = {}


def _without_baseline(_: Model, baseline: Model) -> None:
    baseline.suites = {}


def _without_items(candidate: Model, _: Model) -> None:
    candidate.suites["general"]["hellaswag"] = []


def _with_fewer_items(candidate: Model, _: Model) -> None:
    candidate.suites["general"]["hellaswag"].pop()


def _with_a_task_more(candidate: Model, _: Model) -> None:
    candidate.suites["general"]["gsm8k"] = items("gsm8k", [1.0])


def _with_a_suite_more(_: Model, baseline: Model) -> None:
    baseline.suites["code"] = {"humaneval": items("humaneval", [1.0])}


def _as_the_baseline(candidate: Model, _: Model) -> None:
    candidate.weight_digest = BASELINE


def _baseline_of_other_weights(_: Model, baseline: Model) -> None:
    baseline.weight_digest = digest("what was in production before")


def _verified_as_other_weights(candidate: Model, _: Model) -> None:
    candidate.record = {"weight_digest": digest("other weights")}


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (_without_suites, "candidate tuned: there is no evaluation"),
        (_without_baseline, "baseline base: there is no evaluation"),
        (_without_items, "task hellaswag: no items"),
        (_set("result", items=150), "200 items, but the record counts 150"),
        (_with_fewer_items, "baseline has 1 (document 199"),
        (_with_a_task_more, "different tasks: only the candidate has 1 (gsm8k)"),
        (_with_a_suite_more, "different suites: only the baseline has 1 (code)"),
        (_set_items(doc_id=5), "document 5 was scored more than once"),
        (_set_items(doc_hash=digest("other")), "different documents"),
        (_set_items(prompt_hash=digest("other")), "1 documents were given with other prompts"),
        (_set_items(score=math.nan), "its score is nan"),
        (_set_items(score=math.inf), "its score is inf"),
        (_set_items(metric="acc_norm"), "scored by acc_norm, and the record holds acc"),
        (_set_items(doc_hash=""), "no hash of the document or of the prompt"),
        (_set("result", value=math.nan), "its acc is nan"),
        (_set("result", value=0.9), "the record says acc 0.9, but its items average 0.5"),
        (_set("result", metric="f1"), "scored by acc, and the record holds f1"),
        (_set("result", higher_is_better=False), "the direction differs"),
        (_set("result", task_sha256=digest("x")), "the task definition differs"),
        (_set("result", data_sha256=digest("x")), "the data differs"),
        (_set("result", task="other"), "items of task hellaswag, which the record does not hold"),
        (_set("record", tasks=()), "no task in the record"),
        (_set("record", suite="another"), "different suites"),
        (_set("record", suite_sha256=digest("x")), "another version of the suite"),
        (_set("record", code_digest=digest("x")), "another version of the evaluation's code"),
        (_set("record", engine="vllm 0.32.0"), "another engine"),
        (_set("record", template_sha256=digest("x")), "run with chat template"),
        (_set("verification", weight_digest=digest("x")), "evaluated weights"),
        (_set("verification", template_sha256=""), "verified: none"),
        (_as_the_baseline, "the same weights as the baseline base"),
        (_baseline_of_other_weights, "but the gate is about"),
        (_verified_as_other_weights, "evaluated weights"),
    ],
)
def test_evidence_that_cannot_carry_a_decision_is_refused_without_a_verdict(
    tmp_path: Path, change: Change, fact: str
) -> None:
    candidate, baseline = twins()
    change(candidate, baseline)
    with pytest.raises(UnusableEvidence) as caught:
        run(tmp_path, candidate, baseline)
    assert fact in str(caught.value)
    assert not (tmp_path / "verdict").exists()


def test_a_task_or_suite_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    candidate, baseline = twins()
    result = candidate._result("hellaswag", candidate.suites["general"]["hellaswag"])
    candidate.record = {"tasks": (result, result)}
    with pytest.raises(UnusableEvidence, match="task hellaswag is there twice"):
        run(tmp_path / "1", candidate, baseline)
    candidate, baseline = twins()
    candidate.suites["again"] = candidate.suites["general"]
    candidate.record = {"suite": "general"}
    with pytest.raises(UnusableEvidence, match="suite general is there twice"):
        run(tmp_path / "2", candidate, baseline)


def test_a_task_that_the_policy_names_and_nobody_evaluated_is_refused(tmp_path: Path) -> None:
    policy = {"alpha": 0.05, "tasks": {"general/hellaswg": {"margin": 0.02}, "*": {"margin": 0.1}}}
    with pytest.raises(UnusableEvidence, match="general/hellaswg: policy default asks for it"):
        run(tmp_path, *twins(), policy)


def test_a_task_that_no_rule_covers_is_refused(tmp_path: Path) -> None:
    candidate, baseline = twins()
    for model in (candidate, baseline):
        model.suites["general"]["gsm8k"] = items("gsm8k", [1.0])
    policy = {"alpha": 0.05, "tasks": {"general/hellaswag": {"margin": 0.02}}}
    with pytest.raises(ConfigError, match="no rule for general/gsm8k, which was evaluated"):
        run(tmp_path, candidate, baseline, policy)


def test_item_files_that_are_not_what_was_recorded_are_refused(tmp_path: Path) -> None:
    candidate, baseline = twins()
    folders = candidate.write(tmp_path), baseline.write(tmp_path)
    path = folders[0] / "evaluations" / "general" / "items.parquet"
    write_items(path, items("hellaswag", answers(200, range(200))))
    with pytest.raises(DigestMismatch, match=r"items\.parquet"):
        gate(config(SMALLEST), *folders, tmp_path / "verdict")
    path.write_bytes(b"PAR1 half a file")
    with pytest.raises(UnusableEvidence, match="not Parquet"):
        gate(config(SMALLEST), *folders, tmp_path / "verdict")


def test_a_half_written_evaluation_is_refused_and_a_hidden_one_ignored(tmp_path: Path) -> None:
    candidate, baseline = twins()
    folders = candidate.write(tmp_path), baseline.write(tmp_path)
    (folders[0] / "evaluations" / ".code.partial").mkdir()
    assert gate(config(SMALLEST), *folders, tmp_path / "verdict").outcome == "pass"
    broken = folders[0] / "evaluations" / "general" / "evaluation.json"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="not a EvaluationRecord"):
        gate(config(SMALLEST), *folders, tmp_path / "verdict")
