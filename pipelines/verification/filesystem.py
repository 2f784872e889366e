"""What lies in a folder before any of it is opened: links, hidden files, names, sparse files."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.digest import relative_name
from pipelines.errors import WrongKindOfPath
from pipelines.records import Finding
from pipelines.verification.findings import quoted, refusal
from pipelines.verification.tokenizer_tokens import looks_like_another

_REMOVE = "Remove it from the model folder."
_HIDDEN_BUT_USUAL = frozenset({".gitattributes", ".gitignore"})
_RESERVED = frozenset('<>:"|?*\\')  # names that a Windows file system or a shell reads differently
SPARSE_FROM_BYTES = 64 * 1024 * 1024
SPARSE_SHARE = 4  # a file that occupies less than a quarter of its size on disk


@dataclass
class Listing:
    """Regular files that can be read, by name within the folder, and what was wrong on the way."""

    files: dict[str, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def has_identity(self) -> bool:
        """Whether a weight digest can speak for the folder: every entry is a readable file."""
        fatal = {"filesystem.link", "filesystem.special", "filesystem.unreadable"}
        fatal |= {"filesystem.encoding", "filesystem.sparse", "filesystem.collision"}
        return not any(finding.rule in fatal for finding in self.findings)


def list_folder(folder: Path) -> Listing:
    """List a folder without following links; raises WrongKindOfPath when it is no folder.

    Two names of one file are refused here; `linked_outside` also finds names that lie elsewhere.
    """
    if not folder.is_dir():
        raise WrongKindOfPath(folder, "a folder of weights")
    listing = Listing()
    for path in sorted(_entries(folder, listing)):
        name = relative_name(folder, path)
        if _is_readable_file(path, name, listing):
            if name in listing.files:
                fact = "another file has this name in a different Unicode form"
                listing.findings.append(refusal("filesystem.collision", name, fact, _REMOVE))
            else:
                listing.files[name] = path
    listing.findings += [*_names(listing.files), *_collisions(listing.files)]
    listing.findings += _linked_within(listing.files)
    if not listing.files and not listing.findings:
        remedy = "Check the path."
        listing.findings.append(refusal("filesystem.empty", "", "the folder is empty", remedy))
    return listing


def _entries(folder: Path, listing: Listing) -> Iterator[Path]:
    """Files and everything that is neither file nor folder."""

    def unreadable(error: OSError) -> None:
        where = Path(error.filename).relative_to(folder).as_posix()
        listing.findings.append(_unreadable(where, error))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        linked = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in [*names, *linked])


def _is_readable_file(path: Path, name: str, listing: Listing) -> bool:
    """Whether the bytes of a regular file can be had; a finding says why not."""
    try:
        name.encode()
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            fact = f"it is a link to {quoted(os.readlink(path))}"
            remedy = "Put the file itself there; the digest must speak of bytes in this folder."
            listing.findings.append(refusal("filesystem.link", name, fact, remedy))
            return False
        if not stat.S_ISREG(status.st_mode):
            fact = "it is a device, a socket or a pipe"
            listing.findings.append(refusal("filesystem.special", name, fact, _REMOVE))
            return False
        if status.st_size > max(SPARSE_FROM_BYTES, SPARSE_SHARE * status.st_blocks * 512):
            fact = f"{status.st_size} bytes long, with {status.st_blocks * 512} bytes on disk"
            listing.findings.append(refusal("filesystem.sparse", name, fact, "Fetch it again."))
            return False
        with path.open("rb"):
            return True
    except UnicodeEncodeError:
        fact = "its name is not UTF-8"
        listing.findings.append(refusal("filesystem.encoding", name, fact, "Rename it."))
    except OSError as error:
        listing.findings.append(_unreadable(name, error))
    return False


def _unreadable(name: str, error: OSError) -> Finding:
    fact = f"it cannot be read ({error.strerror})"
    return refusal("filesystem.unreadable", name, fact, "Make it readable for this user.")


def _names(files: dict[str, Path]) -> Iterator[Finding]:
    for name in files:
        parts = name.split("/")
        if any(part.startswith(".") for part in parts) and name not in _HIDDEN_BUT_USUAL:
            yield refusal("filesystem.hidden", name, "it is hidden", _REMOVE)
        odd = [c for c in name if not c.isprintable() or c in _RESERVED]
        if looks_like_another(name):
            fact = "its name mixes letters of two scripts that look alike"
            yield refusal("filesystem.name", name, fact, "Rename it.")
        if odd or any(part != part.strip() or part.endswith(".") for part in parts):
            fact = "its name has characters that programs read differently"
            yield refusal("filesystem.name", name, fact, "Rename it.")


def _collisions(files: dict[str, Path]) -> Iterator[Finding]:
    """Names that are one name where case or compatibility forms do not count."""
    seen: dict[str, str] = {}
    for name in sorted(files):
        folded = unicodedata.normalize("NFKC", name).casefold()
        if folded in seen:
            for one, other in ((name, seen[folded]), (seen[folded], name)):
                fact = f"on some file systems it is the same file as {quoted(other)}"
                yield refusal("filesystem.collision", one, fact, "Rename one of them.")
        seen.setdefault(folded, name)


def _linked_within(files: dict[str, Path]) -> Iterator[Finding]:
    seen: dict[tuple[int, int], str] = {}
    for name, path in files.items():
        status = path.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), name)
        if status.st_nlink > 1 and first != name:
            fact = f"it is a second name of {quoted(first)}: to change one is to change both"
            yield refusal("filesystem.hard-link", name, fact, "Copy the file.")


def linked_outside(files: dict[str, Path]) -> Iterator[Finding]:
    """Files with a name outside the folder as well, through which they may change unseen.

    Not for folders that our own store laid out: it links them to objects that it protects.
    """
    names: dict[tuple[int, int], int] = {}
    for path in files.values():
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        names[key] = names.get(key, 0) + 1
    for name, path in files.items():
        status = path.stat()
        if status.st_nlink > names[(status.st_dev, status.st_ino)]:
            fact = "it has another name outside this folder, through which it may be changed"
            yield refusal("filesystem.hard-link", name, fact, "Copy the file (`cp`, not `cp -l`).")
