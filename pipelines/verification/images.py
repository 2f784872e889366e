"""Images read part by part: what is not the picture itself is where something else can hide.

A PNG may carry a zip in a chunk of its own, a JPEG an archive after its end mark and before
another, and each still opens as a picture. So every byte must belong to a part that the format
names (PNG third edition, 5 and 11; JPEG T.81 annex B; GIF89a; WebP container, RFC 9649), and parts
that carry no pixels must not hold the beginning of an archive, a program or a pickle.
"""

from __future__ import annotations

import re
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
# Named by the standard, and those that cameras, Apple, Adobe and C2PA write.
_PNG_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI tEXt zTXt iTXt bKGD hIST "
    b"pHYs sPLT eXIf tIME acTL fcTL fdAT oFFs pCAL sCAL gIFg gIFt gIFx sTER dSIG iDOT caBX orNT "
    b"vpAg mkBF mkTS mkBS mkBT prVW".split()
)
_PNG_PIXELS = frozenset({b"IDAT", b"fdAT"})
_WEBP_CHUNKS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})
_WEBP_NOTES = frozenset({b"ICCP", b"EXIF", b"XMP "})
# What begins an archive or a program, and a pickle that names what to call.
_PAYLOAD = re.compile(
    rb"PK\x03\x04|PK\x05\x06|\x7fELF|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|\x80[\x02-\x05][\x95\x8cc(}\]]"
)
MAX_PADDING = 4096  # zeros that some programs leave after a JPEG
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and restart marks have no length


def is_whole_image(data: bytes) -> bool | None:
    """Whether `data` is one image and nothing else; None when it is no image of a known kind."""
    try:
        if data.startswith(_PNG):
            return _is_png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _is_jpeg(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _is_gif(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _is_webp(data)
    except IndexError:  # a part that claims more bytes than there are
        return False
    return None


def _is_png(data: bytes) -> bool:
    at = len(_PNG)
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        check = data[at + 8 + length : at + 12 + length]
        if len(check) < 4 or kind not in _PNG_CHUNKS:
            return False
        if zlib.crc32(kind + body) != int.from_bytes(check, "big"):
            return False
        if kind not in _PNG_PIXELS and _PAYLOAD.search(body):
            return False
        at += 12 + length
        if kind == b"IEND":
            return at == len(data) and length == 0
    return False


def _is_jpeg(data: bytes) -> bool:
    """Segments to the end mark; phones put further whole images behind it (multi-picture)."""
    at = 0
    while data[at : at + 3] == b"\xff\xd8\xff":
        at = _jpeg_end(data, at + 2)
        if at >= 0 and len(data) - at <= MAX_PADDING and not data[at:].strip(b"\x00"):
            return True
    return False


def _jpeg_end(data: bytes, at: int) -> int:
    """Offset after the end mark of the image whose first segment is at `at`, or -1."""
    while True:
        if data[at] != 0xFF:
            return -1
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        at += 2
        if marker == 0xD9:
            return at
        if marker in _BARE_MARKERS:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        if length < 2 or len(body) != length - 2:
            return -1
        noted = marker == 0xFE or 0xE0 <= marker <= 0xEF  # comments and applications' own
        if noted and _PAYLOAD.search(body):
            return -1
        at += length
        if marker == 0xDA:
            at = _scan_end(data, at)


def _scan_end(data: bytes, at: int) -> int:
    """Offset of the mark that ends coded pixels; in them, 0xFF is followed by 0 or a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise IndexError
        following = data[at + 1]
        if following != 0 and not 0xD0 <= following <= 0xD7:
            return at
        at += 2


def _is_gif(data: bytes) -> bool:
    at = 13 + _table(data[10])
    while True:
        kind = data[at]
        if kind == 0x3B:
            return at + 1 == len(data)
        if kind == 0x2C:
            at += 10 + _table(data[at + 9]) + 1
            at, _ = _gif_blocks(data, at)
        elif kind == 0x21:
            at, body = _gif_blocks(data, at + 2)
            if _PAYLOAD.search(body):
                return False
        else:
            return False


def _table(flags: int) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks(data: bytes, at: int) -> tuple[int, bytes]:
    parts = []
    while size := data[at]:
        parts.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return at + 1, b"".join(parts)


def _is_webp(data: bytes) -> bool:
    if int.from_bytes(data[4:8], "little") + 8 != len(data):
        return False
    at = 12
    while at < len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + length]
        if len(body) != length or kind not in _WEBP_CHUNKS | _WEBP_NOTES:
            return False
        if kind == b"VP8 " and body[3:6] != b"\x9d\x01\x2a":  # RFC 6386, 9.1: a key frame
            return False
        if kind == b"VP8L" and body[:1] != b"\x2f":
            return False
        if kind in _WEBP_NOTES and _PAYLOAD.search(body):
            return False
        at += 8 + length + (length & 1)
    return at == len(data)
