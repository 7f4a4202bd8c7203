"""Which item a recorded row is about: the same for the engine that replays answers and the judge of judgements."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any, Iterable, Mapping, Optional, Sequence

from vlm_eval.engines.base import Request
from vlm_eval.engines.recorded import Row
from vlm_eval.errors import BadInput
from vlm_eval.rows import Item


def match(
    path: str, rows: Sequence[Row], items: Iterable[Item | Request]
) -> tuple[dict[tuple[str, int], Row], list[Row]]:
    """Rows by (item_id, repeat), and those that belong to no item; BadInput where two of `path` answer the same."""
    known = {item.item_id: (item.cluster, item.question) for item in items}
    by_name = _items_by_name(known)
    found: dict[tuple[str, int], Row] = {}
    strangers = []
    for row in rows:
        item = _item_of(row, known, by_name)
        if item is None:
            strangers.append(row)
            continue
        key = (item, row.answer.repeat)
        if key in found:
            raise BadInput(
                f"{path}: {found[key].where} and {row.where} both answer item {item!r}, repeat {key[1]}; a table with "
                "repeats has a column for them (engine.columns.repeat=NAME)"
            )
        found[key] = row
    return found, strangers


def _items_by_name(items: Mapping[str, tuple[str, Optional[str]]]) -> dict[tuple[str, str], set[str]]:
    """Items by every name that a table may use for their screenshot: with and without folder and ending."""
    by_name: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item_id, (cluster, question) in items.items():
        path = PurePosixPath(cluster)
        for name in {cluster, str(path.with_suffix("")), path.name, path.stem}:
            by_name[name, _words(question)].add(item_id)
    return by_name


def _item_of(row: Row, items: Mapping[str, Any], by_name: Mapping[tuple[str, str], set[str]]) -> Optional[str]:
    if row.answer.item_id:
        return row.answer.item_id if row.answer.item_id in items else None
    # The device is the folder of a screenshot whose name alone would not tell it from another's.
    for name in (row.image, f"{row.device}/{row.image}"):
        found = by_name.get((name, _words(row.question)), set())
        if len(found) == 1:
            return next(iter(found))
    return None


def _words(question: Optional[str]) -> str:
    return " ".join((question or "").split())
