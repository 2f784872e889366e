"""What a file is, by its bytes: only what is listed comes in.

A name never makes a file acceptable; it can only make it refused, when the name tells a loader
something else than the bytes do. Everything that can carry code (pickles in any wrapping, archives,
executables, scripts, TorchScript, Keras, ONNX) is refused by what it is, not by what it contains.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pipelines.records import Finding
from pipelines.verification.findings import refusal, words
from pipelines.verification.images import is_whole_image
from pipelines.verification.policy import VerificationPolicy

HEAD_BYTES = 4096
MAX_SENTENCEPIECE_BYTES = 64 * 1024 * 1024
MAX_TEXT_PICKLE_BYTES = 64 * 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "gguf"),
    (0, b"PK\x03\x04", "zip"), (0, b"PK\x05\x06", "zip"), (0, b"PK\x07\x08", "zip"),
    (0, b"\x1f\x8b", "gzip"), (0, b"BZh", "bzip2"), (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"), (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"), (0, b"Rar!\x1a\x07", "rar"), (257, b"ustar", "tar"),
    (0, b"\x7fELF", "executable"), (0, b"MZ", "executable"), (0, b"\xcf\xfa\xed\xfe", "executable"),
    (0, b"\xfe\xed\xfa\xcf", "executable"), (0, b"\xca\xfe\xba\xbe", "executable"),
    (0, b"\x00asm", "executable"), (0, b"dex\n", "executable"), (0, b"\x1bLua", "executable"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"), (0, b"\x93NUMPY", "numpy"), (4, b"TFL3", "tflite"),
    (0, b"%PDF", "pdf"), (0, b"SQLite format 3\x00", "sqlite"), (0, b"PAR1", "parquet"),
)  # fmt: skip
_PICKLE_PROTOCOLS = range(1, 6)
_PICKLE_CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "BUILD"}
_SENTENCEPIECE_FIELDS = range(
    1, 6
)  # ModelProto: pieces, trainer, normalizer, self test, denormalizer

# What loaders take a name to be. A text whose name is not listed is refused.
_NAMED: dict[str, frozenset[str]] = {
    ".safetensors": frozenset({"safetensors"}),
    ".gguf": frozenset({"gguf"}),
    ".json": frozenset({"json"}),
    ".jinja": frozenset({"template"}), ".jinja2": frozenset({"template"}),
    ".j2": frozenset({"template"}),
    ".model": frozenset({"sentencepiece", "text"}), ".spm": frozenset({"sentencepiece"}),
    ".tiktoken": frozenset({"text"}), ".txt": frozenset({"text"}), ".md": frozenset({"text"}),
    ".jsonl": frozenset({"text"}), ".csv": frozenset({"text"}), ".bpe": frozenset({"text"}),
    ".yaml": frozenset({"text"}), ".yml": frozenset({"text"}),
    ".codes": frozenset({"text"}), ".vocab": frozenset({"text"}), ".tsv": frozenset({"text"}),
    ".cff": frozenset({"text"}), ".bib": frozenset({"text"}), ".rst": frozenset({"text"}),
    ".sha256": frozenset({"text"}), ".md5": frozenset({"text"}),
    ".sig": frozenset({"text"}),
    ".png": frozenset({"image"}), ".jpg": frozenset({"image"}), ".jpeg": frozenset({"image"}),
    ".gif": frozenset({"image"}), ".webp": frozenset({"image"}),
}  # fmt: skip
_SCRIPTS = words(
    ".py .pyw .pyi .pth .sh .bash .zsh .bat .cmd .ps1 .js .mjs .ts .rb .pl .lua .php .jar .java .c "
    ".cc .cpp .cu .h .so .dll .dylib .exe .ipynb .html .htm .svg .xml .toml .cfg .ini .service "
    ".desktop .r .go .rs"
)
_NUMBERED_MODEL = re.compile(r"tokenizer\.model\.v\d+(m\d+)?")  # of Mistral
_PAPERS = re.compile(r"(licen[cs]e|copying|notice|readme|use[_-]?policy)([._-].*)?", re.IGNORECASE)
# Names that build or install tools act on, whatever their ending.
_BUILD_FILES = re.compile(
    r"(gnu)?makefile|dockerfile|containerfile|jenkinsfile|vagrantfile|procfile|rakefile|gemfile"
    r"|requirements[\w.-]*\.txt|constraints\.txt|environment\.ya?ml|cmakelists\.txt|conda\.ya?ml"
    r"|package\.json|pipfile|action\.ya?ml|docker-compose[\w.-]*\.ya?ml|build|workspace",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|svg|script)\b",
    re.IGNORECASE | re.DOTALL,
)
_YAML_TAG = re.compile(r"!!python/|!<tag:yaml\.org,2002:python")
_BASE64_PICKLE = re.compile(r"\s*gA[JMRSUV][A-Za-z0-9+/\s]{16,}={0,2}\s*\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")

Kind = Literal["safetensors", "gguf", "json", "template", "sentencepiece", "text", "image"]


def identify(path: Path) -> str:
    """The format of a file: one of `Kind`, or the name of what is refused, or 'unknown'.

    Reads the head, and all of the file only where its kind can be told no other way (texts and
    sentencepiece models).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        for offset, magic, name in _MAGIC:
            if head[offset : offset + len(magic)] == magic:
                return name
        if len(head) > 1 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS:
            return "pickle"
        if _looks_like_safetensors(head, path.suffix):
            return "safetensors"
        file.seek(0)
        if image := _image(head, file, size):
            return image
        file.seek(0)
        if head[:1] == b"\x0a" and size <= MAX_SENTENCEPIECE_BYTES:
            data = file.read()
            if is_sentencepiece(data):
                return "sentencepiece"
            file.seek(0)
        return _text(path.name, file)


def check(path: Path, name: str, kind: str, policy: VerificationPolicy) -> Iterable[Finding]:
    """Findings about one identified file; `name` is its path within the model folder."""
    suffix = Path(name).suffix.lower()
    if kind == "script" or suffix in _SCRIPTS or _BUILD_FILES.fullmatch(Path(name).name):
        fact = f"it is code or configuration that a program may run ({suffix or 'starts with #!'})"
        yield refusal("format.script", name, fact, "Remove it; weights need no code of their own.")
    elif kind not in policy.allowed_formats:
        remedy = "Take the model in safetensors or GGUF, or remove the file."
        allowed = ", ".join(policy.allowed_formats)
        fact = f"it is {kind}, and the policy admits only {allowed}"
        yield refusal(f"format.{kind}", name, fact, remedy)
    elif kind not in _expected(Path(name)):
        fact = f"its name says one thing, its bytes are {kind}"
        yield refusal("format.name", name, fact, "Remove it, or name it for what it is.")


def _expected(path: Path) -> frozenset[str]:
    if _PAPERS.fullmatch(path.name) and path.suffix.lower() not in _NAMED:
        return frozenset({"text"})
    if _NUMBERED_MODEL.fullmatch(path.name):
        return frozenset({"sentencepiece"})
    suffix = path.suffix.lower() if not path.name.startswith(".") else ""
    return _NAMED.get(suffix, frozenset({"text"} if suffix == "" else ()))


def _looks_like_safetensors(head: bytes, suffix: str) -> bool:
    """A length and then '{'; whether the length makes sense is for the strict reader to say."""
    return head[8:9] == b"{" and (b"\x00" in head[:8] or suffix == ".safetensors")


def _image(head: bytes, file: io.BufferedReader, size: int) -> str:
    """'image' when the bytes are one whole image and nothing else, 'image-with-more' if not."""
    if not head.startswith(_IMAGES) and head[8:12] != b"WEBP":
        return ""
    whole = is_whole_image(file.read()) if size <= MAX_IMAGE_BYTES else False
    return "" if whole is None else "image" if whole else "image-with-more"


def is_sentencepiece(data: bytes) -> bool:
    """Whether the bytes are a sentencepiece ModelProto: whole fields of known numbers, no rest."""
    at, pieces = 0, 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 != 2 or tag >> 3 not in _SENTENCEPIECE_FIELDS:
            return False
        length, at = _varint(data, at)
        at += length
        pieces += tag >> 3 == 1
    return at == len(data) and pieces > 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    return 0, len(data) + 1  # a field that runs out of the file


def _text(name: str, file: io.BufferedReader) -> str:
    """The kind of a text by its name, or what it is if it is no text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    first = ""
    while chunk := file.read(1024 * 1024):
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError:
            return "unknown"
        if _CONTROL.search(text):
            return "unknown"
        first = first or text[:MAX_TEXT_PICKLE_BYTES]
    if decoder.getstate()[0]:
        return "unknown"
    if first.startswith("#!"):
        return "script"
    if _is_text_pickle(first) or _BASE64_PICKLE.match(first):
        return "pickle"
    if _MARKUP.match(first) or _YAML_TAG.search(first):
        return "script"
    suffix = Path(name).suffix.lower()
    if suffix == ".json":
        return "json"
    return "template" if suffix in (".jinja", ".jinja2", ".j2") else "text"


def _is_text_pickle(text: str) -> bool:
    """Whether a text is a whole protocol-0 pickle that calls something (it is valid UTF-8 too)."""
    called = False
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(text.encode())):
            called = called or opcode.name in _PICKLE_CALLS
            if opcode.name == "STOP":
                return called
    except (ValueError, UnicodeDecodeError, AttributeError, TypeError, IndexError):
        return False
    return False
