"""Runs programs that a model wrote against tests, each in a confinement of its own.

One trial is two processes (evals.code_execution_child): one runs the program, the other the tests,
and only plain values pass between them. Both are confined (evals.code_execution_sandbox). Whatever
a program does, its outcome is `passed` or a reason; that the confinement cannot be had on this
machine is SandboxUnavailable, and nothing is run.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from evals import code_execution_child, code_execution_sandbox, code_execution_wire
from pipelines.canonical import Frozen
from pipelines.errors import SandboxUnavailable, UnusableEvidence
from pipelines.progress import report

__all__ = ["Outcome", "ProgramLimits", "Trial", "run_trials"]

PROJECT = Path(__file__).resolve().parent.parent
# They are children's, not ours; named here so that the stage's code digest covers them.
CHILD_MODULES = (code_execution_child, code_execution_sandbox, code_execution_wire)
_MAX_VERDICT_BYTES = 64 * 1024
_GRACE_S = 2.0  # for a process whose pipes are closed to be gone


class ProgramLimits(Frozen):
    """What one process of a trial may use. Time on the clock is for the whole trial: it only ends
    what sleeps, so that a busy machine changes no verdict."""

    cpu_s: int = 10
    wall_s: float = 60.0
    memory_bytes: int = 1024**3
    disk_bytes: int = 16 * 1024**2


class Trial(Frozen):
    """A program and the tests that define `check(candidate)`.

    `prompt` is code that the tests may use (helpers that it defines); `program` defines
    `entry_point`, the function that `check` is given.
    """

    id: str
    program: str
    prompt: str
    test: str
    entry_point: str


class Outcome(Frozen):
    """Whether all tests passed; else what happened, in a few words."""

    passed: bool
    reason: str = ""


def run_trials(
    trials: Sequence[Trial], limits: ProgramLimits | None = None, what: str = "programs"
) -> list[Outcome]:
    """The outcome of each trial, in order; as many at a time as this machine has cores.

    Raises SandboxUnavailable when this kernel does not confine them, and UnusableEvidence when the
    tests of an item do not run at all.
    """
    limits = limits or ProgramLimits()
    with tempfile.TemporaryDirectory(prefix="weighbridge-programs-") as root:

        def run(trial: Trial) -> Outcome:
            return _run_trial(trial, limits, root)

        outcomes: list[Outcome] = []
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            try:
                for outcome in pool.map(run, trials):
                    outcomes.append(outcome)
                    report(len(outcomes), len(trials), "programs", what)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return outcomes


def _run_trial(trial: Trial, limits: ProgramLimits, root: str) -> Outcome:
    shared = {
        "project": str(PROJECT),
        "root": root,
        "limits": [limits.cpu_s, limits.memory_bytes, limits.disk_bytes],
        "entry_point": trial.entry_point,
    }
    deadline = time.monotonic() + limits.wall_s
    with ExitStack() as stack:
        asked, ask = os.pipe()
        answered, answer = os.pipe()
        said, say = os.pipe()
        ruled, rule = os.pipe()
        for number in (said, ruled):
            stack.callback(os.close, number)
        try:
            payload = {**shared, "program": trial.program}
            program = _start("candidate", (asked, answer, say), payload, stack)
            payload = {**shared, "prompt": trial.prompt, "test": trial.test}
            _start("tests", (answered, ask, rule), payload, stack)
        finally:  # an end that stays open here would hide that its other end is gone
            for number in (asked, ask, answered, answer, say, rule):
                os.close(number)
        _check_confined(_read_line(said, deadline))
        _check_confined(_read_line(ruled, deadline))
        verdict = _read_line(ruled, deadline)
        return _outcome(trial, limits, verdict, program)


def _outcome(
    trial: Trial,
    limits: ProgramLimits,
    verdict: Mapping[str, Any] | None,
    program: subprocess.Popen[bytes],
) -> Outcome:
    if verdict is None:
        return Outcome(passed=False, reason=f"it was not done after {limits.wall_s:g} s")
    if "broken" in verdict:
        raise UnusableEvidence(
            f"item {trial.id}",
            f"its tests do not run ({verdict['broken']})",
            "Correct the suite's data.",
        )
    if verdict.get("passed") is True:
        return Outcome(passed=True)
    reason = str(verdict.get("reason", "the tests ended without a verdict"))
    if verdict.get("ended"):
        reason = f"{reason}: {_ending(program, limits)}"
    return Outcome(passed=False, reason=reason)


def _ending(program: subprocess.Popen[bytes], limits: ProgramLimits) -> str:
    """How the tested process ended, once its pipes are closed."""
    with suppress(subprocess.TimeoutExpired):
        code = program.wait(_GRACE_S)
        if code == 128 + signal.SIGKILL:
            return f"it used {limits.cpu_s} s of CPU time, or was killed"
        return f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
    return "it closed its answers"


def _start(
    role: str, files: tuple[int, int, int], payload: Mapping[str, Any], stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Start a process of a trial; `stack` ends it, and waits for it."""
    with tempfile.TemporaryFile(prefix="weighbridge-") as asked:
        asked.write(json.dumps(payload).encode())
        asked.seek(0)
        process = subprocess.Popen(
            [
                sys.executable, "-B", "-S", "-P", "-s", "-m", code_execution_child.__name__,
                role, *map(str, files),
            ],
            stdin=asked,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
            pass_fds=files,
            start_new_session=True,
        )  # fmt: skip
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process; the kernel kills the confined one below it, which cannot refuse that."""
    process.kill()
    process.wait()


def _check_confined(said: Mapping[str, Any] | None) -> None:
    if said is None:
        raise SandboxUnavailable("the confined process did not start in time")
    if said.get("confined") is not True:
        raise SandboxUnavailable(str(said.get("unavailable", "the confined process did not start")))


def _read_line(number: int, deadline: float) -> Mapping[str, Any] | None:
    """The next JSON line of a process's status; None at the deadline, {} when it ended without.

    Read byte by byte: two lines may lie in the pipe.
    """
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([number], [], [], left)[0]:
            return None
        byte = os.read(number, 1)
        if not byte or len(line) > _MAX_VERDICT_BYTES:
            return {}
        line += byte
    parsed: Mapping[str, Any] = json.loads(line)
    return parsed
