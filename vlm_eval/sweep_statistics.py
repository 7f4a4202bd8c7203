"""What a sweep's runs say only together: the match ratio on the answers that all of them have, and each run against a
baseline (statistics.baseline), on the answers that both have, in paired.csv."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

from omegaconf import DictConfig

from vlm_eval.comparison import COMMON, Run, by_key, read_runs
from vlm_eval.errors import BadInput
from vlm_eval.points import Point, Spec, baseline_of, not_ended_well, parse_spec, points_of
from vlm_eval.reasons import Reason
from vlm_eval.statistics.intervals import named_ratio
from vlm_eval.statistics.multiplicity import holm
from vlm_eval.statistics.paired import Comparison, Rows, common, compare
from vlm_eval.store import read_json

OPTION = "statistics.baseline="
NUMBERS = {  # columns of paired.csv: fields of Comparison
    "match_ratio": "candidate",
    "baseline_match_ratio": "baseline",
    "difference": "difference",
    "difference_ci_low": "low",
    "difference_ci_high": "high",
    "ratio": "ratio",
    "ratio_ci_low": "ratio_low",
    "ratio_ci_high": "ratio_high",
    "p": "p",
    "p_holm": "p_holm",
    "p_sign_flip": "p_sign_flip",
    "p_equivalent": "p_equivalent",
    "margin": "margin",
    "detectable": "detectable",
    "n": "n",
    "clusters": "clusters",
}


@dataclass(frozen=True)
class Pair:
    """A run held against its baseline; `found` is None exactly when `reason` says why."""

    point: Point
    baseline: Optional[Point]
    found: Optional[Comparison] = None
    reason: Optional[Reason] = None

    @property
    def verdict(self) -> str:
        return self.found.sentence() if self.found else self.reason


def check_baseline(baseline: str, points: Mapping[str, tuple[Sequence[str], DictConfig]], resume: Optional[str]):
    """BadInput unless each point (folder -> overrides and config) has one baseline, among those of a resume too."""
    runs = [Run(name, "new", None, by_key(given), {}, {}, {}, cfg) for name, (given, cfg) in points.items()]
    old = read_json(Path(resume) / "sweep.json") if resume else {}
    runs += [run for run in (read_runs(Path(resume), old) if old else []) if run.folder not in points]
    there = [Point(run) for run in runs]
    for point in there:
        baseline_of(point, there, parse_spec(baseline), OPTION)


def compare_runs(
    folder: Path, runs: Sequence[Run], baseline: Optional[str], margin: Optional[float]
) -> tuple[list[Run], list[str]]:
    """The runs with their match ratio on common answers, and what the closing table says of them; writes paired.csv."""
    points = points_of(folder, runs)
    runs, said = _with_common_ratio(runs, points)
    if baseline:
        pairs = against_baseline(points, parse_spec(baseline), margin)
        write_paired(folder, pairs)
        said.append(f"Match ratio against {baseline}, on the answers both have (p by Holm, paired.csv):")
        said += [f"  {pair.point.run.folder}: {pair.verdict}" for pair in pairs] or ["  no other run to compare"]
    elif margin:
        said.append("statistics.margin: nothing was compared, there is no statistics.baseline")
    return runs, said


def _with_common_ratio(runs: Sequence[Run], points: Sequence[Point]) -> tuple[list[Run], list[str]]:
    """Over the answers with an ok judgement in all runs of the task that ended ok, of one and the same judge."""
    compared: dict[tuple, dict[str, Rows]] = defaultdict(dict)
    for point in points:
        if point.run.state == "ok" and point.rows:
            compared[point.get("task"), *sorted((point.judge or {}).items())][point.run.folder] = point.rows
    found, said = {}, []
    for (task, *_), all_rows in compared.items():
        if len(all_rows) < 2:
            continue
        found |= {name: named_ratio(COMMON, rows.values()) for name, rows in common(all_rows).items()}
        if not found[next(iter(all_rows))]:
            said.append(f"judge: no answer of task {task} is judged in all of its {len(all_rows)} runs")
    return [dataclasses.replace(r, summary=r.summary | found.get(r.folder, {})) for r in runs], said


def against_baseline(points: Sequence[Point], wanted: Spec, margin: Optional[float]) -> list[Pair]:
    """Every other run against the baseline of its task, with Holm over all of a task's comparisons."""
    pairs = [_pair(point, points, wanted, margin) for point in points if not point.matches(wanted)]
    of_task: dict[Optional[str], list[int]] = defaultdict(list)
    for position, pair in enumerate(pairs):
        of_task[pair.point.get("task")].append(position)
    for positions in of_task.values():
        adjusted = holm([pairs[i].found.p if pairs[i].found else None for i in positions])
        for i, p in zip(positions, adjusted, strict=True):
            if pairs[i].found:
                pairs[i] = dataclasses.replace(pairs[i], found=dataclasses.replace(pairs[i].found, p_holm=p))
    return pairs


def _pair(point: Point, points: Sequence[Point], wanted: Spec, margin: Optional[float]) -> Pair:
    try:
        baseline = baseline_of(point, points, wanted, OPTION)
    except BadInput as error:  # a baseline that never started
        return Pair(point, None, reason=Reason("no_baseline", error=str(error)))
    if reason := not_ended_well(point, baseline):
        return Pair(point, baseline, reason=reason)
    found = compare(point.rows, baseline.rows, margin)
    if found is None:
        return Pair(point, baseline, reason=Reason("nothing_judged_in_common"))
    if point.judge != baseline.judge:
        return Pair(point, baseline, reason=Reason("another_judge"))
    return Pair(point, baseline, found)


def write_paired(folder: Path, pairs: Sequence[Pair]) -> None:
    """paired.csv: a row a run that is no baseline; the intervals are of 95 % and not adjusted, p_holm is."""
    with open(folder / "paired.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "baseline", "task", *NUMBERS, "verdict"])
        for pair in pairs:
            numbers = [getattr(pair.found, name) if pair.found else None for name in NUMBERS.values()]
            against = pair.baseline.run.folder if pair.baseline else None
            writer.writerow([pair.point.run.folder, against, pair.point.get("task"), *numbers, pair.verdict])
