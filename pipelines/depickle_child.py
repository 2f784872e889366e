"""The confined process that reads one pickle with torch's restricted unpickler.

`python -m pipelines.depickle_child SOURCE TARGET` prints what it wrote as JSON. `weights_only=True`
(torch/_weights_only_unpickler.py) executes no function but those that rebuild tensors.
"""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

# Of tensors that are one, the name that loaders look for comes first.
_FIRST = ("shared.weight", "embed_tokens.weight", "wte.weight", "word_embeddings.weight")
_LAST = ("lm_head.weight", "embed_out.weight", "decoder.weight", "decoder.bias")


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write `source` as safetensors; a `problem` says why nothing was written."""
    import torch
    from safetensors.torch import save_file

    mapped = zipfile.is_zipfile(source)  # the format before torch 1.6 cannot be mapped
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        return {"problem": f"it holds more than tensors ({str(error).splitlines()[0][:300]})"}
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        return {"problem": f"torch cannot read it ({type(error).__name__}: {str(error)[:300]})"}
    if not isinstance(loaded, dict) or not loaded:
        return {"problem": f"it holds a {type(loaded).__name__}, not tensors by name"}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            return {"problem": f"{name!r} is a {type(value).__name__}, no tensor"[:300]}
        if value.layout != torch.strided or value.is_quantized:
            return {"problem": f"{name!r} has no plain layout"[:300]}
    kept, aliases = _without_aliases(loaded)
    tensors = {name: kept[name].detach().contiguous().clone() for name in sorted(kept)}
    save_file(tensors, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors writes its files with mode 0600
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return {"tensors": sorted(tensors), "aliases": aliases, "size_bytes": size}


def _without_aliases(loaded: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Tensors with one name each, and the names that were left out."""
    kept: dict[tuple[Any, ...], str] = {}
    aliases = []
    for name in sorted(loaded, key=_rank):
        value = loaded[name]
        place = (value.data_ptr(), value.storage_offset(), value.dtype, tuple(value.shape))
        key = (*place, value.stride()) if value.numel() else (name,)
        if kept.setdefault(key, name) != name:
            aliases.append(name)
    return {name: loaded[name] for name in kept.values()}, sorted(aliases)


def _rank(name: str) -> tuple[int, int, str]:
    """Known names first, heads last, and the shorter of two that nothing tells apart."""
    found = [at for at, ending in enumerate(_FIRST) if name.endswith(ending)]
    place = found[0] if found else len(_FIRST) + name.endswith(_LAST)
    return (place, len(name), name)


if __name__ == "__main__":
    answer = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(json.dumps(answer))
