"""Screenshots: checked before a sweep starts, opened the same way everywhere."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_eval.errors import BadInput
from vlm_eval.store import sha256_of

THUMBNAIL = (480, 1040)  # pixels wide and high at most: a phone's screen stays readable
JPEG_QUALITY = 70
UNREADABLE = (OSError, ValueError, SyntaxError)  # what Pillow raises for missing and broken files, by format
Image.MAX_IMAGE_PIXELS = None  # our own limit is lower, and can be raised


def check(path: Path, pixel_limit: int) -> dict[str, object]:
    """Size in pixels and sha256 of a screenshot that decodes whole; BadInput says which does not, and why.

    The pixel limit is held against the header, before anything is decoded.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such image")
    now = path.stat()
    return _check(path, pixel_limit, (now.st_mtime_ns, now.st_size))


@functools.cache  # every point of a sweep asks again
def _check(path: Path, pixel_limit: int, version: tuple[int, int]) -> dict[str, object]:
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > pixel_limit:
                raise BadInput(
                    f"{path}: {width} x {height} pixels, over the limit of {pixel_limit}; "
                    "shrink it or raise task.image.pixel_limit"
                )
            image.load()
    except UnidentifiedImageError as error:
        raise BadInput(f"{path}: not an image that Pillow can read") from error
    except UNREADABLE as error:
        raise BadInput(f"{path}: broken image: {error}") from error
    return {"width": width, "height": height, "image_sha256": sha256_of(path)}


def load(path: Path) -> Image.Image:
    """The picture as a person sees it: upright, RGB, transparency on white."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def thumbnail(path: Path) -> bytes:
    """A JPEG of the screenshot, small enough to send on; one of UNREADABLE where there is none."""
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
