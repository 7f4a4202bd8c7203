"""Which runs of a sweep may take the baseline's place, and why (scripts/gate SWEEP_DIR --baseline quant=bf16 ...).

A candidate is held against the baseline of its task and model (of its task alone, when --baseline names a model or a
replayed candidate). It passes when the 95 % interval of the paired difference rules out a loss of the margin or more,
when it keeps the limits given, and when no more of its answers fail than --max-failed-rise allows. What is missing
never passes. Runs whose overrides differ in task alone are one candidate; it passes when all of them do.

Exit code 0: at least one candidate passes, or with --candidate all those named; 1: else; 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

from vlm_eval.comparison import not_comparable
from vlm_eval.errors import BadInput
from vlm_eval.points import (
    Point,
    Spec,
    baseline_of,
    not_ended_well,
    parse_spec,
    read_points,
    text_of,
)
from vlm_eval.reasons import Reason
from vlm_eval.secret_input import guarded
from vlm_eval.statistics.intervals import MIN_CLUSTERS, why_no_interval
from vlm_eval.statistics.paired import Comparison, compare
from vlm_eval.text_table import text_table


@dataclass(frozen=True)
class Limits:
    """What a run must keep to take the baseline's place; the options say what each is."""

    margin: float
    lower_is_better: bool = False
    max_latency_p95: Optional[float] = None
    max_gib: Optional[float] = None
    max_failed_rise: float = 0.02


@guarded("gate")
def main() -> int:
    try:
        return decide(arguments())
    except BadInput as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sweep_dir", type=Path)
    add("--baseline", type=spec, required=True, metavar="KEY=VALUE[,KEY=VALUE]")
    add("--candidate", type=spec, action="append", metavar="KEY=VALUE[,KEY=VALUE]", help="decide on these alone")
    add("--margin", type=positive, required=True, help="a loss that would not matter, in units of the metric")
    add("--metric", metavar="COLUMN", help="of scores.jsonl, such as rouge1_f; default: the match ratio")
    add("--lower-is-better", action="store_true", help="for a metric such as perplexity or errors")
    add("--judge", metavar="NAME", help="whose judgements; default: the run's main judge")
    add("--max-latency-p95", type=positive, metavar="SECONDS")
    add("--max-gib", type=positive, metavar="GIB", help="peak memory, the GPU's or where it has none the host's")
    add("--max-failed-rise", type=float, default=0.02, metavar="SHARE", help="over the baseline's; default 0.02")
    return parser.parse_args()


def spec(text: str) -> Spec:
    try:
        return parse_spec(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def decide(chosen: argparse.Namespace) -> int:
    points = read_points(chosen.sweep_dir, chosen.metric, chosen.judge)
    named = [p for p in points if not p.matches(chosen.baseline)]
    named = [p for p in named if any(p.matches(wanted) for wanted in chosen.candidate or [{}])]
    if not named:
        raise BadInput("no run is a candidate" + ("; --candidate matches none" if chosen.candidate else ""))
    table, lines, baselines = [], [], {}
    limits = Limits(**{field.name: getattr(chosen, field.name) for field in fields(Limits)})
    passed: dict[str, bool] = {}
    for point in named:
        baseline = baseline_of(point, points, chosen.baseline, "--baseline ")
        found = compare(point.rows, baseline.rows) if baseline else None
        reasons = faults(point, baseline, found, limits)
        table.append(cells(point, found, "no" if reasons else "yes"))
        lines.append(f"{point.run.folder}: {'; '.join(reasons) or 'passes: ' + found.sentence()}")
        if baseline:
            baselines[baseline.run.folder] = baseline
        candidate = " ".join(f"{k}={v}" for k, v in point.run.overrides.items() if k != "task")
        passed[candidate] = passed.get(candidate, True) and not reasons
    table += [cells(b, compare(b.rows, b.rows), "baseline") for b in baselines.values()]
    head = ["run", chosen.metric or "match ratio", "difference", "low", "high", "p95 s", "GiB", "failed", "passes"]
    lines += [f"note: {sentence}" for sentence in not_comparable([p.run for p in (*named, *baselines.values())])]
    print(text_table(head, table), *lines, sep="\n")
    print(f"{sum(passed.values())} of {len(passed)} candidates pass against {text_of(chosen.baseline)}")
    return 0 if (all if chosen.candidate else any)(passed.values()) else 1


def faults(point: Point, baseline: Optional[Point], found: Optional[Comparison], limits: Limits) -> list[Reason]:
    """Why it does not pass; empty when it does."""
    if reason := not_ended_well(point, baseline):
        return [reason]
    reasons = []
    if found and point.judge != baseline.judge:
        reasons.append(Reason("another_judge"))
    if found is None:
        reasons.append(Reason("nothing_scored_in_common"))
    elif found.low is None:
        reasons.append(_too_few(found.clusters))
    elif not (worse := found.high if limits.lower_is_better else -found.low) < limits.margin:
        reasons.append(Reason("may_be_worse", worse=worse, margin=limits.margin))
    reasons += over_limits(point, limits)
    shares = (("fail_more", point.failed, baseline.failed), ("score_less", point.unscored, baseline.unscored))
    for rule, ours, theirs in shares:
        if ours > theirs + limits.max_failed_rise + 1e-9:
            reasons.append(Reason(rule, ours=ours, theirs=theirs))
    return reasons


def over_limits(point: Point, limits: Limits) -> list[Reason]:
    """Which limits of time and memory it is not shown to keep, whatever it is compared with."""
    reasons = []
    memory, p95 = memory_name(point), "tech/latency_s_p95"
    for limit, name, unit in ((limits.max_latency_p95, p95, "s"), (limits.max_gib, memory, "GiB")):
        value = point.run.summary.get(name)
        if limit is not None and value is None:
            reasons.append(Reason("no_p95" if name == p95 else "not_measured", name=name))
        elif limit is not None and value > limit:
            reasons.append(Reason("over_limit", name=name, value=value, unit=unit, limit=limit))
    return reasons


def _too_few(clusters: int) -> Reason:
    return Reason("few_screenshots", why=why_no_interval(clusters), clusters=clusters, least=MIN_CLUSTERS)


def memory_name(point: Point) -> str:
    return "tech/gpu_peak_gib" if "tech/gpu_peak_gib" in point.run.summary else "tech/host_peak_gib"


def cells(point: Point, found: Optional[Comparison], verdict: str) -> list[str]:
    """A row of the table; of a candidate, on the rows it has in common with its baseline."""
    numbers = [found.candidate, found.difference, found.low, found.high] if found else [None] * 4
    if verdict == "baseline":
        numbers[1:] = [None] * 3
    gib = point.run.summary.get(memory_name(point))
    return [
        point.run.folder,
        *("" if n is None else f"{n:.3f}" for n in (*numbers, point.run.summary.get("tech/latency_s_p95"))),
        "" if gib is None else f"{gib:.2f} {'GPU' if 'gpu' in memory_name(point) else 'host'}",
        f"{point.failed:.0%}",
        verdict,
    ]


if __name__ == "__main__":
    sys.exit(main())
