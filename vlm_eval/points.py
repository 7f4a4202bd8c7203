"""A finished sweep's runs with the rows of one metric, ready for vlm_eval.statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Sequence

from omegaconf import OmegaConf

from vlm_eval import config, judging, resolvers
from vlm_eval.comparison import Run, read_runs
from vlm_eval.errors import BadInput
from vlm_eval.reasons import Reason
from vlm_eval.rows import Judgement
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.statistics.paired import Rows, as_rows
from vlm_eval.store import RunFolder, read_json

Spec = dict[str, str]  # {"quant": "bf16"}
MODEL_KEYS = ("model", "model.name", "model.path", "engine.candidate")


class SeveralBaselines(BadInput):
    """More than one run is what was named as the baseline."""


@dataclass(frozen=True)
class Point:
    run: Run
    # Of each scored answer its item, with the picture's hash and the question, and its repeat -> cluster, numerator,
    # denominator: an item that is another thing in another run is not compared.
    rows: Rows = field(default_factory=dict)
    failed: float = 0.0  # share of answers without text
    unscored: float = 0.0  # share of answers without the metric, the failed ones among them
    judge: Optional[dict[str, str]] = None  # what the judge was; None where no judge is asked about

    def get(self, key: str) -> Optional[str]:
        """A config value as text; of a group, such as quant, its name."""
        return config.text_at(self.run.config, key)

    def matches(self, spec: Spec) -> bool:
        """Whether each value is what the point's overrides or its config say."""
        return all(value in (self.run.overrides.get(key), self.get(key)) for key, value in spec.items())


def parse_spec(text: str) -> Spec:
    """KEY=VALUE[,KEY=VALUE] as a dict; BadInput for anything else."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key and value for key, _, value in pairs):
        raise BadInput(f"{text!r} is not KEY=VALUE[,KEY=VALUE]")
    return {key: value for key, _, value in pairs}


def text_of(wanted: Spec) -> str:
    return ",".join(f"{key}={value}" for key, value in wanted.items())


def baseline_of(point: Point, points: Sequence[Point], wanted: Spec, option: str) -> Optional[Point]:
    """The run of the same task, and of the same model unless `wanted` names one; None for a run that never started.

    BadInput, which names the `option` it was given with, where that is no run or several."""
    if not point.run.config:
        return None
    alike = ["task"] if any(key in wanted for key in MODEL_KEYS) else ["task", "model"]
    found = [p for p in points if p.matches(wanted) and all(p.get(key) == point.get(key) for key in alike)]
    if len(found) != 1:
        of = " and ".join(f"{key} {point.get(key)}" for key in alike)
        which = f"{len(found)} runs match, add a KEY=VALUE that tells them apart" if found else "no run matches"
        kind = SeveralBaselines if found else BadInput
        raise kind(f"{option}{text_of(wanted)}: {which}, among those of {of}")
    return found[0]


def not_ended_well(point: Point, baseline: Optional[Point]) -> Optional[Reason]:
    """Why there is nothing to compare, if one of the two runs failed or never started."""
    if baseline is None or point.run.state != "ok":
        return Reason("not_ended", state=point.run.state, error=f": {point.run.error}" if point.run.error else "")
    return None if baseline.run.state == "ok" else Reason("baseline_not_ended", state=baseline.run.state)


def read_points(sweep_dir: Path, metric: Optional[str] = None, judge: Optional[str] = None) -> list[Point]:
    """`metric` is a column of scores.jsonl, None the match ratio, by the run's main judge or the one named.

    BadInput where there is no sweep, or as of points_of.
    """
    sweep = read_json(sweep_dir / "sweep.json")
    if not sweep:
        raise BadInput(f"{sweep_dir}: no sweep.json here; give the folder of a sweep")
    resolvers.register_resolvers()  # the names of a replayed model and quant need them
    return points_of(sweep_dir, read_runs(sweep_dir, sweep), metric, judge)


def points_of(
    sweep_dir: Path, runs: Sequence[Run], metric: Optional[str] = None, judge: Optional[str] = None
) -> list[Point]:
    """The runs with their rows; BadInput where no run has the metric. One that has no rows stays, for its reason."""
    points = [_read(sweep_dir, run, metric, judge) for run in runs]
    if not any(p.rows for p in points):
        scores = [s for p in points for s in RunFolder(sweep_dir / p.run.folder).read("scores")]
        there = ", ".join(sorted({k for s in scores for k, v in s.values.items() if isinstance(v, (int, float))}))
        folders = [RunFolder(sweep_dir / p.run.folder) for p in points]
        judges = {name for f in folders for name in judging.judges_of(f) if judging.has_judged(f, name)}
        lacking = f"a column {metric}" if metric else "an ok judgement" + (f" of {judge}" if judge else "")
        others = f"; --judge takes: {', '.join(sorted(judges))}" if judges and not metric else ""
        raise BadInput(
            f"no run has {lacking}{others}; --metric takes a column of scores.jsonl: {there or 'there is none'}"
        )
    return points


def _read(sweep_dir: Path, run: Run, metric: Optional[str], judge: Optional[str]) -> Point:
    folder = RunFolder(sweep_dir / run.folder)
    answers = folder.read("answers")
    if metric:
        cluster = {(a.item_id, a.repeat): a.cluster for a in answers}
        found = {(s.item_id, s.repeat): s.values.get(metric) for s in folder.read("scores")}
        rows = as_rows({key: (cluster[key], float(v)) for key, v in found.items() if isinstance(v, (int, float))})
    else:
        rows = scores_by_answer(_judgements(folder, run, judge), answers)
    asked = {item.item_id: (item.image_sha256, item.question) for item in folder.read("items")}
    rows = {(name, *asked.get(name, ()), repeat): row for (name, repeat), row in rows.items()}
    total = len(answers) or 1
    failed = sum(a.text is None for a in answers) / total
    was = None if metric else judging.judge_facts(folder, judge)
    return Point(run, rows, failed, 1 - len(rows) / total, was)


def _judgements(folder: RunFolder, run: Run, asked: Optional[str]) -> list[Judgement]:
    """Those of the judge asked for, else of the run's own judge or panel, else of the only one there is."""
    if judging.judges_of(folder):
        return judging.judgements_of(folder, asked or judging.main_judge(folder))
    # A run that was judged before provenance.json named its judges.
    judgements = folder.read("judgements")
    members = OmegaConf.select(run.config, "judge.members") or {}
    own = {OmegaConf.select(run.config, "judge.name"), *(member.name for member in members.values() if member)}
    there = {j.judge for j in judgements}
    names = {asked} if asked else (there & own or there)
    if len(names) > 1 and not names <= own:
        raise BadInput(f"{folder.path.name}: several judges, choose one with --judge: {', '.join(sorted(names))}")
    return [j for j in judgements if j.judge in names]
