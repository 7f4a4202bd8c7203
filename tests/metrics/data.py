"""What every metric's tests need: answers to score, and the study's recorded answers where they are on this machine."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from vlm_eval.metrics.base import Answered
from vlm_eval.rows import Answer, Item, Score

# Data of the published study are not ours to ship: a folder `shared/seed` beside the checkout, or $VLM_EVAL_SEED.
SEED = Path(os.environ.get("VLM_EVAL_SEED") or Path(__file__).resolve().parents[3] / "shared" / "seed")
needs_recorded = pytest.mark.skipif(
    not (SEED / "sa" / "recorded_answers.csv").is_file(), reason="the study's recorded answers are not here"
)


def recorded_rows() -> list[dict[str, str]]:
    """The 400 rows of the study: model_name, image, repeat, candidate, reference, time_s, rouge1, ..."""
    with open(SEED / "sa" / "recorded_answers.csv", encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def answered(answers=(), references=(), latencies=(), engine=None, repeats=1, **of_item):
    """`repeats` answers an item, in turn; an answer is a text, or None where the engine failed. `references` one an
    item; `of_item` gives further fields of Item, one an item."""
    items, rows = {}, []
    for number in range(-(-len(answers) // repeats)):
        more = {key: values[number] for key, values in of_item.items()}
        reference = references[number] if number < len(references) else None
        items[f"i{number}"] = Item(f"i{number}", f"{number}.png", f"images/{number}.png", reference=reference, **more)
    for number, text in enumerate(answers):
        item = items[f"i{number // repeats}"]
        ended = {"error": "died"} if text is None else {"finish_reason": "stop"}
        rows.append(Answer(item.item_id, number % repeats, item.cluster, text, **ended))
    return Answered(items, rows, list(latencies), engine or {})


def as_scores(found) -> list[Score]:
    """What score() gave, as the rows that summarise() gets."""
    return [Score(i, r, {}, {"m": x}) if isinstance(x, str) else Score(i, r, x) for (i, r), x in found.items()]


def summarised(metric, data):
    return metric.summarise(data, as_scores(metric.score(data)))
