"""Screenshots: checked before a sweep starts, opened the same way everywhere."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import stat
import warnings
from pathlib import Path
from typing import Any, Iterator

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vlm_eval.errors import BadInput, one_line
from vlm_eval.store import sha256_of

# What is opened at all. Pillow knows dozens of formats more, some of which start other programs (EPS) or are hardly
# ever looked after; a screenshot is none of them.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
KINDS = {  # what people take for such a picture, by its first bytes
    "a SVG drawing": rb"(?is)^[\s\xef\xbb\xbf]*(<[?!].*?)?<svg[\s>]",
    "a HTML page": rb"(?is)^[\s\xef\xbb\xbf]*<(!doctype html|html)",
    "a PDF": rb"(?s)^.{0,8}%PDF-",
    "PostScript": rb"^%!PS",
    "HEIC": rb"(?s)^....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "JPEG XL": rb"(?s)^(\xff\x0a|\0\0\0\x0cJXL )",
    "JPEG 2000": rb"(?s)^(\xff\x4f\xff\x51|\0\0\0\x0cjP  )",
    "a Photoshop file": rb"^8BPS",
}
MOST_PIXELS = 500_000_000  # whatever task.image.pixel_limit says: 1.5 GB decoded
THUMBNAIL = (480, 1040)  # pixels wide and high at most: a phone's screen stays readable
JPEG_QUALITY = 70
# What a file may say of itself and still be sent as it is. All else (a place, a person, a profile, a comment) stays
# here, and the picture alone is sent.
HARMLESS = {"dpi", "gamma", "srgb", "chromaticity", "interlace", "jfif", "jfif_version", "jfif_unit", "jfif_density"}
HARMLESS |= {"progressive", "progression", "loop", "background", "timestamp", "duration"}
Image.MAX_IMAGE_PIXELS = None  # our own limit is lower, and can be raised
warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken files; what matters is raised


class BadImage(BadInput, ValueError):
    """A file that cannot be shown, and why. A ValueError to those who can go on without the picture."""


def check(path: Path, pixel_limit: int) -> dict[str, object]:
    """Size in pixels and sha256 of a screenshot that decodes whole; BadImage says which does not, and why."""
    now = _regular(path)
    return _check(path, pixel_limit, (now.st_mtime_ns, now.st_size))


@functools.cache  # every point of a sweep asks again
def _check(path: Path, pixel_limit: int, version: tuple[int, int]) -> dict[str, object]:
    width, height = load(path, pixel_limit).size
    return {"width": width, "height": height, "image_sha256": sha256_of(path)}


@contextlib.contextmanager
def opened(path: Path, pixel_limit: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """A screenshot's file, identified and within its limits, not yet decoded. The only way in which files are opened
    as pictures; whatever is wrong with one, then or when the caller decodes it, is a BadImage that says so."""
    _regular(path)
    try:
        with open(path, "rb") as file:
            beginning = file.read(1024)
            try:
                file.seek(0)
                with Image.open(file, formats=FORMATS) as image:
                    _within_limits(path, image, pixel_limit)
                    yield image
            except BadInput:
                raise
            except Exception as error:  # Pillow has no list of what broken files make it raise
                raise BadImage(f"{path}: {_what_is_wrong(beginning, error)}") from error
    except OSError as error:
        raise BadImage(f"{path}: cannot be opened: {error.strerror or error}") from error


def _what_is_wrong(beginning: bytes, error: Exception) -> str:
    if not beginning:
        return "not an image: the file is empty"
    if kind := next((kind for kind, form in KINDS.items() if re.search(form, beginning)), None):
        return f"not an image that is read: it is {kind}; save it as PNG"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image that is read ({', '.join(FORMATS)}); save it as PNG"
    said = str(error) if isinstance(error, (OSError, ValueError, SyntaxError)) and str(error) else one_line(error)
    return f"broken image: {said}; save it anew"


def _regular(path: Path) -> Any:
    """What the disk says of a file; BadImage for a pipe, where reading could wait for ever, and other things."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadImage(f"{path}: no such image") from error
    except (OSError, ValueError) as error:
        raise BadImage(f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise BadImage(f"{path}: not an image: a folder")
    if not stat.S_ISREG(found.st_mode):
        raise BadImage(f"{path}: not an image: a device, pipe or socket")
    return found


def _within_limits(path: Path, image: Image.Image, pixel_limit: int) -> None:
    """By what the header says, before anything is decoded."""
    width, height = image.size
    if width * height > min(pixel_limit, MOST_PIXELS):
        raise BadImage(
            f"{path}: {width} x {height} pixels, over the limit of {min(pixel_limit, MOST_PIXELS)}; "
            "shrink it or raise task.image.pixel_limit"
        )
    # Which one a model should see, nobody has said. MPO is a camera's JPEG with a preview behind it.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        what = "pages" if image.format == "TIFF" else "frames"
        raise BadImage(f"{path}: {image.format} with several {what}; save the one that is meant as PNG")
    if image.mode in ("I", "F", "LAB"):
        raise BadImage(f"{path}: {image.format} with dots of the kind {image.mode}; save it as 8 bits PNG")


def load(path: Path, pixel_limit: int = MOST_PIXELS) -> Image.Image:
    """The picture as a person sees it: upright, RGB, transparency on white; nothing else of what its file says."""
    with opened(path, pixel_limit) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # Pillow would cut off what is above 255, all but black
            image.info.pop("transparency", None)
            image = image.convert("I").point(lambda value: value / 256).convert("L")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert("RGB")
        image.info = {}
        return image


def as_sent(path: Path) -> tuple[str, bytes]:
    """(MIME type, bytes) of a screenshot for a provider: the file's own where every provider reads them right and they
    say nothing but the picture, else PNG of what a person sees."""
    with opened(path) as image:
        image.load()  # PNG may have texts behind the picture
        kind, upright = image.get_format_mimetype(), image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        plain = image.mode in ("RGB", "L") and set(image.info) <= HARMLESS and not image.getexif()
    if kind in ("image/png", "image/jpeg", "image/webp") and upright and plain:
        return kind, path.read_bytes()
    out = io.BytesIO()
    load(path).save(out, "PNG")
    return "image/png", out.getvalue()


def thumbnail(path: Path) -> bytes:
    """A JPEG of the screenshot, small enough to send on; BadImage where there is none."""
    picture = load(path)
    picture.thumbnail(THUMBNAIL, reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return out.getvalue()


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width after Qwen2-VL's image processor: multiples of `factor`, area within the limits.

    Same arithmetic as `smart_resize` in transformers' qwen2_vl, which cannot be imported without torch;
    a test holds the two against each other.
    """
    if max(height, width) / min(height, width) > 200:
        raise BadInput(f"an image of {width} x {height} is too long and thin: at most 200 to 1")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h, w = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return h, w


def visual_tokens(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> int:
    """Tokens that an image becomes after smart_resize(): one for each square of `factor` dots."""
    h, w = smart_resize(height, width, factor, min_pixels, max_pixels)
    return h * w // factor**2
