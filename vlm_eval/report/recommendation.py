"""Which candidate may take its baseline's place, by the gate's own rules, under limits that are said with it."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

from vlm_eval.gate import Limits, faults, over_limits
from vlm_eval.points import Point
from vlm_eval.reasons import Reason
from vlm_eval.report.data import Candidate
from vlm_eval.report.texts import Texts
from vlm_eval.sweep_statistics import Pair

Faults = dict[str, list[tuple[str, Reason]]]  # label -> (task, reason)


def faults_of(pairs: Sequence[Pair], runs: Mapping[str, Candidate], limits: Limits) -> Faults:
    """The gate's reasons over all tasks; none where a candidate may take the baseline's place in all of them."""
    why: Faults = {}
    for pair in pairs:
        candidate = runs[pair.point.run.folder]
        found = faults(pair.point, pair.baseline, pair.found, limits)
        why.setdefault(candidate.label, []).extend((candidate.task, reason) for reason in found)
    return why


def recommend(
    why: Faults, pairs: Sequence[Pair], runs: Mapping[str, Candidate], limits: Limits, text: Texts
) -> list[str]:
    """A sentence a baseline: each model has its own where --baseline names none, and models are not compared."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.baseline is not None:
            groups.setdefault(runs[pair.baseline.run.folder].label, []).append(pair)
    limit = _stated(limits, text)
    return [_recommend_one(label, group, why, runs, limits, limit, text) for label, group in groups.items()]


def _recommend_one(
    baseline: str,
    pairs: Sequence[Pair],
    why: Faults,
    runs: Mapping[str, Candidate],
    limits: Limits,
    limit: str,
    text: Texts,
) -> str:
    """Of those that pass in all tasks the smallest, unless the baseline is smaller still."""
    bases = {pair.baseline.run.folder: pair.baseline for pair in pairs}.values()
    if any(base.run.state != "ok" for base in bases):
        return text("recommend_cannot", baseline=baseline)
    own = [f"{text.task(runs[b.run.folder].task)}: {text.reason(r)}" for b in bases for r in over_limits(b, limits)]
    labels = dict.fromkeys(runs[pair.point.run.folder].label for pair in pairs)
    passing = [label for label in labels if not why[label]]
    if not passing:
        name = "recommend_nobody" if own else "recommend_stay"
        return text(name, baseline=baseline, limit=limit, own="; ".join(own))
    sizes = {runs[p.point.run.folder].label: s for p in pairs if (s := _gib(p.point)) is not None}
    sized = {label: sizes[label] for label in passing if label in sizes}
    if not sized:
        return text("recommend_unsized", candidates=", ".join(passing), baseline=baseline, limit=limit)
    smallest = min(sized.values())
    of_baseline = next((s for b in bases if (s := _gib(b)) is not None), None)
    if of_baseline is not None and of_baseline <= smallest and not own:
        return text("recommend_smaller", baseline=baseline, limit=limit)
    best = [label for label, size in sized.items() if size == smallest]
    return text("recommend", candidate=text.list_or(best), baseline=baseline, limit=limit)


def _stated(limits: Limits, text: Texts) -> str:
    stated = [text("limit_margin", margin=text.short(100 * limits.margin))]
    stated += [text("limit_p95", seconds=text.short(limits.max_latency_p95))] if limits.max_latency_p95 else []
    stated += [text("limit_gib", gib=text.short(limits.max_gib))] if limits.max_gib else []
    return "; ".join(stated)


def _gib(point: Point) -> Optional[float]:
    return point.run.summary.get("tech/weights_gib")
