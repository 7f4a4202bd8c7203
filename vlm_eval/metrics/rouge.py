"""ROUGE-1, -2 and -L F-measures (Lin 2004) through torchmetrics, with a normaliser that keeps Cyrillic.

torchmetrics' own normaliser deletes everything but a-z and 0-9, which scores two identical Russian texts 0.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Sequence

from vlm_eval.metrics.base import Answered, Key, PlainMetric, column
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_mean

KEYS = ("rouge1", "rouge2", "rougeL")  # not rougeLsum, which downloads a sentence splitter


@dataclass
class RougeConfig:
    _target_: str = "???"


def normalise(text: str) -> str:
    """Lower case, ё as е, letters and digits of any script kept, all else a space."""
    text = unicodedata.normalize("NFC", text)  # й and ё written as two code points would fall apart at their mark
    return re.sub(r"[\W_]+", " ", text.lower().replace("ё", "е"))


class Rouge(PlainMetric):
    """Against the item's reference; an answer without text or an item without reference is not scored."""

    def __init__(self, config: RougeConfig):
        pass

    def score(self, data: Answered) -> dict[Key, dict[str, Any] | str]:
        from torchmetrics.functional.text.rouge import rouge_score

        seen: dict[tuple[str, str], dict[str, float]] = {}  # repeats often give the same text
        scores: dict[Key, dict[str, Any] | str] = {}
        for answer in data.answers:
            reference = data.items[answer.item_id].reference
            if answer.text is None or not reference:
                why = "no answer" if answer.text is None else "no reference"
                scores[answer.item_id, answer.repeat] = why
                continue
            pair = (answer.text, reference)
            if pair not in seen:
                found = rouge_score(answer.text, reference, rouge_keys=KEYS, normalizer=normalise)
                seen[pair] = {f"{k}_f": float(found[f"{k}_fmeasure"]) for k in KEYS}
            scores[answer.item_id, answer.repeat] = seen[pair]
        return scores

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        summary: dict[str, float] = {}
        for key in KEYS:
            summary |= named_mean(f"rouge/{key}_f_mean", column(scores, data, f"{key}_f"))
        return summary
