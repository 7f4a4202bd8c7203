"""How far a judge's scores are those of people, over the answers that both have scored."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Sequence

from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.intervals import named_mean

MIN_CORRELATED = 3  # two answers always lie on one line


def side_by_side(
    judgements: Sequence[Judgement], people: Sequence[Judgement], answers: Sequence[Answer]
) -> list[tuple[str, float, float]]:
    """(cluster, the judge's score, people's score) of each answer that both have scored."""
    ours, theirs = _scores(judgements), _scores(people)
    keys = ((a.cluster, (a.item_id, a.repeat)) for a in answers)
    return [(cluster, ours[key], theirs[key]) for cluster, key in keys if key in ours and key in theirs]


def named_agreement(pairs: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """`people_alpha` (Krippendorff's, ordinal), `people_correlation` (Pearson), `people_rank_correlation` (Spearman),
    each with `_n`, and `people_difference_mean`, judge minus people, with its interval.

    {} without a common answer; without a number where it is not defined, e.g. where all scores are the same.
    """
    if not pairs:
        return {}
    from scipy.stats import pearsonr, spearmanr

    from vlm_eval.statistics.agreement import krippendorff_alpha

    _, judge, people = zip(*pairs)
    found = {"alpha": krippendorff_alpha(zip(judge, people))}
    if len(pairs) >= MIN_CORRELATED and len(set(judge)) > 1 and len(set(people)) > 1:
        found["correlation"] = float(pearsonr(judge, people).statistic)
        found["rank_correlation"] = float(spearmanr(judge, people).statistic)
    summary: dict[str, float] = {}
    for name, value in found.items():
        if value is not None:
            summary |= {f"people_{name}": value, f"people_{name}_n": len(pairs)}
    return summary | named_mean("people_difference_mean", ((cluster, j - p) for cluster, j, p in pairs))


def _scores(judgements: Sequence[Judgement]) -> dict[tuple[str, int], float]:
    """(item, repeat) -> the candidate's score: mean over judges of the mean over orders of each order's mean."""
    groups: dict[tuple[str, int], dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for j in judgements:
        if j.status == "ok" and j.candidate_score is not None:
            groups[j.item_id, j.repeat][j.judge][j.order].append(j.candidate_score)
    return {
        key: fmean(fmean(map(fmean, orders.values())) for orders in judges.values()) for key, judges in groups.items()
    }
