"""Unchanged: whether a corpus is as it was when it was last read, without reading it again.

A memo in the user's cache holds, for a corpus, a fingerprint of its files' names, sizes, times and
inodes, and the digest that reading them gave. While the fingerprint is the same, so is the digest.
The kernel sets a file's ctime at every change and lets no program set it back. A file that changed
within the clock's grain of being looked at could change again unseen (git calls such an entry
racy), so a corpus with so young a file is not remembered, and is read again the next time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from pipelines.batch.job import Corpus
from pipelines.batch.layout import local_state
from pipelines.canonical import Frozen, canonical_json, sha256_bytes, write_record

_GRAIN_NS = 2_000_000_000  # of the coarsest file system's time stamps


class CorpusMemo(Frozen):
    """What a corpus looked like from outside, and what was in it."""

    fingerprint: str
    corpus_sha256: str


def fingerprint(corpus: Corpus) -> str | None:
    """sha256 over every file's path, size, times and inode; None where that proves nothing.

    Take it before the corpus is read: what changes afterwards then differs from it. Memory is
    that of one folder's listing.
    """
    path = Path(corpus.path)
    if not path.exists():
        return None
    began, digest = time.time_ns(), hashlib.sha256()
    for name, status in _files(path):
        if status is None or max(status.st_mtime_ns, status.st_ctime_ns) > began - _GRAIN_NS:
            return None
        facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(os.fsencode(name) + b"\0" + repr(facts).encode() + b"\n")
    return digest.hexdigest()


def known_digest(corpus: Corpus) -> str | None:
    """The digest that a corpus had when it last looked as it does now; None when it did not."""
    try:
        memo = CorpusMemo.model_validate_json(_memo(corpus).read_bytes())
    except (OSError, ValidationError):  # none, or of another version: the corpus is read
        return None
    return memo.corpus_sha256 if memo.fingerprint == fingerprint(corpus) else None


def remember(corpus: Corpus, looked: str | None, corpus_sha256: str) -> None:
    """Note what reading a corpus gave, with the fingerprint that was taken before."""
    if looked is not None:
        write_record(_memo(corpus), CorpusMemo(fingerprint=looked, corpus_sha256=corpus_sha256))


def _memo(corpus: Corpus) -> Path:
    key = sha256_bytes(canonical_json(corpus.model_dump(mode="json")))
    return local_state() / "corpora" / f"{key[:32]}.json"


def _files(path: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below `path`, folder by folder in a fixed order; None where it has no status."""
    if not path.is_dir():
        yield "", path.stat()
        return
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            for name, status in _files(Path(entry.path)):
                yield f"{entry.name}/{name}", status
        else:
            try:
                yield entry.name, entry.stat()
            except OSError:
                yield entry.name, None
