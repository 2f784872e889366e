"""The output schema: checked when a job is planned, held against every answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from pipelines.batch.quick_jsonschema import Draft202012Validator, SchemaError
from pipelines.batch.records import ErrorClass
from pipelines.canonical import canonical_json, sha256_bytes
from pipelines.errors import ConfigError

_TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


class AnswerFault(Exception):
    """An answer that does not fit; never leaves this package."""

    def __init__(self, error_class: ErrorClass, fact: str) -> None:
        super().__init__(fact)
        self.error_class: ErrorClass = error_class


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a flat schema that gets a Parquet column of its own."""

    name: str
    type: pa.DataType


class OutputSchema:
    """A JSON schema with what follows from it; `schema` None takes any text."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self.schema = schema
        self.columns: tuple[Column, ...] = ()
        if schema is not None:
            _check(schema)
            self._validator = Draft202012Validator(schema, registry=Registry())
            self.columns = _flat_columns(schema)

    @property
    def sha256(self) -> str:
        """sha256 of `text`, '' without a schema."""
        return sha256_bytes(self.text.encode()) if self.schema is not None else ""

    @property
    def text(self) -> str:
        """The schema as JSON in its own order: a model writes properties in the order given."""
        return json.dumps(self.schema, separators=(",", ":"), ensure_ascii=False)

    def parse(self, text: str) -> str | None:
        """An answer as canonical JSON, None without a schema; raises AnswerFault."""
        if self.schema is None:
            return None
        try:
            value = json.loads(text, parse_constant=_no_constant)
            canonical = canonical_json(value).decode()
        except (ValueError, RecursionError) as error:  # also lone surrogates and infinities
            raise AnswerFault("invalid_json", f"{type(error).__name__}: {error}") from error
        if breach := next(iter(self._validator.iter_errors(value)), None):
            where = ".".join(str(part) for part in breach.absolute_path) or "the answer"
            raise AnswerFault("schema_violation", f"{where}: {breach.message}")
        try:
            self._values(value)
        except OverflowError as error:
            raise AnswerFault("schema_violation", f"{error}") from error
        return canonical

    def typed(self, output: str | None) -> list[Any]:
        """Values of the typed columns for one row, None where there is none."""
        if output is None or not self.columns:
            return [None] * len(self.columns)
        return self._values(json.loads(output))

    def _values(self, answer: Any) -> list[Any]:
        return [_typed(answer.get(column.name), column) for column in self.columns]


def loose_ends(schema: Any, where: str = "the answer") -> Iterator[str]:
    """Places where a schema lets a small model write until the token limit."""
    if not isinstance(schema, Mapping):
        return
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind or ())
    if not schema.keys() & {"enum", "const", "pattern", "format"}:
        for of, bounds in _BOUNDS.items():
            if of in kinds and not schema.keys() & bounds:
                yield f"{where}: {of} without {' or '.join(sorted(bounds))}"
    for name, part in (schema.get("properties") or {}).items():
        yield from loose_ends(part, name)
    yield from loose_ends(schema.get("items"), f"{where}[]")


def _check(schema: dict[str, Any]) -> None:
    """Raises ConfigError unless this is a JSON schema whose references all lie in itself."""
    try:
        Draft202012Validator.check_schema(schema, Draft202012Validator.FORMAT_CHECKER)
        canonical_json(schema)
    except (SchemaError, ValueError) as error:
        path = error.absolute_path if isinstance(error, SchemaError) else ()
        where = ".".join(str(part) for part in path) or "its top"
        fact = error.message if isinstance(error, SchemaError) else str(error)
        raise ConfigError(
            "output_schema", f"not a JSON schema (at {where}: {fact})", "Correct it."
        ) from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ConfigError(
                "output_schema",
                f"$ref {reference!r} does not lie in the schema",
                "Put what it names under $defs; nothing is fetched.",
            ) from error


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


_BOUNDS = {
    "string": {"maxLength"},
    "integer": {"maximum", "exclusiveMaximum"},
    "array": {"maxItems"},
}


def _flat_columns(schema: dict[str, Any]) -> tuple[Column, ...]:
    """Columns of an object whose properties are all scalars; none for any other schema."""
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict):
        return ()
    columns = []
    for name, part in properties.items():
        kind = _scalar(part) if isinstance(part, dict) else None
        if kind is None:
            return ()
        columns.append(Column(name, _TYPES[kind]))
    return tuple(columns)


def _scalar(part: dict[str, Any]) -> str | None:
    """The one scalar type of a property, null aside; from its values where no type is given."""
    kind = part.get("type")
    if kind is None:
        values = part["enum"] if "enum" in part else [part["const"]] if "const" in part else []
        kinds = {_kind_of(value) for value in values if value is not None}
    else:
        kinds = {kind} if isinstance(kind, str) else set(kind)
    kinds.discard("null")
    if kinds == {"integer", "number"}:
        return "number"
    only = kinds.pop() if len(kinds) == 1 else None
    return only if only in _TYPES else None


def _kind_of(value: Any) -> str:
    kinds = {bool: "boolean", str: "string", int: "integer", float: "number"}
    return kinds.get(type(value), "other")


def _typed(value: Any, column: Column) -> Any:
    """A JSON value as the column holds it; raises OverflowError where it cannot."""
    if value is None:
        return None
    if column.type == pa.float64():
        return float(value)
    if column.type == pa.int64():
        if not -(2**63) <= value < 2**63:
            raise OverflowError(f"{column.name}: more than 64 bits")
        return int(value)  # JSON Schema counts 3.0 as an integer
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
