"""The study's recorded rows and published means beside what vlm-eval made of them, and how to show the two."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from scipy.stats import kendalltau

from vlm_eval.points import Point, read_points
from vlm_eval.rows import Judgement, Score
from vlm_eval.store import RunFolder


@dataclass(frozen=True)
class Study:
    """`rows` as recorded. By model, in the published order: the `published` cells, `ours` of summary.json, the rows of
    scores.jsonl and judgements.jsonl, and `points` with the judge's scores by answer."""

    rows: Sequence[dict[str, str]]
    published: dict[str, dict[str, str]]
    ours: dict[str, dict[str, float]]
    scores: dict[str, Sequence[Score]]
    judgements: dict[str, Sequence[Judgement]]
    points: dict[str, Point]

    @property
    def models(self) -> list[str]:
        return list(self.published)

    def of(self, model: str) -> list[dict[str, str]]:
        return [row for row in self.rows if row["model_name"] == model]

    def decimals(self, name: str) -> int:
        """How many the published column was rounded to: trailing zeros are not written, so the most of any model."""
        return max(len(row[name].partition(".")[2]) for row in self.published.values())

    def theirs(self, name: str) -> list[float]:
        return [float(row[name]) for row in self.published.values()]

    def mine(self, key: str) -> list[Optional[float]]:
        return [self.ours[model].get(key) for model in self.models]


def read(folder: Path, sweep: Path) -> Study:
    published = {row["model_name"]: row for row in read_csv(folder / "published_means.csv")}
    by_model = {point.run.overrides["engine.candidate"]: point for point in read_points(sweep)}
    points = {model: by_model[model] for model in published}
    runs = {model: RunFolder(sweep / point.run.folder) for model, point in points.items()}
    return Study(
        rows=read_csv(folder / "recorded_answers.csv"),
        published=published,
        ours={model: run.summary() for model, run in runs.items()},
        scores={model: run.read("scores") for model, run in runs.items()},
        judgements={model: run.read("judgements") for model, run in runs.items()},
        points=points,
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b of two orders of the models: 1 where they are the same."""
    return round(float(kendalltau(one, other).statistic), 6)  # equal orders give a little less than 1


def worst(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def places(values: Sequence[float]) -> list[int]:
    return [1 + sum(other > value for other in values) for value in values]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]  # neither +0 nor -0


def compared(study: Study, name: str, key: str, digits: Optional[int] = None) -> str:
    """The column's table, our values with as many decimals as the published ones."""
    digits = study.decimals(name) if digits is None else digits
    lines = []
    for model, theirs, mine in zip(study.models, study.theirs(name), study.mine(key), strict=True):
        ours = ["not computed", ""] if mine is None else [f"{mine:.{digits}f}", signed(mine - theirs, digits)]
        lines.append([model, f"{theirs:.{digits}f}", *ours])
    return table(["", "published", "ours", "difference"], lines)


def verdict(study: Study, name: str, key: str) -> str:
    """Whether each model's value is the published one to the published precision."""
    digits = study.decimals(name)
    pairs = list(zip(study.theirs(name), study.mine(key), strict=True))
    if any(mine is None for _, mine in pairs):
        return "Not computed in this run."
    same = sum(f"{theirs:.{digits}f}" == f"{mine:.{digits}f}" for theirs, mine in pairs)
    if same == len(pairs):
        return f"Equal to the published precision for all {len(pairs)} models."
    largest = max(abs(mine - theirs) for theirs, mine in pairs)
    return (
        f"Equal to the published precision for {same} of {len(pairs)} models; the largest difference is {largest:.2g}."
    )


def section(study: Study, title: str, name: str, key: str, notes: Sequence[str]) -> str:
    return f"## {title}\n\n{compared(study, name, key)}\n\n{' '.join([verdict(study, name, key), *notes])}"
