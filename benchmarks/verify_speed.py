"""What verification costs: bytes, a tiny repository, hashing, memory.

The whole of `weighbridge verify FOLDER` is timed, process and all, on random bf16 weights of a
Llama; the marginal rate between two sizes leaves start-up and small files out. The other rate is
`sha256_file` against hashlib over the same file with the same reads.

`python -m benchmarks.verify_speed [GB GB]` takes other sizes than 2 and 8.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ingest_local import Spent
from benchmarks.measure import Measure
from pipelines.canonical import READ_SIZE_BYTES, sha256_file
from pipelines.verification.implied import implied_tensors

SIZES_GB = (2.0, 8.0)
_COMMAND = Path(sys.executable).parent / "weighbridge"
_WIDTH, _VOCABULARY = 2048, 32_000
_PIECE = 1 << 20
_LAYER_BYTES = 2 * (4 * _WIDTH * _WIDTH + 3 * _WIDTH * 4 * _WIDTH)


def measure(sizes_gb: Sequence[float] = SIZES_GB) -> list[Measure]:
    """All figures; needs the sum of the sizes on the temporary disk."""
    small, large = sorted(sizes_gb)
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as name:
        root = Path(name)
        tiny = _tiny(root / "tiny")
        _verify(tiny)  # imports and caches are warm for whoever comes first
        first = _verify(tiny)
        sizes = {gb: _weights(root / f"w{gb}", gb) for gb in (small, large)}
        spent = {gb: _verify(root / f"w{gb}") for gb in sizes}
        ours, raw = _hash_rates(root / f"w{large}" / "model.safetensors")
    cpu = spent[large].cpu_s - spent[small].cpu_s
    rate = (sizes[large] - sizes[small]) / 1e9 / cpu
    peak = max(each.peak_bytes for each in spent.values())
    return [
        _measure("verify.marginal_rate", rate, "GB/CPU s", 0.9, "higher"),
        _measure("verify.tiny_cpu", first.cpu_s, "s", 2.0, "lower"),
        _measure("verify.sha256_over_hashlib", ours / raw, "ratio", 0.9, "higher"),
        _measure("verify.peak_memory", peak / 1e6, "MB", 300.0, "lower"),
    ]


def _measure(name: str, measured: float, unit: str, target: float, better: Any) -> Measure:
    return Measure(name=name, measured=measured, unit=unit, target=target, better=better)


def _papers(folder: Path, layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Config and card of a Llama; returns its tensors."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY if width == _WIDTH else 64,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    implied = implied_tensors(config)
    assert implied is not None
    return implied.shapes


def _tiny(folder: Path) -> Path:
    _write(folder / "model.safetensors", _papers(folder, 2, 32))
    return folder


def _weights(folder: Path, size_gb: float) -> int:
    layers = max(1, round(size_gb * 1e9 / _LAYER_BYTES))
    path = folder / "model.safetensors"
    _write(path, _papers(folder, layers, _WIDTH))
    return path.stat().st_size


def _write(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random bf16 of about one: the exponent's upper byte is fixed, the rest is drawn."""
    import numpy as np

    draw = np.random.default_rng(1)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:  # small pieces: a child's peak is never below its parent's size
                count = min(left, _PIECE)
                file.write(draw.integers(0x3C00, 0x3F80, count, dtype=np.uint16).tobytes())
                left -= count


def _verify(folder: Path) -> Spent:
    """CPU seconds of the command and its children, and the peak memory of the largest."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(_COMMAND), "verify", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"benchmarks: verify refused the honest weights in {folder}")
    return Spent(
        wall_s=time.perf_counter() - start,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
    )


def _hash_rates(path: Path) -> tuple[float, float]:
    """Bytes a CPU second of `sha256_file` and of hashlib, best of three in turn."""
    size = path.stat().st_size
    best = [0.0, 0.0]
    for _ in range(3):
        for at, hash_file in enumerate((sha256_file, _raw_hash)):
            start = time.process_time()
            hash_file(path)
            best[at] = max(best[at], size / (time.process_time() - start))
    return best[0], best[1]


def _raw_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_SIZE_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    for each in measure([float(size) for size in sys.argv[1:]] or SIZES_GB):
        print(each.line(), flush=True)
