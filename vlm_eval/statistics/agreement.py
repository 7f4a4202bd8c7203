"""Krippendorff's alpha: how far several raters, or one rater several times, agree beyond chance.

K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011). 1: they always agree, 0: no better than chance,
below 0: worse. For a 10-point scale take the ordinal level.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any, Iterable, Optional, Sequence

import numpy as np

from vlm_eval.rows import Judgement


def krippendorff_alpha(units: Iterable[Sequence[Any]], level: str = "ordinal") -> Optional[float]:
    """Alpha over units; a unit is what its raters gave it, in any order, None or nan where one gave nothing.

    `level`: nominal (values may be words), ordinal or interval. None where alpha is not defined: no unit has two
    values, or all values are the same.
    """
    rated = [[v for v in unit if v is not None and v == v] for unit in units]
    rated = [unit for unit in rated if len(unit) > 1]
    if not rated:
        return None
    values, codes = np.unique([v for unit in rated for v in unit], return_inverse=True)
    coincidences = np.zeros((len(values), len(values)))
    start = 0
    for unit in rated:
        of_unit = codes[start : start + len(unit)]
        start += len(unit)
        pairs = 1 - np.eye(len(unit))  # every value with every other one of the same unit
        np.add.at(coincidences, (of_unit[:, None], of_unit[None, :]), pairs / (len(unit) - 1))
    counts = coincidences.sum(axis=0)
    distance = _squared_distance(values, counts, level)
    expected = (np.outer(counts, counts) * distance).sum()
    if expected == 0:
        return None
    return float(1 - (counts.sum() - 1) * (coincidences * distance).sum() / expected)


def _squared_distance(values: np.ndarray, counts: np.ndarray, level: str) -> np.ndarray:
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values[None, :]).astype(float) ** 2
    if level == "ordinal":  # how many values lie between two, each end counted half
        middle = counts.cumsum() - counts / 2
        return (middle[:, None] - middle[None, :]) ** 2
    raise ValueError(f"level={level!r}: it is nominal, ordinal or interval")


def ratings(
    judgements: Iterable[Judgement], between: str = "judge", column: str = "candidate_score"
) -> list[list[float]]:
    """Units for alpha from judgements with status ok: one an answer, with each rater's mean score.

    `between`, a field of Judgement, says what a rater is: "judge" (several judges), "order" (one judge, both orders),
    "judge_repeat" (one judge, asked again).
    """
    groups: dict[tuple[str, int], dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for j in judgements:
        if j.status == "ok" and getattr(j, column) is not None:
            groups[j.item_id, j.repeat][getattr(j, between)].append(getattr(j, column))
    return [[fmean(scores) for scores in raters.values()] for raters in groups.values()]
