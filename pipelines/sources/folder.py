"""file:// — weights in a local folder.

The pin is the weight digest of what is taken from the folder (weights, configuration, tokenizer),
so that an ingest as-is has the pin itself as its weight digest.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.canonical import sha256_file
from pipelines.digest import FileEntry, list_files, relative_name, weight_digest
from pipelines.errors import SourceChanged, SourceNotFound
from pipelines.records import LicenceClaim
from pipelines.references import Reference
from pipelines.sources import intake
from pipelines.sources.claims import keep_text


def resolve(reference: Reference) -> Reference:
    """Pin a folder to the weight digest of its model files.

    Raises SourceNotFound when there is no such folder, WrongKindOfPath for a file or a link, and
    UnusableSource when it holds no weights.
    """
    paths, selection = _listing(reference)
    meter = intake.Meter(f"hash {reference.where}", _size(paths, selection.model))
    files: list[FileEntry] = []
    for name in selection.model:
        size = paths[name].stat().st_size
        files.append(FileEntry(path=name, size_bytes=size, sha256=sha256_file(paths[name])))
        meter.add(size)
    return reference.model_copy(update={"pin": weight_digest(files)})


def fetch(reference: Reference, model: Path, origin: Path) -> intake.Fetched:
    """Copy the folder's model files into `model`, its texts under `origin`.

    Raises as `resolve` does, and SourceChanged when the copied bytes are not those of the pin.
    """
    paths, selection = _listing(reference)
    total = _size(paths, selection.model)
    intake.require_space(model.parent, total)
    meter = intake.Meter(f"copy {reference.where}", total)
    files: list[FileEntry] = []
    for name in selection.model:
        with intake.open_plain(paths[name]) as stream:
            entry = intake.copy_in(stream, model / name)
        files.append(entry.model_copy(update={"path": name}))
        meter.add(entry.size_bytes)
    if (actual := weight_digest(files)) != reference.pin:
        raise SourceChanged(str(reference), reference.pin, actual)
    claims: list[LicenceClaim] = []
    for name in (*selection.licences, *selection.papers):
        with intake.open_plain(paths[name]) as stream:
            claims += keep_text(str(reference), name, stream, origin)
    return intake.Fetched(files=tuple(files), licences=tuple(claims), left_out=selection.left_out)


def _listing(reference: Reference) -> tuple[dict[str, Path], intake.Selection]:
    folder = Path(reference.where)
    if not folder.exists():
        raise SourceNotFound(str(reference), "there is no such folder", "Check the path.")
    found = list_files(folder)
    # Checked before they become keys: two names may be one after normalisation.
    intake.check_names(str(reference), (path.relative_to(folder).as_posix() for path in found))
    paths = {relative_name(folder, path): path for path in found}
    selection = intake.select(paths)
    intake.require_weights(str(reference), selection)
    return paths, selection


def _size(paths: dict[str, Path], names: tuple[str, ...]) -> int:
    return sum(paths[name].stat().st_size for name in names)
