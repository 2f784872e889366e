"""Files that are compressed with gzip or Zstandard, as the stream of what is in them."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard

from pipelines.batch.text import DocumentError

if TYPE_CHECKING:
    from typing_extensions import Buffer

SUFFIXES = {".gz": "gzip", ".zst": "Zstandard"}
_MAX_WINDOW_BYTES = 1 << 27  # what the zstd program accepts without being asked for more
_PIECE_BYTES = 1024  # decompressed at a time: at most 32 MiB, as four bytes can stand for 128 KiB


def split_suffixes(path: str) -> tuple[str, str]:
    """The suffix of the format and that of the compression ('' if none), both in lower case."""
    stem, last = os.path.splitext(path.lower())
    if last in SUFFIXES:
        return os.path.splitext(stem)[1], last
    return last, ""


def decompressed(stream: BinaryIO, path: str) -> BinaryIO:
    """`stream` as it is, or what is in it if `path` ends in .gz or .zst; it can seek if that can.

    Reading what is compressed costs bounded memory. Closing the result closes `stream`.
    """
    compression = split_suffixes(path)[1]
    if compression == ".gz":
        return cast(BinaryIO, _Gzip(stream))
    if compression == ".zst":
        return io.BufferedReader(_Zstandard(stream))
    return stream


@contextmanager
def broken_as_document_error(path: str) -> Iterator[None]:
    """Damage of a compressed file as DocumentError `broken_file`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        kind = SUFFIXES.get(split_suffixes(path)[1], "compressed")
        fact = f"not a whole {kind} file ({error})"
        raise DocumentError("broken_file", fact) from error


class _Gzip(gzip.GzipFile):
    """Closes the stream below it too."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._below = stream

    def close(self) -> None:
        super().close()
        self._below.close()


class _Zstandard(io.RawIOBase):
    """What Zstandard frames hold; a file that ends within one is an error.

    (zstandard's own stream reader takes such an end for the end of the file.)
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._begin()

    def _begin(self) -> None:
        self._frame = self._decompressor.decompressobj()
        self._waiting, self._out = b"", memoryview(b"")
        self._in_frame, self._at = False, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Reads on to a later place; an earlier one is read from the beginning."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a compressed stream is not known")
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if target < self._at:
            self._stream.seek(0)
            self._begin()
        scratch = bytearray(1 << 16)
        while self._at < target:
            wanted = memoryview(scratch)[: min(len(scratch), target - self._at)]
            if not self.readinto(wanted):
                break
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        while not self._out:
            data = self._waiting or self._stream.read(_PIECE_BYTES)
            if not data:
                if self._in_frame:
                    raise EOFError("the file ends within a frame")
                return 0
            self._in_frame, self._waiting = True, b""
            self._out = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._in_frame, self._waiting = False, self._frame.unused_data
                self._frame = self._decompressor.decompressobj()
        view = memoryview(buffer)
        count = min(len(view), len(self._out))
        view[:count], self._out = self._out[:count], self._out[count:]
        self._at += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
