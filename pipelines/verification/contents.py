"""Everything that the checks need to know about a model folder, read once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.canonical import sha256_file
from pipelines.digest import FileEntry, weight_digest
from pipelines.errors import MalformedFile
from pipelines.progress import report
from pipelines.records import Finding
from pipelines.verification import filesystem, formats
from pipelines.verification.findings import refusal
from pipelines.verification.gguf_header import GgufHeader, read_gguf
from pipelines.verification.policy import VerificationPolicy
from pipelines.verification.safetensors_header import Header, read_safetensors
from pipelines.verification.strict_json import parse_strict


@dataclass
class Contents:
    """A model folder as read: names are paths within it, with forward slashes."""

    root: Path
    files: tuple[FileEntry, ...] = ()
    weight_digest: str = ""  # '' where links or unreadable files leave the folder no identity
    paths: dict[str, Path] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    safetensors: dict[str, Header] = field(default_factory=dict)
    ggufs: dict[str, GgufHeader] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """JSON files whose top level is an object."""
        for name, document in self.documents.items():
            if isinstance(document, dict):
                yield name, document

    def object(self, name: str) -> dict[str, Any]:
        """One JSON object, or an empty one where there is none."""
        document = self.documents.get(name)
        return document if isinstance(document, dict) else {}

    def names(self, kind: str) -> list[str]:
        """Files of one format, in order."""
        return [name for name, found in self.formats.items() if found == kind]


def read_contents(folder: Path, policy: VerificationPolicy) -> Contents:
    """List, hash, identify and parse every file; what cannot be read becomes a finding.

    Memory is bounded by the largest JSON file that the policy admits. Raises WrongKindOfPath when
    `folder` is not a folder.
    """
    listing = filesystem.list_folder(folder)
    contents = Contents(root=folder, paths=listing.files, findings=listing.findings)
    total = sum(path.stat().st_size for path in listing.files.values())
    done = 0
    entries = []
    for name, path in listing.files.items():
        size = path.stat().st_size
        entries.append(FileEntry(path=name, size_bytes=size, sha256=sha256_file(path)))
        contents.formats[name] = kind = formats.identify(path)
        contents.findings += formats.check(path, name, kind, policy)
        _parse(contents, name, path, policy)
        done += size
        report(done / 1e6, total / 1e6, "MB", "reading and hashing")
    contents.files = tuple(entries)
    if listing.has_identity and entries:
        contents.weight_digest = weight_digest(entries)
    return contents


def _parse(contents: Contents, name: str, path: Path, policy: VerificationPolicy) -> None:
    kind = contents.formats[name]
    try:
        if kind == "json":
            size = path.stat().st_size
            if size > policy.max_json_bytes:
                fact = f"it has {size} bytes, the policy reads at most {policy.max_json_bytes}"
                raise MalformedFile(name, "json.size", fact)
            contents.documents[name] = parse_strict(path.read_bytes(), name)
        elif kind == "safetensors":
            contents.safetensors[name] = read_safetensors(path)
        elif kind == "gguf":
            contents.ggufs[name] = read_gguf(path)
    except MalformedFile as error:
        contents.findings.append(refusal(error.rule, name, error.fact))
