"""One side of `evaluation_overhead`, in a process of its own, so that all its CPU time counts."""

from __future__ import annotations

from typing import Any

from benchmarks.evaluation_overhead import Turn
from evals.suites import load_suite
from pipelines.subprocesses import serve


def answer(body: bytes) -> Any:
    """Run one side; what it found is not compared here, the tests do that."""
    turn = Turn.model_validate_json(body)
    turn.scratch.mkdir(parents=True, exist_ok=True)
    if turn.side == "weighbridge":
        _ours(turn)
    else:
        _theirs(turn)
    return turn.side


def _ours(turn: Turn) -> None:
    from evals.scoring import ScoringConfig, score
    from evals.suites import suite_digest
    from pipelines.digest import build_manifest, weight_digest
    from pipelines.template import template_sha256

    config = ScoringConfig(
        name="benchmark",
        weight_digest=weight_digest(build_manifest(turn.weights)),
        template_sha256=template_sha256(turn.weights),
        suite_name="benchmark",
        suite_sha256=suite_digest(turn.suite),
        code_digest="0" * 64,
        engine="transformers",
    )
    score(config, turn.weights, turn.suite, turn.scratch / "out", turn.scratch / "blocks")


def _theirs(turn: Turn) -> None:
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    suite = load_suite(turn.suite)
    model = HFLM(
        pretrained=str(turn.weights),
        backend="causal",
        dtype=suite.dtype,
        softmax_dtype="float32",
        max_length=suite.max_length,
        batch_size=suite.batch_size,
        device="cpu",
    )
    tracker = EvaluationTracker(output_path=str(turn.scratch / "out"))
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=list(suite.tasks),
        task_manager=TaskManager(include_path=str(turn.tasks), include_defaults=False),
        apply_chat_template=True,
        log_samples=True,
        evaluation_tracker=tracker,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in suite.tasks:
        tracker.save_results_samples(task_name=task, samples=samples[task])


if __name__ == "__main__":
    serve(answer)
