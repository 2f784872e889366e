"""jsonschema without the second that its import takes.

For the format "iri", jsonschema loads rfc3987_syntax if that is installed, which compiles a grammar
at import (1 s of CPU, in every worker and every run). Formats are not validated here, and
jsonschema does without the module where it is missing: so it is hidden while jsonschema loads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """While the block runs, an import of `module` fails, unless it is loaded already."""
    loaded = cast("dict[str, Any]", sys.modules)
    if module in loaded:
        yield
        return
    loaded[module] = None
    try:
        yield
    finally:
        del loaded[module]


with _hidden("rfc3987_syntax"):
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

__all__ = ["Draft202012Validator", "SchemaError"]
