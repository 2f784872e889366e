"""hf:// — a repository on a Hugging Face Hub, or on a mirror of it (HF_ENDPOINT).

The Hub's client lists and authenticates; the transfers are ours, because the client checks sizes
only and loses what came when it is killed. Every byte is checked against the tree of the commit:
LFS objects by their sha256, small files by their git blob id. The tree itself comes from the Hub
or mirror: whoever controls that can state other digests. A signature, or a second source with the
same weight digest, guards against it.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipelines.errors import LinkInSource, SourceNotFound, WrongAnswer
from pipelines.references import COMMIT_PATTERN, SHA256_PATTERN, Reference
from pipelines.sources.hub_answers import endpoint, named_errors, request_headers, timeout_s
from pipelines.sources.hub_transfer import open_from
from pipelines.sources.selection import Selection, select
from pipelines.store.receiving import Offer, Reader, Stated, git_blob_sha1
from pipelines.store.resuming import ResumingReader

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_LONGEST_LINK_BYTES = 4096  # PATH_MAX
_CONTROL = re.compile(r"[\x00-\x1f]")


def resolve(reference: Reference) -> Reference:
    """Resolve a branch, a tag or the start of a commit id to the commit that it names now.

    Raises SourceNotFound for what is not there, SourceClosed for what this machine may not see,
    SourceUnreachable for a Hub that does not answer, WrongAnswer for what is no Hub.
    """
    from huggingface_hub import HfApi

    if reference.resolved:
        return reference
    with _understood(reference), named_errors(reference):
        client = HfApi(endpoint=endpoint(), headers=request_headers())
        info = client.repo_info(reference.where, revision=reference.revision, timeout=timeout_s())
    if info.sha is None or not COMMIT_PATTERN.fullmatch(info.sha):
        raise SourceNotFound(str(reference), f"the Hub names no commit for it ({info.sha!r})")
    return reference.model_copy(update={"revision": info.sha})


class HubSource:
    """The files of one commit. Raises as `resolve` does, and WrongAnswer for a broken listing."""

    remote = True
    streams = 8  # a distant server gives each connection only so much

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        offers: dict[str, Offer] = {}
        for file in _tree(reference):
            if file.path in offers:
                raise WrongAnswer(str(reference), endpoint(), f"lists {file.path!r} twice")
            offers[file.path] = _offer(reference, file)
        self.offers: Mapping[str, Offer] = offers

    def select(self, paths: Sequence[str]) -> Selection:
        """As every source does."""
        return select(paths)

    def placed(self, path: str, selection: Selection) -> str:
        """Files keep their names."""
        return path

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        """The file's bytes from `offset` on, through interruptions.

        Raises LinkInSource for a file that is a link in git.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # the root

        reference = self.reference
        url = hf_hub_url(
            reference.where, offer.path, revision=reference.revision, endpoint=endpoint()
        )
        ask = partial(open_from, reference, url, offer)
        with ResumingReader(offer, offset, ask, transient=(HTTPError,)) as stream:
            if offset or offer.size_bytes > _LONGEST_LINK_BYTES:
                yield stream
            else:
                yield io.BytesIO(self._no_link(offer, stream))

    def _no_link(self, offer: Offer, stream: Reader) -> bytes:
        """All bytes of a very small file, refused when they are but the name of another one.

        The Hub's tree does not tell links from files: git keeps a link as a file whose contents
        are its target, and that is what the Hub serves.
        """
        data = bytearray(offer.size_bytes + 1)
        view, size = memoryview(data), 0
        while size < len(data) and (count := stream.readinto(view[size:])):
            size += count
        target = _link_target(bytes(view[:size]))
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(offer.path), target))
        leads_out = inside == ".." or inside.startswith(("../", "/"))
        if target and inside != offer.path and (leads_out or inside in self.offers):
            raise LinkInSource(str(self.reference), offer.path, target)
        return bytes(view[:size])


def _tree(reference: Reference) -> list[RepoFile]:
    """Every file of the commit, with the digests that the Hub states.

    The client's own listing (`list_repo_tree`) waits for ever for a server that is silent; this
    is what it does, with a time limit.
    """
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported there
        paginate,
        validate_repo_id,
    )

    where, commit = reference.where, quote(reference.revision, safe="")
    with _understood(reference), named_errors(reference):
        validate_repo_id(where)
        entries = paginate(
            f"{endpoint()}/api/models/{where}/tree/{commit}",
            params={"recursive": True, "expand": False},
            headers=request_headers(),
            timeout=timeout_s(),
        )
        found = (entry for entry in entries if entry["type"] == "file")
        return [RepoFile(**entry) for entry in found]  # type: ignore[no-untyped-call]


@contextmanager
def _understood(reference: Reference) -> Iterator[None]:
    """Name what the client stumbles over when a server answers 200 and is no Hub."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:  # no JSON, or not a tree's
        fact = "answers with something that is no Hub's answer"
        raise WrongAnswer(str(reference), endpoint(), fact) from error


def _offer(reference: Reference, file: RepoFile) -> Offer:
    lfs = file.lfs
    size, digest = (file.size, file.blob_id) if lfs is None else (lfs.size, lfs.sha256)
    pattern = COMMIT_PATTERN if lfs is None else SHA256_PATTERN
    sound = isinstance(size, int) and size >= 0 and isinstance(digest, str)
    if not sound or not pattern.fullmatch(digest):
        fact = f"states no size and digest of {file.path!r} ({size!r}, {digest!r})"
        raise WrongAnswer(str(reference), endpoint(), fact)
    stated = git_blob_sha1(digest, size) if lfs is None else Stated("sha256", digest)
    # Neither commit nor path: a partial file is gone on with when the branch has moved meanwhile,
    # and one object at two paths comes once.
    key = f"hf://{reference.where} {digest}"
    return Offer(str(reference), file.path, size, key, stated)


def _link_target(data: bytes) -> str:
    """What a link would point to whose contents these are; '' for what can be no link."""
    try:
        target = data.decode()
    except UnicodeDecodeError:
        return ""
    return "" if _CONTROL.search(target) else target
