"""What a judge's scores owe to things that are not quality: the place of an answer, its length, the judge's own noise.

Position bias and its share of reversed verdicts: arXiv 2306.05685, 2406.07791. All take the judgements of one judge,
or of a panel, of whose judges each counts for itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean, variance
from typing import Iterable, Optional, Sequence

from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.by_answer import order_means, scores_by_answer
from vlm_eval.statistics.intervals import MIN_CLUSTERS, named_mean, named_share


def named_order_effects(prefix: str, judgements: Sequence[Judgement], answers: Sequence[Answer]) -> dict[str, float]:
    """`PREFIX/flip_rate`, `tie_change_rate`, `position_bias`, `length_effect` with interval and n, `PREFIX/noise` with
    n, for summary.json; a name is missing where its data are (one order, one repeat, no judge repeats)."""
    flips, ties = order_changes(judgements, answers)
    summary = named_share(f"{prefix}/flip_rate", flips) | named_share(f"{prefix}/tie_change_rate", ties)
    summary |= named_mean(f"{prefix}/position_bias", position_bias(judgements, answers))
    effect = length_effect(judgements, answers)
    if effect is not None:
        r, low, high, n = effect
        summary |= {f"{prefix}/length_effect": r, f"{prefix}/length_effect_n": n}
        if not math.isnan(low):
            summary |= {f"{prefix}/length_effect_ci_low": low, f"{prefix}/length_effect_ci_high": high}
    noise = judge_noise(judgements)
    return summary if noise is None else summary | {f"{prefix}/noise": noise[0], f"{prefix}/noise_n": noise[1]}


def order_changes(
    judgements: Iterable[Judgement], answers: Sequence[Answer]
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Two lists of (cluster, 0 or 1) over all answers judged in both orders: whether the sign of candidate minus
    reference reverses with the order, and whether it changes to or from a tie."""
    flips, ties = [], []
    for cluster, ab, ba in _both_orders(judgements, answers):
        first, second = _sign(ab[0] - ab[1]), _sign(ba[0] - ba[1])
        flips.append((cluster, float(first * second < 0)))
        ties.append((cluster, float((first == 0) != (second == 0))))
    return flips, ties


def position_bias(judgements: Iterable[Judgement], answers: Sequence[Answer]) -> list[tuple[str, float]]:
    """(cluster, points) an answer judged in both orders: score as A minus score as B, the mean of candidate and
    reference. Above 0 the judge favours the answer it reads first."""
    return [(cluster, ((ab[0] - ba[0]) + (ba[1] - ab[1])) / 2) for cluster, ab, ba in _both_orders(judgements, answers)]


def length_effect(
    judgements: Iterable[Judgement], answers: Sequence[Answer]
) -> Optional[tuple[float, float, float, int]]:
    """Correlation of the candidate's score with its length in characters, within items: (r, low, high, n).

    Only repeats of the same item are compared, so that items which need long answers and please the judge make none.
    None without an item whose repeats differ in both ways (one repeat an item: nothing can be said).
    """
    scores = scores_by_answer(judgements, answers)
    return within_correlation(
        (a.cluster, a.item_id, len(a.text), scores[a.item_id, a.repeat][1])
        for a in answers
        if a.text is not None and (a.item_id, a.repeat) in scores
    )


def within_correlation(
    rows: Iterable[tuple[str, str, float, float]], level: float = 0.95
) -> Optional[tuple[float, float, float, int]]:
    """(r, low, high, n) of (cluster, item, x, y) rows, each item's means taken off; n counts rows of items with more.

    Interval: delta method on the clusters' sums, on Fisher's scale (atanh), t with clusters - 1 degrees of freedom; low
    and high are nan under 5 clusters. None where x or y does not vary within any item.
    """
    items: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for cluster, item, x, y in rows:
        items[cluster, item].append((x, y))
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    n = 0
    for (cluster, _), pairs in items.items():
        if len(pairs) > 1:
            n += len(pairs)
            mean_x, mean_y = (fmean(column) for column in zip(*pairs))
            for x, y in pairs:
                dx, dy = x - mean_x, y - mean_y
                entry = sums[cluster]
                entry[0], entry[1], entry[2] = entry[0] + dx * dy, entry[1] + dx * dx, entry[2] + dy * dy
    xy, xx, yy = (math.fsum(column) for column in zip(*sums.values())) if sums else (0.0, 0.0, 0.0)
    if xx == 0 or yy == 0:
        return None
    r = max(-1.0, min(1.0, xy / math.sqrt(xx * yy)))
    if len(sums) < MIN_CLUSTERS:
        return r, math.nan, math.nan, n
    if 1 - r * r < 1e-9:  # all on one line: atanh has no value, and there is nothing to be unsure of
        return r, r, r, n
    from scipy.special import stdtrit

    parts = [a / math.sqrt(xx * yy) - r / 2 * (b / xx + c / yy) for a, b, c in sums.values()]
    error = math.sqrt(len(sums) / (len(sums) - 1) * math.fsum(e * e for e in parts)) / (1 - r * r)
    half = float(stdtrit(len(sums) - 1, (1 + level) / 2)) * error
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n


def judge_noise(judgements: Iterable[Judgement], column: str = "candidate_score") -> Optional[tuple[float, int]]:
    """(points, groups): standard deviation of one answer's score when the same judge is asked the same again, pooled
    over (answer, judge, order); None where nothing was asked twice."""
    groups: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
    for j in judgements:
        if j.status == "ok" and getattr(j, column) is not None:
            groups[j.item_id, j.repeat, j.judge, j.order].append(getattr(j, column))
    repeated = [scores for scores in groups.values() if len(scores) > 1]
    if not repeated:
        return None
    freedom = sum(len(scores) - 1 for scores in repeated)
    return math.sqrt(sum(variance(s) * (len(s) - 1) for s in repeated) / freedom), len(repeated)


def _both_orders(judgements: Iterable[Judgement], answers: Sequence[Answer]):
    """(cluster, (candidate, reference) in order ab, the same in order ba) of each answer and judge with both."""
    cluster = {a.item_id: a.cluster for a in answers}
    for (item_id, _), judges in order_means(judgements).items():
        for orders in judges.values():
            if "ab" in orders and "ba" in orders:
                yield cluster[item_id], orders["ab"], orders["ba"]


def _sign(difference: float) -> int:
    return (difference > 1e-9) - (difference < -1e-9)  # means over judge repeats may differ by a rounding
