"""Changes against a pinned manifest."""

# One line a tampering.
from __future__ import annotations

import random
from pathlib import Path

from tests.corpus.bases import INDEX, SHARDS
from tests.corpus.tampering import Apply, Tampering

_FILES = (
    "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "generation_config.json", "README.md", "LICENSE",
)  # fmt: skip


def _flip(name: str) -> Apply:
    def apply(folder: Path, draw: random.Random) -> None:
        data = bytearray((folder / name).read_bytes())
        bit = draw.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(data)

    return apply


def _remove(name: str) -> Apply:
    return lambda folder, _: (folder / name).unlink()


def _rename(old: str, new: str) -> Apply:
    return lambda folder, _: (folder / old).rename(folder / new) and None


def _add(name: str) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")

    return apply


def _append(name: str) -> Apply:
    return lambda folder, _: (folder / name).write_bytes((folder / name).read_bytes() + b"\n")


def _swap(one: str, other: str) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
        (folder / one).write_bytes(second)
        (folder / other).write_bytes(first)

    return apply


def _tamperings(pinned: str) -> list[Tampering]:
    def make(name: str, file: str, apply: Apply, base: str = "single") -> Tampering:
        return Tampering("integrity", f"{pinned}-{name}", file, apply, base, pinned)

    made = [make(f"bit-{file}", file, _flip(file)) for file in _FILES]
    made += [make(f"missing-{file}", file, _remove(file)) for file in _FILES]
    made += [make(f"append-{file}", file, _append(file)) for file in _FILES[1:4]]
    made += [make(f"extra-{n}", n, _add(n)) for n in ("extra.json", "a/b.json", "vocab.json")]
    made += [
        make("rename", "weights.safetensors", _rename("model.safetensors", "weights.safetensors")),
        make("rename-case", "Config.json", _rename("config.json", "Config.json")),
        make("swap-shards", SHARDS[0], _swap(SHARDS[0], SHARDS[1]), "sharded"),
        make("shard-gone", SHARDS[2], _remove(SHARDS[2]), "sharded"),
        make("index-gone", INDEX, _remove(INDEX), "sharded"),
    ]
    return made


TAMPERINGS = [*_tamperings("json"), *_tamperings("sums")]
