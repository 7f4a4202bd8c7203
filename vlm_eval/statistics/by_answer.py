"""Judgements brought together: one pair of scores an answer, however many judges, orders and judge repeats."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Iterable, Optional, Sequence

from vlm_eval.rows import Answer, Judgement

Key = tuple[str, int]  # (item_id, repeat)
Pair = tuple[float, float]  # candidate's score, reference's score
FULL_MARKS = 10.0


def order_means(
    judgements: Iterable[Judgement], failed_as: Optional[float] = None
) -> dict[Key, dict[str, dict[str, Pair]]]:
    """(item_id, repeat) -> judge -> order -> the mean pair over judge repeats.

    Only status ok counts; with `failed_as` any other that was asked for counts as that score against full marks. A
    judgement with order "single" scores the candidate alone: it is held against full marks.
    """
    groups: dict[Key, dict[str, dict[str, list[Pair]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for j in judgements:
        pair = None if failed_as is None or j.status == "not_asked" else (failed_as, FULL_MARKS)
        if j.status == "ok":
            pair = (j.candidate_score, FULL_MARKS if j.order == "single" else j.reference_score)
        if pair is not None and None not in pair:
            groups[j.item_id, j.repeat][j.judge][j.order].append(pair)
    return {
        key: {judge: {o: _mean(pairs) for o, pairs in orders.items()} for judge, orders in judges.items()}
        for key, judges in groups.items()
    }


def scores_by_answer(
    judgements: Sequence[Judgement], answers: Sequence[Answer], failed_as: Optional[float] = None
) -> dict[Key, tuple[str, float, float]]:
    """(item_id, repeat) -> (cluster, candidate's score, reference's score): the mean over judges of the mean over
    orders of each order's mean, so that repeats give no order and orders no judge more weight. Its values() are what
    ratio_interval takes.

    Without `failed_as`, answers with no ok judgement are left out: the ratio speaks of the survivors alone. With
    `failed_as=1` each failure counts as 1 of 10, that of an answer without text and of one that was never judged too;
    no verdict could have been worse, so that the ratio of means is a lower bound of what could have come out. An answer
    that was not asked about for want of a reference is no failure and is left out either way.
    """
    found = order_means(judgements, failed_as)
    not_asked = {(j.item_id, j.repeat) for j in judgements if j.status == "not_asked"}
    rows: dict[Key, tuple[str, float, float]] = {}
    for answer in answers:
        key = answer.item_id, answer.repeat
        if key in found:
            rows[key] = (answer.cluster, *_mean([_mean(list(orders.values())) for orders in found[key].values()]))
        elif failed_as is not None and (answer.text is None or key not in not_asked):
            rows[key] = (answer.cluster, failed_as, FULL_MARKS)
    return rows


def _mean(pairs: Sequence[Pair]) -> Pair:
    candidate, reference = zip(*pairs)
    return fmean(candidate), fmean(reference)
