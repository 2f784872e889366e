"""Tests of the gate policy's schema: closed, strict, and each refusal names file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.policy import GatePolicy, load_policy
from pipelines.errors import ConfigError, WrongKindOfPath
from pipelines.records import Requirements

ROOT = Path(__file__).parents[2]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return path


def test_the_smallest_policy_is_two_lines(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, 'alpha: 0.05\ntasks: {"*": {margin: 0.02}}\n'))
    rule = policy.rule("general/anything")
    assert rule is not None
    assert rule.margin == 0.02
    assert policy.verification is None
    assert policy.requirements() == Requirements(max_evidence_age_days=None, approvals=0)


def test_shipped_policies_load() -> None:
    default = load_policy(ROOT / "evals" / "policy" / "default.yaml")
    assert default.verification == "pass"
    assert default.requirements() == Requirements(max_evidence_age_days=30, approvals=1)
    demo = load_policy(ROOT / "flows" / "demo" / "assets" / "policy.yaml")
    own = demo.rule("licence-triage/licence_triage")
    assert own is not None
    assert own.superiority is not None
    assert own.min_items == 300
    assert demo.rule("general/gsm8k") is None


def test_a_tasks_own_rule_comes_before_the_rule_for_all(tmp_path: Path) -> None:
    text = 'alpha: 0.05\ntasks: {"*": {margin: 0.02}, general/hellaswag: {minimum: 0.3}}\n'
    policy = load_policy(write(tmp_path, text))
    own, other = policy.rule("general/hellaswag"), policy.rule("general/other")
    assert own is not None
    assert own.margin is None
    assert other is not None
    assert other.margin == 0.02


def test_a_suite_is_judged_when_any_rule_can_apply_to_it(tmp_path: Path) -> None:
    named = load_policy(write(tmp_path, "alpha: 0.05\ntasks: {general/a: {margin: 0.1}}\n"))
    assert named.judges("general")
    assert not named.judges("gener")
    assert not named.judges("smoke")
    assert load_policy(write(tmp_path, 'alpha: 0.1\ntasks: {"*": {minimum: 0}}')).judges("smoke")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('alpha: 0.05\ntasks: {"*": {margin: 0.02}}\nforce: true', "force: unknown key"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.02, weight: 2}}', "tasks.*.weight: unknown key"),
        ('alpha: 0.05\ntasks: {"*": {superiority: {effect: 0}}}', "superiority.effect: unknown"),
        ('tasks: {"*": {margin: 0.02}}', "alpha: Field required"),
        ("alpha: 0.05", "tasks: Field required"),
        ("alpha: 0.05\ntasks: {}", "tasks:"),
        ("", "alpha: Field required"),
        ("- alpha", "the file:"),
        ('alpha: "0.05"\ntasks: {"*": {margin: 0.02}}', "alpha: Input should be a valid number"),
        ('alpha: true\ntasks: {"*": {margin: 0.02}}', "alpha: Input should be a valid number"),
        ('alpha: .nan\ntasks: {"*": {margin: 0.02}}', "alpha:"),
        ('alpha: 0\ntasks: {"*": {margin: 0.02}}', "alpha: Input should be greater than 0"),
        ('alpha: 0.5\ntasks: {"*": {margin: 0.02}}', "alpha: Input should be less than"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0}}', "tasks.*.margin: Input should be greater"),
        ('alpha: 0.05\ntasks: {"*": {margin: -0.02}}', "tasks.*.margin: Input should be greater"),
        ('alpha: 0.05\ntasks: {"*": {margin: 2}}', "tasks.*.margin: Input should be less"),
        ('alpha: 0.05\ntasks: {"*": {margin: .inf}}', "tasks.*.margin:"),
        ('alpha: 0.05\ntasks: {"*": {minimum: .nan}}', "tasks.*.minimum:"),
        ('alpha: 0.05\ntasks: {"*": {superiority: {min_effect: -0.1}}}', "min_effect: Input"),
        ('alpha: 0.05\ntasks: {"*": {}}', "a rule needs at least one of"),
        ('alpha: 0.05\ntasks: {"*": {min_items: 300}}', "a rule needs at least one of"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1, min_items: 0}}', "tasks.*.min_items"),
        ("alpha: 0.05\ntasks: {a/b/c: {margin: 0.1}}", "'a/b/c' is neither 'suite/task'"),
        ("alpha: 0.05\ntasks: {general/: {margin: 0.1}}", "'general/' is neither"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nverification: none', "verification:"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nlicence: MIT', "licence:"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nmax_cost_usd_per_mtok: 0', "max_cost_usd"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nmax_contamination: 2', "max_contamination"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nslices: {a: {weight: 1}}', "slices.a.weight"),
        (
            'alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nslices: {a: {min_items: 9}}',
            "min_items decides nothing without a margin",
        ),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\napprovals: {required: -1}', "approvals.req"),
        ('alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nmax_evidence_age_days: 0', "max_evidence_age"),
        (
            'alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nsuperior_on_any: {tasks: [a/b]}',
            "superior_on_any.tasks",
        ),
        (
            'alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nsuperior_on_any: {tasks: [a/b, a/b]}',
            "a task is listed twice",
        ),
        (
            'alpha: 0.05\ntasks: {"*": {margin: 0.1}}\nsuperior_on_any: {tasks: [a/b, /b]}',
            "'/b' is neither 'suite/task'",
        ),
        ("alpha: [", "not YAML"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert str(path) in str(caught.value)
    assert key in str(caught.value)


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath, match="YAML file"):
        load_policy(tmp_path / "none.yaml")


def test_a_policy_cannot_be_changed_after_reading(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, 'alpha: 0.05\ntasks: {"*": {margin: 0.02}}\n'))
    assert isinstance(policy, GatePolicy)
    with pytest.raises(ValueError, match="frozen"):
        policy.alpha = 0.5  # type: ignore[misc]


def test_a_task_may_be_named_without_its_suite(tmp_path: Path) -> None:
    text = "alpha: 0.05\ntasks: {hellaswag: {margin: 0.1}, general/arc: {margin: 0.2}}"
    policy = load_policy(write(tmp_path, text))

    margins = {
        task: None if (rule := policy.rule(task)) is None else rule.margin
        for task in ("general/hellaswag", "general/hellaswag:acc", "general/arc", "other/arc")
    }

    assert margins == {
        "general/hellaswag": 0.1,
        "general/hellaswag:acc": 0.1,
        "general/arc": 0.2,
        "other/arc": None,
    }
