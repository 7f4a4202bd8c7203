"""Render the shipped test set and write its tables: python scripts/make_demo_screens [--out FOLDER] [--set small]

Every fact must be readable on its screenshot and be said in the reference; a screen on which not all of its texts can
be read is described anew. The same browser, fonts and Pillow give the same bytes.
"""

import argparse
import csv
import json
import random
from pathlib import Path

import browser
import describe
from PIL import Image

DEMO = Path(__file__).resolve().parents[2] / "vlm_eval" / "demo"
SEED = "shipped"
FIELDS = ["item_id", "image", "question", "reference", "facts", "device", "screen_text"]
SETS = {"screen_annotation": ("sa", 40, 10), "vqa": ("vqa", 79, 12)}  # first letters of the ids, screens, of them small
DESKTOPS = (3, 6)  # of seven screens, counted from 0; the others are phones


def plan(task: str, count: int) -> list[describe.Screen]:
    """So many screens of the test split, of every kind in turn."""
    rng = random.Random(f"{SEED} {task}")
    kinds, screens = describe.kinds(), []
    order = [kind for _ in range(count // len(kinds) + 1) for kind in rng.sample(kinds, len(kinds))][:count]
    for place, kind in enumerate(order):
        screens.append(describe.describe(rng, "test", kind, "desktop" if place % 7 in DESKTOPS else "phone"))
    return screens


def render(screens: list[describe.Screen], seed: str) -> list[tuple[describe.Screen, Image.Image, list[str]]]:
    """Each screen, redescribed until all of its values can be read, with its picture and its readable texts."""
    done: dict[int, tuple] = {}
    again = {place: random.Random(f"{seed} again {place}") for place in range(len(screens))}
    while waiting := [place for place in range(len(screens)) if place not in done]:
        for device in describe.DEVICES:
            here = [place for place in waiting if screens[place].device == device]
            drawn = browser.render([screens[place].description for place in here])
            for place, (image, seen) in zip(here, drawn, strict=True):
                screen = screens[place]
                if unread(screen, seen):
                    kind = next(kind for kind in describe.kinds() if kind["kind"] == screen.kind)
                    screens[place] = describe.describe(again[place], "test", kind, device)
                else:
                    done[place] = (screen, image, seen)
    return [done[place] for place in range(len(screens))]


def texts_of(value) -> list[str]:
    """All texts of a description's blocks."""
    if isinstance(value, dict):
        hidden = ("tone", "icon", "size", "widths")
        return [text for key, part in value.items() if key not in hidden for text in texts_of(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts_of(part)]
    return [value] if value not in ("main", "second") else []


def unread(screen: describe.Screen, seen: list[str]) -> list[str]:
    """What the description shows and a person cannot read: cut off, covered or outside."""
    text = " ".join(seen)
    blocks = {key: part for key, part in screen.description.items() if key in ("title", "body", "footer", "sheet")}
    return [one for one in texts_of(blocks) if browser.plain(one) not in text]


def rows_of(screen: describe.Screen, name: str, seen: list[str], task: str) -> list[dict]:
    common = {"image": f"{name}.png", "device": screen.device, "screen_text": " | ".join(seen)}
    if task == "screen_annotation":
        return [{"item_id": name, "reference": screen.request, "facts": screen.facts, **common}]
    return [
        {
            **common,
            "item_id": f"{name}_{n}",
            "question": one["question"],
            "reference": one["answer"],
            "facts": one["facts"],
        }
        for n, one in enumerate(screen.questions[:2], 1)
    ]


def save_palette(image: Image.Image, target: Path) -> None:
    """256 colours without dithering: letters stay crisp and the file is a third of the true-colour one."""
    image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE).save(target, optimize=True)


def write_table(path: Path, fields: list[str], rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "facts": json.dumps(row["facts"], ensure_ascii=False)})


def make(task: str, out: Path, small: bool) -> None:
    prefix, count, first = SETS[task]
    images = out / task / "images"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.iterdir():
        old.unlink()
    screens = plan(task, count)[: first if small else count]
    met: dict[str, int] = {}
    rows = []
    for screen, image, seen in render(screens, f"{SEED} {task}"):
        met[screen.kind] = met.get(screen.kind, 0) + 1
        name = f"{prefix}_{screen.kind}_{met[screen.kind]}"
        save_palette(image, images / f"{name}.png")
        rows += rows_of(screen, name, seen, task)
    fields = [field for field in FIELDS if field in rows[0]]
    asked = len(rows) // len(screens)
    write_table(out / task / "items.csv", fields, rows[: first * asked])
    if not small:
        write_table(out / task / "items_full.csv", fields, rows)
    size = sum(file.stat().st_size for file in images.iterdir()) / 1e6
    print(f"{out / task}: {len(rows)} items, {len(screens)} screens, {size:.2f} MB of images")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make_demo_screens", description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("--out", type=Path, default=DEMO, help="folder to write into (default: the package's)")
    parser.add_argument("--set", choices=("full", "small"), default="full", help="all screens, or items.csv's alone")
    args = parser.parse_args()
    for task in SETS:
        make(task, args.out, args.set == "small")


if __name__ == "__main__":
    main()
