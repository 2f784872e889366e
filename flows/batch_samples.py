"""What `weighbridge batch plan` and `--dry-run` show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows import console

if TYPE_CHECKING:
    from pipelines.batch.records import JobPlan
    from pipelines.batch.throughput import Estimate, Interval

_NOT_MEASURED = "not known: no job of these weights was measured on this machine yet"


def plan_facts(made: JobPlan, expected: Estimate | None) -> dict[str, object]:
    """A plan as facts, with what it may take."""
    facts: dict[str, object] = {
        "documents": made.documents,
        **{f"documents of {kind}": count for kind, count in made.media_types.items() if kind},
        **{f"documents in {code}": count for code, count in made.languages.items()},
        "duplicate documents": made.duplicate_documents,
        "documents not asked to their end": made.cut_documents,
        "rows": made.rows,
        **_combining(made),
        "rows copied from others": made.rows - made.shards[made.first_copy_shard - 1].stop,
        "rows that cannot be asked": sum(made.planned_errors.values()),
        "prompt tokens": made.prompt_tokens,
        "longest prompt in tokens": made.longest_prompt_tokens,
        "answer tokens, at most": made.most_completion_tokens,
        "shards": len(made.shards),
    }
    if expected is None:
        return {**facts, "time and cost": _NOT_MEASURED}
    facts["answer tokens, estimated"] = _told(expected.completion_tokens)
    facts["minutes, estimated"] = _told(expected.seconds, 60)
    facts["US dollars, estimated"] = _told(expected.usd) if expected.usd else "no price is set"
    facts["estimated from"] = f"{expected.jobs} past jobs on {expected.engine}"
    return facts


def _combining(made: JobPlan) -> dict[str, object]:
    """What a plan says of rows that combine chunks, where there are any."""
    if not made.reduced_rows:
        return {}
    tokens = "their prompt tokens, at most"
    return {"rows that combine chunks": made.reduced_rows, tokens: made.reduced_prompt_tokens}


def show(job: str, registry: Path | None, *, answers: bool, json: bool) -> None:
    """Print the rows of a dry run; with `answers` an engine is started for them."""
    from flows.batch_model import answering
    from pipelines.batch.dry_run import dry_run
    from pipelines.batch.taking_up import named_job
    from pipelines.settings import load_settings

    settings, request = load_settings(registry), named_job(job)
    with answering(settings, request.model, request.adapter) as model:
        samples = dry_run(request, model, answers=answers)
    data = [sample.model_dump(mode="json") for sample in samples]
    columns = ["row", "prompt", "tokens", "answer" if answers else "error"]
    rows = [[s.id, s.prompt, str(s.prompt_tokens), s.error or (s.answer or "")] for s in samples]
    title = f"Dry run of {request.name}: nothing was written"
    console.show_table(title, columns, rows, {"samples": data}, json)


def _told(interval: Interval, unit: float = 1) -> str:
    likely, least, most = (v / unit for v in (interval.likely, interval.least, interval.most))
    return f"{likely:.4g} ({least:.4g} to {most:.4g})"
