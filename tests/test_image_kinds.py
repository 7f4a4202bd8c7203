"""Every kind of picture that a table may name is shown as a person sees it, or refused by name before it is decoded."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import time
import zlib

import pytest
from PIL import ExifTags, Image, PngImagePlugin

from vlm_eval import images
from vlm_eval.judges.transport import data_url

LIMIT = 50_000_000
SIZE = (8, 6)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def bytes_of(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, bits: int = 8, colour: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG written by hand: `rows` decoded, `more` chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(width: int, height: int, pages: int = 1) -> bytes:
    """Grey pages of one dot's data each."""
    out = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        fields = [(256, 4, width), (257, 4, height), (258, 3, 8), (262, 3, 1), (273, 4, 0), (277, 3, 1), (279, 4, 1)]
        following = len(out) + 2 + 12 * len(fields) + 4
        out += struct.pack("<H", len(fields))
        out += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
        out += struct.pack("<I", following if page < pages - 1 else 0)
    return bytes(out)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def gif(width: int, height: int) -> bytes:
    screen, frame = struct.pack("<HHBBB", width, height, 0, 0, 0), struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + screen + b"," + frame + b"\2\2\x4c\1\0;"


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    return exif


def animated(kind: str) -> bytes:
    first, second = (Image.new("RGB", SIZE, colour) for colour in (RED, BLUE))
    return bytes_of(first, kind, save_all=True, append_images=[second])


def with_transparent_palette() -> bytes:
    image = Image.new("P", SIZE, 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 6))
    return bytes_of(image, "PNG", transparency=1)


def halves(first, second) -> Image.Image:
    """The left half of one colour, the right of another."""
    image = Image.new("RGB", (16, 8), first)
    image.paste(second, (8, 0, 16, 8))
    return image


# -------------------------------------------------------------------------------------------------------------- refused

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
REFUSED = {
    "a bomb: PNG": (png(60_000, 60_000), "60000 x 60000 pixels, over the limit of 50000000"),
    "a bomb: BMP": (bmp(60_000, 60_000), "60000 x 60000 pixels, over the limit"),
    "a bomb: TIFF": (tiff(60_000, 60_000), "60000 x 60000 pixels, over the limit"),
    "a bomb: GIF": (gif(65_000, 65_000), "65000 x 65000 pixels, over the limit"),
    "a bomb: text in a PNG": (
        png(1, 1, rows=b"\0" * 4, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 90_000_000))),
        "broken image",
    ),
    "SVG": (SVG, "it is a SVG drawing; save it as PNG"),
    "SVG after a prologue": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n" + SVG, "it is a SVG drawing"),
    "SVG with entities": (b'<!DOCTYPE svg [<!ENTITY a "b">]>\n' + SVG, "it is a SVG drawing"),
    "HTML": (b"<!DOCTYPE html><title>404</title>", "it is a HTML page"),
    "PDF": (b"%PDF-1.7\n", "it is a PDF"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", "it is PostScript"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0", "it is HEIC"),
    "JPEG XL": (b"\xff\x0a\x00", "it is JPEG XL"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "it is JPEG 2000"),
    "Photoshop": (b"8BPS\0\1", "it is a Photoshop file"),
    "a kind that Pillow knows and we do not open": (bytes_of(Image.new("RGB", SIZE), "PPM"), "PNG, JPEG, WEBP"),
    "nothing": (b"", "the file is empty"),
    "a TIFF of 10,000 pages": (tiff(1, 1, 10_000), "TIFF with several pages"),
    "an animated GIF": (animated("GIF"), "GIF with several frames"),
    "an animated PNG": (animated("PNG"), "PNG with several frames"),
    "an animated WebP": (animated("WEBP"), "WEBP with several frames"),
    "32 bits a dot": (bytes_of(Image.new("F", SIZE), "TIFF"), "TIFF with dots of the kind F"),
    "cut off": (bytes_of(Image.effect_noise((90, 90), 50), "PNG")[:-900], "broken image"),
}


@pytest.mark.parametrize("content, why", REFUSED.values(), ids=REFUSED)
def test_refused_by_name(tmp_path, content, why):
    file = tmp_path / "a.png"  # whatever the name says
    file.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(images.BadImage) as error:
        images.check(file, LIMIT)
    assert time.monotonic() - began < 3
    assert why in str(error.value) and str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


def test_a_bomb_is_not_decoded(tmp_path):
    """A WebP has 16383 dots a side at most: 268 million, which decoded take a GB."""
    big = tmp_path / "big.webp"
    big.write_bytes(bytes_of(Image.new("RGB", SIZE), "WEBP", lossless=True))
    lossless = bytearray(big.read_bytes())
    at = lossless.index(b"VP8L") + 9
    lossless[at : at + 4] = struct.pack("<I", 16382 | 16382 << 14)
    big.write_bytes(lossless)
    (tmp_path / "big.png").write_bytes(png(60_000, 60_000))
    program = (
        "import resource, sys; from pathlib import Path; from vlm_eval import images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    try: images.check(Path(name), 50_000_000)\n"
        "    except images.BadImage as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", program, str(big), str(tmp_path / "big.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "16383 x 16383 pixels, over the limit" in said[0] and "60000 x 60000 pixels, over the limit" in said[1]
    assert int(said[2]) < 100_000  # KiB


@pytest.mark.parametrize(
    "make", [lambda file: file.mkdir(), os.mkfifo, lambda file: None], ids=["folder", "pipe", "none"]
)
def test_what_is_no_file(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(images.BadImage, match="a folder|a device, pipe or socket|no such image"):
        images.check(tmp_path / "a.png", LIMIT)


def test_the_limit_can_be_raised_but_not_for_ever(tmp_path):
    (tmp_path / "a.png").write_bytes(png(30_000, 30_000))
    with pytest.raises(images.BadImage, match="30000 x 30000 pixels, over the limit of 500000000"):
        images.check(tmp_path / "a.png", 10**12)


# ---------------------------------------------------------------------------------------------------------------- shown

grey_rows = b"".join(b"\0" + struct.pack(">8H", *[65535] * 4, *[32768] * 4) for _ in range(6))
colour_rows = b"".join(b"\0" + struct.pack(">24H", *[65535, 0, 0] * 4, *[0, 0, 65535] * 4) for _ in range(6))
SHOWN = {  # the left and the right half's colour
    "palette PNG": (bytes_of(halves(RED, BLUE).quantize(4), "PNG"), RED, BLUE),
    "palette PNG with a transparent colour": (with_transparent_palette(), RED, (255, 255, 255)),
    "16 bits grey PNG": (png(8, 6, 16, 0, grey_rows), (255, 255, 255), (128, 128, 128)),
    "16 bits colour PNG": (png(8, 6, 16, 2, colour_rows), RED, BLUE),
    "one bit PNG": (bytes_of(halves(*[(255, 255, 255), (0, 0, 0)]).convert("1"), "PNG"), (255, 255, 255), (0, 0, 0)),
    "transparent PNG": (bytes_of(Image.new("RGBA", SIZE, (255, 0, 0, 0)), "PNG"), *[(255, 255, 255)] * 2),
    "grey with transparency": (bytes_of(Image.new("LA", SIZE, (0, 0)), "PNG"), *[(255, 255, 255)] * 2),
    "CMYK JPEG": (bytes_of(halves(RED, BLUE).convert("CMYK"), "JPEG", quality=100), RED, BLUE),
    "CMYK TIFF": (bytes_of(halves(RED, BLUE).convert("CMYK"), "TIFF"), RED, BLUE),
    "GIF of one frame": (bytes_of(halves(RED, BLUE), "GIF"), RED, BLUE),
    "BMP": (bytes_of(halves(RED, BLUE), "BMP"), RED, BLUE),
    "WebP": (bytes_of(halves(RED, BLUE), "WEBP", lossless=True), RED, BLUE),
    "TIFF of one page": (bytes_of(halves(RED, BLUE), "TIFF"), RED, BLUE),
    "turned by EXIF": (bytes_of(halves(RED, BLUE), "PNG", exif=with_orientation(3)), BLUE, RED),
    "mirrored by EXIF": (bytes_of(halves(RED, BLUE), "JPEG", quality=100, exif=with_orientation(2)), BLUE, RED),
}


def near(colour, wanted) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(colour, wanted, strict=True))


@pytest.mark.parametrize("content, left, right", SHOWN.values(), ids=SHOWN)
def test_shown_and_sent_as_a_person_sees_it(tmp_path, content, left, right):
    file = tmp_path / "a.img"
    file.write_bytes(content)
    facts = images.check(file, LIMIT)
    picture = images.load(file)
    kind, _, sent = data_url(file).partition(";base64,")
    again = Image.open(io.BytesIO(base64.b64decode(sent)))
    assert kind in ("data:image/png", "data:image/jpeg", "data:image/webp")
    for seen in (picture, again.convert("RGB")):
        assert seen.size == (facts["width"], facts["height"])
        assert near(seen.getpixel((1, 2)), left) and near(seen.getpixel((seen.width - 2, 2)), right)
    assert picture.mode == "RGB" and picture.info == {}


def test_a_quarter_turn_changes_the_sides(tmp_path):
    halves(RED, BLUE).save(tmp_path / "a.jpg", exif=with_orientation(6), quality=100)
    assert images.check(tmp_path / "a.jpg", LIMIT) | {"image_sha256": ""} == {
        "width": 8,
        "height": 16,
        "image_sha256": "",
    }
    assert near(images.load(tmp_path / "a.jpg").getpixel((4, 1)), RED)


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "SECRET")
    return info


def place() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "SECRET"
    return exif


TELLING = {
    "a text": ("PNG", {"pnginfo": texts()}),
    "EXIF in a PNG": ("PNG", {"exif": place()}),
    "EXIF in a JPEG": ("JPEG", {"exif": place()}),
    "EXIF in a WebP": ("WEBP", {"exif": place()}),
    "a comment": ("JPEG", {"comment": b"SECRET"}),
    "XMP": ("JPEG", {"xmp": b"<x>SECRET</x>"}),
    "a profile": ("PNG", {"icc_profile": b"SECRET" * 30}),
}


@pytest.mark.parametrize("kind, options", TELLING.values(), ids=TELLING)
def test_what_a_file_says_besides_the_picture_stays_here(tmp_path, kind, options):
    content = bytes_of(halves(RED, BLUE), kind, **options)
    (tmp_path / "a").write_bytes(content)
    mime, sent = images.as_sent(tmp_path / "a")
    assert mime == "image/png" and b"SECRET" not in sent and sent != content
    with Image.open(io.BytesIO(sent)) as again:
        again.load()
        assert again.info == {} and not again.getexif()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_file_is_sent_as_it_is(tmp_path, kind):
    halves(RED, BLUE).save(tmp_path / "a", kind)
    assert images.as_sent(tmp_path / "a")[1] == (tmp_path / "a").read_bytes()
