"""The bundled demo screens: whole, consistent, and free of real brands."""

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

DEMO = Path(__file__).parents[1] / "vlm_eval" / "demo"
FIELDS = {
    "screen_annotation": ["item_id", "image", "reference", "facts", "device", "screen_text"],
    "vqa": ["item_id", "image", "question", "reference", "facts", "device", "screen_text"],
}
COUNTS = {  # items, screenshots
    "screen_annotation": {"items.csv": (10, 10), "items_full.csv": (40, 40)},
    "vqa": {"items.csv": (24, 12), "items_full.csv": (158, 79)},
}
REAL_BRANDS = re.compile(
    r"\b(сбер\w*|тинькофф\w*|т-банк\w*|ozon|озон\w*|wildberries|вайлдберриз|втб|альфа\w*|райффайзен\w*|газпром\w*|яндекс\w*|авито|мегамаркет\w*)\b",
    re.IGNORECASE,
)


def rows(name: str, table: str = "items_full.csv") -> list[dict]:
    with (DEMO / name / table).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def plain(text: str) -> str:
    return " ".join(text.split()).casefold()  # str.split() also splits at no-break spaces


ITEMS = [pytest.param(name, row, id=row["item_id"]) for name in FIELDS for row in rows(name)]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("file", ["items.csv", "items_full.csv"])
def test_table(name, file):
    table = rows(name, file)
    items, screens = COUNTS[name][file]
    assert not (DEMO / name / file).read_bytes().startswith(b"\xef\xbb\xbf")
    assert list(table[0]) == FIELDS[name]
    assert len(table) == len({row["item_id"] for row in table}) == items
    assert len({row["image"] for row in table}) == screens


@pytest.mark.parametrize("name", FIELDS)
def test_the_small_set_is_the_beginning_of_the_full_one_which_uses_every_image(name):
    small, full = rows(name, "items.csv"), rows(name)
    assert full[: len(small)] == small
    assert {row["image"] for row in full} == {file.name for file in (DEMO / name / "images").iterdir()}
    assert len({row["image"].rpartition("_")[0] for row in full}) >= 24  # kinds


def test_no_screen_is_in_both_tasks():
    assert not {row["screen_text"] for row in rows("vqa")} & {row["screen_text"] for row in rows("screen_annotation")}


@pytest.mark.parametrize("name, row", ITEMS)
def test_item(name, row):
    assert all(row.values()) and row["device"] in {"phone", "desktop"}
    assert row["image"].isascii() and row["item_id"].isascii()
    facts = json.loads(row["facts"])
    assert facts and all(isinstance(fact, str) for fact in facts)
    assert [fact for fact in facts if plain(fact) not in plain(row["reference"])] == []
    assert [fact for fact in facts if plain(fact) not in plain(row["screen_text"].replace(" | ", " "))] == []
    assert not REAL_BRANDS.search(" ".join(row.values()))


@pytest.mark.parametrize("name, row", ITEMS)
def test_image(name, row):
    with Image.open(DEMO / name / "images" / row["image"]) as image:
        image.load()
        assert max(image.size) >= 600
        assert (image.width < image.height) == (row["device"] == "phone")


def test_all_images_are_small_enough_to_ship():
    assert sum(file.stat().st_size for file in DEMO.glob("*/images/*")) < 6_000_000
