"""The chain's own decisions: order, refusals, what is published, and what a second run costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from toy_registry import behave, copied

from flows.finetune import finetune
from flows.gate import choose_baseline, gate
from flows.night_history import NightRow
from flows.nightly_evaluation import nightly_evaluation
from flows.onboard import onboard
from flows.parameters import GateForm, ModelForm, TuningForm, UseForm
from flows.promote import promote
from flows.release import release
from flows.reports import ReleaseReport
from flows.server import PrefectServer
from pipelines.errors import (
    ConfigError,
    NameTaken,
    NoCandidatePassed,
    NothingEvaluated,
    NotVerified,
    StageFailed,
    VerdictMissing,
)
from pipelines.models_file import Baseline, load_models
from pipelines.settings import Settings
from pipelines.store.workspace import open_workspace

REFERENCE = f"file:///toy#sha256={'a' * 64}"
BASE = ModelForm(name="base", reference=REFERENCE)
GOOD = TuningForm(name="good", recipe="lora", dataset="mail")
BAD = TuningForm(name="bad", recipe="lora", dataset="mail")
RULE = GateForm(release="mail")
SUITES = ("smoke",)

pytestmark = pytest.mark.usefixtures("connected")


class Released(NamedTuple):
    """A registry in which the release flow has run once, with one bad and one good candidate."""

    base: Path
    report: ReleaseReport


def run_release(*candidates: TuningForm) -> ReleaseReport:
    return release(base=BASE, candidates=candidates, suites=SUITES, rule=RULE)


def night(*models: str) -> dict[str, NightRow]:
    # Called, a flow returns the data of the state that it returned.
    rows = cast("tuple[NightRow, ...]", nightly_evaluation(models))
    return {row.evaluation: row for row in rows}


@pytest.fixture(scope="module")
def released_template(
    toy_template: Path, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Released]:
    base = tmp_path_factory.mktemp("released") / "toy"
    with pytest.MonkeyPatch.context() as patch, prefect_server.connected():
        behave(copied(toy_template, base, patch), "worse", "bad")
        yield Released(base, run_release(BAD, GOOD))


@pytest.fixture
def released(
    released_template: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    return copied(released_template.base, tmp_path / "toy", monkeypatch)


def test_passing_candidate_is_promoted_and_the_refused_one_reported(
    released_template: Released, released: Settings
) -> None:
    report = released_template.report
    assert {c.name: c.outcome for c in report.candidates} == {"bad": "refused", "good": "promoted"}
    assert report.candidates[0].reasons == ("toy says block",)
    assert report.release is not None
    assert (report.release.release, report.release.model) == ("mail", "good")
    with open_workspace(released) as workspace:
        pin = load_models(workspace.root).gates["good"].baseline
        assert pin == Baseline(name="base", digest=report.base.weight_digest)
        assert (workspace.root / "releases" / "mail" / "v1.0.0.json").is_file()
        assert (workspace.root / "evidence" / "good" / "manifest.sig.json").is_file()


def test_second_run_changes_nothing_and_promotes_nothing(
    released_template: Released, released: Settings
) -> None:
    with open_workspace(released) as workspace:
        before = (workspace.root / "models.yaml").read_bytes()
    assert run_release(BAD, GOOD) == released_template.report
    with open_workspace(released) as workspace:
        assert (workspace.root / "models.yaml").read_bytes() == before
        assert not (workspace.root / "releases" / "mail" / "v1.1.0.json").exists()


def test_release_without_a_passing_candidate_fails_with_every_reason(released: Settings) -> None:
    behave(released, "worse", "bad", "good")
    with pytest.raises(NoCandidatePassed, match=r"bad: toy says.*good: toy says"):
        run_release(BAD, GOOD)


def test_candidate_that_is_not_verified_is_refused_in_the_report(released: Settings) -> None:
    behave(released, "unverified", "bad")
    report = run_release(BAD, GOOD)
    assert report.candidates[0].outcome == "refused"
    assert "a pickle runs code" in report.candidates[0].reasons[0]


def test_model_that_is_not_verified_is_neither_signed_nor_evaluated(toy: Settings) -> None:
    behave(toy, "unverified", "base")
    with pytest.raises(NotVerified, match="a pickle runs code"):
        onboard(BASE, SUITES)
    with open_workspace(toy) as workspace:
        assert not (workspace.root / "evidence" / "base" / "manifest.sig.json").exists()
        assert load_models(workspace.root).evaluations == {}


def test_run_that_failed_leaves_the_stages_that_it_finished(released: Settings) -> None:
    behave(released, "broken", "next")
    tuning = TuningForm(name="next", recipe="lora", dataset="mail")
    with pytest.raises(StageFailed, match=r"^evaluate@next-smoke: the weights do not load"):
        finetune("base", tuning, SUITES)
    with open_workspace(released) as workspace:
        assert {"finetune@next", "verify@next"} <= workspace.current()


def test_name_that_means_other_weights_is_refused(released: Settings) -> None:
    other = ModelForm(name="base", reference=f"file:///other#sha256={'b' * 64}")
    with pytest.raises(NameTaken, match="base"):
        onboard(other)
    with pytest.raises(NameTaken, match="purpose"):
        onboard(BASE, use=UseForm(purpose="research"))


def test_known_model_needs_no_reference(released_template: Released, released: Settings) -> None:
    known = onboard(ModelForm(name="base"), SUITES)
    assert known == released_template.report.base


def test_new_model_needs_a_reference(released: Settings) -> None:
    with pytest.raises(ConfigError, match="no reference"):
        onboard(ModelForm(name="unknown"))


def test_new_candidate_is_compared_with_what_is_in_production(
    released_template: Released, released: Settings
) -> None:
    promoted = released_template.report.release
    assert promoted is not None
    with open_workspace(released) as workspace:
        chosen = choose_baseline(workspace, "base", RULE)
        assert chosen == Baseline(name="good", digest=promoted.weight_digest)
        named = choose_baseline(workspace, "base", RULE.model_copy(update={"baseline": "bad"}))
        assert named.name == "bad"


def test_pin_of_what_was_promoted_does_not_become_itself(released: Settings) -> None:
    with open_workspace(released) as workspace:
        assert choose_baseline(workspace, "good", RULE).name == "base"


def test_model_without_any_baseline_must_name_one(released: Settings) -> None:
    with pytest.raises(ConfigError, match="Name the model to compare it with"):
        gate("base", GateForm(release="another-line"))


def test_pin_that_moves_makes_the_verdict_be_given_again(released: Settings) -> None:
    verdict = gate("good", GateForm(release="mail", baseline="bad"))
    assert verdict.baseline == "bad"


def test_promotion_without_a_verdict_is_refused(released: Settings) -> None:
    with pytest.raises(VerdictMissing):
        promote("base")


def test_night_skips_what_is_current(released: Settings) -> None:
    assert {row.outcome for row in night().values()} == {"current"}


def test_night_goes_on_after_a_model_that_fails(released: Settings) -> None:
    behave(released, "broken", "base")
    rows = night("base", "good")
    assert rows["base-smoke"].outcome == "failed"
    assert "the weights do not load" in rows["base-smoke"].detail
    assert rows["good-smoke"].outcome == "evaluated"


def test_night_in_which_everything_failed_is_a_failure(released: Settings) -> None:
    behave(released, "broken", "base")
    with pytest.raises(NothingEvaluated, match="base-smoke"):
        night("base")


def test_night_of_an_empty_registry_is_a_failure(toy: Settings) -> None:
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        night()
