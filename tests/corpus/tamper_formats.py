"""Files that carry code, under honest and dishonest names. Payloads are inert."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

import gzip
import io
import lzma
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus.bases import SHARDS
from tests.corpus.tampering import Apply, Tampering, write


class _Call:
    """Pickles as a call of print."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("inert",))


def pickled(protocol: int = 2) -> bytes:
    return pickle.dumps(_Call(), protocol)


def zipped(name: str = "archive/data.pkl", content: bytes | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, pickled() if content is None else content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("data.pkl")
        member.size = len(pickled())
        archive.addfile(member, io.BytesIO(pickled()))
    return out.getvalue()


def numpy_objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


_PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00"
    b":~\x9bU\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q"
    b"\x00\x00\x00\x00IEND\xaeB`\x82"
)
_ELF = b"\x7fELF\x02\x01\x01" + bytes(57)
_SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
_HTML = "<!DOCTYPE html><html><script>alert(1)</script></html>"
_PYTHON = "import os\n\n\ndef main():\n    os.system('true')\n"
_ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x10\n\x04test" + bytes(30)

_NEW: dict[str, bytes | str] = {
    **{f"pickle-protocol-{n}.bin": pickled(n) for n in range(6)},
    "pytorch_model.bin": zipped(),
    "model.pt": zipped(),
    "model.pth": pickled(),
    "model.ckpt": zipped(),
    "training_args.bin": zipped(),
    "optimizer.pt": pickled(4),
    "scheduler.pkl": pickled(),
    "rng_state.pth": zipped(),
    "model.joblib": pickled(3),
    "model.joblib.z": zlib.compress(pickled()),
    "vectors.npy": numpy_objects(),
    "vectors.npz": zipped("a.npy", numpy_objects()),
    "data.pkl.gz": gzip.compress(pickled(), mtime=0),
    "data.tar": tarred(),
    "data.tar.gz": gzip.compress(tarred(), mtime=0),
    "data.xz": lzma.compress(pickled()),
    "data.lzma": lzma.compress(pickled(), lzma.FORMAT_ALONE),
    "data.zip": zipped("x.txt", b"x"),
    "data.bz2": b"BZh91AY&SY" + bytes(40),
    "data.zst": b"\x28\xb5\x2f\xfd" + bytes(40),
    "data.7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    "data.rar": b"Rar!\x1a\x07\x01\x00" + bytes(40),
    "archive.nemo": tarred(),
    "model.mar": zipped("handler.py", _PYTHON.encode()),
    "model.keras": zipped("config.json", b"{}"),
    "model.h5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "model.onnx": _ONNX,
    "saved_model.pb": _ONNX,
    "model.tflite": b"\x1c\x00\x00\x00TFL3" + bytes(40),
    "flax_model.msgpack": b"\x81\xa1a\x01" + bytes(20),
    "model.engine": b"ftrt" + bytes(60),
    "lib.so": _ELF,
    "kernel.cubin": _ELF,
    "setup.exe": b"MZ" + bytes(100),
    "lib.dylib": b"\xcf\xfa\xed\xfe" + bytes(60),
    "module.pyc": b"\xa7\r\r\n" + bytes(40),
    "module.wasm": b"\x00asm\x01\x00\x00\x00",
    "Main.class": b"\xca\xfe\xba\xbe" + bytes(40),
    "modeling_llama.py": _PYTHON,
    "configuration.py": "",
    "handler.py": _PYTHON,
    "conftest.py": _PYTHON,
    "sub/deep/tool.py": _PYTHON,
    "install.sh": "#!/bin/sh\ntrue\n",
    "run": "#!/usr/bin/env python3\nprint()\n",
    "notes.txt": "#!/bin/sh\ntrue\n",
    "run.bat": "@echo off\r\n",
    "run.ps1": "Write-Host x\n",
    "tool.js": "console.log(1)\n",
    "tool.lua": "os.execute('true')\n",
    "Makefile": "all:\n\ttrue\n",
    "Dockerfile": "FROM scratch\nRUN true\n",
    "requirements.txt": "evil-package\n",
    "setup.py": _PYTHON,
    "setup.cfg": "[metadata]\n",
    "pyproject.toml": "[project]\n",
    "analysis.ipynb": '{"cells": []}',
    "page.html": _HTML,
    "page.txt": _HTML,
    "picture.svg": _SVG,
    "picture.txt": _SVG,
    "paper.pdf": b"%PDF-1.7\n1 0 obj\n<< /OpenAction << /S /JavaScript >> >>\n",
    "shortcut.desktop": "[Desktop Entry]\nExec=true\n",
    "evil.pth": "import os\n",
    "sheet.xlsx": zipped("xl/workbook.xml", b"<x/>"),
    "table.parquet": b"PAR1" + bytes(20) + b"PAR1",
    "base.sqlite": b"SQLite format 3\x00" + bytes(80),
    "unknown": bytes(range(256)),
    "unknown.dat": bytes(range(1, 256)),
    "weights.bin": bytes(1024),
    "empty.bin": b"",
    "readme.pdf.md": b"%PDF-1.4\n",
    "picture.png": _PNG + zipped(),
    "picture.jpg": b"\xff\xd8\xff\xe0" + bytes(20) + b"\xff\xd9" + pickled(),
    "photo.png": b"MZ" + bytes(50),
    "photo.webp": b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(40),
    "photo.gif": b"GIF89a" + bytes(30) + zipped(),
    "text.json": pickled(0),
    "text.md": pickled(),
    "text.model": zipped(),
    "fake.gguf": pickled(),
    "fake.safetensors": pickled(),
    "zip.safetensors": zipped(),
    "elf.safetensors": _ELF,
    "empty.safetensors": b"",
    "short.safetensors": b"\x01\x02",
    "empty.gguf": b"",
    "text.safetensors": "hello",
    "utf16.txt": "hello".encode("utf-16"),
    "nul.txt": b"a\x00b",
    "escape.txt": b"\x1b]0;title\x07",
    "vocab.txt": pickled(),
    "merges.txt": _ELF,
    "tokenizer.model": pickled(),
    "spiece.model": b"\x0a\x05hello" + pickled(),
    "added.yaml": "!!python/object/apply:os.system ['true']\n",
    "config.yml": "a: !!python/name:os.system\n",
}


def _replace(data: bytes) -> Apply:
    return write("model.safetensors", data)


def _around(before: bytes, after: bytes) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(before + path.read_bytes() + after)

    return apply


def _header_pickle(folder: Path, _: random.Random) -> None:
    """A pickle between the header's JSON and its declared end."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].rstrip(b" ") + pickled()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def _new(name: str, content: bytes | str) -> Tampering:
    return Tampering("formats", f"new-{name}", name, write(name, content))


_WEIGHTS = "model.safetensors"
TAMPERINGS = [
    *(_new(name, content) for name, content in _NEW.items()),
    *(
        Tampering("formats", f"weights-are-{what}", _WEIGHTS, _replace(data))
        for what, data in {
            "pickle": pickled(), "zip": zipped(), "gzip": gzip.compress(pickled(), mtime=0),
            "tar": tarred(), "elf": _ELF, "numpy": numpy_objects(), "empty": b"", "zeros": bytes(99),
            "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "html": _HTML.encode(),
        }.items()
    ),
    *(
        Tampering("formats", f"polyglot-{what}", _WEIGHTS, _around(before, after))
        for what, before, after in (
            ("before-pickle", pickled(), b""), ("before-elf", _ELF, b""),
            ("after-zip", b"", zipped()), ("after-pickle", b"", pickled()),
            ("after-elf", b"", _ELF), ("after-zero", b"", b"\x00"), ("before-shebang", b"#!/bin/sh\n", b""),
        )
    ),
    Tampering("formats", "polyglot-in-header", _WEIGHTS, _header_pickle),
    Tampering("formats", "shard-is-zip", SHARDS[1], write(SHARDS[1], zipped()), "sharded"),
    Tampering("formats", "adapter-bin", "adapter_model.bin", write("adapter_model.bin", zipped()), "adapter"),
    Tampering("formats", "gguf-after-zip", "model.gguf",
        lambda f, _: (f / "model.gguf").write_bytes((f / "model.gguf").read_bytes() + zipped()) and None, "gguf"),
    Tampering("formats", "template-is-pickle", "chat_template.jinja", write("chat_template.jinja", pickled())),
    Tampering("formats", "config-is-pickle", "config.json", write("config.json", pickled())),
    Tampering("formats", "lfs-pointer", _WEIGHTS, write(_WEIGHTS, "version https://git-lfs.github.com/spec/v1\n")),
]  # fmt: skip
