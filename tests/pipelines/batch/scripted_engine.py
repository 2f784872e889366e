"""A scripted engine, so that the protocol around it is tested in seconds and killed at will.

It stands where a real engine cannot: what vLLM answers is not reproducible, and it takes half a
minute to start. One test of the package runs vLLM itself. As a program this module is a worker
with this engine; its script comes from the environment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.batch.engine import Completion, Engine, EngineConfig, Request, RequestRefused
from pipelines.batch.pooling import pack
from pipelines.batch.worker import answer
from pipelines.canonical import Frozen
from pipelines.subprocesses import serve

SCRIPT = "TEST_ENGINE_SCRIPT"
LABELS = ("red", "green", "blue")
_TOUCHES_DISK = {"open", "os.link", "os.remove", "os.rename", "os.mkdir"}


class Script(Frozen):
    """What the engine answers, and when its process dies."""

    answers: dict[int, tuple[str, ...]] = Field(default={}, description="by row and attempt")
    finish: dict[int, str] = Field(default={}, description="by row, instead of 'stop'")
    refused: tuple[int, ...] = ()
    exits: tuple[int, ...] = Field(default=(), description="rows that end the process: os._exit")
    raises: tuple[int, ...] = Field(default=(), description="rows that make a step raise")
    company: tuple[int, ...] = Field(default=(), description="rows that raise only together")
    max_num_seqs: int = 2
    dimensions: int = 0  # numbers instead of text
    log: Path | None = None  # one line per request and per start
    kill_at: int | None = None  # SIGKILL at this many steps and touches of the disk
    slow_s: float = 0.0  # sleep in each step


class ScriptedEngine:
    """Ends each request after one to four steps, in an order that depends on its row."""

    name = "scripted 1"

    def __init__(self, config: EngineConfig, script: Script) -> None:
        self.config, self._script = config, script
        self._running: list[tuple[int, Request]] = []
        self.most_in_flight = 0
        self._note("start")

    def add(self, request: Request) -> None:
        if request.row in self._script.refused:
            raise RequestRefused(f"row {request.row} is not to my taste")
        self._note(request.key)
        self._running.append((random.Random(request.key).randint(1, 4), request))
        self.most_in_flight = max(self.most_in_flight, len(self._running))

    @property
    def max_num_seqs(self) -> int:
        return self._script.max_num_seqs

    def step(self) -> list[Completion]:
        sys.audit("scripted.step")
        self._fall_over({request.row for _, request in self._running})
        if self._script.slow_s:
            time.sleep(self._script.slow_s)
        ended = [request for left, request in self._running if left == 1]
        self._running = [(left - 1, request) for left, request in self._running if left > 1]
        return [self._completion(request) for request in ended]

    def close(self) -> None:
        self._note("close")

    def _fall_over(self, rows: set[int]) -> None:
        if rows & set(self._script.exits):
            print("scripted: out of memory")
            sys.stdout.flush()
            os._exit(3)
        company = set(self._script.company)
        if rows & set(self._script.raises) or (company and company <= rows):
            raise MemoryError("scripted: no memory for this batch")

    def _completion(self, request: Request) -> Completion:
        texts = self._script.answers.get(request.row, ())
        text = texts[request.attempt - 1] if len(texts) >= request.attempt else good(request.row)
        finish = self._script.finish.get(request.row, "stop")
        size = self._script.dimensions
        if size:
            text = ""
        vector = pack([float(request.row + n) for n in range(size)]) if size else None
        return Completion(
            request.key, text, finish, completion_tokens=7, cached_tokens=1, vector=vector
        )

    def _note(self, what: str) -> None:
        if self._script.log is not None:
            descriptor = os.open(self._script.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{what}\n".encode())
            os.close(descriptor)


def good(row: int) -> str:
    """An answer that fits the schema of the tests."""
    return json.dumps({"label": LABELS[row % 3], "number": row})


def kill_at(moment: int) -> None:
    """SIGKILL this process at its `moment`-th step of the engine or touch of the disk."""
    count = 0

    def hook(event: str, _: Any) -> None:
        nonlocal count
        if event == "scripted.step" or event in _TOUCHES_DISK:
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    script = Script.model_validate_json(os.environ.get(SCRIPT, "{}"))

    def make(config: EngineConfig) -> Engine:
        return ScriptedEngine(config, script)

    def scripted(data: bytes) -> Any:
        if script.kill_at is not None:
            kill_at(script.kill_at)
        return answer(data, make)

    serve(scripted)


if __name__ == "__main__":
    main()
