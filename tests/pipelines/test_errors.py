from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from pipelines import errors
from pipelines.errors import (
    BadName,
    CommandFailed,
    NoSpaceLeft,
    VerdictMissing,
    WeighbridgeError,
    exit_code,
)

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, WeighbridgeError)
]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerdictMissing("m"), 1),
        (BadName("M.1"), 2),
        (CommandFailed(["git"], 1, "no"), 3),
        (NoSpaceLeft("/x"), 3),
        (KeyboardInterrupt(), 130),
        (RuntimeError(), 3),
    ],
)
def test_exit_codes_tell_refusal_usage_and_failure_apart(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_class_stands_in_the_drawn_tree(error: type) -> None:
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__


def test_every_error_class_is_raised_by_a_test() -> None:
    tests = Path(__file__).parent.parent
    expected: set[str] = set()
    for path in tests.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "raises":
                expected |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    bases = {base for error in CLASSES for base in error.__mro__[1:]}
    leaves = {error.__name__ for error in CLASSES if error not in bases}
    assert leaves - expected == set()
