"""What was signed: the in-toto statement, and whether it speaks of exactly these bytes.

Nothing is ignored. The signer's own list of paths to ignore comes with the statement, and the
library obeys it; here a statement with such a list is refused. One list is let through and has no
effect: what the library writes by default (git's files and the signature itself); files of those
names must be signed like all others, or not be there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.canonical import READ_SIZE_BYTES
from pipelines.digest import FileEntry
from pipelines.errors import MalformedFile, SignatureRefused
from pipelines.signatures.bundle import member
from pipelines.verification.findings import listed, quoted
from pipelines.verification.strict_json import parse_strict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
GIT_NAMES = (".git", ".gitattributes", ".github", ".gitignore")
_SIGNATURE_NAMES = ("model.sig", "publisher/model.sig")
_DIGEST_BYTES = {"sha256": 32, "blake2b": 64, "blake3": 32}


@dataclass(frozen=True)
class Difference:
    """In what the signed files and those that are here differ, each by name."""

    changed: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.unsigned or self.missing)

    def __str__(self) -> str:
        parts = [
            (self.missing, "signed and missing"),
            (self.unsigned, "here and not signed"),
            (self.changed, "changed since they were signed"),
        ]
        return "; ".join(f"{what}: {listed(names)}" for names, what in parts if names)


@dataclass(frozen=True)
class Statement:
    """The files of a signed statement: name to digests, one a shard in the order of the file."""

    subject: str
    hash_type: str
    shard_bytes: int  # 0: whole files
    digests: Mapping[str, tuple[str, ...]]

    def compare(self, files: Iterable[FileEntry], root: Path | None) -> Difference:
        """Compare with files that were listed and hashed by us.

        A statement over sha256 of whole files needs nothing more. For other hashes, and for
        shards, the bytes under `root` are read again; raises SignatureRefused where there is none.
        """
        here = {entry.path: entry for entry in files}
        common = sorted(self.digests.keys() & here.keys())
        return Difference(
            changed=tuple(name for name in common if not self._same(here[name], root)),
            unsigned=tuple(sorted(here.keys() - self.digests.keys())),
            missing=tuple(sorted(self.digests.keys() - here.keys())),
        )

    def _same(self, entry: FileEntry, root: Path | None) -> bool:
        digests = self.digests[entry.path]
        if self.hash_type == "sha256" and not self.shard_bytes:
            return digests == (entry.sha256,)
        if root is None:
            fact = f"it is over {self.hash_type} of files that are not kept, only their sha256 is"
            raise SignatureRefused(self.subject, fact)
        return digests == _hashed(root / entry.path, self.hash_type, self.shard_bytes)


def parse_statement(payload: bytes, subject: Path | str) -> Statement:
    """Parse a statement whose signature was checked; raises SignatureRefused for any other form."""
    try:
        statement = parse_strict(payload, str(subject))
    except MalformedFile as error:
        raise SignatureRefused(subject, f"its statement cannot be read ({error.fact})") from error
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise SignatureRefused(subject, f"it is no statement of type {STATEMENT_TYPE}")
    if statement.get("predicateType") != PREDICATE_TYPE:
        raise SignatureRefused(subject, f"it is no statement of type {PREDICATE_TYPE}")
    predicate = member(statement, "predicate", dict, subject)
    hash_type, shard_bytes = _serialization(predicate, subject)
    digests = _resources(predicate, hash_type, shard_bytes, subject)
    _check_root(statement, [digest for _, digest in digests], subject)
    files: dict[str, list[str]] = {}
    for name, digest in digests:
        files.setdefault(name, []).append(digest)
    whole = {name: tuple(found) for name, found in files.items()}
    return Statement(str(subject), hash_type, shard_bytes, whole)


def _serialization(predicate: dict[str, Any], subject: Path | str) -> tuple[str, int]:
    """(hash, shard size or 0); refuses links and ignored paths."""
    settings = member(predicate, "serialization", dict, subject)
    ignored = settings.get("ignore_paths", [])
    harmless = (*GIT_NAMES, *_SIGNATURE_NAMES)
    if not isinstance(ignored, list) or any(path not in harmless for path in ignored):
        raise SignatureRefused(subject, f"its statement ignores {quoted(ignored)}")
    if settings.get("allow_symlinks") is not False:
        fact = f"its statement has allow_symlinks {quoted(settings.get('allow_symlinks'))}"
        raise SignatureRefused(subject, fact)
    method, hash_type = settings.get("method"), settings.get("hash_type")
    if hash_type not in _DIGEST_BYTES:
        raise SignatureRefused(subject, f"its statement has the hash_type {quoted(hash_type)}")
    if method == "files":
        return hash_type, 0
    size = settings.get("shard_size")
    whole = isinstance(size, (int, float)) and not isinstance(size, bool) and size == int(size)
    if method != "shards" or not whole or size < 1 or hash_type == "blake3":
        fact = f"its statement has the method {quoted(method)} with the shard_size {quoted(size)}"
        raise SignatureRefused(subject, fact)
    return hash_type, int(size)


def _resources(
    predicate: dict[str, Any], hash_type: str, shard_bytes: int, subject: Path | str
) -> list[tuple[str, str]]:
    """(file, digest) of every entry, in order; the shards of a file follow each other."""
    algorithm = f"{hash_type}-sharded-{shard_bytes}" if shard_bytes else hash_type
    found: list[tuple[str, str]] = []
    ends: dict[str, int] = {}
    for resource in member(predicate, "resources", list, subject):
        name = member(resource, "name", str, subject)
        digest = member(resource, "digest", str, subject)
        file, start, end = (name, 0, 0) if not shard_bytes else _shard(name, subject)
        known = ends.get(file, 0)
        # A whole file stands there once; shards are whole and without a gap, the last one aside.
        follows = (
            file not in ends if not shard_bytes else start == known and not known % shard_bytes
        )
        whole = resource.get("algorithm") == algorithm and _is_digest(digest, hash_type)
        if not follows or not whole or (shard_bytes and not 0 < end - start <= shard_bytes):
            raise SignatureRefused(subject, f"its entry for {quoted(name)} cannot be used")
        ends[file] = end
        found.append((file, digest))
    return found


def _shard(name: str, subject: Path | str) -> tuple[str, int, int]:
    parts = name.rsplit(":", 2)
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 20 for p in parts[1:]):
        raise SignatureRefused(subject, f"its entry for {quoted(name)} cannot be used")
    return parts[0], int(parts[1]), int(parts[2])


def _check_root(statement: dict[str, Any], digests: list[str], subject: Path | str) -> None:
    """The statement's subject is the sha256 of all digests, as bytes, in their order."""
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()
    subjects = statement.get("subject")
    named = subjects if isinstance(subjects, list) else []
    if [s.get("digest") for s in named if isinstance(s, dict)] != [{"sha256": root}]:
        raise SignatureRefused(subject, "its root digest is not that of its entries")


def _is_digest(text: str, hash_type: str) -> bool:
    hexadecimal = all(character in "0123456789abcdef" for character in text)
    return hexadecimal and len(text) == 2 * _DIGEST_BYTES[hash_type]


def _hashed(path: Path, hash_type: str, shard_bytes: int) -> tuple[str, ...]:
    """Digests of a file's shards (of the whole file when `shard_bytes` is 0), read once."""
    digests: list[str] = []
    with path.open("rb", buffering=0) as file:
        while True:
            hasher, left, count = _hasher(hash_type), shard_bytes, 0
            while chunk := file.read(
                min(READ_SIZE_BYTES, left) if shard_bytes else READ_SIZE_BYTES
            ):
                hasher.update(chunk)
                count += len(chunk)
                left -= len(chunk)
                if shard_bytes and not left:
                    break
            if shard_bytes and not count:
                return tuple(digests)
            digests.append(hasher.hexdigest())
            if not shard_bytes:
                return tuple(digests)


def _hasher(hash_type: str) -> Any:
    if hash_type == "blake3":
        from blake3 import blake3  # a dependency of model-signing

        return blake3()
    return hashlib.new(hash_type)
