"""JSON read strictly: one meaning for each file, whichever parser reads it later."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from pipelines.errors import MalformedFile
from pipelines.verification.findings import quoted


def parse_strict(data: bytes, name: str, *, prefix: str = "json") -> Any:
    """Parse UTF-8 JSON; raises MalformedFile with a rule under `prefix`.

    Refused: bytes that are not UTF-8, a byte-order mark, a key that an object holds twice (parsers
    disagree about which one counts), NaN as a number, numbers of thousands of digits, nesting
    beyond the interpreter's limit. Infinity is accepted: transformers writes it.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(items)
        if len(document) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    fact = f"the key {quoted(key)} stands twice in one object"
                    raise MalformedFile(name, f"{prefix}.duplicate-key", fact)
                seen.add(key)
        return document

    def constant(text: str) -> float:
        if text == "NaN":
            raise MalformedFile(name, f"{prefix}.not-a-number", "it holds NaN as a number")
        return float(text)

    try:
        return json.loads(data.decode(), object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise MalformedFile(name, f"{prefix}.encoding", f"it is not UTF-8 ({error})") from error
    except RecursionError as error:
        raise MalformedFile(name, f"{prefix}.depth", "it nests too deeply") from error
    except ValueError as error:
        _not_json(name, prefix, error)


def _not_json(name: str, prefix: str, error: ValueError) -> NoReturn:
    raise MalformedFile(name, f"{prefix}.syntax", f"it is not JSON: {error}") from error


def walk(document: Any, *, skip: Collection[str] = ()) -> Iterator[tuple[str, str, Any]]:
    """Every member of a JSON value as (dotted path, its own key, value), without recursion.

    List items have the key of their list. What stands under a key in `skip` is left out.
    """
    pending: list[tuple[str, str, Any]] = [("", "", document)]
    while pending:
        path, key, value = pending.pop()
        if path:
            yield path, key, value
        if isinstance(value, dict):
            children = [(f"{path}.{k}" if path else k, k, v) for k, v in value.items()]
        elif isinstance(value, list):
            children = [(f"{path}[{i}]", key, v) for i, v in enumerate(value)]
        else:
            continue
        pending.extend(child for child in reversed(children) if child[1] not in skip)
