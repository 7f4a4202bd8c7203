"""What a sweep decides: each candidate against the baseline, and which one is recommended under which limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.gate import Limits, faults
from vlm_eval.points import Point, parse_spec, points_of
from vlm_eval.report.data import Candidate, Key, SweepData
from vlm_eval.report.texts import Texts
from vlm_eval.sweep_statistics import Pair, against_baseline

QUALITIES = {  # what is compared, the first that any run has: name in summary.json -> column of scores.jsonl
    "judge/match_ratio": None,  # of the judgements
    "facts/recall_mean": "facts_recall",
    "rouge/rouge1_f_mean": "rouge1_f",
    "bleurt/mean": "bleurt",
}
USUAL_BASELINE = "quant=bf16"


@dataclass(frozen=True)
class Verdicts:
    quality: Optional[str]  # a name in summary.json; None: nothing is scored
    baseline: Optional[str]  # KEY=VALUE[,KEY=VALUE]
    limits: Limits
    pairs: list[Pair] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)  # the headline, one a pair
    faults: dict[str, list[str]] = field(default_factory=dict)  # label -> why it may not take the baseline's place
    recommendation: str = ""
    notes: list[str] = field(default_factory=list)


def decide(data: SweepData, baseline: Optional[str], limits: Limits, text: Texts) -> Verdicts:
    """Verdicts on all runs, worded in the language of `text`."""
    quality = next((name for name in QUALITIES if any(name in c.summary for c in data.candidates)), None)
    wanted = baseline or data.sweep.get("statistics", {}).get("baseline") or USUAL_BASELINE
    if quality is None:
        return Verdicts(None, None, limits, notes=[text("nothing_scored")])
    points = points_of(data.folder, [c.run for c in data.candidates], QUALITIES[quality])
    if not any(point.matches(parse_spec(wanted)) for point in points):
        if baseline:
            raise BadInput(f"--baseline {baseline}: no run matches")
        return Verdicts(quality, None, limits, notes=[text("no_baseline", wanted=wanted)])
    pairs = against_baseline(points, parse_spec(wanted), limits.margin)
    by_folder = {c.run.folder: c for c in data.candidates}
    sentences = [sentence(pair, by_folder, quality, text) for pair in pairs]
    why = _faults(pairs, by_folder, limits, text)
    notes = (
        [text("baseline_taken", wanted=wanted)]
        if not (baseline or data.sweep.get("statistics", {}).get("baseline"))
        else []
    )
    said = _recommendation(why, pairs, by_folder, limits, text)
    return Verdicts(quality, wanted, limits, pairs, sentences, why, said, notes)


def quality_of(c: Candidate, key: Key, quality: Optional[str]) -> Optional[float]:
    """One answer's quality: its match ratio, or the column that stands for it."""
    if quality is None:
        return None
    column = QUALITIES[quality]
    if column is None:
        row = c.matches.get(key)
        return row[1] / row[2] if row and row[2] else None
    value = c.score(key, column)
    return float(value) if value is not None else None


def sentence(pair: Pair, runs: dict[str, Candidate], quality: str, text: Texts) -> str:
    """One candidate against its baseline, and no more than may be said of it."""
    candidate = runs[pair.point.run.folder]
    words = {"candidate": candidate.label, "task": text.task(candidate.task), "quality": text.metric(quality)}
    if pair.found is None:
        return text("not_compared", reason=text.reason(pair.reason), **words)
    baseline, found = runs[pair.baseline.run.folder], pair.found
    words["baseline"] = baseline.label
    memory = _share(candidate, baseline)
    words["memory"] = text("at_memory", share=text.percent(memory)) if memory else ""
    if found.low is None:
        return text("too_few", clusters=found.clusters, difference=text.signed(found.difference), **words)
    if found.low == found.high == 0:
        return text("same_everywhere", clusters=found.clusters, **words)
    if found.shown == "none" and not found.equivalent:
        keeps = text("no_difference", seen=text.points(found.detectable), **words)
    elif found.ratio is None:
        keeps = text(
            "differs",
            difference=text.signed(found.difference),
            low=text.signed(found.low),
            high=text.signed(found.high),
            **words,
        )
    else:
        keeps = text(
            "keeps",
            share=text.percent(found.ratio),
            low=text.number(100 * found.ratio_low, 0),
            high=text.number(100 * found.ratio_high, 0),
            **words,
        )
    return keeps + (text("equivalent", margin=text.points(found.margin)) if found.equivalent else "")


def _share(candidate: Candidate, baseline: Candidate) -> Optional[float]:
    """The candidate's weights over the baseline's, in bytes."""
    ours, theirs = (c.summary.get("tech/weights_gib") for c in (candidate, baseline))
    return ours / theirs if ours and theirs else None


def _faults(pairs: Sequence[Pair], runs: dict[str, Candidate], limits: Limits, text: Texts) -> dict[str, list[str]]:
    """label -> the gate's reasons over all tasks; empty where it may take the baseline's place in all of them."""
    why: dict[str, list[str]] = {}
    for pair in pairs:
        candidate = runs[pair.point.run.folder]
        found = faults(pair.point, pair.baseline, pair.found, limits)
        why.setdefault(candidate.label, []).extend(f"{text.task(candidate.task)}: {text.reason(r)}" for r in found)
    return why


def _recommendation(
    why: dict[str, list[str]], pairs: Sequence[Pair], runs: dict[str, Candidate], limits: Limits, text: Texts
) -> str:
    """Of those that pass in all tasks the one with the smallest weights; the limits are said with it."""
    stated = [text("limit_margin", margin=text.points(limits.margin))]
    stated += [text("limit_p95", seconds=text.number(limits.max_latency_p95, 2))] if limits.max_latency_p95 else []
    stated += [text("limit_gib", gib=text.number(limits.max_gib, 1))] if limits.max_gib else []
    limit = "; ".join(stated)
    sizes = {
        runs[p.point.run.folder].label: _size(p.point)
        for p in pairs
        if not why[runs[p.point.run.folder].label] and _size(p.point) is not None
    }
    if not sizes:
        passing = [label for label, reasons in why.items() if not reasons]
        return (
            text("recommend_unsized", candidates=", ".join(passing), limit=limit)
            if passing
            else text("recommend_none", limit=limit)
        )
    return text("recommend", candidate=min(sizes, key=sizes.__getitem__), limit=limit)


def _size(point: Point) -> Optional[float]:
    return point.run.summary.get("tech/weights_gib")
