"""Which files of a source are taken: an allow-list, sorted by what becomes of each file.

Into the model folder go weights in a format that cannot hold code, and the configuration,
tokenizer and processor files that belong to them. Licence texts and the publisher's own papers go
to the origin folder. All else is left out and named in the model card; so are second copies of the
weights and what belongs to them, since a folder that holds two models means either (`duplicates`).
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterable

from pipelines.canonical import Frozen
from pipelines.errors import UnusableSource
from pipelines.sources.duplicates import duplicates, unsafe_parts

WEIGHT_PATTERNS = ("*.safetensors", "*.gguf")
# Configurations are JSON; vocabularies have the names under which transformers (VOCAB_FILES_NAMES
# of its tokenizers) and mistral-common look for them. Other texts (.txt) are notes, not vocabulary.
CONFIG_PATTERNS = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tokenizer.model.v*",
    "merges.txt",
    "vocab.txt",
    "bpe.codes",
    "dict.txt",
)
PAPER_NAMES = ("readme.md", "metadata", "model.sig")
LICENCE_NAME = re.compile(
    r"(un)?(licen[cs]e|copying|notice|use[_-]policy)([._-].*)?", re.IGNORECASE
)
MAX_FILES = 100_000

_WEIGHTS, _CONFIGS = (
    re.compile("|".join(map(fnmatch.translate, patterns)))
    for patterns in (WEIGHT_PATTERNS, CONFIG_PATTERNS)
)
# An absolute path, an empty part, '.' or '..' anywhere, a backslash or a control character.
_UNSAFE = re.compile(r"(^|/)\.{0,2}(/|$)|\\|[\x00-\x1f]")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json")
_ASK_PUBLISHER = "Take a source without such files, or ask its publisher to correct it."


class Selection(Frozen):
    """The files of a source, by what becomes of them; paths relative to the source's root."""

    weights: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unsafe_parts: tuple[str, ...] = ()  # weights of a part of the model that come as pickle only

    @property
    def model(self) -> tuple[str, ...]:
        """What goes into the model folder."""
        return tuple(sorted([*self.weights, *self.configs]))


def select(paths: Iterable[str]) -> Selection:
    """Sort a source's files by what becomes of them.

    Hidden files and folders are left out, and so are the duplicates that `duplicates` finds.
    """
    kinds: dict[str, list[str]] = {
        kind: [] for kind in ("weights", "configs", "licences", "papers", "left_out")
    }
    for path in sorted(paths):
        kinds[_kind(path)].append(path)
    dropped = duplicates(kinds["weights"], kinds["configs"], kinds["left_out"])
    found = {
        kind: tuple(path for path in found if path not in dropped) for kind, found in kinds.items()
    }
    left_out = tuple(sorted({*found.pop("left_out"), *dropped}))
    unsafe = unsafe_parts(kinds["weights"], kinds["configs"], kinds["left_out"])
    return Selection(**found, left_out=left_out, unsafe_parts=unsafe)


def with_pickles(selection: Selection) -> Selection:
    """The same with PyTorch pickles as weights, for a conversion that nothing loads before.

    Nothing changes for a source that has weights in an allowed format too.
    """
    pickled = tuple(p for p in selection.left_out if _PICKLED.fullmatch(p.rsplit("/", 1)[-1]))
    if selection.weights or not pickled:
        return selection
    homes = {path.rpartition("/")[0] for path in pickled}
    beside = tuple(
        path
        for path in selection.left_out
        if path.rpartition("/")[0] in homes and _kind(path) == "configs"
    )
    taken = {*pickled, *beside}
    return selection.model_copy(
        update={
            "weights": tuple(path for path in pickled if not path.endswith(".json")),
            "configs": tuple(sorted({*selection.configs, *beside})),
            "left_out": tuple(path for path in selection.left_out if path not in taken),
        }
    )


def _kind(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    if path.startswith(".") or "/." in path:
        return "left_out"
    if _WEIGHTS.match(name):
        return "weights"
    if LICENCE_NAME.fullmatch(name):
        return "licences"
    if name in PAPER_NAMES:
        return "papers"
    if _CONFIGS.match(name):
        return "configs"
    return "left_out"


def require_weights(reference: str, selection: Selection) -> None:
    """Refuse a source without weights in an allowed format."""
    if not selection.weights:
        listed = ", ".join(selection.left_out[:5]) or "nothing else"
        raise UnusableSource(
            reference,
            f"no weights in an allowed format (safetensors, GGUF); it holds {listed}",
            "Take a revision in safetensors or GGUF: other formats can run code when they are "
            "loaded. PyTorch pickles can be converted where the policy admits it "
            "(convert: depickle).",
        )
    if selection.unsafe_parts:
        raise UnusableSource(
            reference,
            f"{', '.join(selection.unsafe_parts[:5])}: no safetensors beside it, so that a part of "
            "the model would be missing",
            "Take a revision in which every part is in safetensors, or leave the file out by name "
            "(exclude) if the model is whole without it.",
        )


def check_names(reference: str, paths: Iterable[str]) -> None:
    """Refuse names that lead out of a folder, or that some file system would merge into one."""
    seen: dict[str, str] = {}
    for count, path in enumerate(paths, start=1):
        if _UNSAFE.search(path):
            raise UnusableSource(reference, f"the file name {path!r} is unsafe", _ASK_PUBLISHER)
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            fact = f"{seen[key]!r} and {path!r} are one name where case or accents do not count"
            raise UnusableSource(reference, fact, _ASK_PUBLISHER)
        if count > MAX_FILES:
            raise UnusableSource(reference, f"more than {MAX_FILES} files", _ASK_PUBLISHER)
        seen[key] = path
