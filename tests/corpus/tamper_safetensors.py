"""Headers of safetensors files that lie."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.corpus.bases import SHARDS
from tests.corpus.tampering import Apply, Tampering

Header = dict[str, Any]
_FIRST = "model.embed_tokens.weight"
_NORM = "model.norm.weight"


def split(data: bytes) -> tuple[bytes, bytes]:
    """The header's bytes and the data."""
    length = struct.unpack("<Q", data[:8])[0]
    return data[8 : 8 + length], data[8 + length :]


def join(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def raw(change: Callable[[bytes, bytes], bytes], name: str = "model.safetensors") -> Apply:
    """Give header and data to `change` and write what it returns."""

    def apply(folder: Path, _: random.Random) -> None:
        path = folder / name
        path.write_bytes(change(*split(path.read_bytes())))

    return apply


def parsed(change: Callable[[Header], Any], name: str = "model.safetensors") -> Apply:
    """Change the header as JSON."""

    def rewrite(header: bytes, data: bytes) -> bytes:
        document = json.loads(header)
        change(document)
        return join(json.dumps(document).encode(), data)

    return raw(rewrite, name)


def _duplicate(text: str) -> Callable[[bytes, bytes], bytes]:
    def change(header: bytes, data: bytes) -> bytes:
        body = header.rstrip(b" ")
        return join(body[:-1] + b"," + text.encode() + b"}", data)

    return change


def _entry(**members: Any) -> Callable[[Header], None]:
    return lambda header: header[_NORM].update(members)


def _shift(amount: int) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        start, end = header[_NORM]["data_offsets"]
        header[_NORM]["data_offsets"] = [start + amount, end + amount]

    return change


def _alias(header: Header) -> None:
    header["alias.weight"] = dict(header[_NORM])


def _hole(header: bytes, data: bytes) -> bytes:
    """Sixteen bytes that belong to no tensor, in the middle of the data."""
    document = json.loads(header)
    at = max(v["data_offsets"][0] for k, v in document.items() if k != "__metadata__")
    for name, entry in document.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= at:
            entry["data_offsets"] = [offset + 16 for offset in entry["data_offsets"]]
    return join(json.dumps(document).encode(), data[:at] + b"\x00" * 16 + data[at:])


_SAME = '"dtype":"F32","shape":[16],"data_offsets":[0,64]'
_RAW: dict[str, Callable[[bytes, bytes], bytes]] = {
    "duplicate-tensor": _duplicate(f'"{_NORM}":{{{_SAME}}}'),
    "duplicate-escaped": _duplicate(f'"\\u006dodel.norm.weight":{{{_SAME}}}'),
    "duplicate-member": lambda h, d: join(h.replace(b'"shape":[16]', b'"shape":[16],"shape":[16]', 1), d),
    "duplicate-metadata": _duplicate('"__metadata__":{"a":"b"}'),
    "hole": _hole,
    "trailing": lambda h, d: join(h, d + b"\x00" * 8),
    "trailing-text": lambda h, d: join(h, d + b"#!/bin/sh"),
    "truncated": lambda h, d: join(h, d[:-1]),
    "truncated-half": lambda h, d: join(h, d[: len(d) // 2]),
    "no-data": lambda h, d: join(h, b""),
    "length-2-63": lambda h, d: join(h, d, 1 << 63),
    "length-2-64-1": lambda h, d: join(h, d, (1 << 64) - 1),
    "length-beyond": lambda h, d: join(h, d, len(h) + len(d) + 1),
    "length-zero": lambda h, d: join(h, d, 0),
    "length-short": lambda h, d: join(h, d, len(h) - 5),
    "padded-with-nul": lambda h, d: join(h.rstrip(b" ") + b"\x00" * 8, d),
    "padded-with-newline": lambda h, d: join(h.rstrip(b" ") + b"\n" * 8, d),
    "padded-with-tab": lambda h, d: join(h.rstrip(b" ") + b"\t" * 8, d),
    "space-first": lambda h, d: join(b" " + h, d),
    "byte-order-mark": lambda h, d: join(b"\xef\xbb\xbf" + h, d),
    "not-utf8": lambda h, d: join(h.replace(b"model.norm", b"model.n\xffrm"), d),
    "not-json": lambda h, d: join(b"{" * len(h), d),
    "list": lambda h, d: join(b"[" + h.rstrip(b" ") + b"]", d),
    "two-objects": lambda h, d: join(h.rstrip(b" ") + b"{}", d),
    "comment": lambda h, d: join(h.rstrip(b" ") + b"//x", d),
    "nested": lambda h, d: join(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", d),
    "big-number": lambda h, d: join(h.replace(b"[16]", b"[" + b"9" * 5000 + b"]", 1), d),
    "nan": lambda h, d: join(h.replace(b"[16]", b"[NaN]", 1), d),
    "infinity": lambda h, d: join(h.replace(b"[16]", b"[Infinity]", 1), d),
    "float-shape": lambda h, d: join(h.replace(b"[16]", b"[1.6e1]", 1), d),
}  # fmt: skip
_PARSED: dict[str, Callable[[Header], Any]] = {
    "dtype-unknown": _entry(dtype="F128"),
    "dtype-lower": _entry(dtype="f32"),
    "dtype-number": _entry(dtype=7),
    "dtype-narrow": _entry(dtype="F16"),
    "dtype-same-size": _entry(dtype="I32"),
    "shape-negative": _entry(shape=[-16]),
    "shape-string": _entry(shape="16"),
    "shape-overflow": _entry(shape=[2**32, 2**32]),
    "shape-wraps": _entry(shape=[2**62, 4, 16]),
    "shape-true": _entry(shape=[True, 16]),
    "shape-larger": _entry(shape=[17]),
    "shape-empty-axis": _entry(shape=[0, 16]),
    "shape-many-axes": _entry(shape=[1] * 70 + [16]),
    "shape-null": _entry(shape=None),
    "offset-negative": _entry(data_offsets=[-64, 0]),
    "offset-reversed": _entry(data_offsets=[128, 64]),
    "offset-huge": _entry(data_offsets=[2**63, 2**63 + 64]),
    "offset-one": _entry(data_offsets=[0]),
    "offset-three": _entry(data_offsets=[0, 64, 128]),
    "offset-float": _entry(data_offsets=[0.0, 64.0]),
    "offset-overlap": _shift(-64),
    "offset-overlap-byte": _shift(-1),
    "offset-later": _shift(64),
    "alias": _alias,
    "member-more": _entry(comment="x"),
    "member-missing": lambda h: h[_NORM].pop("dtype"),
    "entry-list": lambda h: h.update({_NORM: [1]}),
    "entry-null": lambda h: h.update({_NORM: None}),
    "metadata-number": lambda h: h.update(__metadata__={"format": 1}),
    "metadata-nested": lambda h: h.update(__metadata__={"a": {"b": "c"}}),
    "metadata-list": lambda h: h.update(__metadata__=["pt"]),
    "metadata-format": lambda h: h.update(__metadata__={"format": "pickle"}),
    "empty-name": lambda h: h.update({"": h.pop(_NORM)}),
    "control-in-name": lambda h: h.update({"model.norm\x00.weight": h.pop(_NORM)}),
    "zero-width-in-name": lambda h: h.update({"model.norm\u200b.weight": h.pop(_NORM)}),
    "homoglyph-name": lambda h: h.update({"m\u043edel.norm.weight": h.pop(_NORM)}),
    "path-name": lambda h: h.update({"../../model.norm.weight": h.pop(_NORM)}),
    "no-tensors": lambda h: h.clear(),
    "extra-empty": lambda h: h.update({"evil": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
}  # fmt: skip

TAMPERINGS = [
    *(Tampering("safetensors", n, "model.safetensors", raw(c)) for n, c in _RAW.items()),
    *(Tampering("safetensors", n, "model.safetensors", parsed(c)) for n, c in _PARSED.items()),
    *(
        Tampering("safetensors", f"shard-{n}", SHARDS[1], raw(_RAW[n], SHARDS[1]), "sharded")
        for n in ("trailing", "truncated", "length-2-63", "padded-with-nul", "hole", "nested")
    ),
]
