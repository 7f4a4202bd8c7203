"""A finished sweep's runs with the rows of one metric, ready for vlm_eval.statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlm_eval import config, judging
from vlm_eval.comparison import Run, read_runs
from vlm_eval.engines.recorded import recorded_config
from vlm_eval.errors import BadInput
from vlm_eval.rows import Judgement
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.statistics.paired import Rows, as_rows
from vlm_eval.store import RunFolder, read_json

Spec = dict[str, str]  # {"quant": "bf16"}


@dataclass(frozen=True)
class Point:
    run: Run
    config: DictConfig  # empty where the run never started
    rows: Rows  # (item_id, repeat) -> cluster, numerator, denominator, of the answers that have the metric
    failed: float  # share of answers without text
    unscored: float  # share of answers without the metric, the failed ones among them
    judge: Any  # what the judge was; None where no judge is asked about

    def get(self, key: str) -> Optional[str]:
        """A config value as text; of a group, such as quant, its name."""
        try:
            found = OmegaConf.select(self.config, key)
            found = found.get("name") if isinstance(found, DictConfig) else found
        except OmegaConfBaseException:
            return None
        return None if found is None else str(found)

    def matches(self, spec: Spec) -> bool:
        """Whether each value is what the point's overrides or its config say."""
        return all(value in (self.run.overrides.get(key), self.get(key)) for key, value in spec.items())


def read_points(sweep_dir: Path, metric: Optional[str] = None, judge: Optional[str] = None) -> list[Point]:
    """`metric` is a column of scores.jsonl, None the match ratio, by the run's main judge or the one named.

    BadInput where there is no sweep, or no run has the metric. A run that has no rows stays, for its reason.
    """
    sweep = read_json(sweep_dir / "sweep.json")
    if not sweep:
        raise BadInput(f"{sweep_dir}: no sweep.json here; give the folder of a sweep")
    config.register_resolvers()  # the names of a replayed model and quant need them
    points = [_read(sweep_dir, run, Path(sweep["cwd"]), metric, judge) for run in read_runs(sweep_dir, sweep)]
    if not any(p.rows for p in points):
        scores = [s for p in points for s in RunFolder(sweep_dir / p.run.folder).read("scores")]
        there = ", ".join(sorted({k for s in scores for k, v in s.values.items() if isinstance(v, (int, float))}))
        lacking = f"a column {metric}" if metric else "an ok judgement" + (f" of {judge}" if judge else "")
        raise BadInput(f"no run has {lacking}; --metric takes a column of scores.jsonl: {there or 'there is none'}")
    return points


def _read(sweep_dir: Path, run: Run, cwd: Path, metric: Optional[str], judge: Optional[str]) -> Point:
    folder = RunFolder(sweep_dir / run.folder)
    started = (folder.path / ".hydra" / "config.yaml").is_file()
    cfg = recorded_config(folder, cwd) if started else OmegaConf.create()
    answers = folder.read("answers")
    if metric:
        cluster = {(a.item_id, a.repeat): a.cluster for a in answers}
        found = {(s.item_id, s.repeat): s.values.get(metric) for s in folder.read("scores")}
        rows = as_rows({key: (cluster[key], float(v)) for key, v in found.items() if isinstance(v, (int, float))})
    else:
        rows = scores_by_answer(_judgements(folder, cfg, judge), answers)
    total = len(answers) or 1
    failed = sum(a.text is None for a in answers) / total
    was = None if metric else folder.provenance().get("judge")
    return Point(run, cfg, rows, failed, 1 - len(rows) / total, was)


def _judgements(folder: RunFolder, cfg: DictConfig, asked: Optional[str]) -> list[Judgement]:
    """Those of the judge asked for, else of the run's own judge or panel, else of the only one there is."""
    if judging.judges_of(folder):
        return judging.judgements_of(folder, asked or judging.main_judge(folder))
    # A run that was judged before provenance.json named its judges.
    judgements = folder.read("judgements")
    members = OmegaConf.select(cfg, "judge.members") or {}
    own = {OmegaConf.select(cfg, "judge.name"), *(member.name for member in members.values() if member)}
    there = {j.judge for j in judgements}
    names = {asked} if asked else (there & own or there)
    if len(names) > 1 and not names <= own:
        raise BadInput(f"{folder.path.name}: several judges, choose one with --judge: {', '.join(sorted(names))}")
    return [j for j in judgements if j.judge in names]
