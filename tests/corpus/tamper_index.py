"""Shard indexes that lie, and shards that do not fit them."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.corpus.bases import INDEX, SHARDS
from tests.corpus.tampering import Apply, Tampering, edit

Arrays = dict[str, Any]
_HEAD = "lm_head.weight"


def weights(name: str, change: Callable[[Arrays], Any]) -> Apply:
    """Change the tensors of one file and write it as the library does."""

    def apply(folder: Path, _: random.Random) -> None:
        path = folder / name
        arrays = load_file(path)
        change(arrays)
        path.unlink()
        save_file(arrays, path, metadata={"format": "pt"})

    return apply


def _to(shard: Any) -> Apply:
    return edit(INDEX, lambda document: document["weight_map"].update({_HEAD: shard}))


def _text(change: Callable[[str], str]) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        path = folder / INDEX
        path.write_text(change(path.read_text()))

    return apply


def _twice(text: str) -> str:
    return text.replace('"weight_map": {', f'"weight_map": {{"{_HEAD}": "{SHARDS[2]}", ', 1)


def _swap(document: Any) -> None:
    names = {SHARDS[0]: SHARDS[1], SHARDS[1]: SHARDS[0]}
    for tensor, shard in document["weight_map"].items():
        document["weight_map"][tensor] = names.get(shard, shard)


def _into_subfolder(folder: Path, draw: random.Random) -> None:
    (folder / "deep").mkdir()
    shutil.move(folder / SHARDS[2], folder / "deep" / SHARDS[2])
    name = f"deep/{SHARDS[2]}"

    def change(document: Any) -> None:
        for tensor, shard in document["weight_map"].items():
            document["weight_map"][tensor] = name if shard == SHARDS[2] else shard

    edit(INDEX, change)(folder, draw)


def _second_index(folder: Path, _: random.Random) -> None:
    document = json.loads((folder / INDEX).read_text())
    document["weight_map"][_HEAD] = SHARDS[1]
    (folder / "other.safetensors.index.json").write_text(json.dumps(document))


def _renamed_tensor(arrays: Arrays) -> None:
    name = sorted(arrays)[0]
    arrays[f"{name}2"] = arrays.pop(name)


def _beside(folder: Path, _: random.Random) -> None:
    shutil.copy(folder / SHARDS[0], folder / "model.safetensors")


def _bin_index(folder: Path, _: random.Random) -> None:
    said = {"metadata": {}, "weight_map": {_HEAD: "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(said))


_PATHS: dict[str, Any] = {
    "parent": "../model.safetensors", "parents": "../../../etc/passwd", "absolute": "/etc/passwd",
    "url": "https://example.org/model.safetensors", "file-url": "file:///etc/passwd",
    "hub": "hf://org/repo/model.safetensors", "backslash": "..\\model.safetensors",
    "dot": ".", "empty": "", "number": 3, "null": None, "list": [SHARDS[0]], "folder": "sub/x.safetensors",
    "nul": "model\x00.safetensors", "home": "~/model.safetensors", "gone": "model-00009-of-00003.safetensors",
    "pickle": "pytorch_model.bin", "other-shard": SHARDS[1], "config": "config.json",
    "variable": "$HOME/model.safetensors", "colon": "C:model.safetensors",
    "zero-width": f"{SHARDS[2]}\u200b", "case": SHARDS[2].upper(), "space": f" {SHARDS[2]}",
}  # fmt: skip


def _index(name: str, apply: Apply) -> Tampering:
    return Tampering("index", name, INDEX, apply, "sharded")


def _shard(name: str, shard: str, apply: Apply) -> Tampering:
    return Tampering("index", name, shard, apply, "sharded")


_NAN = np.ones((4, 4), np.float32)
TAMPERINGS = [
    *(_index(f"shard-{name}", _to(shard)) for name, shard in _PATHS.items()),
    _index("tensor-dropped", edit(INDEX, lambda d: d["weight_map"].pop(_HEAD))),
    _index("tensor-added", edit(INDEX, lambda d: d["weight_map"].update(evil=SHARDS[0]))),
    _index("tensor-renamed", edit(INDEX, lambda d: d["weight_map"].update(x=d["weight_map"].pop(_HEAD)))),
    _index("swapped", edit(INDEX, _swap)),
    _index("map-gone", edit(INDEX, lambda d: d.pop("weight_map"))),
    _index("map-empty", edit(INDEX, lambda d: d.update(weight_map={}))),
    _index("map-list", edit(INDEX, lambda d: d.update(weight_map=[]))),
    _index("map-nested", edit(INDEX, lambda d: d.update(weight_map={"model": d["weight_map"]}))),
    _index("total-wrong", edit(INDEX, lambda d: d["metadata"].update(total_size=1))),
    _index("total-negative", edit(INDEX, lambda d: d["metadata"].update(total_size=-1))),
    _index("total-text", edit(INDEX, lambda d: d["metadata"].update(total_size="many"))),
    _index("total-huge", edit(INDEX, lambda d: d["metadata"].update(total_size=10**30))),
    _index("duplicate-key", _text(_twice)),
    _index("duplicate-map", _text(lambda t: t[:-1] + ', "weight_map": {}}')),
    _index("not-json", _text(lambda t: t[:-1])),
    _index("list", _text(lambda t: f"[{t}]")),
    _index("subfolder", _into_subfolder),
    _index("auto-map", edit(INDEX, lambda d: d.update(auto_map={"AutoModel": "x.Y"}))),
    Tampering("index", "second", "other.safetensors.index.json", _second_index, "sharded"),
    Tampering("index", "pickle-index", "pytorch_model.bin.index.json", _bin_index, "sharded"),
    _shard("shard-file-gone", INDEX, lambda folder, _: (folder / SHARDS[1]).unlink()),
    _index("index-gone-shard-named", lambda f, _: (f / SHARDS[1]).rename(f / "x.safetensors") and None),
    _shard("shard-renamed", "x.safetensors", lambda f, _: (f / SHARDS[1]).rename(f / "x.safetensors") and None),
    _shard("tensor-removed", SHARDS[1], weights(SHARDS[1], lambda a: a.pop(sorted(a)[0]))),
    _shard("tensor-grafted", SHARDS[1], weights(SHARDS[1], lambda a: a.update(evil=_NAN))),
    _shard("tensor-renamed-in-shard", SHARDS[1], weights(SHARDS[1], _renamed_tensor)),
    _shard("tensor-twice", SHARDS[2], weights(SHARDS[2], lambda a: a.update({_HEAD: _NAN}))),
    _shard("single-beside", "model.safetensors", _beside),
    _shard("index-gone", SHARDS[0], lambda folder, _: (folder / INDEX).unlink()),
]  # fmt: skip
