"""What makes a job the job it is: everything that changes its results, and nothing else."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

import orjson

from pipelines.batch.corpus_settings import Corpus
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.whole import MEDIA_TYPES
from pipelines.batch.job import BatchJob
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.prompt import prompt_sha256
from pipelines.batch.records import PROTOCOL, ModelOnDisk
from pipelines.canonical import canonical_json, sha256_bytes

# Where it lies, and what changes neither documents nor their order.
_NOT_READING = {"path", "kind", "read_timeout_s", "language"}
# Another version of these may find another text in the same bytes.
_PARSERS = {MEDIA_TYPES[".pdf"]: "pypdf", MEDIA_TYPES[".docx"]: "python-docx"}


class CorpusDigest:
    """sha256 over how a corpus is read and every document's id and sha256, in order."""

    def __init__(self, corpus: Corpus) -> None:
        reading = corpus.model_dump(mode="json", exclude=_NOT_READING) | {"kind": corpus.reading}
        self._digest = hashlib.sha256(canonical_json(reading) + b"\n")
        self.documents = 0
        self._parsers: dict[str, str] = {}

    def add(self, document: Document) -> None:
        """Take the next document in."""
        self._digest.update(orjson.dumps([document.id, document.sha256]) + b"\n")
        self.documents += 1
        if document.media_type in _PARSERS and document.media_type not in self._parsers:
            name = _PARSERS[document.media_type]
            self._parsers[document.media_type] = f"{name} {version(name)}"

    def hexdigest(self) -> str:
        """The digest of the documents so far."""
        digest = self._digest.copy()
        digest.update(canonical_json(sorted(self._parsers.values())))
        return digest.hexdigest()


def question_identity(job: BatchJob, model: ModelOnDisk, max_model_len: int) -> dict[str, str]:
    """The parts of a job's identity that can be told without reading the corpus."""
    chunking = job.chunking.model_dump(mode="json") if job.chunking else None
    if chunking and chunking["reduce"] is None:
        del chunking["reduce"]  # the identity of jobs from before there was any
    return {
        "protocol": str(PROTOCOL),
        "classification": job.classification,
        "prompt": prompt_sha256(job.prompt),
        "output schema": OutputSchema(job.output_schema).sha256,
        "sampling": canonical_json(job.sampling.model_dump(mode="json")).decode(),
        "chunking": canonical_json(chunking).decode(),
        "over-long documents": job.over_long,
        "duplicates": job.duplicates,
        "context length": str(max_model_len),
        "weight digest": model.weight_digest,
        "chat template": model.template_sha256,
        "task": job.task,
        "adapter digest": model.adapter_digest,
    }


def job_id(identity: dict[str, str]) -> str:
    """sha256 of the canonical identity."""
    return sha256_bytes(canonical_json(identity))


def differing(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The parts in which two identities differ, of those that `ours` has."""
    return [part for part, value in ours.items() if theirs.get(part) != value]
