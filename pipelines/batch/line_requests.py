"""What request lines ask for beside their messages, held against the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipelines.batch.documents.document import Document
from pipelines.batch.documents.requests import TASKS
from pipelines.batch.job import BatchJob
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.own_request import Wanted, wanted
from pipelines.batch.text import DocumentError

_MODELS_NAMED = 5


class LineRequests:
    """Checks the request of each document of a job; without requests, nothing is asked."""

    def __init__(self, job: BatchJob) -> None:
        self._job, self._models = job, Counter[str]()
        self.url = ""  # of the first request: as OpenAI has it, a batch is about one endpoint
        self._wanted = Wanted(job.sampling, OutputSchema(job.output_schema))

    def check(self, document: Document) -> int:
        """The longest answer of a document's rows, in tokens; raises DocumentError."""
        request = document.request
        if request is None:
            return self._job.answer_tokens
        if TASKS[request["url"]] != self._job.task:
            fact = f"{request['url']} in a job whose task is {self._job.task}"
            raise DocumentError("unsupported_request", fact)
        self.url = self.url or request["url"]
        if request["url"] != self.url:
            fact = f"{request['url']} in a batch that began with {self.url}"
            raise DocumentError("unsupported_request", fact)
        if (model := request.get("model")) is not None:
            self._models[model] += 1
        if self._job.task != "generate":
            return 0
        return wanted(self._wanted, request).sampling.max_tokens

    def notes(self) -> Iterator[str]:
        """Models that lines name: the job's own answers all of them."""
        others = [name for name, _ in self._models.most_common() if name != self._job.model]
        if others:
            named = ", ".join(others[:_MODELS_NAMED])
            more = f" and {len(others) - _MODELS_NAMED} more" if len(others) > _MODELS_NAMED else ""
            yield f"lines name other models ({named}{more}); {self._job.model} answers all of them"
