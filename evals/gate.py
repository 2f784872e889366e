"""The gate: may this candidate replace its baseline?

`decide` is a pure function of the policy and the evidence. Each task is decided on its own, and
all must pass (an intersection-union test: its level is alpha without any correction, Berger 1982,
Technometrics 24). No average over tasks is taken anywhere, so none can hide a collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evals.comparison import compare
from evals.evidence import GateEvidence, check_complete, read_evidence
from evals.gate_report import verdict_markdown
from evals.judgement import Judged, judge, worst
from evals.pairing import PairedTask, pair
from evals.policy import GatePolicy, SuperiorOnAny, TaskRule, load_policy, names_of
from evals.requirements import judge_requirements
from evals.sample_folders import read_folder
from evals.slices import judge_slices
from evals.statistics import holm
from pipelines.canonical import Frozen, sha256_file, write_record
from pipelines.errors import ConfigError, UnusableEvidence
from pipelines.models_file import Baseline
from pipelines.records import Requirements, Verdict

VERDICT_FILE = "verdict.json"
REPORT_FILE = "report.md"


class GateConfig(Frozen):
    """One gate: a candidate, its pinned baseline and the policy; evidence is read from paths."""

    name: str
    baseline: Baseline
    policy_name: str
    policy: GatePolicy
    policy_sha256: str
    code_digest: str


def gate(config: GateConfig, candidate: Path, baseline: Path, out: Path) -> Verdict:
    """Decide from two folders evidence/NAME and write `out`/verdict.json and report.md.

    A verdict that blocks is a result, not an error. Raises ConfigError when the policy groups items
    itself, which is for the suite to say, and what `read_evidence` and `decide` raise
    when no decision can rest on what is there; then no verdict is written.
    """
    if grouped := sorted(name for name, rule in config.policy.tasks.items() if rule.cluster):
        fact = f"tasks.{grouped[0]}.cluster is for folders of lm-eval's samples"
        remedy = "Name the cluster in the suite, which says what its items have in common."
        raise ConfigError(f"policy {config.policy_name}", fact, remedy)
    verdict = decide(config, read_evidence(candidate), read_evidence(baseline))
    out.mkdir(parents=True, exist_ok=True)
    write_record(out / VERDICT_FILE, verdict)
    (out / REPORT_FILE).write_text(verdict_markdown(verdict), encoding="utf-8")
    return verdict


def gate_folders(candidate: Path, baseline: Path, policy: Path) -> Verdict:
    """Decide from two folders of per-item results and a policy file, without a registry.

    Raises ConfigError for the policy, UnusableEvidence for one folder that is given twice, and what
    `read_folder` and `decide` raise; nothing is written.
    """
    rules = load_policy(policy)
    if candidate.resolve() == baseline.resolve():
        fact = "it is the candidate and the baseline"
        raise UnusableEvidence(str(candidate), fact, "Name the folder of each model.")
    theirs = read_folder(baseline, rules, "baseline")
    digest = next((suite.record.weight_digest for suite in theirs.suites), "")
    config = GateConfig(
        name=candidate.name,
        baseline=Baseline(name="baseline", digest=digest or "0" * 64),
        policy_name=policy.stem,
        policy=rules,
        policy_sha256=sha256_file(policy),
        code_digest="",
    )
    ours = read_folder(candidate, rules, "candidate")
    verdict = decide(config, ours, theirs)
    same = sorted(ours.files.values()) == sorted(theirs.files.values())
    note = ("the candidate's files are the baseline's, byte for byte",) if same else ()
    update = {"baseline": baseline.name, "reasons": verdict.reasons + note}
    return verdict.model_copy(update=update)


def decide(config: GateConfig, candidate: GateEvidence, baseline: GateEvidence) -> Verdict:
    """The verdict about `candidate`: a pure function, which names all that it rests on.

    What the policy asks for and is not there (a verification, a cost) blocks. Raises ConfigError
    when it has no rule for a task that was evaluated, and UnusableEvidence for results that are
    missing, partial, duplicated, not finite, about other weights, or not comparable.
    """
    policy = config.policy
    digest = _check_identities(config, candidate, baseline)
    pairs = pair(
        _judged(policy, candidate),
        _judged(policy, baseline),
        template_change=policy.template_change,
    )
    _check_named_tasks(config, pairs)
    tasks = [judge(task, _rule(config, task.task), policy.alpha) for task in pairs]
    passing = sum(task.outcome == "pass" for task in tasks)
    slices = judge_slices(policy, pairs)
    others = [
        *judge_requirements(policy, candidate, digest),
        _judge_any(policy.superior_on_any, pairs, policy.alpha),
    ]
    reasons = [
        f"{passing} of {len(tasks)} tasks pass",
        *(f"{task.task}: {task.reason}" for task in tasks if task.outcome != "pass"),
        *(
            f"{part.task}, {part.key} {part.value}: {part.reason}"
            for part in slices
            if part.outcome != "pass"
        ),
        *(words for _, words in others if words),
        *_notes(policy, pairs, candidate, baseline),
    ]
    outcomes = [*(t.outcome for t in tasks), *(s.outcome for s in slices), *(o for o, _ in others)]
    return Verdict(
        name=config.name,
        weight_digest=digest,
        baseline=config.baseline.name,
        baseline_digest=config.baseline.digest,
        outcome=worst(outcomes),
        reasons=tuple(reasons),
        tasks=tuple(tasks),
        slices=tuple(slices),
        policy=config.policy_name,
        policy_sha256=config.policy_sha256,
        code_digest=config.code_digest,
        evidence={**candidate.files, **baseline.files},
        requirements=_requirements(policy, candidate),
    )


def _check_identities(config: GateConfig, candidate: GateEvidence, baseline: GateEvidence) -> str:
    """Hold all evidence against the two digests it must be about; returns the candidate's."""
    sources = [candidate.verification, *(suite.record for suite in candidate.suites)]
    digest = next((source.weight_digest for source in sources if source is not None), "")
    check_complete(candidate, digest, f"candidate {config.name}")
    check_complete(baseline, config.baseline.digest, f"baseline {config.baseline.name}")
    if digest == config.baseline.digest:
        raise UnusableEvidence(
            f"candidate {config.name}",
            f"it is the same weights as the baseline {config.baseline.name} ({digest})",
            "Pin the baseline to what is in production; these weights need no gate if it is them.",
        )
    return digest


def _requirements(policy: GatePolicy, candidate: GateEvidence) -> Requirements:
    """What promotion has to enforce; a cost that the policy asks for has an age too."""
    asked = policy.max_cost_usd_per_mtok is not None and candidate.cost is not None
    measured = candidate.cost.measured_on if asked and candidate.cost else None
    return policy.requirements().model_copy(update={"cost_measured_on": measured})


def _judged(policy: GatePolicy, evidence: GateEvidence) -> GateEvidence:
    return replace(evidence, suites=[s for s in evidence.suites if policy.judges(s.record.suite)])


def _check_named_tasks(config: GateConfig, pairs: Sequence[PairedTask]) -> None:
    evaluated = [task.task for task in pairs]
    met = {name for task in evaluated for name in names_of(task)}
    if missing := [name for name in config.policy.named_tasks() if name not in met]:
        raise UnusableEvidence(
            missing[0],
            f"policy {config.policy_name} asks for it, and it was not evaluated (there are: "
            f"{', '.join(evaluated) or 'none'})",
            "Evaluate candidate and baseline on its suite, or correct the name in the policy.",
        )


def _rule(config: GateConfig, task: str) -> TaskRule:
    rule = config.policy.rule(task)
    if rule is None:
        subject = f"policy {config.policy_name}"
        fact = f"no rule for {task}, which was evaluated"
        raise ConfigError(subject, fact, "Add a rule for it, or one for '*'.")
    return rule


def _judge_any(asked: SuperiorOnAny | None, pairs: Sequence[PairedTask], alpha: float) -> Judged:
    if asked is None:
        return "pass", ""
    listed = [task for task in pairs if not {*names_of(task.task)}.isdisjoint(asked.tasks)]
    p_values = holm([compare(task, alpha).test(asked.min_effect).p_value for task in listed])
    shown = [task.task for task, p in zip(listed, p_values, strict=True) if p <= alpha]
    values = ", ".join(f"{task.task} p = {p:.2g}" for task, p in zip(listed, p_values, strict=True))
    if shown:
        return "pass", f"better on {', '.join(shown)} (Holm-adjusted: {values})"
    return "block", f"better on none of {', '.join(asked.tasks)} (Holm-adjusted: {values})"


def _notes(
    policy: GatePolicy,
    pairs: Sequence[PairedTask],
    candidate: GateEvidence,
    baseline: GateEvidence,
) -> list[str]:
    notes = [
        f"{task.task}: {task.repeated} items repeat others, and count once"
        for task in pairs
        if task.repeated
    ]
    unjudged = {s.record.suite for s in candidate.suites if not policy.judges(s.record.suite)}
    if unjudged:
        notes.append(f"evaluated, but named by no rule: {', '.join(sorted(unjudged))}")
    if policy.template_change:
        notes.append("paired without prompts: the change of template is part of what is compared")
    ours = {suite.record.suite: suite.record.dtype for suite in candidate.suites}
    records = [suite.record for suite in baseline.suites]
    notes += [
        f"suite {record.suite}: the candidate ran in {ours[record.suite]}, the baseline in "
        f"{record.dtype}; the difference holds for these"
        for record in records
        if ours.get(record.suite, record.dtype) != record.dtype
    ]
    return notes
