"""A data set on disk: a table and a folder of images, columns mapped in YAML (`conf/task/data/`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, List, Optional

from vlm_eval import images
from vlm_eval.errors import BadInput
from vlm_eval.rows import Item
from vlm_eval.tables import TABLES, read_table
from vlm_eval.tasks import image_names, remote_images

FIELDS = ("item_id", "image", "question", "reference", "facts", "device", "screen_text")
REQUIRED = ("image",)


@dataclass
class ImageConfig:
    """Pixels of the picture the model sees (null: as the checkpoint says) and the most a file may have."""

    min_pixels: Optional[int] = None
    max_pixels: Optional[int] = None
    pixel_limit: int = 50_000_000


@dataclass
class LayoutConfig:
    """How one kind of data set is laid out; `columns` maps our names to the table's."""

    table: str = "???"
    images: str = "images"
    columns: Dict[str, str] = field(default_factory=dict)
    image_suffixes: List[str] = field(default_factory=list)


@dataclass
class DataConfig:
    root: Optional[str] = None
    layouts: Dict[str, LayoutConfig] = field(default_factory=dict)
    allow_urls: bool = False  # fetch pictures that the table names by an address


def read_items(data: DataConfig, limits: ImageConfig, needs_question: bool, on_bad_item: str) -> list[Item]:
    """The items of a data set; what is wrong with an item is a BadInput, or its `error` under "record"."""
    if data.root is None:
        raise BadInput("task.data.root: no value given; set it to the folder of the data, task.data.root=FOLDER")
    root = Path(data.root)
    layout = _layout(root, data.layouts)
    table = root / layout.table
    rows = read_table(table)
    _check_columns(table, layout, rows[0], needs_question)
    items, seen = [], {}
    for number, row in enumerate(rows, start=2):  # the number a person sees in a spreadsheet
        item = _item(row, layout, table, number)
        if item.item_id in seen:
            raise BadInput(f"{table}: row {number}: item_id {item.item_id} stands in row {seen[item.item_id]} already")
        seen[item.item_id] = number
        try:
            if needs_question and not item.question:
                raise BadInput(f"{table}: row {number}: no question in column {layout.columns['question']}")
            item = _with_image(item, root, layout, limits, data.allow_urls)
        except BadInput as error:
            if on_bad_item == "fail":
                raise BadInput(
                    f"{error} ({table}, row {number}; task.on_bad_item=record goes on without it)"
                ) from error
            item = replace(item, error=str(error))
        items.append(item)
    if all(item.error for item in items):
        raise BadInput(f"{table}: not one usable item; the first: {items[0].error}")
    return items


def _layout(root: Path, layouts: Dict[str, LayoutConfig]) -> LayoutConfig:
    if not root.is_dir():
        raise BadInput(f"task.data.root={root}: no such folder")
    for layout in layouts.values():
        table = Path(layout.table)
        tables = [layout.table, *(str(table.with_suffix(suffix)) for suffix in TABLES)]
        found = next((name for t in tables if (name := image_names.on_disk(root, t)) and (root / name).is_file()), None)
        folder = image_names.on_disk(root, layout.images)
        if found and folder and (root / folder).is_dir():
            return replace(layout, table=found, images=folder)
    wanted = "; ".join(f"{name}: {one.table} and {one.images}/" for name, one in layouts.items())
    raise BadInput(f"task.data.root={root}: holds no data set that task/data knows ({wanted})")


def _check_columns(table: Path, layout: LayoutConfig, first: dict, needs_question: bool) -> None:
    for ours, theirs in layout.columns.items():
        if ours not in FIELDS:
            raise BadInput(f"task.data columns.{ours}: no such field; there are {', '.join(FIELDS)}")
        needed = ours in REQUIRED or (ours == "question" and needs_question)
        # A mapping that names a column promises it; only the bundled layout's optional columns may be absent.
        if theirs not in first and (needed or ours != theirs):
            hint = "; its columns must be separated by commas" if any(";" in name for name in first) else ""
            raise BadInput(f"{table}: no column {theirs!r} (for {ours}); it has {', '.join(first)}{hint}")
    for ours in REQUIRED + (("question",) if needs_question else ()):
        if ours not in layout.columns:
            raise BadInput(f"{table}: task.data maps no column to {ours}; set columns.{ours}=NAME")


def _item(row: dict[str, str], layout: LayoutConfig, table: Path, number: int) -> Item:
    cell = {ours: row.get(theirs, "").strip() for ours, theirs in layout.columns.items()}
    image = cell.get("image", "")
    if not image:
        raise BadInput(f"{table}: row {number}: no image in column {layout.columns['image']}")
    # Without an id of its own an item is its image and its question.
    item_id = cell.get("item_id") or "#".join(filter(None, (image, cell.get("question"))))
    return Item(
        item_id=item_id,
        cluster=image,
        image=f"{layout.images}/{image}",
        question=cell.get("question") or None,
        reference=cell.get("reference") or None,
        facts=_facts(cell.get("facts", ""), table, number),
        device=cell.get("device") or None,
        screen_text=cell.get("screen_text") or None,
    )


def _facts(text: str, table: Path, number: int) -> tuple[str, ...]:
    if not text:
        return ()
    try:
        facts = json.loads(text)
    except ValueError:
        facts = None
    if not isinstance(facts, list):
        raise BadInput(
            f'{table}: row {number}: facts are a JSON list such as ["20 588 ₽", "E-1047"], not {text[:40]!r}'
        )
    return tuple(str(fact) for fact in facts)


def _with_image(item: Item, root: Path, layout: LayoutConfig, limits: ImageConfig, allow_urls: bool) -> Item:
    name = item.cluster
    if remote_images.is_url(name):
        if not allow_urls:
            raise BadInput(f"{name}: an address, and nothing is fetched unless task.data.allow_urls=true")
        file = remote_images.fetch(name, limits.pixel_limit)
        return replace(item, image=str(file), **images.check(file, limits.pixel_limit))
    path = image_names.find(root, layout.images, name, layout.image_suffixes)
    return replace(item, image=path, **images.check(root / path, limits.pixel_limit))
