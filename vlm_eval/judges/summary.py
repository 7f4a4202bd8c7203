"""What the judgements of one judge, or of one panel, come to."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Optional, Sequence

from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.intervals import named_mean, named_ratio


def summarise(judgements: Sequence[Judgement], answers: Sequence[Answer], prefix: str = "judge") -> dict[str, float]:
    """The numbers of summary.json under `prefix`; {} without judgements.

    Only judgements with status ok enter scores, in the order or orders there are. The fail rate is the share of those
    that were asked for and have no scores; an answer that is none was never asked about, `failures_as_1` counts it.
    """
    if not judgements:
        return {}
    # numpy, which nothing needs before the judge's stage
    from vlm_eval.statistics.bootstrap import named_bootstrap_ratio
    from vlm_eval.statistics.by_answer import scores_by_answer
    from vlm_eval.statistics.order_effects import named_order_effects

    scores = list(scores_by_answer(judgements, answers).values())
    ratio = f"{prefix}/match_ratio"
    summary = named_ratio(ratio, scores) | named_bootstrap_ratio(ratio, scores)
    # As the published study has it: every answer weighs the same, one on a hard screenshot too.
    summary |= named_mean(f"{ratio}_mean_of_ratios", ((cluster, x / y) for cluster, x, y in scores))
    bound = scores_by_answer(judgements, answers, failed_as=1.0)
    summary |= named_ratio(f"{ratio}_failures_as_1", bound.values())
    summary |= named_mean(f"{prefix}/candidate_score_mean", ((cluster, x) for cluster, x, _ in scores))
    if any(j.reference_score is not None for j in judgements):
        summary |= named_mean(f"{prefix}/reference_score_mean", ((cluster, y) for cluster, _, y in scores))
    summary |= named_order_effects(prefix, judgements, answers)
    summary |= _panel(prefix, judgements, answers)
    asked = [j for j in judgements if j.status != "not_asked"]
    if asked:
        summary[f"{prefix}/fail_rate"] = fmean(j.status != "ok" for j in asked)
        summary[f"{prefix}/flagged_rate"] = fmean(j.flag is not None for j in asked)
        summary[f"{prefix}/saw_image_rate"] = fmean(j.saw_image for j in asked)
    return summary | _paid(prefix, judgements)


def failures(judgements: Sequence[Judgement]) -> Optional[str]:
    """How many of those asked for have no scores, and the commonest reason; None where all have."""
    asked = [j for j in judgements if j.status != "not_asked"]
    reasons = Counter(f"{j.status}: {j.error}" for j in asked if j.status != "ok").most_common()
    if not reasons:
        return None
    often = f", {reasons[0][1]} of them" if len(reasons) > 1 else ""
    return f"{sum(n for _, n in reasons)} of {len(asked)} judgements failed{often}: {reasons[0][0]}"


def _panel(prefix: str, judgements: Sequence[Judgement], answers: Sequence[Answer]) -> dict[str, float]:
    """Agreement of several judges, and how much higher than their mean each one scores the candidate."""
    from vlm_eval.statistics.agreement import krippendorff_alpha, ratings
    from vlm_eval.statistics.by_answer import scores_by_answer

    names = list(dict.fromkeys(j.judge for j in judgements))
    if len(names) < 2:
        return {}
    alpha = krippendorff_alpha(ratings(judgements))
    summary = {} if alpha is None else {f"{prefix}/alpha": alpha}
    own = {name: scores_by_answer([j for j in judgements if j.judge == name], answers) for name in names}
    common = set.intersection(*(set(rows) for rows in own.values()))
    for name, rows in own.items():
        lean = [(rows[key][0], rows[key][1] - fmean(other[key][1] for other in own.values())) for key in sorted(common)]
        summary |= named_mean(f"{prefix}/lean.{name}", lean)
    return summary


def _paid(prefix: str, judgements: Sequence[Judgement]) -> dict[str, float]:
    # Only what a reply came to was paid for; a sum over part of the replies would look like the whole.
    replies = [j for j in judgements if j.status in ("ok", "invalid") or j.tokens is not None]
    summary = {}
    for name, column in (("tokens", "tokens"), ("cost_usd", "cost_usd")):
        found = [getattr(j, column) for j in replies]
        if found and None not in found:
            summary[f"{prefix}/{name}"] = sum(found)
    return summary
