"""Models that Ollama keeps on this machine: $OLLAMA_MODELS, or ~/.ollama/models.

Nothing is asked of a running Ollama. Blobs are files named by their sha256, and are checked
against it as they are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import SourceChanged, SourceClosed, SourceNotFound
from pipelines.references import Reference
from pipelines.store.receiving import Offer, Reader

# What a name without a host means to Ollama.
DEFAULT_HOST = "registry.ollama.ai"


class OllamaStore:
    """Ollama's own folder; `name` is NAMESPACE/MODEL."""

    streams = 2
    remote = False

    def __init__(self, reference: Reference, name: str) -> None:
        self._reference = str(reference)
        self._root = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")
        self._name = name
        if not self._root.is_dir():
            fact = f"there is no Ollama store at {self._root}"
            raise SourceNotFound(self._reference, fact, "Set OLLAMA_MODELS to the folder it uses.")

    def manifest(self, tag: str) -> bytes | None:
        """The manifest of a tag; None without one, as for any digest: tags are all there is."""
        path = self._root / "manifests" / DEFAULT_HOST / self._name / tag
        with self._readable(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def absent(self, tag: str) -> SourceNotFound:
        """What to say of a tag that is not there."""
        name = f"{self._name.removeprefix('library/')}:{tag}"
        fact = f"the Ollama store at {self._root} holds no {name}"
        return SourceNotFound(self._reference, fact, f"Fetch it with `ollama pull {name}`.")

    @contextmanager
    def open_blob(self, offer: Offer, digest: str, offset: int) -> Iterator[Reader]:
        """Raises SourceNotFound for a blob that is missing, SourceChanged for one cut short."""
        path = self._root / "blobs" / digest.replace(":", "-")
        with self._readable(path):
            try:
                status = path.stat()
            except FileNotFoundError as error:
                remedy = "Fetch the model again with `ollama pull`."
                raise SourceNotFound(str(offer), f"{path} is missing", remedy) from error
            if not stat.S_ISREG(status.st_mode) or status.st_size != offer.size_bytes:
                fact = f"{status.st_size} bytes at {path}"
                raise SourceChanged(str(offer), f"{offer.size_bytes} bytes", fact)
            file = path.open("rb", buffering=0)
        with file:
            file.seek(offset)
            yield file

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            remedy = "Run as a user that may read it, or set OLLAMA_MODELS to a copy."
            raise SourceClosed(self._reference, f"{path} may not be read", remedy) from error
