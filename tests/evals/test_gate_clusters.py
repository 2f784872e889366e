"""Items that depend on each other: whole clusters are resampled, and few of them cannot tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gate_evidence import SMALLEST, answers, models, run

from evals.comparison import compare
from evals.judgement import judge
from evals.pairing import PairedTask
from evals.policy import TaskRule
from evals.resampling import by_cluster, independent_units, paired_bootstrap, standard_error
from evals.statistics import Floats
from pipelines.errors import ConfigError, UnusableEvidence

ALPHA = 0.05


def paired(candidate: Floats, baseline: Floats, clusters: list[str] | None) -> PairedTask:
    return PairedTask(
        task="own/triage",
        metric="acc",
        higher_is_better=True,
        candidate=candidate,
        baseline=baseline,
        clusters=None if clusters is None else tuple(clusters),
    )


def drawn(
    generator: np.random.Generator, clusters: int, size: int, loss: float, dependent: float
) -> PairedTask:
    """A model `loss` worse, whose losses fall on whole clusters in a share `dependent` of cases."""
    shared = np.repeat(generator.random(clusters), size)
    own = generator.random(clusters * size)
    chance = np.where(np.repeat(generator.random(clusters), size) < dependent, shared, own)
    gained, lost = chance < (0.1 - loss) / 2, chance > 1 - (0.1 + loss) / 2
    baseline = np.where(lost, 1.0, np.where(gained, 0.0, 0.5))
    candidate = np.where(lost, 0.0, np.where(gained, 1.0, 0.5))
    # What both answer alike is wrong for both: only the difference counts.
    names = [str(n // size) for n in range(clusters * size)]
    return paired(np.floor(candidate), np.floor(baseline), names)


def test_whole_clusters_are_as_many_items_as_there_are_clusters() -> None:
    gains = np.repeat(np.random.default_rng(1).normal(size=40), 10)
    clusters = [f"{n // 10:02}" for n in range(400)]
    together = paired_bootstrap(gains, np.zeros(400), clusters)
    alone = paired_bootstrap(gains[::10], np.zeros(40))
    assert together.interval(ALPHA) == pytest.approx(alone.interval(ALPHA), abs=1e-12)
    assert together.units == 40
    seen = compare(paired(gains, np.zeros(400), clusters), ALPHA)
    assert seen.clusters == 40
    assert seen.effective_items == pytest.approx(40, rel=0.03)


def test_unequal_clusters_are_worth_fewer_equal_ones() -> None:
    sums, sizes = by_cluster(np.ones(6), ["a", "a", "a", "a", "b", "c"])
    assert sizes.tolist() == sums.tolist() == [4, 1, 1]
    assert independent_units(sizes) == pytest.approx(36 / 18)
    assert standard_error(sums, sizes) == 0.0
    assert standard_error(sums[:1], sizes[:1]) == 0.0


def test_clusters_of_one_item_change_nothing() -> None:
    candidate, baseline = np.array(answers(300, range(150))), np.array(answers(300, range(5, 155)))
    one_each = paired(candidate, baseline, [str(n) for n in range(300)])
    rule = TaskRule(margin=0.05)
    assert judge(one_each, rule, ALPHA) == judge(paired(candidate, baseline, None), rule, ALPHA)


def test_few_clusters_cannot_tell_however_many_items_they_hold() -> None:
    same = np.ones(2_000)
    verdict = judge(paired(same, same, [str(n % 20) for n in range(2_000)]), TaskRule(margin=0.05),
                    ALPHA)  # fmt: skip
    assert verdict.outcome == "cannot_tell"
    assert (verdict.items, verdict.clusters, verdict.mcnemar_p) == (2_000, 20, None)
    assert "2000 items in 20 clusters (worth 20 independent items) see 0.130 at best" in (
        verdict.reason
    )
    assert judge(paired(same, same, None), TaskRule(margin=0.05), ALPHA).outcome == "pass"


def test_one_cluster_cannot_tell() -> None:
    scores = np.array(answers(500, range(400)))
    verdict = judge(paired(scores, scores, ["all"] * 500), TaskRule(margin=0.5), ALPHA)
    assert verdict.outcome == "cannot_tell"
    assert np.isfinite(verdict.interval).all()


def test_a_model_at_the_margin_passes_at_most_about_alpha_where_items_cluster() -> None:
    generator = np.random.default_rng(17)
    passed = {True: 0, False: 0}
    for _ in range(150):
        task = drawn(generator, clusters=80, size=10, loss=0.05, dependent=0.8)
        for clustered in passed:
            clusters = list(task.clusters or ()) if clustered else None
            seen = compare(paired(task.candidate, task.baseline, clusters), ALPHA)
            passed[clustered] += seen.test(-0.05).shown
    assert passed[True] / 150 <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / 150)
    assert passed[False] / 150 > 0.12  # what the clusters are there for


def test_items_of_a_suite_carry_their_clusters_into_the_verdict(tmp_path: Path) -> None:
    candidate, baseline = models(answers(300, range(150)), answers(300, range(150)))
    for model in (candidate, baseline):
        model.suites["general"]["hellaswag"] = [
            i._replace(cluster=f"page {i.doc_id // 30}")
            for i in model.suites["general"]["hellaswag"]
        ]
    verdict = run(tmp_path / "1", candidate, baseline)
    assert (verdict.outcome, verdict.tasks[0].clusters) == ("cannot_tell", 10)
    first, *rest = candidate.suites["general"]["hellaswag"]
    candidate.suites["general"]["hellaswag"] = [first._replace(cluster="page 9"), *rest]
    with pytest.raises(UnusableEvidence, match="in other slices or another cluster"):
        run(tmp_path / "2", candidate, baseline)


def test_a_registry_leaves_the_cluster_to_its_suites(tmp_path: Path) -> None:
    policy = SMALLEST | {"tasks": {"*": {"margin": 0.02, "cluster": "page"}}}
    models_ = models(answers(300, range(150)), answers(300, range(150)))
    with pytest.raises(ConfigError, match="cluster is for folders of lm-eval's samples"):
        run(tmp_path, *models_, policy)
