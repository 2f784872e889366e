"""Links, special files, names and sizes."""

# One line a tampering.
from __future__ import annotations

import os
import random
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

from tests.corpus.tampering import Apply, Tampering, write


def _link(name: str, target: str) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        path = folder / name
        if path.exists():
            path.rename(folder.parent / "moved")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    return apply


def _hard_link(folder: Path, _: random.Random) -> None:
    outside = folder.parent / "outside.json"
    outside.write_bytes((folder / "config.json").read_bytes())
    (folder / "config.json").unlink()
    os.link(outside, folder / "config.json")


def _hard_link_within(folder: Path, _: random.Random) -> None:
    os.link(folder / "README.md", folder / "notes.md")


def _socket(folder: Path, _: random.Random) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("control")
    finally:
        os.chdir(here)


def _sparse(name: str) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(1 << 40)

    return apply


def _pipe_below(folder: Path, _: random.Random) -> None:
    (folder / "a").mkdir()
    os.mkfifo(folder / "a/b.json")


def _deep(folder: Path, _: random.Random) -> None:
    path = folder
    for _level in range(60):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "x.py").write_text("")


def _raw(name: bytes) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"x")

    return apply


def _named(name: str) -> Tampering:
    return Tampering("files", f"name-{ascii(name)[1:-1]}", name, write(name, "x"))


_TWO = {"Config.json": "{}", "CONFIG.JSON": "{}", "readme.MD": "x", "Tokenizer.json": "{}"}
_NAMES = (
    "model\u202egpj.md", "con\u200bfig.json", "config.json\u200b", "\u2066x\u2069.md", "a\nb.md",
    "a\tb.md", "a\x1b[31m.md", "config.json ", " config.json", "config.json.", "a\\b.md", "a:b.md",
    "..\\..\\x.md", "a|b.md", "a*b.md", "nul\x7f.md", "x\u00adx.md", "\ufeffconfig.json",
)  # fmt: skip
_HIDDEN = (".hidden", ".git/config", ".env", ".cache/x.json", "a/.b/c.txt", ".ssh/id_rsa",
           ".git/hooks/post-checkout", ".DS_Store", "..x.json", ".config.json.swp")  # fmt: skip
_COMPOSED = (unicodedata.normalize("NFC", "modèle.md"), unicodedata.normalize("NFD", "modèle.md"))


def _both(one: str, other: str) -> Apply:
    def apply(folder: Path, draw: random.Random) -> None:
        write(one, "x")(folder, draw)
        write(other, "y")(folder, draw)

    return apply


def _made(name: str, file: str, apply: Callable[[Path, random.Random], None]) -> Tampering:
    return Tampering("files", name, file, apply)


TAMPERINGS = [
    _made("link-out", "passwd.txt", _link("passwd.txt", "/etc/passwd")),
    _made("link-in", "vocab.txt", _link("vocab.txt", "README.md")),
    _made("link-broken", "vocab.txt", _link("vocab.txt", "nowhere")),
    _made("link-relative-out", "x.md", _link("x.md", "../../x")),
    _made("link-folder", "original", _link("original", "/etc")),
    _made("link-for-config", "config.json", _link("config.json", "../moved")),
    _made("link-for-weights", "model.safetensors", _link("model.safetensors", "../moved")),
    _made("link-loop", "loop", _link("loop", "loop")),
    _made("link-to-parent", "a/up", _link("a/up", "..")),
    _made("hard-link", "config.json", _hard_link),
    _made("hard-link-within", "notes.md", _hard_link_within),
    _made("pipe", "pipe.json", lambda folder, _: os.mkfifo(folder / "pipe.json")),
    _made("pipe-in-folder", "a/b.json", _pipe_below),
    _made("socket", "control", _socket),
    _made("sparse-new", "big.safetensors", _sparse("big.safetensors")),
    _made("sparse-weights", "model.safetensors", _sparse("model.safetensors")),
    _made("sparse-json", "tokenizer.json", _sparse("tokenizer.json")),
    _made("deep", "d/" * 60 + "x.py", _deep),
    _made("not-utf8", "a\udcff.md", _raw(b"a\xff.md")),
    _made("two-forms", _COMPOSED[0], _both(*_COMPOSED)),
    _made("ligature", "\ufb01le.md", _both("file.md", "\ufb01le.md")),
    *(_made(f"case-{name}", name, write(name, content)) for name, content in _TWO.items()),
    *(_named(name) for name in _NAMES),
    *(_made(f"hidden-{name}", name, write(name, "x")) for name in _HIDDEN),
]  # fmt: skip
