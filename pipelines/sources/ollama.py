"""ollama:// — models of an Ollama registry, or (without a host) of Ollama's store on this machine.

A tag moves; the pin is the sha256 of the manifest that it named. The GGUF file goes into the model
folder and licence layers among the licence texts. What Ollama alone reads (prompt template,
parameters, system prompt) is kept beside them with the manifest: Ollama's template is Go's, not
the GGUF's own in Jinja, and the manifest holds its sha256.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from pipelines.canonical import sha256_bytes
from pipelines.errors import BadReference, SourceChanged, SourceNotFound, UnusableSource
from pipelines.references import Reference
from pipelines.sources.claims import MAX_TEXT_BYTES
from pipelines.sources.ollama_manifest import (
    CONFIG_PATH,
    MANIFEST_PATH,
    Layer,
    check_config,
    parse_manifest,
)
from pipelines.sources.ollama_registry import OllamaRegistry
from pipelines.sources.ollama_store import OllamaStore
from pipelines.sources.selection import Selection
from pipelines.store.receiving import Offer, Reader, Stated


class Place(Protocol):
    """Where one model's manifests and blobs lie."""

    streams: int
    remote: bool

    def manifest(self, tag: str) -> bytes | None:
        """The manifest of a tag or digest, or None."""

    def absent(self, tag: str) -> SourceNotFound:
        """What to say of a tag without a manifest."""

    def open_blob(self, offer: Offer, digest: str, offset: int) -> AbstractContextManager[Reader]:
        """A blob from `offset` on."""


def resolve(reference: Reference) -> Reference:
    """Pin a tag to the sha256 of its manifest.

    Raises SourceNotFound without such a model, SourceUnreachable, SourceClosed, and UnusableSource
    for a model that could not be taken.
    """
    place = _place(reference)
    data = place.manifest(reference.revision)
    if data is None:
        raise place.absent(reference.revision)
    parse_manifest(str(reference), data)
    return reference.model_copy(update={"pin": sha256_bytes(data)})


def open_ollama(reference: Reference) -> OllamaSource:
    """The pinned model, by its tag, or by digest where the tag has moved on.

    Raises as `resolve` does, and SourceChanged when the pinned manifest cannot be had any more.
    """
    place = _place(reference)
    data = place.manifest(reference.revision)
    if data is None or sha256_bytes(data) != reference.pin:
        pinned = place.manifest(f"sha256:{reference.pin}")
        if pinned is None or sha256_bytes(pinned) != reference.pin:
            if data is None:
                raise place.absent(reference.revision)
            raise SourceChanged(str(reference), reference.pin, sha256_bytes(data))
        data = pinned
    return OllamaSource(reference, data, place)


class OllamaSource:
    """The layers of one manifest."""

    def __init__(self, reference: Reference, manifest: bytes, place: Place) -> None:
        self.reference = reference
        self.streams, self.remote = place.streams, place.remote
        self._place = place
        self._image = parse_manifest(str(reference), manifest)
        config = self._read(self._image.config)
        check_config(str(reference), config)
        self._held = {MANIFEST_PATH: manifest, CONFIG_PATH: config}
        offers = {path: self._offer(path, layer) for path, layer in self._image.layers.items()}
        for path, data in self._held.items():
            offers[path] = self._offer_of(path, len(data), sha256_bytes(data))
        self.offers: Mapping[str, Offer] = offers

    def select(self, paths: Sequence[str]) -> Selection:
        """By what each layer is."""
        return self._image.select(paths)

    def placed(self, path: str, selection: Selection) -> str:
        """Files keep the names that they were given."""
        return path

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        """Open a layer; manifest and configuration have come already."""
        if (data := self._held.get(offer.path)) is not None:
            yield io.BytesIO(data[offset:])
            return
        digest = self._image.layers[offer.path].digest
        with self._place.open_blob(offer, digest, offset) as stream:
            yield stream

    def _offer(self, path: str, layer: Layer) -> Offer:
        return self._offer_of(path, layer.size_bytes, layer.sha256)

    def _offer_of(self, path: str, size_bytes: int, sha256: str) -> Offer:
        """A blob is the same wherever it lies, so that its digest is its key."""
        name, stated = str(self.reference), Stated("sha256", sha256)
        return Offer(name, path, size_bytes, f"sha256:{sha256}", stated)

    def _read(self, layer: Layer) -> bytes:
        """A small layer's bytes, checked."""
        offer = self._offer(CONFIG_PATH, layer)
        if layer.size_bytes > MAX_TEXT_BYTES:
            fact = f"its configuration is longer than {MAX_TEXT_BYTES} bytes"
            raise UnusableSource(str(self.reference), fact, "Take another tag.")
        data, size = bytearray(layer.size_bytes + 1), 0
        with self._place.open_blob(offer, layer.digest, 0) as stream:
            while count := stream.readinto(memoryview(data)[size:]):
                size += count
        if (actual := hashlib.sha256(data[:size]).hexdigest()) != layer.sha256:
            raise SourceChanged(str(offer), f"sha256 {layer.sha256}", f"sha256 {actual}")
        return bytes(data[:size])


def _place(reference: Reference) -> Place:
    host, *rest = reference.where.split("/")
    parts = [*(["library"] if len(rest) == 1 else []), *rest]
    if any(part.startswith(".") for part in (*parts, reference.revision)):
        raise BadReference(str(reference), "its parts may not begin with a dot")
    name = "/".join(parts)
    if not host:
        return OllamaStore(reference, name)
    return OllamaRegistry(reference, host, name)
