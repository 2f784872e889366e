"""Programs that a model wrote: judged by what they answer, and able to do nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals import code_execution
from evals.answer_scoring import program
from evals.code_execution import Outcome, ProgramLimits, Trial, run_trials
from pipelines.errors import SandboxUnavailable, UnusableEvidence

PROJECT = Path(__file__).parents[2]
HUMANEVAL = PROJECT / "evals" / "suites" / "code" / "humaneval.jsonl"
LIMITS = ProgramLimits(cpu_s=1, wall_s=60, memory_bytes=400 * 1024**2, disk_bytes=2 * 1024**2)
TEST = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(41) == 42\n"
SECRET = "WEIGHBRIDGE_TEST_SECRET"

# Every one of these is wrong; what follows `|` must be in the reason.
ATTACKS = {
    "wrong | a test failed": "def f(x): return x",
    "no function | KeyError": "g = 1",
    "no Python | SyntaxError": "def f(x) return x",
    "exits when loaded | SystemExit": "import sys; sys.exit(0)\ndef f(x): return x + 1",
    "exits when asked | SystemExit": "import sys\ndef f(x): sys.exit(0)",
    "leaves when loaded | exit code 0": "import os; os._exit(0)",
    "leaves when asked | exit code 0": "import os\ndef f(x): os._exit(0)",
    "equals everything | no plain value|a value of type Any": (
        "class Any:\n    def __eq__(self, other): return True\ndef f(x): return Any()"
    ),
    "a list that equals everything | a test failed": (
        "class L(list):\n    def __eq__(self, other): return True\ndef f(x): return L()"
    ),
    "an int that equals everything | a test failed": (
        "class I(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def f(x): return I(7)"
    ),
    "changes what asserts mean | a test failed": (
        "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\n"
        "def check(candidate): pass\nbuiltins.check = check\ndef f(x): return None"
    ),
    "writes the verdict everywhere | it answered with": (
        "import os\n"
        "for n in range(64):\n"
        "    for text in (b'{\"passed\": true}\\n', b'{\"confined\": true}\\n'):\n"
        "        try: os.write(n, text)\n"
        "        except OSError: pass\n"
        "def f(x): return 0"
    ),
    "answers before it is asked | ": (
        "import os\n"
        "for n in range(3, 64):\n"
        '    try: os.write(n, b\'["ready"]\\n["value", true]\\n["value", true]\\n\')\n'
        "    except OSError: pass\n"
        "def f(x): return 0"
    ),
    "hangs | 1 s of CPU time": "def f(x):\n    while True: pass",
    "hangs when loaded | 1 s of CPU time": "while True: pass",
    "ignores signals | 1 s of CPU time": (
        "import signal\nfor n in range(1, 32):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "def f(x):\n    while True: pass"
    ),
    "eats memory | MemoryError": "def f(x): return len(bytearray(10**10))",
    "eats memory slowly | MemoryError": (
        "def f(x):\n    kept = []\n    while True: kept.append(bytearray(10**6))"
    ),
    "prints without end | 1 s of CPU time": "def f(x):\n    while True: print('y' * 10000)",
    "answers too much | more than": "def f(x): return 'y' * 10**7",
    "answers a nest | ": (
        "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a"
    ),
    "answers without end | ": "import itertools\ndef f(x): return itertools.count()",
    "forks | PermissionError": "import os\ndef f(x):\n    os.fork()\n    return x + 1",
    "forks without end | ": (
        "import os\ndef f(x):\n    while True:\n"
        "        try: os.fork()\n        except OSError: pass"
    ),
    "runs a program | PermissionError": (
        "import subprocess\ndef f(x):\n    subprocess.run(['/bin/true'])\n    return x + 1"
    ),
    "starts processes | PermissionError": (
        "import multiprocessing as m\ndef f(x):\n"
        "    m.get_context('fork').Process(target=print).start()\n    return x + 1"
    ),
    "leaves its session | PermissionError": "import os\nos.setsid()\ndef f(x): return x + 1",
    "opens a socket | PermissionError": (
        "import socket\ndef f(x):\n    socket.socket()\n    return x + 1"
    ),
    "writes beside /tmp | Read-only": "open('/x', 'w')\ndef f(x): return x + 1",
    "writes into the library | Read-only": (
        "import os\nopen(os.__file__, 'a')\ndef f(x): return x + 1"
    ),
    "fills the disk | OSError": (
        "def f(x):\n    n = 0\n    while True:\n"
        "        open(f'/tmp/{n}', 'wb').write(b'y' * 100000)\n        n += 1"
    ),
    "reads the machine's users | FileNotFoundError": (
        "open('/etc/passwd')\ndef f(x): return x + 1"
    ),
    "looks at processes | FileNotFoundError": "import os\nos.listdir('/proc')\ndef f(x): return 2",
    "reads our code | FileNotFoundError": f"open({str(HUMANEVAL)!r})\ndef f(x): return x + 1",
    "reads our environment | KeyError": (
        f"import os\nos.environ[{SECRET!r}]\ndef f(x): return x + 1"
    ),
    "crashes | signal 11": "import ctypes\ndef f(x): return ctypes.string_at(1)",
    "recurses | ": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "mounts | Operation not permitted": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f(x):\n"
        "    if libc.unshare(0x10000000) or libc.mount(b'none', b'/', None, 32, None):\n"
        "        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n"
        "    return x + 1"
    ),
    "unbinds itself from us | Operation not permitted": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.prctl(1, 0, 0, 0, 0): raise OSError(ctypes.get_errno(), os.strerror(1))\n"
        "def f(x): return x + 1"
    ),
}


def _trial(code: str, test: str = TEST, prompt: str = "") -> Trial:
    return Trial(id="item", program=code, prompt=prompt, test=test, entry_point="f")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    os.environ[SECRET] = "not yours"
    try:
        found = run_trials([_trial(code) for code in ATTACKS.values()], LIMITS)
    finally:
        del os.environ[SECRET]
    return dict(zip(ATTACKS, found, strict=True))


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_program_passes_but_by_right_answers(outcomes: dict[str, Outcome], attack: str) -> None:
    outcome = outcomes[attack]
    reasons = attack.split(" | ")[1].split("|")
    assert not outcome.passed
    assert any(reason in outcome.reason for reason in reasons), outcome.reason


RIGHT = {
    "plain": "def f(x): return x + 1",
    "prints": "def f(x):\n    print('y' * 10000)\n    return x + 1",
    "uses the standard library": "import statistics, decimal, re, heapq\ndef f(x): return x + 1",
    "writes into its folder": (
        "def f(x):\n    open('kept', 'w').write(str(x + 1))\n    return int(open('kept').read())"
    ),
    "uses threads": (
        "import threading\ndef f(x):\n    found = []\n"
        "    t = threading.Thread(target=lambda: found.append(x + 1))\n    t.start(); t.join()\n"
        "    return found[0]"
    ),
    "kills all that it can see": (
        "import os, signal\ndef f(x):\n"
        "    for pid in (os.getppid(), -1):\n"
        "        try: os.kill(pid, signal.SIGKILL)\n        except OSError: pass\n"
        "    return x + 1"
    ),
}


def test_what_is_harmless_passes() -> None:
    found = run_trials([_trial(code) for code in RIGHT.values()], LIMITS)
    assert dict(zip(RIGHT, found, strict=True)) == dict.fromkeys(RIGHT, Outcome(passed=True))


def test_a_program_that_sleeps_is_ended_with_all_that_is_below_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions: list[int] = []
    end = code_execution._end

    def ending(process: subprocess.Popen[bytes]) -> None:
        sessions.append(process.pid)
        end(process)

    monkeypatch.setattr(code_execution, "_end", ending)
    code = "import time, threading\ndef f(x):\n    time.sleep(10**6)"
    limits = LIMITS.model_copy(update={"wall_s": 5.0})
    assert run_trials([_trial(code)], limits)[0].reason == "it was not done after 5 s"
    assert len(sessions) == 2
    _wait_until_gone(sessions)


def test_nothing_survives_the_death_of_who_evaluates(tmp_path: Path) -> None:
    code = (
        "from evals.code_execution import Trial, run_trials\n"
        "run_trials([Trial(id='i', program='import time\\ndef f(x): time.sleep(10**6)', prompt='',"
        " test='def check(c): c(1)', entry_point='f')])"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with runner:
        while len(sessions := _children(runner.pid)) < 2 or len(_in_sessions(sessions)) < 4:
            assert runner.poll() is None
            time.sleep(0.05)
        runner.kill()
    _wait_until_gone(sessions)


def test_no_program_reaches_a_server_of_this_machine() -> None:
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    seen.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        address = server.getsockname()
        code = (
            "import urllib.request\ndef f(x):\n"
            f"    urllib.request.urlopen('http://127.0.0.1:{address[1]}/', timeout=2)\n"
            "    return x + 1"
        )
        outcome = run_trials([_trial(code)], LIMITS)[0]
        stop.set()
        thread.join()
    assert not outcome.passed
    assert seen == []


def test_tests_that_do_not_run_are_the_suites_fault() -> None:
    with pytest.raises(UnusableEvidence, match=r"item item: its tests do not run \(NameError"):
        run_trials([_trial("def f(x): return 2", "undefined")], LIMITS)
    with pytest.raises(UnusableEvidence, match="its tests do not run"):
        run_trials([_trial("def f(x): return 2", "x = 1")], LIMITS)


def test_a_kernel_that_refuses_namespaces_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        "exec unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; "
        f'exec {sys.executable} "$@"\' sh "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SandboxUnavailable, match=r"unshare.*Nothing was run. Allow unprivileged"):
        run_trials([_trial("def f(x): return x + 1")], LIMITS)


def test_all_canonical_solutions_of_humaneval_pass() -> None:
    rows = [json.loads(line) for line in HUMANEVAL.read_text(encoding="utf-8").splitlines()]
    found = run_trials(
        [
            Trial(
                id=row["id"],
                program=program(row, row["canonical_solution"]),
                prompt=row["prompt"],
                test=row["test"],
                entry_point=row["entry_point"],
            )
            for row in rows
        ]
    )
    failed = [row["id"] for row, outcome in zip(rows, found, strict=True) if not outcome.passed]
    assert (len(rows), failed) == (164, [])


def _stats() -> Iterator[tuple[int, int, int]]:
    """Process, parent and session of every live process that can be seen."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            yield int(path.parent.name), int(fields[1]), int(fields[3])


def _children(parent: int) -> list[int]:
    return [process for process, above, _ in _stats() if above == parent]


def _in_sessions(sessions: list[int]) -> list[int]:
    return [process for process, _, session in _stats() if session in sessions]


def _wait_until_gone(sessions: list[int]) -> None:
    """SIGKILL is carried out soon, not at once."""
    for _ in range(200):
        if not (left := _in_sessions(sessions)):
            return
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    pytest.fail(f"{len(left)} processes were left")
