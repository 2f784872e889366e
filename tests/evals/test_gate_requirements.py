"""What a policy asks for beside scores: absence blocks, records of other bytes are refused."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gate_evidence import BASELINE, CANDIDATE, SMALLEST, Model, config, digest, twins

from evals.contamination import ContaminationRecord, SeenSet, TaskOverlap
from evals.costs import CostRecord
from evals.gate import gate
from pipelines.canonical import write_record
from pipelines.errors import ConfigError, UnusableEvidence
from pipelines.records import LicenceDecision, Verdict

PRICED = SMALLEST | {"max_cost_usd_per_mtok": 0.5}
COST: dict[str, Any] = {
    "weight_digest": CANDIDATE,
    "engine": "vllm 0.32.0",
    "machine": "1 x H100",
    "price_usd_per_hour": 3.6,
    "price_source": "price list of 2026-11-01",
    "prompt_tokens": 2_000_000,
    "generated_tokens": 1_000_000,
    "seconds": 1_000.0,
    "measured_on": date(2026, 11, 20),
    "measurement_sha256": digest("batch manifest"),
}


def decided(
    root: Path,
    policy: dict[str, Any],
    models: tuple[Model, Model] | None = None,
    cost: dict[str, Any] | None = None,
    overlap: ContaminationRecord | None = None,
) -> Verdict:
    candidate, baseline = models or twins()
    folders = candidate.write(root), baseline.write(root)
    if cost is not None:
        (root / "costs").mkdir()
        write_record(root / "costs" / "tuned.json", CostRecord(**cost))
    if overlap is not None:
        write_record(folders[0] / "evaluations" / "general" / "contamination.json", overlap)
    return gate(config(policy), *folders, root / "verdict")


def seen(share: int, *, sets: int = 1, suite: str = "general") -> ContaminationRecord:
    """A record in which `share` of 100 items were found."""
    found = TaskOverlap(
        task="hellaswag",
        items=100,
        short_items=0,
        overlapping={f"item {n}": 1.0 for n in range(share)},
    )
    trained = tuple(SeenSet(name=f"set {n}", sha256=digest("data"), rows=9) for n in range(sets))
    return ContaminationRecord(
        suite_sha256=digest(suite), words=13, training_sets=trained, tasks=(found,)
    )


def test_a_cost_is_the_price_of_an_hour_over_the_tokens_of_an_hour() -> None:
    cost = CostRecord(**COST)
    assert cost.tokens_per_second == 3_000
    assert cost.usd_per_mtok == pytest.approx(3.6 / (3_000 * 3_600 / 1e6))


def test_a_cost_within_the_limit_passes_and_is_named_with_its_machine(tmp_path: Path) -> None:
    verdict = decided(tmp_path, PRICED, cost=COST)
    assert verdict.outcome == "pass"
    assert verdict.requirements.cost_measured_on == date(2026, 11, 20)
    assert "0.3333 USD per million tokens (3000 tokens/s on 1 x H100" in verdict.reasons[-1]


def test_a_cost_above_the_limit_or_without_a_record_blocks(tmp_path: Path) -> None:
    dear = decided(tmp_path / "1", PRICED, cost=COST | {"price_usd_per_hour": 36.0})
    assert (dear.outcome, "3.333 USD" in dear.reasons[-1]) == ("block", True)
    absent = decided(tmp_path / "2", PRICED)
    assert (absent.outcome, "no record" in absent.reasons[-1]) == ("block", True)
    assert decided(tmp_path / "3", SMALLEST).outcome == "pass"


def test_a_cost_of_other_weights_or_of_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableEvidence, match="measured on weights"):
        decided(tmp_path / "1", PRICED, cost=COST | {"weight_digest": BASELINE})
    (tmp_path / "2" / "costs").mkdir(parents=True)
    (tmp_path / "2" / "costs" / "tuned.json").write_text('{"kind": "cost", "seconds": 0}')
    with pytest.raises(ConfigError, match="not a CostRecord"):
        decided(tmp_path / "2", PRICED)


def test_a_licence_that_does_not_allow_the_use_blocks_though_the_finding_was_waived(
    tmp_path: Path,
) -> None:
    policy = SMALLEST | {"licence": "allowed"}
    assert decided(tmp_path / "1", policy).outcome == "pass"
    candidate, baseline = twins()
    refused = LicenceDecision(
        family="Llama", spdx="", use="commercial", allowed=False, source="licences.json"
    )
    candidate.verification = {"licence": refused}
    verdict = decided(tmp_path / "2", policy, (candidate, baseline))
    assert verdict.outcome == "block"
    assert verdict.reasons[-1] == "licence: Llama does not allow the declared use (commercial)"
    candidate.verification = None
    assert decided(tmp_path / "3", policy, (candidate, baseline)).outcome == "block"


@pytest.mark.parametrize(
    ("overlap", "outcome"),
    [(seen(2), "pass"), (seen(3), "block"), (None, "block"), (seen(0, sets=0), "cannot_tell")],
)
def test_contamination_is_held_against_its_limit(
    tmp_path: Path, overlap: ContaminationRecord | None, outcome: str
) -> None:
    verdict = decided(tmp_path, SMALLEST | {"max_contamination": 0.02}, overlap=overlap)
    assert verdict.outcome == outcome
    assert "contamination of general" in verdict.reasons[-1]


def test_contamination_of_another_suite_is_refused(tmp_path: Path) -> None:
    policy = SMALLEST | {"max_contamination": 0.02}
    with pytest.raises(UnusableEvidence, match="it is about the suite"):
        decided(tmp_path, policy, overlap=seen(0, suite="another version"))
