"""Whether a grammar can hold answers to a schema, told without starting an engine.

vLLM compiles a schema with xgrammar, or with llguidance where xgrammar is known to pass over a
keyword. llguidance comes with vLLM, is imported in milliseconds, and says what it cannot express.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from pipelines.errors import ConfigError

# vLLM leaves these to llguidance, which refuses them: no engine would take the first request.
_NOBODY = ("uniqueItems", "contains", "minContains", "maxContains")


def grammar_notes(schema: dict[str, Any] | None, *, is_held: bool) -> tuple[str, ...]:
    """What a plan says of a schema; `is_held` when the engine will hold answers to it by grammar.

    Raises ConfigError for a schema that no answer can fit and for one that no grammar can express.
    Says nothing where llguidance is not installed: the engine then says it when it starts.
    """
    if schema is None or importlib.util.find_spec("llguidance") is None:
        return ()
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    fault = str(LLMatcher.validate_grammar(grammar) or "").strip()
    if not fault:
        return ()
    fact = " ".join(fault.split())
    if fault.startswith("Unsatisfiable"):
        raise ConfigError("output_schema", f"no answer can fit it ({fact})", "Correct it.")
    if not is_held:
        return ()
    if any(f'"{keyword}"' in fault for keyword in _NOBODY):
        remedy = "Leave these out, and check what they say in the answers."
        raise ConfigError("output_schema", f"no grammar can express it ({fact})", remedy)
    return (
        f"output_schema: a grammar may not express all of it ({fact}): answers are checked, and "
        "those that do not fit are asked for again or become error rows",
    )
