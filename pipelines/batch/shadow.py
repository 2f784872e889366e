"""Shadow runs: a candidate answers a sample of what production answered, and the two are compared.

Nobody reads a shadow's answers but the comparison. Its record holds numbers and digests only, so it
may lie in the registry whatever the classification of the documents was.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.batch.corpus import CorpusReader
from pipelines.batch.finished import Finished
from pipelines.batch.job import BatchJob, Corpus, Limits
from pipelines.batch.layout import plan_name
from pipelines.batch.records import BatchManifest
from pipelines.batch.rows import PlannedRow, read_planned
from pipelines.batch.text import DocumentError
from pipelines.canonical import Frozen, atomic_path
from pipelines.errors import OutputDamaged, ShadowImpossible
from pipelines.records import ShadowRequirement
from pipelines.refusals import is_refusal

RECORD = "shadow.json"
_SCHEMA_ERRORS = ("cut_at_max_tokens", "invalid_json", "schema_violation")
_DECIMALS = 6  # so that the record is the same bytes on every machine
_LEVEL = 0.95


class Arm(Frozen):
    """What one model did with the rows that both were asked."""

    model: str
    weight_digest: str
    answered: int
    schema_failures: int = Field(description="answers that never fitted the schema")
    refusals: int = Field(description="answers that open as a refusal (pipelines.refusals)")
    mean_answer_tokens: float


class FieldAgreement(Frozen):
    """One field of the answers, over rows that both models answered."""

    field: str
    compared: int
    agreed: int


class ShadowRecord(Frozen):
    """evidence/NAME/shadow/shadow.json: a candidate beside production on production's documents."""

    kind: Literal["shadow"] = "shadow"
    name: str = Field(description="the candidate, as models.yaml calls it")
    weight_digest: str
    job_id: str = Field(description="the production job that was sampled")
    corpus_sha256: str
    prompt_sha256: str
    schema_sha256: str
    documents: int
    rows: int = Field(description="rows that production answered and the candidate was asked")
    unpaired: int = Field(description="rows of one model only: it divides documents otherwise")
    agreed: int = Field(description="of `rows`, answered alike; an error of the candidate is not")
    agreement: float
    agreement_interval: tuple[float, float] = Field(description="Wilson, 95 %")
    similarity: float = Field(description="mean F1 of the words of both answers, 0 to 1")
    fields: tuple[FieldAgreement, ...]
    candidate: Arm
    production: Arm

    @property
    def schema_validity(self) -> float:
        """Share of the candidate's rows whose answer fitted the schema; 1 without a schema."""
        return 1 - self.candidate.schema_failures / self.rows

    @property
    def refusal_rate(self) -> float:
        """Share of the candidate's rows that are refusals."""
        return self.candidate.refusals / self.rows

    @property
    def length_ratio(self) -> float | None:
        """Mean length of the candidate's answers over production's; None where that is 0."""
        if not self.production.mean_answer_tokens:
            return None
        return self.candidate.mean_answer_tokens / self.production.mean_answer_tokens


def sample(production: Finished, documents: int) -> list[PlannedRow]:
    """The first rows of up to `documents` documents that could be asked, the same each time.

    Chosen by sha256 of job and document, so that the order of the corpus does not matter; memory
    depends on the size of the sample only.
    """

    def place(row: PlannedRow) -> str:
        text = f"{production.plan.job_id}:{row.document_id}"
        return hashlib.sha256(text.encode()).hexdigest()

    chosen = heapq.nsmallest(documents, _askable(production), key=place)
    return sorted(chosen, key=lambda row: row.row)


def write_documents(job: BatchJob, rows: Iterable[PlannedRow], target: Path) -> int:
    """Write the documents of `rows` as JSON lines with all their fields; how many.

    Raises ShadowImpossible when one is no longer what production read.
    """
    count = 0
    with (
        CorpusReader(job.corpus) as reader,
        atomic_path(target) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for row in rows:
            name = row.document_id
            try:
                document = reader.reread(row.source, row.offset, row.document_sha256, name)
            except DocumentError as error:
                raise ShadowImpossible(name, str(error)) from error
            if document.request is not None:
                raise ShadowImpossible(name, "request lines carry their own settings")
            file.write(json.dumps({**document.fields, "id": name}) + "\n")
            count += 1
    return count


def shadow_job(production: BatchJob, candidate: str, documents: Path, output: Path) -> BatchJob:
    """The same question about the sample, for the candidate; errors are results here."""
    changes = {
        "name": f"shadow of {production.name}"[:100],
        "model": candidate,
        "corpus": Corpus(path=documents, kind="jsonl"),
        "limits": Limits(max_error_rate=1.0),
        "output": str(output),
    }
    return production.model_copy(update=changes)


def compare(name: str, production: Finished, shadow: Finished) -> ShadowRecord:
    """Hold the shadow's rows against production's; raises ShadowImpossible when none pair up."""
    theirs = {row["id"]: row for row in shadow.rows()}
    asked = {row["document_id"] for row in theirs.values()}
    ours = {row["id"]: row for row in production.rows() if row["document_id"] in asked}
    pairs = [
        (ours[key], theirs[key])
        for key in sorted(ours.keys() & theirs.keys())
        if ours[key]["error_class"] is None
    ]
    if not pairs:
        raise ShadowImpossible(production.store.location, "no row of it has an answer to compare")
    agreed = sum(_same(before, after) for before, after in pairs)
    return ShadowRecord(
        name=name,
        weight_digest=shadow.manifest.weight_digest,
        job_id=production.manifest.job_id,
        corpus_sha256=production.manifest.corpus_sha256,
        prompt_sha256=production.manifest.prompt_sha256,
        schema_sha256=production.manifest.schema_sha256,
        documents=len(asked),
        rows=len(pairs),
        unpaired=len(ours.keys() ^ theirs.keys()),
        agreed=agreed,
        agreement=round(agreed / len(pairs), _DECIMALS),
        agreement_interval=_wilson(agreed, len(pairs)),
        similarity=round(sum(_similar(a, b) for a, b in pairs) / len(pairs), _DECIMALS),
        fields=_fields(pairs),
        candidate=_arm(shadow.manifest, [after for _, after in pairs]),
        production=_arm(production.manifest, [before for before, _ in pairs]),
    )


def shortfalls(record: ShadowRecord, asked: ShadowRequirement) -> list[str]:
    """What a record lacks of a requirement, as facts; none where it is enough."""
    facts = []
    if record.rows < asked.min_rows:
        facts.append(
            f"the shadow run compared {record.rows} rows, the policy asks {asked.min_rows}"
        )
    low = record.agreement_interval[0]
    if asked.min_agreement is not None and low < asked.min_agreement:
        facts.append(
            f"agreement with production is {record.agreement:.3f}, at least {low:.3f} for certain, "
            f"and the policy asks {asked.min_agreement:.3f}"
        )
    valid = record.schema_validity
    if asked.min_schema_validity is not None and valid < asked.min_schema_validity:
        facts.append(f"{valid:.3f} of its answers fit the schema, not {asked.min_schema_validity}")
    refused = record.refusal_rate
    if asked.max_refusal_rate is not None and refused > asked.max_refusal_rate:
        facts.append(f"it refuses {refused:.3f} of the rows, above {asked.max_refusal_rate}")
    if asked.max_length_ratio is not None:
        ratio = record.length_ratio or 0.0
        if not 1 / asked.max_length_ratio <= ratio <= asked.max_length_ratio:
            facts.append(
                f"its answers are {ratio:.2f} times as long, beyond {asked.max_length_ratio}"
            )
    return facts


def disagreements(
    production: Finished, shadow: Finished, count: int
) -> Iterator[tuple[str, str, str]]:
    """Up to `count` rows that differ: id, production's answer, the candidate's or its error."""
    theirs = {row["id"]: row for row in shadow.rows()}
    for before in production.rows():
        after = theirs.get(before["id"])
        if after is None or before["error_class"] is not None or _same(before, after):
            continue
        if count == 0:
            return
        count -= 1
        yield before["id"], _text(before), after["error_class"] or _text(after)


def _askable(production: Finished) -> Iterator[PlannedRow]:
    for index in range(len(production.plan.shards)):
        name = plan_name(production.plan.job_id, index)
        data = production.store.read(name)
        if data is None:
            raise OutputDamaged(production.store.location, name, "planned, and not there")
        for row in read_planned(data):
            if row.chunk == 0 and row.error_class is None and row.duplicate_of is None:
                yield row


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return after["error_class"] is None and _text(before) == _text(after)


def _text(row: Mapping[str, Any]) -> str:
    """An answer as it is compared: canonical JSON, or text without space around it."""
    return str(row["output"]) if row["output"] is not None else str(row["raw_text"]).strip()


def _similar(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """F1 of the bags of words of two answers (Rajpurkar et al. 2016, SQuAD); 0 for an error."""
    if after["error_class"] is not None:
        return 0.0
    one, other = Counter(_text(before).lower().split()), Counter(_text(after).lower().split())
    if not one or not other:
        return float(one == other)
    return 2 * (one & other).total() / (one.total() + other.total())


def _fields(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[FieldAgreement, ...]:
    compared: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    for before, after in pairs:
        if before["output"] is None or after["output"] is None:
            continue
        one, other = json.loads(before["output"]), json.loads(after["output"])
        if not isinstance(one, dict) or not isinstance(other, dict):
            continue
        for key in one.keys() | other.keys():
            compared[key] += 1
            agreed[key] += key in one and key in other and one[key] == other[key]
    return tuple(
        FieldAgreement(field=key, compared=count, agreed=agreed[key])
        for key, count in sorted(compared.items())
    )


def _arm(manifest: BatchManifest, rows: list[dict[str, Any]]) -> Arm:
    written = [row["completion_tokens"] for row in rows]
    return Arm(
        model=manifest.model,
        weight_digest=manifest.weight_digest,
        answered=sum(row["error_class"] is None for row in rows),
        schema_failures=sum(row["error_class"] in _SCHEMA_ERRORS for row in rows),
        refusals=sum(is_refusal(row["raw_text"]) for row in rows),
        mean_answer_tokens=round(sum(written) / len(written), _DECIMALS),
    )


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(successes, trials).proportion_ci(_LEVEL, method="wilson")
    return round(float(found.low), _DECIMALS), round(float(found.high), _DECIMALS)
