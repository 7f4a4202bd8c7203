"""Render the bundled demo screens and write their tables: python scripts/make_demo_screens [--out FOLDER]

The YAML files hold all words, the templates only looks. One description gives a screenshot and its rows, and every
fact of a row must be readable on the screenshot and be said in the reference, or the program ends with a list of those
that are not. The same browser, fonts and Pillow give the same bytes.
"""

import argparse
import csv
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
import yaml
from PIL import Image

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "vlm_eval" / "demo"
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
# The sandbox refuses to start as root, the usual user of a container; the pages are our own.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--font-render-hinting=none"]
SIZES = {"phone": (390, 844, 2), "desktop": (1280, 800, 1.5)}  # width and height in CSS pixels, pixels a CSS pixel
SETS = {  # descriptions, folder, first letters of the ids, columns
    "annotation.yaml": ("screen_annotation", "sa", ["item_id", "image", "reference", "facts", "device", "screen_text"]),
    "vqa.yaml": (
        "vqa",
        "vqa",
        ["item_id", "image", "question", "reference", "facts", "device", "screen_text"],
    ),
}


def find_browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    sys.exit(
        f"No headless browser on PATH; looked for {', '.join(BROWSERS)}. On Debian: apt install chromium-headless-shell"
    )


def read(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


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


def browse(browser: str, page: Path, device: str, *flags: str) -> str:
    width, height, scale = SIZES[device]
    command = [
        browser,
        *FLAGS,
        f"--window-size={width},{height}",
        f"--force-device-scale-factor={scale}",
        *flags,
        page.as_uri(),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def visible_text(browser: str, page: Path, device: str) -> list[str]:
    """What a person can read on the screen, a piece for each text of the page."""
    dom = browse(browser, page, device, "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]
    return [plain(line) for line in html.unescape(title).splitlines() if line.strip()]


def save_palette(source: Path, target: Path) -> None:
    """256 colours without dithering: letters stay crisp and the file is a third of the true-colour one."""
    image = Image.open(source).convert("RGB")
    image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE).save(target, optimize=True)


def rows_of(screen: dict, prefix: str) -> list[dict]:
    name = f"{prefix}_{screen['name']}"
    common = {"image": f"{name}.png", "device": screen["device"]}
    if "item" in screen:
        return [{"item_id": name, **common, **screen["item"]}]
    return [{"item_id": f"{name}_{n}", **common, **item} for n, item in enumerate(screen["items"], 1)]


def problems(row: dict, seen: str) -> list[str]:
    places = {"screen": seen, "reference": plain(row["reference"])}
    return [
        f"{row['item_id']}: fact {fact!r} is not in the {place}"
        for fact in row["facts"]
        for place, text in places.items()
        if plain(fact).casefold() not in text.casefold()
    ]


def write_table(path: Path, fields: list[str], rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "facts": json.dumps(row["facts"], ensure_ascii=False)})


def make_set(source: str, out: Path, browser: str, scratch: Path) -> list[str]:
    """Write one set's images and table; hand back what is wrong with its facts."""
    folder, prefix, fields = SETS[source]
    images = out / folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("*.png"):
        old.unlink()

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), trim_blocks=True, lstrip_blocks=True
    )
    brands = read(HERE / "brands.yaml")
    page, shot = scratch / "page.html", scratch / "shot.png"
    rows, wrong = [], []
    for screen in read(HERE / source):
        shown = {"s": keep_together(screen), "brand": keep_together(brands[screen["brand"]])}
        page.write_text(templates.get_template("page.html").render(shown), encoding="utf-8")
        browse(browser, page, screen["device"], f"--screenshot={shot}")
        seen = visible_text(browser, page, screen["device"])
        new = rows_of(screen, prefix)
        wrong += [problem for row in new for problem in problems(row, " ".join(seen))]
        save_palette(shot, images / new[0]["image"])
        rows += [{**row, "screen_text": " | ".join(seen)} for row in new]
    write_table(out / folder / "items.csv", fields, rows)
    size = sum(file.stat().st_size for file in images.iterdir()) / 1e6
    print(f"{out / folder}: {len(rows)} items, {size:.2f} MB of images")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="make_demo_screens", description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument(
        "--out", type=Path, default=DEMO, help="folder to write into (default: the package's demo folder)"
    )
    out = parser.parse_args().out
    browser = find_browser()
    with tempfile.TemporaryDirectory() as scratch:
        wrong = [problem for source in SETS for problem in make_set(source, out, browser, Path(scratch))]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
