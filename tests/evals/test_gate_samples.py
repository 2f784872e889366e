"""The gate on what lm-eval writes: kinds of metrics, filters, times, and folders in disorder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval_samples import flipped, line, outcomes, write

from evals.gate import gate_folders
from pipelines.errors import UnusableEvidence
from pipelines.records import Verdict

Lines = list[dict[str, Any]]


def judged(
    root: Path, candidate: Lines, baseline: Lines, policy: str = "tasks: {'*': {margin: 0.05}}"
) -> Verdict:
    (root / "policy.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "policy.yaml").write_text(f"alpha: 0.05\n{policy}\n")
    folders = write(root / "candidate", candidate), write(root / "baseline", baseline)
    return gate_folders(*folders, root / "policy.yaml")


def with_metric(values: list[Any], metric: str) -> Lines:
    return [line(n, True, (metric,)) | {metric: value} for n, value in enumerate(values)]


def likelihoods(seed: int, loss: float = 0.0) -> list[float]:
    """Log likelihoods of 600 documents of one data set; a model `loss` nats a document worse."""
    documents = -np.random.default_rng(1).gamma(4, 1, size=600)
    noise = np.random.default_rng(seed).normal(0, 0.05, size=600)
    return [min(0.0, float(value)) for value in documents + noise - loss]


def test_perplexity_is_logged_as_a_log_likelihood_and_more_of_that_is_better(
    tmp_path: Path,
) -> None:
    base = with_metric(likelihoods(2), "perplexity")
    worse = with_metric(likelihoods(3, loss=0.3), "perplexity")
    wide = "tasks: {'*': {margin: 0.02}}"
    assert judged(tmp_path / "1", worse, base, wide).outcome == "block"
    verdict = judged(tmp_path / "2", with_metric(likelihoods(3), "perplexity"), base, wide)
    assert verdict.outcome == "pass"
    assert "log perplexity of the candidate" in verdict.tasks[0].reason
    better = judged(tmp_path / "3", base, worse)
    assert better.tasks[0].difference == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("metric", ["word_perplexity", "byte_perplexity", "bits_per_byte"])
def test_weighted_perplexities_are_judged_by_the_mean_that_lm_eval_takes(
    tmp_path: Path, metric: str
) -> None:
    words = np.random.default_rng(4).integers(20, 200, size=600).tolist()

    def logged(seed: int, loss: float = 0.0) -> Lines:
        each = likelihoods(seed, loss)
        return with_metric([[ll * n, n] for ll, n in zip(each, words, strict=True)], metric)

    verdict = judged(tmp_path / "1", logged(3, loss=0.4), logged(2))
    assert verdict.outcome == "block"
    pairs = [entry[metric] for entry in logged(2)]
    per_word = -sum(p[0] for p in pairs) / sum(p[1] for p in pairs)
    wanted = per_word / math.log(2) if metric == "bits_per_byte" else per_word
    assert verdict.tasks[0].baseline == pytest.approx(wanted, abs=1e-5)
    policy = f"tasks: {{capitals: {{margin: 0.02, metric: {metric}}}}}"
    assert judged(tmp_path / "2", logged(3), logged(2), policy).outcome == "pass"


def test_perplexities_of_documents_are_lower_is_better_as_they_stand(tmp_path: Path) -> None:
    base = with_metric([10 + n % 7 / 7 for n in range(600)], "perplexity")
    worse = with_metric([12 + n % 7 / 7 for n in range(600)], "perplexity")
    assert judged(tmp_path, worse, base).outcome == "block"
    mixed = with_metric([-1.0, 3.0], "perplexity")
    with pytest.raises(UnusableEvidence, match="others' are log likelihoods"):
        judged(tmp_path / "2", mixed, mixed)


@pytest.mark.parametrize("value", [[-3.5, 0], [-3.5], [-3.5, "nan"], [float("nan"), 7]])
def test_a_weighted_perplexity_that_is_no_pair_of_numbers_is_refused(
    tmp_path: Path, value: Any
) -> None:
    good = with_metric([[-3.5, 7]] * 5, "word_perplexity")
    bad = with_metric([[-3.5, 7]] * 4 + [value], "word_perplexity")
    with pytest.raises(UnusableEvidence):
        judged(tmp_path, bad, good)


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    base = outcomes(400, 0.7, seed=1)
    other = flipped(base, range(10))
    as_booleans = [{**entry, "acc": bool(entry["acc"])} for entry in other]
    plain = judged(tmp_path / "1", other, base)
    assert judged(tmp_path / "2", as_booleans, base).tasks == plain.tasks


def test_shares_of_an_item_such_as_f1_are_resampled(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    scores = generator.beta(4, 2, size=800)
    near = np.clip(scores + generator.normal(0, 0.05, size=800), 0, 1)
    base = with_metric(scores.tolist(), "f1")
    verdict = judged(tmp_path / "1", with_metric(near.tolist(), "f1"), base)
    assert (verdict.outcome, verdict.tasks[0].method) == ("pass", "paired bootstrap")
    worse = judged(tmp_path / "2", with_metric((near * 0.8).tolist(), "f1"), base)
    assert worse.outcome == "block"


def test_both_filters_of_a_task_are_judged_and_the_policy_may_choose_one(tmp_path: Path) -> None:
    def filtered(strict: Lines, flexible: Lines) -> Lines:
        return [
            {**entry, "filter": name}
            for name, lines in (("strict-match", strict), ("flexible-extract", flexible))
            for entry in lines
        ]

    good = [line(n, n % 3 > 0, ("exact_match",)) for n in range(900)]
    bad = [{**entry, "exact_match": 0.0} for entry in good]
    base = filtered(good, good)
    verdict = judged(tmp_path / "1", filtered(bad, good), base)
    assert {task.task: task.outcome for task in verdict.tasks} == {
        "lm-eval/capitals:exact_match,strict-match": "block",
        "lm-eval/capitals:exact_match,flexible-extract": "pass",
    }
    policy = "tasks: {capitals: {margin: 0.05, metric: 'exact_match,flexible-extract'}}"
    assert judged(tmp_path / "2", filtered(bad, good), base, policy).outcome == "pass"
    with pytest.raises(UnusableEvidence, match="the filter flexible-extract lacks 1 of 900"):
        judged(tmp_path / "3", filtered(good, good[1:]), filtered(good, good[1:]))


def test_items_in_another_place_of_the_file_give_the_same_verdict(tmp_path: Path) -> None:
    base, other = outcomes(400, 0.7, seed=1), outcomes(400, 0.7, seed=2)
    plain = judged(tmp_path / "1", other, base)
    moved = [{**entry, "doc_id": n} for n, entry in enumerate(other[::-1])]
    assert judged(tmp_path / "2", moved, base).tasks == plain.tasks


def test_repeated_documents_count_once(tmp_path: Path) -> None:
    once = outcomes(40, 1.0, seed=1)
    copies = [{**entry, "doc_id": entry["doc_id"] + 40 * n} for n in range(20) for entry in once]
    verdict = judged(tmp_path, copies, copies)
    assert (verdict.outcome, verdict.tasks[0].items) == ("cannot_tell", 40)
    assert "760 items repeat others, and count once" in verdict.reasons[-2]
    assert "byte for byte" in verdict.reasons[-1]
    with pytest.raises(UnusableEvidence, match="different documents"):
        judged(tmp_path / "2", copies, [*copies[:-1], {**once[0], "doc_id": 799}])


def test_slices_and_clusters_are_fields_of_the_documents(tmp_path: Path) -> None:
    lines = [
        {**entry, "doc": {"question": n, "page": n // 10, "language": "de" if n % 2 else "en"}}
        for n, entry in enumerate(outcomes(600, 0.7, seed=1))
    ]
    policy = "tasks: {'*': {margin: 0.1, cluster: page}}\nslices: {language: {}}"
    verdict = judged(tmp_path / "1", lines, lines, policy)
    assert verdict.tasks[0].clusters == 60
    assert [(part.value, part.items) for part in verdict.slices] == [("de", 300), ("en", 300)]
    with pytest.raises(UnusableEvidence, match="groups the task's items by chapter"):
        judged(tmp_path / "2", lines, lines, policy.replace("page", "chapter"))


@pytest.mark.parametrize(("right", "outcome"), [(True, "pass"), (False, "pass")])
def test_all_right_and_all_wrong_pass_on_enough_items_and_cannot_tell_on_one(
    tmp_path: Path, right: bool, outcome: str
) -> None:
    lines = [line(n, right) for n in range(200)]
    assert judged(tmp_path / "1", lines, lines).outcome == outcome
    assert judged(tmp_path / "2", lines[:1], lines[:1]).outcome == "cannot_tell"


def _other_document(lines: Lines) -> None:
    lines[3]["doc"] = {"question": "another under the old hash"}


def _other_target(lines: Lines) -> None:
    lines[3] |= {"target": "1", "target_hash": "e" * 64}


def _no_document_at_all(lines: Lines) -> None:
    del lines[3]["doc"], lines[3]["doc_hash"]


def _other_settings(lines: Lines) -> None:
    lines[3]["arguments"]["gen_args_0"]["arg_1"] = {"max_gen_toks": 9}


def _other_template(lines: Lines) -> None:
    for entry in lines:
        entry["prompt_hash"] = f"{entry['doc_id'] + 7:064x}"


def _no_score(lines: Lines) -> None:
    del lines[3]["acc"]


def _no_id(lines: Lines) -> None:
    lines[3]["doc_id"] = None


def _text(lines: Lines) -> None:
    lines[3]["acc"] = "1.0"


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (_other_document, "different documents"),
        (_other_target, "1 documents have another right answer"),
        (_no_document_at_all, "no hash of the document"),
        (_other_settings, "1 documents were given with other prompts"),
        (_other_template, "100 documents were given with other prompts"),
        (_no_score, "its acc is None"),
        (_no_id, "line 4 has no doc_id"),
        (_text, "its acc is '1.0'"),
    ],
)
def test_samples_of_other_items_or_without_their_identity_are_refused(
    tmp_path: Path, change: Callable[[Lines], None], fact: str
) -> None:
    lines = outcomes(100, 0.7, seed=2)
    change(lines)
    with pytest.raises(UnusableEvidence, match=fact):
        judged(tmp_path, lines, outcomes(100, 0.7, seed=1))


@pytest.mark.parametrize(
    "time", ["2026-11-22T10-00-00.123456", "2026-11-22T10:00:00", "20261122T100000Z", "1763805600"]
)
def test_the_time_in_a_name_is_no_part_of_the_task(tmp_path: Path, time: str) -> None:
    (tmp_path / "policy.yaml").write_text("alpha: 0.05\ntasks: {mmlu_law: {margin: 0.05}}\n")
    for name, seed in (("candidate", 1), ("baseline", 2)):
        folder = write(tmp_path / name, outcomes(100, 0.7, seed=seed))
        (path,) = folder.rglob("*.jsonl")
        path.rename(path.with_name(f"samples_mmlu_law_{time}.jsonl"))
    folders = tmp_path / "candidate", tmp_path / "baseline"
    verdict = gate_folders(*folders, tmp_path / "policy.yaml")
    assert verdict.tasks[0].task == "lm-eval/mmlu_law"


def test_samples_without_a_list_of_metrics_are_read_by_the_names_that_are_known(
    tmp_path: Path,
) -> None:
    base = [{k: v for k, v in entry.items() if k not in ("metrics", "filter")}
            for entry in outcomes(300, 0.7, seed=1)]  # fmt: skip
    assert judged(tmp_path, base, base).tasks[0].outcome == "pass"


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ({"n-samples": {"capitals": {"effective": 100}, "rivers": {"effective": 9}}},
         "counts items of rivers, and there is no file"),
        ({"results": {"capitals": {"acc,none": float("nan")}}}, "acc,none is nan"),
        ({"versions": {"capitals": 2}}, "the task definition differs: candidate version 2"),
    ],
)  # fmt: skip
def test_results_that_contradict_the_samples_are_refused(
    tmp_path: Path, said: dict[str, Any], fact: str
) -> None:
    name = "results_2026-11-22T10-00-00.123456.json"
    for model in ("candidate", "baseline"):
        (tmp_path / model).mkdir()
    (tmp_path / "candidate" / name).write_text(json.dumps(said))
    (tmp_path / "baseline" / name).write_text(json.dumps({"versions": {"capitals": 1}}))
    with pytest.raises(UnusableEvidence, match=fact):
        judged(tmp_path, outcomes(100, 0.7, seed=1), outcomes(100, 0.7, seed=2))


def test_the_files_of_two_models_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "candidate").mkdir()
    for name in ("one", "other"):
        path = tmp_path / "candidate" / f"results_{name}.json"
        path.write_text(json.dumps({"model_name": name}))
    with pytest.raises(UnusableEvidence, match="results of 2 models: one, other"):
        judged(tmp_path, outcomes(100, 0.7, seed=1), outcomes(100, 0.7, seed=2))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "broken", outcomes(10, 0.7, seed=1))
    (path,) = folder.rglob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"doc_id": 10, "doc": "\xff\xfe"}\n')
    (tmp_path / "policy.yaml").write_text("alpha: 0.05\ntasks: {'*': {margin: 0.05}}\n")
    other = write(tmp_path / "other", outcomes(10, 0.7, seed=2))
    with pytest.raises(UnusableEvidence, match="line 11 is not JSON"):
        gate_folders(folder, other, tmp_path / "policy.yaml")


def test_an_answer_that_reads_nan_is_an_answer(tmp_path: Path) -> None:
    lines = [{**entry, "resps": [["nan"]]} for entry in outcomes(300, 0.7, seed=1)]
    assert judged(tmp_path, lines, lines).outcome == "pass"
