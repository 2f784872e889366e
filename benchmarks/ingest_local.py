"""Ingest of a local model, against public tools that do parts of it.

The whole of what a user runs is timed, processes and all: `weighbridge add file://…` and the
ingest stage through `dvc repro`, in a fresh registry. There is nothing to load in these weights,
so that no smoke test hides what the bytes cost. References are timed in the same run on the same
files: sha256, md5 and one copy by the fastest of the public tools at hand; the usual three steps
(cp, sha256sum, dvc add); and `dvc add` alone for many small files.

`python -m benchmarks.ingest_local [GB…]` takes other sizes than 1, 2 and 4.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import Measure
from pipelines.canonical import Frozen

SIZES_GB = (1.0, 2.0, 4.0)
SMALL_FILES = 20_000
_SMALL_BYTES = 1024
_BIN = Path(sys.executable).parent


class Spent(Frozen):
    """What a command and all that it started took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            wall_s=self.wall_s + other.wall_s,
            cpu_s=self.cpu_s + other.cpu_s,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


def measure(sizes_gb: Sequence[float] = SIZES_GB) -> list[Measure]:
    """All figures; needs about five times the largest size on the temporary disk."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as name:
        bench = _Bench(Path(name))
        return [*_bytes(bench, sorted(sizes_gb)), *_small_files(bench)]


def _bytes(bench: _Bench, sizes: Sequence[float]) -> list[Measure]:
    first, middle, last = sizes
    models = {size: bench.model(size) for size in sizes}
    bench.ingest(bench.model(0.01))  # imports and caches are warm for whoever comes first
    ours = {size: bench.ingest(models[size]) for size in sizes}
    parts = {size: bench.public_tools(models[size]) for size in (first, last)}
    steps = bench.usual_steps(models[middle])
    slope = (ours[last].cpu_s - ours[first].cpu_s) / (last - first)
    reference = (parts[last].cpu_s - parts[first].cpu_s) / (last - first)
    peak = max(spent.peak_bytes for spent in ours.values())
    return [
        _ratio("ingest.marginal_cpu_over_tools", slope / reference, 1.15, "lower"),
        Measure(
            name="ingest.fixed_cpu",
            measured=ours[first].cpu_s - slope * first,
            unit="s",
            target=3.0,
            better="lower",
        ),
        _ratio("ingest.usual_steps_over_ours_wall", steps.wall_s / ours[middle].wall_s, 2.5),
        Measure(
            name="ingest.peak_memory",
            measured=peak / 1e6,
            unit="MB",
            target=500.0,
            better="lower",
        ),
    ]


def _small_files(bench: _Bench) -> list[Measure]:
    folder = bench.small_files(SMALL_FILES)
    theirs = bench.dvc_add(folder)
    ours = bench.add(folder)
    bench.say(f"weighbridge add of {folder.name}", ours)
    bench.say("its stage, through dvc repro", bench.stage(folder.name))
    return [
        _ratio("ingest.small_files_dvc_add_over_add_cpu", theirs.cpu_s / ours.cpu_s, 4.0),
        _ratio("ingest.small_files_dvc_add_over_add_wall", theirs.wall_s / ours.wall_s, 4.0),
    ]


def _ratio(name: str, measured: float, target: float, better: str = "higher") -> Measure:
    return Measure.model_validate(
        {"name": name, "measured": measured, "unit": "ratio", "target": target, "better": better}
    )


class _Bench:
    """A registry of its own, model folders to bring in, and the tools to compare with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WEIGHBRIDGE_", "DVC_"))},
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(root / "site-cache"),
            "DVC_NO_ANALYTICS": "1",
        }
        self.registry = root / "registry"
        self.run(["weighbridge", "init", str(self.registry)], root)

    def ingest(self, model: Path) -> Spent:
        """Bring a model into the registry, as a user does without Prefect."""
        spent = self.add(model) + self.stage(model.name)
        self.say(f"ingest {model.name}", spent)
        return spent

    def add(self, model: Path) -> Spent:
        """`weighbridge add` of a folder."""
        return self.timed(
            ["weighbridge", "add", f"file://{model}", "--name", model.name], self.registry
        )

    def stage(self, name: str) -> Spent:
        """Fetch the entry that `add` pushed, and run its stage."""
        spent = self.timed(["git", "pull", "--quiet"], self.registry)
        command = ["dvc", "repro", "--quiet", "--single-item", f"ingest@{name}"]
        return spent + self.timed(command, self.registry)

    def public_tools(self, model: Path) -> Spent:
        """sha256, md5 and one copy of the same bytes, each by the cheapest tool."""
        files = [str(path) for path in sorted(model.iterdir())]
        copy = self.root / "copy"
        spent = self._cheapest(
            lambda: self.timed(["sha256sum", *files]),
            lambda: self.timed(["openssl", "dgst", "-sha256", *files]),
        )
        spent += self._cheapest(
            lambda: self.timed(["md5sum", *files]),
            lambda: self.timed(["openssl", "dgst", "-md5", *files]),
        )
        spent += self.timed(["cp", "-r", str(model), str(copy)])
        shutil.rmtree(copy)
        self.say(f"sha256 + md5 + cp of {model.name}", spent)
        return spent

    def usual_steps(self, model: Path) -> Spent:
        """cp, then sha256sum, then dvc add."""
        target = self._dvc_repository() / "model"
        spent = self.timed(["cp", "-r", str(model), str(target)])
        spent += self.timed(["sha256sum", *(str(path) for path in sorted(target.iterdir()))])
        spent += self.timed(["dvc", "add", "--quiet", "model"], target.parent)
        self.say(f"cp, sha256sum, dvc add of {model.name}", spent)
        shutil.rmtree(target.parent)
        return spent

    def dvc_add(self, folder: Path) -> Spent:
        """`dvc add` of a copy that is there already."""
        target = self._dvc_repository() / "model"
        shutil.copytree(folder, target)
        os.sync()
        spent = self.timed(["dvc", "add", "--quiet", "model"], target.parent)
        self.say(f"dvc add of {folder.name}", spent)
        shutil.rmtree(target.parent)
        return spent

    def model(self, size_gb: float) -> Path:
        """A folder with two safetensors files of `size_gb` in all (10^9 bytes)."""
        folder = self.root / f"model-{size_gb:g}".replace(".", "-")
        folder.mkdir()
        block = os.urandom(1 << 24)
        for shard in range(2):
            _write_safetensors(folder / f"model-{shard}.safetensors", int(size_gb * 5e8), block)
        os.sync()
        return folder

    def small_files(self, count: int) -> Path:
        """A folder with one small safetensors file and `count` JSON files of a kilobyte."""
        folder = self.root / f"small-{count}"
        folder.mkdir()
        _write_safetensors(folder / "model.safetensors", 1024, os.urandom(1024))
        for number in range(count):
            filling = os.urandom(_SMALL_BYTES // 2 - 2).hex()
            (folder / f"{number}.json").write_text(f'"{filling}"')
        os.sync()
        return folder

    def run(self, argv: Sequence[str], cwd: Path) -> None:
        """Run a command that is not timed."""
        subprocess.run(argv, cwd=cwd, env=self.environ, check=True, capture_output=True)

    def timed(self, argv: Sequence[str], cwd: Path | None = None) -> Spent:
        """Run a command and return what it and its children took; raises CalledProcessError."""
        began = time.monotonic()
        process = subprocess.Popen(
            list(argv), cwd=cwd, env=self.environ,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(argv))
        return Spent(
            wall_s=time.monotonic() - began,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_bytes=usage.ru_maxrss * 1024,  # Linux gives KiB
        )

    def say(self, what: str, spent: Spent) -> None:
        """One line on standard error."""
        text = f"  {what}: {spent.wall_s:.1f} s wall, {spent.cpu_s:.1f} s CPU"
        print(text, file=sys.stderr, flush=True)

    def _dvc_repository(self) -> Path:
        tree = self.root / "plain"
        tree.mkdir()
        self.run(["git", "init", "--quiet"], tree)
        self.run(["dvc", "init", "--quiet"], tree)
        self.run(["dvc", "config", "cache.type", "reflink,hardlink,copy"], tree)
        return tree

    @staticmethod
    def _cheapest(*ways: Callable[[], Spent]) -> Spent:
        return min((way() for way in ways), key=lambda spent: spent.cpu_s)


def _write_safetensors(path: Path, size_bytes: int, block: bytes) -> None:
    elements = size_bytes // 2
    entry = {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}
    header = json.dumps({path.stem: entry}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for number, start in enumerate(range(0, 2 * elements, len(block))):
            changed = number.to_bytes(8, "little") + block[8:]  # no block twice: nothing to share
            file.write(changed[: 2 * elements - start])


if __name__ == "__main__":
    chosen = [float(argument) for argument in sys.argv[1:]] or list(SIZES_GB)
    for line in measure(chosen):
        print(line.line())
