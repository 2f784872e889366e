"""What one row asks for, where its document is a request with its own sampling and schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.settings import Sampling
from pipelines.batch.text import DocumentError
from pipelines.errors import ConfigError


class Wanted(NamedTuple):
    """How a row is to be answered; `own` when that differs from the job."""

    sampling: Sampling
    schema: OutputSchema
    own: bool = False


def wanted(job: Wanted, request: Mapping[str, Any] | None) -> Wanted:
    """The job's sampling and schema with what a request says instead.

    Raises DocumentError when the request asks for values that there are not.
    """
    if not request or not (request.get("sampling") or request.get("schema")):
        return job
    try:
        given = {**job.sampling.model_dump(), **(request.get("sampling") or {})}
        sampling = Sampling.model_validate(given)
        schema = job.schema
        if request.get("schema") is not None:
            schema = _schema(json.dumps(request["schema"]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "sampling"
        raise DocumentError("unsupported_request", f"{where}: {first['msg']}") from error
    except ConfigError as error:
        raise DocumentError("unsupported_request", str(error)) from error
    return Wanted(sampling, schema, own=True)


@lru_cache(maxsize=256)
def _schema(text: str) -> OutputSchema:
    return OutputSchema(json.loads(text))
