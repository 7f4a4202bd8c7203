"""A data set of training screens for scripts/quantize: half are annotated, half are asked about."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import describe
import draw

SCREENS = 64
FIELDS = ("item_id", "image", "question", "reference")


def write(folder: Path, fonts: Path) -> None:
    """items.csv and images/ of SCREENS screens of the training split, two items a screen; the same every time."""
    rng, families = random.Random("calibration"), draw.families(fonts)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        for number in range(SCREENS):
            screen = describe.describe(rng, "train")
            name = f"{number:02d}_{screen.kind}.png"
            draw.draw(screen.description, families, rng)[0].save(folder / "images" / name)
            one = screen.questions[0]
            table.writerow(dict(zip(FIELDS, (f"{number}_a", name, "", screen.request), strict=True)))
            table.writerow(dict(zip(FIELDS, (f"{number}_q", name, one["question"], one["answer"]), strict=True)))
