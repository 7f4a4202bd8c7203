"""What a sweep decides: each candidate against the baseline, and which one is recommended under which limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.gate import Limits
from vlm_eval.points import Point, SeveralBaselines, Spec, baseline_of, parse_spec, points_of
from vlm_eval.report.data import Candidate, Key, SweepData
from vlm_eval.report.recommendation import faults_of, recommend
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
    recommendations: list[str] = field(default_factory=list)  # one a baseline
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
    if baseline:
        _check_alone(points, parse_spec(baseline))
    pairs = against_baseline(points, parse_spec(wanted), limits.margin)
    runs = {c.run.folder: c for c in data.candidates}
    sentences = [sentence(pair, runs, quality, text) for pair in pairs]
    given = baseline or data.sweep.get("statistics", {}).get("baseline")
    notes = [] if given else [text("baseline_taken", wanted=wanted)]
    notes += [] if pairs else [text("baseline_alone")]
    why = faults_of(pairs, runs, limits)
    said = recommend(why, pairs, runs, limits, text)
    notes += [text("models_apart")] if len(said) > 1 else []
    reasons = {label: [f"{text.task(task)}: {text.reason(r)}" for task, r in found] for label, found in why.items()}
    return Verdicts(quality, wanted, limits, pairs, sentences, reasons, said, notes)


def _check_alone(points: Sequence[Point], wanted: Spec) -> None:
    """BadInput where a run would have two baselines."""
    for point in (p for p in points if not p.matches(wanted)):
        try:
            baseline_of(point, points, wanted, "--baseline ")
        except SeveralBaselines:
            raise
        except BadInput:  # it has none, which its sentence says
            pass


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
    """One candidate against its baseline, and no more than may be said of it. Differences are in hundredths."""
    candidate = runs[pair.point.run.folder]
    words = {"candidate": candidate.label, "task": text.task(candidate.task), "quality": text.metric(quality)}
    if pair.found is None:
        return text("not_compared", reason=text.reason(pair.reason), **words)
    baseline, found = runs[pair.baseline.run.folder], pair.found
    words["baseline"] = baseline.label
    memory = _share(candidate, baseline)
    words["memory"] = text("at_memory", share=text.percent(memory)) if memory else ""
    words["difference"] = text.signed_points(found.difference)
    if found.low is None:
        return text("too_few", clusters=found.clusters, **words)
    if found.low == found.high == 0:
        bound = text.percent(1 - 0.05 ** (1 / found.clusters))  # exact binomial, none seen in so many
        return text("same_everywhere", clusters=found.clusters, bound=bound, **words)
    words |= {"low": text.signed_points(found.low), "high": text.signed_points(found.high)}
    if found.lost_to_holm and not found.equivalent:
        return text("lost_to_holm", p=text.number(found.p_holm, 2), **words)
    if found.shown == "none" and not found.equivalent:
        return text("no_difference", seen=text.points(found.detectable), **words)
    if found.ratio is None:
        said = text("differs", **words)
    else:
        words |= {"low": text.number(100 * found.ratio_low, 0), "high": text.number(100 * found.ratio_high, 0)}
        said = text("keeps", share=text.percent(found.ratio), **words)
    return said + (text("equivalent", margin=text.points(found.margin)) if found.equivalent else "")


def _share(candidate: Candidate, baseline: Candidate) -> Optional[float]:
    """The candidate's weights over the baseline's, in bytes."""
    ours, theirs = (c.summary.get("tech/weights_gib") for c in (candidate, baseline))
    return ours / theirs if ours and theirs else None
