"""Rows as result lines of the OpenAI batch format: `custom_id`, response, error.

A row with an answer has a response with the body that the endpoint would have sent; a row with an
error has no response and an error with its class and message.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pipelines.batch.documents.requests import TASKS
from pipelines.batch.layout import RUN
from pipelines.batch.records import BatchManifest
from pipelines.batch.store import OutputStore
from pipelines.batch.taking_up import planned
from pipelines.canonical import sha256_bytes
from pipelines.records import RunInfo

_CHAT, _TEXT, _EMBEDDINGS = TASKS


class OpenAiResults:
    """Makes the lines of one job."""

    def __init__(self, store: OutputStore, manifest: BatchManifest) -> None:
        plan = planned(store)
        self._manifest, self._asked = manifest, plan.job.corpus.kind == "openai"
        self._url = plan.request_url or (_EMBEDDINGS if plan.job.task == "embed" else _CHAT)
        run = store.read(RUN)
        ended = RunInfo.model_validate_json(run).finished_at if run is not None else ""
        self._created = int(datetime.fromisoformat(ended).timestamp()) if ended else 0

    def line(self, row: dict[str, Any]) -> dict[str, Any]:
        """The line of a row; `custom_id` is the request's own, else the row's id."""
        key = sha256_bytes(f"{self._manifest.job_id} {row['row']}".encode())[:24]
        response, error = None, None
        if row["error_class"] is None:
            body = self._body(row, key)
            response = {"status_code": 200, "request_id": f"req_{key}", "body": body}
        else:
            error = {"code": row["error_class"], "message": row["error_message"]}
        return {
            "id": f"batch_req_{key}",
            "custom_id": row["document_id"] if self._asked else row["id"],
            "response": response,
            "error": error,
        }

    def _body(self, row: dict[str, Any], key: str) -> dict[str, Any]:
        prompt, completion = row["prompt_tokens"], row["completion_tokens"]
        model = {"model": self._manifest.model}
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion}
        if self._url == _EMBEDDINGS:
            data = {"object": "embedding", "index": 0, "embedding": row["vector"]}
            return {"object": "list", "data": [data], **model, "usage": usage}
        usage["completion_tokens"] = completion
        details = {"prompt_tokens_details": {"cached_tokens": row["cached_tokens"]}}
        choice = {"index": 0, "logprobs": None, "finish_reason": row["finish_reason"]}
        made = {"created": self._created, **model, "usage": {**usage, **details}}
        if self._url == _TEXT:
            choices = [{**choice, "text": row["raw_text"]}]
            return {"id": f"cmpl-{key}", "object": "text_completion", "choices": choices, **made}
        message = {"role": "assistant", "content": row["raw_text"], "refusal": None}
        return {
            "id": f"chatcmpl-{key}",
            "object": "chat.completion",
            "choices": [{**choice, "message": message}],
            **made,
        }
