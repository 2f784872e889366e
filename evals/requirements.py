"""What a policy asks of a candidate beside its scores: each thing missing blocks, and says so."""

from __future__ import annotations

from evals.evidence import GateEvidence, SuiteEvidence
from evals.judgement import Judged, worst
from evals.policy import GatePolicy
from pipelines.errors import UnusableEvidence
from pipelines.records import Outcome


def judge_requirements(policy: GatePolicy, candidate: GateEvidence, digest: str) -> list[Judged]:
    """Verification, licence, cost and contamination, in that order; no words: nothing was asked.

    Raises UnusableEvidence when a record is about other weights than `digest`, or another suite.
    """
    return [
        _judge_verification(policy, candidate),
        _judge_licence(policy, candidate),
        _judge_cost(policy, candidate, digest),
        _judge_contamination(policy, candidate),
    ]


def _judge_verification(policy: GatePolicy, candidate: GateEvidence) -> Judged:
    record = candidate.verification
    if record is None:
        if policy.verification is None:
            return "pass", ""
        return "block", "verification: the policy asks for it, and there is no record of one"
    if record.passed:
        return "pass", ""
    facts = [finding.fact for finding in record.findings if finding.severity == "refusal"]
    return "block", f"verification refused {record.name}: {'; '.join(facts) or 'no reason given'}"


def _judge_licence(policy: GatePolicy, candidate: GateEvidence) -> Judged:
    if policy.licence is None:
        return "pass", ""
    if candidate.verification is None:
        return "block", "licence: no verification has established one"
    licence = candidate.verification.licence
    if licence.allowed:
        return "pass", f"licence: {licence.spdx or licence.family} allows the declared use"
    name = licence.spdx or licence.family or "none established"
    return "block", f"licence: {name} does not allow the declared use ({licence.use})"


def _judge_cost(policy: GatePolicy, candidate: GateEvidence, digest: str) -> Judged:
    limit, record = policy.max_cost_usd_per_mtok, candidate.cost
    if record is not None and record.weight_digest != digest:
        fact = f"measured on weights {record.weight_digest}, but the gate is about {digest}"
        raise UnusableEvidence("the cost record", fact, "Measure the weights that the gate names.")
    if limit is None:
        return "pass", ""
    if record is None:
        return "block", f"cost: the policy admits {limit:g} USD per million tokens, and no record"
    words = (
        f"cost: {record.usd_per_mtok:.4g} USD per million tokens ({record.tokens_per_second:.4g} "
        f"tokens/s on {record.machine} at {record.price_usd_per_hour:g} USD an hour, measured "
        f"{record.measured_on}); the policy admits {limit:g}"
    )
    return ("pass" if record.usd_per_mtok <= limit else "block"), words


def _judge_contamination(policy: GatePolicy, candidate: GateEvidence) -> Judged:
    limit = policy.max_contamination
    if limit is None:
        return "pass", ""
    suites = [suite for suite in candidate.suites if policy.judges(suite.record.suite)]
    judged = [_judge_suite(suite, limit) for suite in suites]
    outcomes: list[Outcome] = [outcome for outcome, _ in judged]
    return worst(outcomes or ["block"]), "; ".join(words for _, words in judged)


def _judge_suite(suite: SuiteEvidence, limit: float) -> Judged:
    name, record = suite.record.suite, suite.contamination
    if record is None:
        return "block", f"contamination of {name}: no record"
    if record.suite_sha256 != suite.record.suite_sha256:
        fact = f"it is about the suite {record.suite_sha256}, not {suite.record.suite_sha256}"
        raise UnusableEvidence(f"contamination of {name}", fact, "Evaluate this model again.")
    if not record.training_sets:
        return "cannot_tell", f"contamination of {name}: cannot tell, no training data are known"
    words = (
        f"contamination of {name}: {record.share:.2%} of a task's items at most, the policy admits "
        f"{limit:.2%}"
    )
    return ("pass" if record.share <= limit else "block"), words
