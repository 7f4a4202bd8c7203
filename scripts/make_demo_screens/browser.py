"""Render described screens with a headless Chromium, as the shipped test set is, and tell what can be read on them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import describe
import draw
import jinja2
from PIL import Image

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
# The sandbox refuses to start as root, the usual user of a container; the pages are our own.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--font-render-hinting=none"]
SCALE = 2  # pixels a CSS pixel
ROW = 10  # screens side by side in one page


@cache
def find_browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    sys.exit(
        f"No headless browser on PATH; looked for {', '.join(BROWSERS)}. On Debian: apt install chromium-headless-shell"
    )


def plain(text: str) -> str:
    """One kind of space, so that a no-break space or a line break never hides a fact."""
    return " ".join(text.split())


def keep_together(value):
    """No-break spaces inside numbers, before ₽ and after short words, as a careful app would set them."""
    if isinstance(value, str):
        value = re.sub(r"(?<=\d) (?=[\d₽%])|(?<=••) (?=\d)|(?<=№) ", "\N{NO-BREAK SPACE}", value)
        return re.sub(r"(?<!\w)(\w{1,2}) ", "\\1\N{NO-BREAK SPACE}", value)
    if isinstance(value, list):
        return [keep_together(part) for part in value]
    if isinstance(value, dict):
        return {key: keep_together(part) for key, part in value.items()}
    return value


def browse(page: Path, window: tuple[int, int], *flags: str) -> str:
    size = [f"--window-size={window[0]},{window[1]}", f"--force-device-scale-factor={SCALE}"]
    command = [find_browser(), *FLAGS, *size, *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def render(descriptions: list[dict]) -> list[tuple[Image.Image, list[str]]]:
    """(picture, its readable texts) of each description; all of one device."""
    pictures = []
    for first in range(0, len(descriptions), ROW):
        pictures += _render_row(descriptions[first : first + ROW])
    return pictures


def _render_row(row: list[dict]) -> list[tuple[Image.Image, list[str]]]:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(describe.HERE / "templates"), trim_blocks=True, lstrip_blocks=True
    )
    width, height = draw.SIZES[row[0]["device"]]
    shown = {"screens": keep_together(row), "brands": keep_together(describe.texts("brands.yaml"))}
    with tempfile.TemporaryDirectory() as scratch:
        page, shot = Path(scratch, "page.html"), Path(scratch, "shot.png")
        page.write_text(templates.get_template("page.html").render(shown), encoding="utf-8")
        window = (width * len(row), height)
        browse(page, window, f"--screenshot={shot}")
        dom = browse(page, window, "--dump-dom")
        image = Image.open(shot).convert("RGB")
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))
    wide, high = width * SCALE, height * SCALE
    return [
        (image.crop((place * wide, 0, (place + 1) * wide, high)), [plain(text) for text in texts])
        for place, texts in enumerate(seen)
    ]
