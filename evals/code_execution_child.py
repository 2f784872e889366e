"""The two confined processes of one trial: the tested program, and the tests that judge it.

`candidate` runs the program and answers calls of its function. `tests` runs the item's tests, where
that function is a stand-in that asks the other process. So the verdict is written by a process that
never ran the program: no exit, no printed word, no changed built-in of the program's reaches it.
The tests are the suite's own, and are confined all the same. Standard library only.

    python -m evals.code_execution_child ROLE READ WRITE STATUS < PAYLOAD
"""

from __future__ import annotations

import builtins
import json
import os
import random
import re
import sys
from typing import Any

from evals.code_execution_sandbox import Unavailable, confine
from evals.code_execution_wire import Line, NoPlainValue, decode, encode

SEED = 0  # some items and programs draw at random: the same in every run
MAX_REASON = 300
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")  # of an object: another one in every run

Payload = dict[str, Any]


class ProgramEnded(BaseException):
    """The tested process is gone; a BaseException, so that no test can take it for an answer."""


def main() -> None:
    """Confine this process and play its role; ends the process."""
    role, reading, writing, status = sys.argv[1], *map(int, sys.argv[2:5])
    payload = json.loads(sys.stdin.buffer.read())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    sys.path[:] = [path for path in sys.path if path != payload["project"]]
    os.environ.clear()
    os.environ.update({"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"})
    told = Line(status, status)
    try:
        confine(payload["root"], tuple(payload["limits"]), [reading, writing, status])
    except (Unavailable, OSError) as error:
        told.send({"unavailable": str(error)})
        os._exit(1)
    told.send({"confined": True})
    other = Line(reading, writing)
    if role == "candidate":
        os.close(status)
        be_candidate(payload, other)
    else:
        told.send(be_tests(payload, other))
    os._exit(0)


def be_candidate(payload: Payload, tests: Line) -> None:
    """Run the program, then answer calls until the tests are over."""
    namespace: dict[str, Any] = {"__name__": "candidate"}
    random.seed(SEED)
    try:
        exec(compile(payload["program"], "completion.py", "exec"), namespace)
        function = namespace[payload["entry_point"]]
    except BaseException as error:  # noqa: BLE001 - what it raises is its outcome
        tests.send(_raised(error))
        return
    tests.send(["ready"])
    while True:
        try:
            positional, named = tests.receive()
        except EOFError:
            return
        try:
            answer = ["value", encode(function(*decode(positional), **decode(named)))]
        except BaseException as error:  # noqa: BLE001 - what it raises is its outcome
            answer = _raised(error)
        tests.send(answer)


def be_tests(payload: Payload, program: Line) -> dict[str, Any]:
    """Run the item's tests on the other process's function; the verdict as JSON-able data.

    {"passed": true}, {"passed": false, "reason": …}, or {"broken": …} when the tests cannot run.
    """

    def candidate(*positional: Any, **named: Any) -> Any:
        try:
            program.send([encode(positional), encode(named)])
            return _result(program.receive())
        except (EOFError, BrokenPipeError) as error:
            raise ProgramEnded from error

    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(payload["prompt"], "prompt.py", "exec"), namespace)
        namespace[payload["entry_point"]] = candidate
        exec(compile(payload["test"], "test.py", "exec"), namespace)
        check = namespace["check"]
    except Exception as error:  # noqa: BLE001 - the suite's data, which our parent refuses
        return {"broken": _described(error)}
    try:
        ready = program.receive()
        if ready != ["ready"]:
            _result(ready)
        random.seed(SEED)
        check(candidate)
    except AssertionError as error:
        return _failed(f"a test failed ({_described(error)})")
    except (ProgramEnded, EOFError):
        return {"passed": False, "ended": True, "reason": "it ended before it answered"}
    except NoPlainValue as error:
        return _failed(f"it answered with {error}")
    except BaseException as error:  # noqa: BLE001 - from the program, or a test of its answer
        return _failed(f"it raised {_described(error)}")
    return {"passed": True, "reason": ""}


def _result(answer: Any) -> Any:
    """The value that the program answered with; raises what it says that it raised."""
    match answer:
        case ["value", data]:
            return decode(data)
        case ["raised", str(name), str(text)]:
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    raised = kind(text)
                except TypeError:  # UnicodeDecodeError and its like want more than a text
                    raised = RuntimeError(f"{name}: {text}")
                if isinstance(raised, AssertionError):  # not to be taken for a test's
                    raised = RuntimeError(f"{name}: {text}")
                raise raised
            raise RuntimeError(f"{name}: {text}")
    raise NoPlainValue("a line that is no answer")


def _raised(error: BaseException) -> list[str]:
    if isinstance(error, NoPlainValue):
        return ["raised", "TypeError", f"it returned {error}"]
    return ["raised", type(error).__name__, _text(error)]


def _failed(reason: str) -> dict[str, Any]:
    return {"passed": False, "reason": reason}


def _described(error: BaseException) -> str:
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return ADDRESS.sub("0x…", " ".join(str(error).split()))[:MAX_REASON]
    except Exception:  # noqa: BLE001 - of the program's own making, with a text that fails
        return ""


if __name__ == "__main__":
    main()
