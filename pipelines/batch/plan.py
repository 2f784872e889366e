"""Plan: fix the input order, count tokens, find what cannot work; no engine is started."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from pipelines.batch.corpus import read_documents
from pipelines.batch.destinations import EgressRules
from pipelines.batch.egress import sending_store
from pipelines.batch.engine_choice import choose_engine
from pipelines.batch.grammar import grammar_notes
from pipelines.batch.identity import CorpusDigest, differing, job_id, question_identity
from pipelines.batch.job import BatchJob, is_s3
from pipelines.batch.layout import JOB, JOURNAL, PLANS, plan_name
from pipelines.batch.listing import Listing
from pipelines.batch.output_schema import OutputSchema, loose_ends
from pipelines.batch.pooling import pooled
from pipelines.batch.prompt import PromptBuilder, names_id, prompt_sha256, reduce_prompt
from pipelines.batch.records import JobPlan, ModelOnDisk, PlannedShard
from pipelines.batch.rows import planned_parquet
from pipelines.batch.store import OutputStore
from pipelines.batch.taking_up import is_recalled_as, load_plan
from pipelines.batch.tokens import ModelTokenizer, context_length
from pipelines.batch.unchanged import fingerprint, remember
from pipelines.canonical import record_bytes, sha256_bytes
from pipelines.errors import (
    ConfigError,
    DigestMismatch,
    DuplicateIds,
    EmptyCorpus,
    OutputNotEmpty,
    OutputOfAnotherJob,
    TooManyErrors,
)
from pipelines.template import template_sha256


def plan(job: BatchJob, model: ModelOnDisk, egress: EgressRules | None = None) -> JobPlan:
    """Plan a job, or return the plan that its output location already holds.

    Reads the corpus once, in memory that does not depend on its size, and counts tokens with the
    model's tokenizer. Raises, before anything is written, DestinationRefused, EmptyCorpus,
    DuplicateIds, ConfigError (prompt, schema or lengths that cannot work), WrongKindOfPath,
    DigestMismatch (another chat template than was verified), TooManyErrors (rows that fail
    already), OutputNotEmpty, and OutputOfAnotherJob when the location holds a job that would give
    other results.
    """
    store = sending_store(job, egress or EgressRules())
    store = sending_store(job, egress or EgressRules())
    _check_paths(job)
    length = _max_model_len(job, model)
    _grammar(job, model)
    question = question_identity(job, model, length)
    existing = load_plan(store)
    if existing is not None:
        return _same_job(store, existing, question, job)
    _check_empty(store)
    looked = fingerprint(job.corpus)
    tokenizer = ModelTokenizer(model.weights, chat=job.task == "generate")
    if (template := template_sha256(model.weights)) != model.template_sha256:
        raise DigestMismatch(f"chat template of {model.name}", model.template_sha256, template)
    builder = PromptBuilder(job.prompt, tokenizer)
    _check_duplicates(job)
    with tempfile.TemporaryDirectory(prefix="weighbridge-plan-") as folder:
        listing = Listing(job, tokenizer, builder, length)
        shards = _spool(listing, Path(folder), job.shard_rows)
        _check_listing(job, listing)
        made = _assemble(job, model, listing, question, shards)
        for index in range(len(shards)):
            store.replace(plan_name(made.job_id, index), Path(folder, str(index)).read_bytes())
    if store.create(JOB, record_bytes(made)):
        remember(job.corpus, looked, made.identity["corpus"])
        return made
    winner = load_plan(store)  # another planner was first
    assert winner is not None
    return _same_job(store, winner, question, job)


def _same_job(
    store: OutputStore, existing: JobPlan, question: dict[str, str], job: BatchJob
) -> JobPlan:
    """`existing` if it is this job. The corpus is listed only when all else agrees."""
    parts = differing(question, existing.identity)
    if parts and not is_recalled_as(store, {**existing.identity, **question}):
        raise OutputOfAnotherJob(store.location, parts)
    looked, digest = fingerprint(job.corpus), CorpusDigest(job.corpus)
    for document in read_documents(job.corpus, Counter(), text=False):
        digest.add(document)
    if digest.hexdigest() != existing.identity["corpus"]:
        raise OutputOfAnotherJob(store.location, ["corpus"])
    remember(job.corpus, looked, digest.hexdigest())
    return existing


def _check_paths(job: BatchJob) -> None:
    if is_s3(job.output) or is_s3(job.corpus.path):
        return
    corpus, output = Path(job.corpus.path).resolve(), Path(job.output).resolve()
    if output == corpus or corpus in output.parents:
        raise ConfigError(
            "output", f"{output} lies within the corpus", "Results would become documents: move it."
        )


def _grammar(job: BatchJob, model: ModelOnDisk) -> tuple[str, ...]:
    """What is to be said of the schema, by the engine that will run."""
    OutputSchema(job.output_schema)  # first: it says what is no schema at all
    is_held = choose_engine(job, model).backend == "vllm"
    return grammar_notes(job.output_schema, is_held=is_held)


def _check_duplicates(job: BatchJob) -> None:
    if job.duplicates == "answer_once" and job.prompt.template and names_id(job.prompt):
        raise ConfigError(
            "duplicates",
            "answer_once, and the prompt names the document's id: no two ask the same",
            "Leave id out of prompt.template, or answer_each.",
        )


def _max_model_len(job: BatchJob, model: ModelOnDisk) -> int:
    """The context length in tokens, asked for or the model's own."""
    own, asked = context_length(model.weights), job.engine.max_model_len
    length = asked or own
    if length is None:
        raise ConfigError(
            "engine.max_model_len", f"{model.name} does not say its context length", "Give one."
        )
    if own is not None and length > own:
        raise ConfigError(
            "engine.max_model_len", f"{length} tokens, but {model.name} takes {own}", "Lower it."
        )
    if job.answer_tokens >= length:
        raise ConfigError(
            "sampling.max_tokens",
            f"{job.answer_tokens} tokens leave no room for a prompt in {length}",
            "Lower it.",
        )
    return length


def _check_empty(store: OutputStore) -> None:
    """Raises OutputNotEmpty unless all there is was left by a planner that was killed."""
    for name in store.names():
        if not name.startswith((PLANS, JOURNAL)):
            raise OutputNotEmpty(store.location, name)


def _spool(listing: Listing, folder: Path, shard_rows: int) -> tuple[PlannedShard, ...]:
    """Write each shard of the plan to `folder`; the job's id is known only afterwards."""
    shards: list[PlannedShard] = []
    for rows in listing.shards(shard_rows):
        data = planned_parquet(rows)
        Path(folder, str(len(shards))).write_bytes(data)
        start = rows[0].row
        shards.append(PlannedShard(start=start, stop=start + len(rows), sha256=sha256_bytes(data)))
    return tuple(shards)


def _check_listing(job: BatchJob, listing: Listing) -> None:
    if not listing.documents:
        raise EmptyCorpus(job.corpus.path, listing.ignored)
    if listing.twice:
        raise DuplicateIds(job.corpus.path, listing.twice)
    listing.check_fields()
    if sum(listing.errors.values()) > job.limits.max_error_rate * listing.rows:
        raise TooManyErrors(job.name, listing.errors, listing.rows, listing.example)


def _assemble(
    job: BatchJob,
    model: ModelOnDisk,
    listing: Listing,
    question: dict[str, str],
    shards: tuple[PlannedShard, ...],
) -> JobPlan:
    identity = {**question, "corpus": listing.digest.hexdigest()}
    return JobPlan(
        job_id=job_id(identity),
        identity=identity,
        job=job,
        output_schema=OutputSchema(job.output_schema).text,
        model=model.name,
        weight_digest=model.weight_digest,
        template_sha256=model.template_sha256,
        prompt_sha256=prompt_sha256(job.prompt),
        adapter_digest=model.adapter_digest,
        prompt_form="chat" if model.template_sha256 and job.task == "generate" else "text",
        pooled=pooled(job.task, model.weights),
        max_model_len=int(question["context length"]),
        documents=listing.documents,
        duplicate_documents=listing.duplicates,
        cut_documents=listing.cut,
        ignored_files=dict(sorted(listing.ignored.items())),
        media_types=dict(sorted(listing.media_types.items())),
        languages=dict(sorted(listing.languages.items())),
        rows=listing.rows,
        planned_errors=dict(sorted(listing.errors.items())),
        prompt_tokens=listing.prompt_tokens,
        longest_prompt_tokens=listing.longest,
        estimated_prompts=listing.estimated,
        most_completion_tokens=listing.most_completion_tokens,
        request_url=listing.request_url,
        first_reduced_shards=tuple(
            sum(shard.start < first for shard in shards) for first in listing.rounds
        ),
        reduced_prompt_tokens=listing.reduced_prompt_tokens,
        reduce_sha256=prompt_sha256(reduce_prompt(job.prompt, job.reduce)) if job.reduce else "",
        first_copy_shard=sum(shard.start < listing.originals for shard in shards),
        notes=(
            *choose_engine(job, model).notes(),
            *_grammar(job, model),
            *listing.notes(),
            *loose_ends(job.output_schema),
        ),
        shards=shards,
    )
