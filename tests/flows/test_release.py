"""The chain's own decisions: order, refusals, what is published, and what a second run costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flows.finetune import finetune
from flows.gate import gate
from flows.nightly_evaluation import nightly_evaluation
from flows.onboard import onboard
from flows.parameters import GateForm, ModelForm, TuningForm, UseForm
from flows.promote import promote
from flows.release import release
from flows.reports import ReleaseReport
from pipelines.errors import (
    ConfigError,
    NameTaken,
    NoCandidatePassed,
    NothingEvaluated,
    NotVerified,
    StageFailed,
    VerdictMissing,
)
from pipelines.models_file import load_models
from pipelines.settings import Settings
from pipelines.store.workspace import open_workspace

REFERENCE = f"file:///toy#sha256={'a' * 64}"
BASE = ModelForm(name="base", reference=REFERENCE)
GOOD = TuningForm(name="good", recipe="lora", dataset="mail")
BAD = TuningForm(name="bad", recipe="lora", dataset="mail")
RULE = GateForm(release="mail")
SUITES = ("smoke",)

pytestmark = pytest.mark.usefixtures("connected")


def run_release(*candidates: TuningForm) -> ReleaseReport:
    return release(base=BASE, candidates=candidates, suites=SUITES, rule=RULE)


def test_passing_candidate_is_promoted_and_the_refused_one_reported(
    toy: Settings, behave: Callable[..., None]
) -> None:
    behave(worse=["bad"])
    report = run_release(BAD, GOOD)
    assert {c.name: c.outcome for c in report.candidates} == {"bad": "refused", "good": "promoted"}
    assert report.candidates[0].reasons == ("toy.yaml says block",)
    assert report.release is not None
    assert (report.release.release, report.release.model) == ("mail", "good")
    with open_workspace(toy) as workspace:
        pin = load_models(workspace.root).gates["good"].baseline
        assert (pin.name, pin.digest) == ("base", report.base.weight_digest)
        assert (workspace.root / "releases" / "mail" / "v1.0.0.json").is_file()
        assert (workspace.root / "evidence" / "good" / "manifest.sig.json").is_file()


def test_second_run_changes_nothing_and_promotes_nothing(
    toy: Settings, behave: Callable[..., None]
) -> None:
    behave(worse=["bad"])
    first = run_release(BAD, GOOD)
    with open_workspace(toy) as workspace:
        before = (workspace.root / "models.yaml").read_bytes()
    second = run_release(BAD, GOOD)
    assert second == first
    with open_workspace(toy) as workspace:
        assert (workspace.root / "models.yaml").read_bytes() == before
        assert not (workspace.root / "releases" / "mail" / "v1.1.0.json").exists()


def test_release_without_a_passing_candidate_fails_with_every_reason(
    behave: Callable[..., None],
) -> None:
    behave(worse=["bad", "good"])
    with pytest.raises(NoCandidatePassed, match=r"bad: toy\.yaml.*good: toy\.yaml"):
        run_release(BAD, GOOD)


def test_candidate_that_is_not_verified_is_refused_and_not_evaluated(
    toy: Settings, behave: Callable[..., None]
) -> None:
    behave(unverified=["bad"])
    report = run_release(BAD, GOOD)
    assert report.candidates[0].outcome == "refused"
    assert "a pickle runs code" in report.candidates[0].reasons[0]
    with open_workspace(toy) as workspace:
        assert not (workspace.root / "evidence" / "bad" / "manifest.sig.json").exists()
        assert "bad-smoke" not in load_models(workspace.root).evaluations


def test_base_that_is_not_verified_ends_the_release(behave: Callable[..., None]) -> None:
    behave(unverified=["base"])
    with pytest.raises(NotVerified, match="a pickle runs code"):
        run_release(GOOD)


def test_stage_says_what_went_wrong_in_its_own_words(behave: Callable[..., None]) -> None:
    behave(broken=["base"])
    with pytest.raises(StageFailed, match=r"^evaluate@base-smoke: the weights do not load"):
        onboard(BASE, SUITES)


def test_run_that_failed_goes_on_where_it_stopped(
    toy: Settings, behave: Callable[..., None]
) -> None:
    behave(broken=["good"])
    with pytest.raises(StageFailed):
        run_release(GOOD)
    with open_workspace(toy) as workspace:
        assert {"finetune@good", "verify@good"} <= workspace.current()


def test_name_that_means_other_weights_is_refused(toy: Settings) -> None:
    onboard(BASE)
    other = ModelForm(name="base", reference=f"file:///other#sha256={'b' * 64}")
    with pytest.raises(NameTaken, match="base"):
        onboard(other)
    with pytest.raises(NameTaken, match="purpose"):
        onboard(BASE, use=UseForm(purpose="research"))


def test_known_model_needs_no_reference_and_a_new_one_does(toy: Settings) -> None:
    digest = onboard(BASE).weight_digest
    assert onboard(ModelForm(name="base"), SUITES).weight_digest == digest
    with pytest.raises(ConfigError, match="no reference"):
        onboard(ModelForm(name="unknown"))


def test_next_candidate_is_compared_with_what_is_in_production(toy: Settings) -> None:
    report = run_release(GOOD)
    assert report.release is not None
    finetune("base", BAD, SUITES)
    verdict = gate("bad", RULE)
    assert (verdict.baseline, verdict.baseline_digest) == ("good", report.release.weight_digest)


def test_model_without_baseline_must_name_one(toy: Settings) -> None:
    onboard(BASE, SUITES)
    with pytest.raises(ConfigError, match="Name the model to compare it with"):
        gate("base", RULE)


def test_promotion_without_a_verdict_is_refused(toy: Settings) -> None:
    onboard(BASE, SUITES)
    with pytest.raises(VerdictMissing):
        promote("base")


def test_night_goes_on_after_a_model_that_fails(toy: Settings, behave: Callable[..., None]) -> None:
    onboard(BASE, SUITES)
    finetune("base", GOOD, SUITES)
    behave(broken=["base"])
    rows = {row.evaluation: row for row in nightly_evaluation()}
    assert rows["base-smoke"].outcome == "failed"
    assert "the weights do not load" in rows["base-smoke"].detail
    assert rows["good-smoke"].outcome == "evaluated"


def test_night_skips_what_is_current(toy: Settings) -> None:
    onboard(BASE, SUITES)
    (row,) = nightly_evaluation()
    assert row.outcome == "current"


def test_night_in_which_everything_failed_is_a_failure(
    toy: Settings, behave: Callable[..., None]
) -> None:
    onboard(BASE, SUITES)
    behave(broken=["base"])
    with pytest.raises(NothingEvaluated, match="base-smoke"):
        nightly_evaluation()


def test_night_of_an_empty_registry_is_a_failure(toy: Settings) -> None:
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        nightly_evaluation()
