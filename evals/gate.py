"""The gate: may this candidate replace its baseline?

`decide` is a pure function of the policy and the evidence. Each task is decided on its own, and
all must pass (an intersection-union test: its level is alpha without any correction, Berger 1982,
Technometrics 24). No average over tasks is taken anywhere, so none can hide a collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evals.evidence import GateEvidence, check_complete, read_evidence
from evals.judgement import Judged, compare, judge, worst
from evals.pairing import PairedTask, pair
from evals.policy import GatePolicy, SuperiorOnAny, TaskRule, load_policy, names_of
from evals.sample_folders import read_folder
from evals.statistics import holm
from pipelines.canonical import Frozen, sha256_file, write_record
from pipelines.errors import ConfigError, NotVerified, UnusableEvidence
from pipelines.models_file import Baseline
from pipelines.records import Verdict

VERDICT_FILE = "verdict.json"


class GateConfig(Frozen):
    """One gate: a candidate, its pinned baseline and the policy; evidence is read from paths."""

    name: str
    baseline: Baseline
    policy_name: str
    policy: GatePolicy
    policy_sha256: str
    code_digest: str


def gate(config: GateConfig, candidate: Path, baseline: Path, out: Path) -> Verdict:
    """Decide from two folders evidence/NAME and write `out`/verdict.json.

    A verdict that blocks is a result, not an error. Raises what `read_evidence` and `decide` raise
    when no decision can rest on what is there; then no verdict is written.
    """
    verdict = decide(config, read_evidence(candidate), read_evidence(baseline))
    out.mkdir(parents=True, exist_ok=True)
    write_record(out / VERDICT_FILE, verdict)
    return verdict


def gate_folders(candidate: Path, baseline: Path, policy: Path) -> Verdict:
    """Decide from two folders of per-item results and a policy file, without a registry.

    Raises ConfigError for the policy, and what `read_folder` and `decide` raise; nothing is
    written.
    """
    rules = load_policy(policy)
    theirs = read_folder(baseline, rules)
    digest = next((suite.record.weight_digest for suite in theirs.suites), "")
    config = GateConfig(
        name=candidate.name,
        baseline=Baseline(name="baseline", digest=digest or "0" * 64),
        policy_name=policy.stem,
        policy=rules,
        policy_sha256=sha256_file(policy),
        code_digest="",
    )
    verdict = decide(config, read_folder(candidate, rules), theirs)
    return verdict.model_copy(update={"baseline": baseline.name})


def decide(config: GateConfig, candidate: GateEvidence, baseline: GateEvidence) -> Verdict:
    """The verdict about `candidate`: a pure function, which names all that it rests on.

    Raises NotVerified when the policy asks for a verification and there is none, ConfigError when
    it has no rule for a task that was evaluated, and UnusableEvidence for evidence that is
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
    others = [
        _judge_verification(config.name, candidate),
        _judge_any(policy.superior_on_any, pairs, policy.alpha),
    ]
    reasons = [
        f"{passing} of {len(tasks)} tasks pass",
        *(f"{task.task}: {task.reason}" for task in tasks if task.outcome != "pass"),
        *(words for _, words in others if words),
        *_notes(policy, candidate, baseline),
    ]
    return Verdict(
        name=config.name,
        weight_digest=digest,
        baseline=config.baseline.name,
        baseline_digest=config.baseline.digest,
        outcome=worst([task.outcome for task in tasks] + [outcome for outcome, _ in others]),
        reasons=tuple(reasons),
        tasks=tuple(tasks),
        policy=config.policy_name,
        policy_sha256=config.policy_sha256,
        code_digest=config.code_digest,
        evidence={**candidate.files, **baseline.files},
        requirements=policy.requirements(),
    )


def _check_identities(config: GateConfig, candidate: GateEvidence, baseline: GateEvidence) -> str:
    """Hold all evidence against the two digests it must be about; returns the candidate's."""
    if config.policy.verification is not None and candidate.verification is None:
        raise NotVerified(config.name, ())
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


def _judge_verification(name: str, candidate: GateEvidence) -> Judged:
    record = candidate.verification
    if record is None or record.passed:
        return "pass", ""
    facts = [finding.fact for finding in record.findings if finding.severity == "refusal"]
    return "block", f"verification refused {name}: {'; '.join(facts) or 'no reason given'}"


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


def _notes(policy: GatePolicy, candidate: GateEvidence, baseline: GateEvidence) -> list[str]:
    notes = []
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
