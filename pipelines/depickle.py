"""PyTorch pickles in, safetensors out, for a registry whose policy admits that.

A pickle is a program. So before anything reads one, the scanners that the policy lists look at it,
each in a confined process, and all must say that they read every file and found nothing. Then a
confined child without a network opens each file with torch's restricted unpickler, which knows
tensors and containers and calls nothing else, and writes safetensors. Whatever is not a tensor ends
the conversion. The pickles themselves are kept nowhere in the registry.

Tensors that share memory (an embedding and the head tied to it) are written once, under the name
that loaders look for first; a view of a larger memory is written as itself.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pipelines.canonical import Frozen, write_bytes
from pipelines.confinement import Finished, Limits, run_confined
from pipelines.dequantise import Conversion
from pipelines.errors import MalformedFile
from pipelines.verification.findings import printable, quoted
from pipelines.verification.policy import PickleScanner
from pipelines.verification.second_opinion import Remark, find_program, read_report
from pipelines.verification.strict_json import parse_strict

PICKLED = re.compile(r"(?P<folder>(.+/)?)pytorch_model(?P<part>-\d+-of-\d+)?\.bin")
PICKLED_INDEX = re.compile(r"(?P<folder>(.+/)?)pytorch_model\.bin\.index\.json")
MEMORY_BYTES = 16 * 1024**3  # torch maps libraries of several GB; the weights come on top
SCAN_TIMEOUT_S = 3600.0
CONVERT_TIMEOUT_S = 4 * 3600.0
_TOOLS = ("torch", "safetensors")
_SUMMARY = re.compile(r"^(Scanned files|Infected files): (\d+)$", re.MULTILINE)
_NOT_READ = re.compile(r"could not parse|Invalid PyTorch magic|\bERROR\b", re.IGNORECASE)


class CannotDepickle(Exception):
    """Pickled weights that are refused, or that cannot be turned into safetensors."""


class Converted(Frozen):
    """What the child wrote for one file: names of tensors, and of those that were aliases."""

    tensors: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    size_bytes: int = 0
    problem: str = ""


def pickled_files(names: Sequence[str]) -> list[str]:
    """The names of PyTorch weights that are converted, in order."""
    return sorted(name for name in names if PICKLED.fullmatch(name))


def depickle(model: Path, out: Path, scanners: Sequence[PickleScanner]) -> Conversion:
    """Write `model` with its pickled weights as safetensors to the new folder `out`.

    All other files are copied as they are. The same files and tools give the same bytes.
    Raises CannotDepickle when a scanner is absent, fails or finds something, and when a file holds
    anything but tensors.
    """
    names = [path.relative_to(model).as_posix() for path in sorted(model.rglob("*"))]
    names = [name for name in names if (model / name).is_file()]
    pickles = pickled_files(names)
    said = [_ask(scanner, model, pickles) for scanner in scanners]
    if not said:
        raise CannotDepickle("the policy lists no scanner for pickles (pickle_scanners)")
    out.mkdir()
    done: dict[str, Converted] = {}
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in pickles:
            done[name] = _convert(model / name, out / safe_name(name))
        elif not PICKLED_INDEX.fullmatch(name):
            shutil.copyfile(model / name, target)
    for name in names:
        if index := PICKLED_INDEX.fullmatch(name):
            _write_index(model / name, out, index["folder"], done)
    settings: dict[str, str | int | float | bool] = {
        "scanners": ", ".join(said),
        "tensors": sum(len(one.tensors) for one in done.values()),
        "aliases_left_out": ", ".join(sorted(a for one in done.values() for a in one.aliases)),
    }
    return Conversion(settings=settings, tools={tool: version(tool) for tool in _TOOLS})


def safe_name(name: str) -> str:
    """The name that loaders look for: pytorch_model-1.bin becomes model-1.safetensors."""
    match = PICKLED.fullmatch(name)
    assert match is not None
    return f"{match['folder']}model{match['part'] or ''}.safetensors"


def _ask(scanner: PickleScanner, model: Path, pickles: Sequence[str]) -> str:
    """Have a scanner read every pickle; returns its name and version."""
    program = find_program(scanner)
    if program is None:
        raise CannotDepickle(
            f"the policy has {scanner} judge pickles, and it is not installed where PATH finds it"
        )
    limits = Limits(SCAN_TIMEOUT_S, MEMORY_BYTES + 2 * sum(_size(model, n) for n in pickles))
    for name in pickles:
        path = str((model / name).resolve())
        if scanner == "picklescan":
            _judge_picklescan(name, run_confined([program, "-p", path], limits))
        else:
            _judge_modelaudit(name, read_report(scanner, Path(path), limits))
    return scanner if scanner != "picklescan" else f"picklescan {version('picklescan')}"


def _size(model: Path, name: str) -> int:
    return (model / name).stat().st_size


def _judge_picklescan(name: str, done: Finished) -> None:
    """Exit 0 alone says little: it is also that of a file that was not read."""
    text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    counts = {key: int(value) for key, value in _SUMMARY.findall(text)}
    dangers = [line for line in text.splitlines() if "FOUND" in line]
    if dangers or counts.get("Infected files"):
        what = dangers[0].rsplit(": ", 1)[-1] if dangers else "something dangerous"
        raise CannotDepickle(f"picklescan refuses {name}: {printable(what)[:200]}")
    if done.timed_out or done.returncode or counts.get("Scanned files") != 1:
        raise CannotDepickle(f"picklescan gave no verdict on {name} (exit {done.returncode})")
    if _NOT_READ.search(text):
        raise CannotDepickle(f"picklescan could not read {name} to its end")


def _judge_modelaudit(name: str, remarks: Sequence[Remark] | str) -> None:
    if isinstance(remarks, str):
        raise CannotDepickle(f"modelaudit gave no verdict on {name}: {remarks}")
    for remark in remarks:
        if remark.level in ("block", "unread"):
            raise CannotDepickle(f"modelaudit refuses {name}: {printable(remark.message)[:200]}")


def _convert(source: Path, target: Path) -> Converted:
    size = source.stat().st_size
    limits = Limits(CONVERT_TIMEOUT_S, MEMORY_BYTES + 4 * size, file_bytes=2 * size + 2**26)
    argv = [sys.executable, "-m", "pipelines.depickle_child", str(source.resolve())]
    done = run_confined([*argv, str(target.resolve())], limits)
    try:
        answer = parse_strict(done.stdout, "answer") if done.returncode == 0 else None
    except MalformedFile:
        answer = None
    if answer is None:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = "it took too long" if done.timed_out else quoted(lines[-1] if lines else "", 200)
        raise CannotDepickle(f"{source.name} cannot be converted: {why}")
    converted = Converted.model_validate(answer)
    if converted.problem:
        raise CannotDepickle(f"{source.name} cannot be converted: {converted.problem}")
    return converted


def _write_index(path: Path, out: Path, folder: str, done: dict[str, Converted]) -> None:
    """The index of the new shards; every shard that the old one names must have been converted."""
    document = parse_strict(path.read_bytes(), path.name)
    said = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(said, dict):
        raise CannotDepickle(f"{path.name} has no weight_map")
    weight_map: dict[str, str] = {}
    shards = {str(shard) for shard in said.values()}
    for shard in sorted(shards):
        converted = done.get(f"{folder}{shard}")
        if converted is None:
            raise CannotDepickle(f"{path.name} names the shard {quoted(shard)}, which is not here")
        weight_map |= {tensor: safe_name(shard) for tensor in converted.tensors}
    total = sum(done[f"{folder}{shard}"].size_bytes for shard in shards)
    new = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    name = f"{folder}model.safetensors.index.json"
    write_bytes(out / name, json.dumps(new, indent=2).encode() + b"\n")
