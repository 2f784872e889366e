"""hf:// — weights on a Hugging Face Hub, or a server that speaks its protocol (HF_ENDPOINT).

Downloads go through the real client; the identity check is ours. The client compares sizes only:
a mirror that serves other bytes of the same size would go unnoticed. Every file is compared with
what the repository's tree says of that commit: the sha256 of large files (LFS), the git blob id
(sha1 of ``blob SIZE\\0`` and the bytes) of small ones. A server that also forges the tree is not
caught here: then only the weight digest, compared with another source's, tells.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.digest import FileEntry
from pipelines.errors import BadReference, SourceChanged, SourceNotFound
from pipelines.records import LicenceClaim
from pipelines.references import COMMIT_PATTERN, Reference
from pipelines.sources import intake
from pipelines.sources.claims import keep_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_GATED = (
    "Accept the model's terms on its page, then set HF_TOKEN to a token of an account that may "
    "read it."
)
_LATER = "Run the same command again later: what was fetched is kept."


def resolve(reference: Reference) -> Reference:
    """Resolve a branch or tag to the commit that it names now.

    Raises SourceNotFound for an absent or closed repository, an absent revision, or a Hub that
    cannot be reached.
    """
    if reference.resolved:
        return reference
    with _named_errors(reference):
        commit = _client().repo_info(reference.where, revision=reference.revision).sha
    if commit is None or not COMMIT_PATTERN.fullmatch(commit):
        raise SourceNotFound(str(reference), f"the Hub names no commit for it ({commit!r})")
    return reference.model_copy(update={"revision": commit})


def fetch(reference: Reference, cache: Path, model: Path, origin: Path) -> intake.Fetched:
    """Download the commit's model files, check each, and copy them into `model`.

    Finished files stay in `cache` and are checked again when they are reused. Raises as `resolve`
    does, and SourceChanged for a file whose bytes are not those of the commit.
    """
    tree = _tree(reference)
    intake.check_names(str(reference), tree)
    selection = intake.select(tree)
    intake.require_weights(str(reference), selection)
    total = sum(tree[name].size for name in selection.model)
    intake.require_space(model.parent, total)
    meter = intake.Meter(f"download {reference.where}", total)
    files: list[FileEntry] = []
    for name in selection.model:
        entry = _take(reference, tree[name], cache, model / name)
        files.append(entry.model_copy(update={"path": name}))
        meter.add(entry.size_bytes)
    claims: list[LicenceClaim] = []
    with intake.scratch(origin / ".fetched") as folder:
        for name in (*selection.licences, *selection.papers):
            _take(reference, tree[name], cache, folder / name)
            with (folder / name).open("rb") as stream:
                claims += keep_text(str(reference), name, stream, origin)
    return intake.Fetched(files=tuple(files), licences=tuple(claims), left_out=selection.left_out)


def _client() -> HfApi:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # progress is reported in our own form
    # Named here because the client reads HF_ENDPOINT once, when it is first imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _tree(reference: Reference) -> dict[str, RepoFile]:
    """Every file of the commit, by path, with the digests that the Hub states."""
    from huggingface_hub.hf_api import RepoFile

    with _named_errors(reference):
        entries = _client().list_repo_tree(
            reference.where, recursive=True, revision=reference.revision
        )
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _take(reference: Reference, file: RepoFile, cache: Path, target: Path) -> FileEntry:
    """Copy one file of the commit to `target`, checked; a stale cached copy is fetched again."""
    blob, was_cached = _download(reference, file, cache)
    entry, found = _copy_checked(file, blob, target)
    if found != _stated(file) and was_cached:
        blob.unlink()
        target.unlink()
        blob, _ = _download(reference, file, cache)
        entry, found = _copy_checked(file, blob, target)
    if found != _stated(file):
        blob.unlink()
        target.unlink()
        raise SourceChanged(f"{reference} {file.path}", _stated(file), found)
    return entry


def _download(reference: Reference, file: RepoFile, cache: Path) -> tuple[Path, bool]:
    """Path of the file's bytes in the client's cache, and whether they lay there before."""
    from huggingface_hub import try_to_load_from_cache

    hub = cache / "hub"
    where, commit = reference.where, reference.revision
    known = isinstance(try_to_load_from_cache(where, file.path, hub, commit), str)
    with (
        _named_errors(reference),
        intake.watch(hub, f"download {file.path}"),
    ):
        path = _client().hf_hub_download(where, file.path, revision=commit, cache_dir=hub)
    return Path(path).resolve(), known  # snapshots hold links: the bytes are what is wanted


def _copy_checked(file: RepoFile, blob: Path, target: Path) -> tuple[FileEntry, str]:
    """Copy the bytes; returns the entry and their digest in the form that the Hub states."""
    oid = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    with intake.open_plain(blob) as stream:
        if file.lfs is not None:
            entry = intake.copy_in(stream, target)
            return entry, entry.sha256
        return intake.copy_in(stream, target, oid), oid.hexdigest()


def _stated(file: RepoFile) -> str:
    return file.lfs.sha256 if file.lfs is not None else file.blob_id


@contextmanager
def _named_errors(reference: Reference) -> Iterator[None]:
    """Turn what the client raises into SourceNotFound, with what to do about it."""
    from huggingface_hub import errors

    where, revision = reference.where, reference.revision
    try:
        yield
    except errors.HFValidationError as error:
        raise BadReference(str(reference), _first_line(error)) from error
    except errors.GatedRepoError as error:
        raise SourceNotFound(str(reference), f"{where} is gated", _GATED) from error
    except errors.RevisionNotFoundError as error:
        fact = f"{where} has no revision {revision}"
        raise SourceNotFound(str(reference), fact) from error
    except errors.RepositoryNotFoundError as error:
        fact = f"there is no repository {where}, or this machine's token may not see it"
        raise SourceNotFound(str(reference), fact) from error
    except errors.HfHubHTTPError as error:
        fact = f"the Hub answered {error.response.status_code}"
        raise SourceNotFound(str(reference), fact, _LATER) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        fact = f"the Hub cannot be reached ({_first_line(error)})"
        raise SourceNotFound(str(reference), fact) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # its HTTP library's root
        fact = f"the connection to the Hub failed ({type(error).__name__}: {_first_line(error)})"
        raise SourceNotFound(str(reference), fact, _LATER) from error
    except OSError as error:
        if error.errno is not None:  # a full or broken disk, not the Hub
            raise
        fact = f"a download did not come whole ({_first_line(error)})"
        raise SourceNotFound(str(reference), fact, _LATER) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
