"""What one judge's judgements come to."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Optional, Sequence

from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.intervals import named_mean, named_ratio


def summarise(judgements: Sequence[Judgement], answers: Sequence[Answer]) -> dict[str, float]:
    """The `judge/*` numbers of summary.json; {} without judgements.

    Only judgements with status ok enter scores, in the order or orders there are. The fail rate is the share of all
    the others, answers that were never sent because there is no text among them: all that the ratio does not speak of.
    """
    if not judgements:
        return {}
    cluster = {answer.item_id: answer.cluster for answer in answers}
    candidate = _by_answer(judgements, "candidate_score")
    reference = _by_answer(judgements, "reference_score")
    both = [(cluster[key[0]], candidate[key], reference[key]) for key in candidate if key in reference]
    summary = named_ratio("judge/match_ratio", both)
    summary |= named_mean("judge/candidate_score_mean", ((cluster[i], v) for (i, _), v in candidate.items()))
    summary |= named_mean("judge/reference_score_mean", ((cluster[i], v) for (i, _), v in reference.items()))
    summary["judge/fail_rate"] = fmean(j.status != "ok" for j in judgements)
    # Only what a reply came to was paid for; a sum over part of the replies would look like the whole.
    replies = [j for j in judgements if j.status in ("ok", "invalid") or j.tokens is not None]
    for name, column in (("judge/tokens", "tokens"), ("judge/cost_usd", "cost_usd")):
        found = [getattr(j, column) for j in replies]
        if found and None not in found:
            summary[name] = sum(found)
    return summary


def _by_answer(judgements: Sequence[Judgement], column: str) -> dict[tuple[str, int], float]:
    """(item, repeat) -> the mean over orders of each order's mean, so that judge repeats give no order more weight."""
    groups: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for j in judgements:
        score: Optional[float] = getattr(j, column)
        if j.status == "ok" and score is not None:
            groups[j.item_id, j.repeat][j.order].append(score)
    return {key: fmean(map(fmean, orders.values())) for key, orders in groups.items()}
