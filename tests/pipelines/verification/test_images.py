"""An image is the picture and nothing else, whichever program wrote it."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from pipelines.verification.images import is_whole_image

WRITERS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}), ("PNG", {"save_all": True}), ("JPEG", {}), ("JPEG", {"progressive": True}),
    ("JPEG", {"exif": b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00", "comment": b"a note"}),
    ("MPO", {"save_all": True}), ("GIF", {}), ("GIF", {"save_all": True}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("WEBP", {"save_all": True}),
]  # fmt: skip
ZIP, ELF, PICKLE = b"PK\x03\x04" + bytes(30), b"\x7fELF" + bytes(60), b"\x80\x04\x95" + bytes(9)


def picture(kind: str, **options: Any) -> bytes:
    image = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
    if options.get("save_all"):
        options["append_images"] = [image.rotate(90)]
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


@pytest.mark.parametrize(("kind", "options"), WRITERS)
def test_what_programs_write_is_whole(kind: str, options: dict[str, Any]) -> None:
    assert is_whole_image(picture(kind, **options)) is True


@pytest.mark.parametrize("payload", [ZIP, ELF, PICKLE])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_nothing_may_follow_a_picture(kind: str, payload: bytes) -> None:
    data = picture(kind)
    assert is_whole_image(data + payload) is False
    ends = {"PNG": data[-12:], "JPEG": b"\xff\xd9", "GIF": b"\x3b", "WEBP": b""}
    assert is_whole_image(data + payload + ends[kind]) is False
    assert is_whole_image(data[: len(data) // 2]) is False


@pytest.mark.parametrize("payload", [ZIP, ELF, PICKLE])
def test_notes_in_a_picture_hold_no_archive_program_or_pickle(payload: bytes) -> None:
    png, jpeg = picture("PNG"), picture("JPEG")
    end = len(png) - 12
    for kind in (b"tEXt", b"zzZz"):
        assert is_whole_image(png[:end] + chunk(kind, b"x\x00" + payload) + png[end:]) is False
    segment = b"\xff\xfe" + struct.pack(">H", len(payload) + 2) + payload
    assert is_whole_image(jpeg[:2] + segment + jpeg[2:]) is False


def test_a_checksum_that_is_wrong_and_a_length_without_end_are_refused() -> None:
    png = bytearray(picture("PNG"))
    png[40] ^= 1
    assert is_whole_image(bytes(png)) is False
    assert is_whole_image(b"\xff\xd8\xff\xe0\xff\xff") is False
    assert is_whole_image(b"GIF89a" + bytes(4)) is False
    assert is_whole_image(b"hello") is None
