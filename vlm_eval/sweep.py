"""A sweep: all points checked before the first starts, one sweep.json, one comparison at the end."""

from __future__ import annotations

import csv
import os
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

from omegaconf import DictConfig

from vlm_eval import config, preflight
from vlm_eval.errors import BadInput
from vlm_eval.store import RunFolder, now, read_json, write_json
from vlm_eval.text_table import text_table

HEADLINES = {  # columns of the closing table: (summary's name, heading, format)
    "judge/match_ratio": ("match ratio", "{:.3f}"),
    "rouge/rouge1_f_mean": ("ROUGE-1", "{:.3f}"),
    "rouge/rougeL_f_mean": ("ROUGE-L", "{:.3f}"),
    "tech/latency_s_p50": ("latency p50 s", "{:.3f}"),
    "tech/output_tokens_per_s": ("tokens/s", "{:.0f}"),
    "tech/weights_gib": ("weights GiB", "{:.3g}"),
    "tech/host_peak_gib": ("RAM peak GiB", "{:.2f}"),
    "tech/gpu_peak_gib": ("GPU peak GiB", "{:.2f}"),
    "tech/failed_rate": ("failed", "{:.0%}"),
}


@dataclass
class Outcome:
    exit_code: int = 0


def check_points(overrides: Sequence[Any], composed: Sequence[DictConfig]) -> list[preflight.Plan]:
    """Pre-flight of every point; BadInput for a sweep of no points or of the same point twice."""
    if not composed:
        empty = [o.input_line for o in overrides if o.is_sweep_override() and not list(o.sweep_string_iterator())]
        raise BadInput(f"the sweep has no points: {', '.join(empty)} matches nothing")
    folders = [c.hydra.sweep.subdir for c in composed]
    twice = next((f for f in folders if folders.count(f) > 1), None)
    if twice:
        raise BadInput(f"the sweep names the same point twice: {twice}")
    _check_resume(composed)
    plans = []
    for point in composed:
        try:
            run_dir = Path(point.hydra.sweep.dir) / point.hydra.sweep.subdir
            plans.append(preflight.check(config.validate(point), str(run_dir)))
        except BadInput as error:
            raise BadInput(f"{error} [in {point.hydra.sweep.subdir}]" if len(composed) > 1 else str(error)) from error
    return plans


def _check_resume(composed: Sequence[DictConfig]) -> None:
    """A resume takes the points of that very sweep: other overrides would be another study in its folder."""
    folder = composed[0].sweep.resume
    if not folder:
        return
    old = read_json(Path(folder) / "sweep.json")
    there = {point["folder"] for point in old.get("points", [])}
    foreign = [c.hydra.sweep.subdir for c in composed if c.hydra.sweep.subdir not in there]
    if there and foreign:
        raise BadInput(
            f"sweep.resume={folder}: {foreign[0]} is no point of that sweep; give its own command again and add "
            f"sweep.resume to it: {old['command']}"
        )


@contextmanager
def running(sweep_dir: str, composed: Sequence[DictConfig]) -> Iterator[Outcome]:
    """Around the launch of all points: sweep.json before it, comparison.csv, the table and the exit code after it."""
    folder = Path(sweep_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tracker = config.build(config.validate(composed[0]).tracking)
    old = read_json(folder / "sweep.json")
    points = [{"folder": c.hydra.sweep.subdir, "overrides": _of_the_point(c)} for c in composed]
    # A resume of some of the points leaves the others in the comparison.
    points = [p for p in old.get("points", []) if p["folder"] not in {q["folder"] for q in points}] + points
    sweep = {
        "sweep_id": old.get("sweep_id", folder.name),
        "command": old.get("command") or shlex.join(["vlm-eval", *sys.argv[1:]]),
        "cwd": os.getcwd(),
        "started": old.get("started", now()),
        "ended": None,
        "points": points,
        "failed": None,
        "mlflow_run_id": old.get("mlflow_run_id"),
    }
    sweep["mlflow_run_id"] = sweep["mlflow_run_id"] or _try(tracker.begin_sweep, sweep, str(folder))
    write_json(folder / "sweep.json", sweep)
    outcome = Outcome()
    try:
        yield outcome
    finally:
        for cfg in composed:
            _track_the_untracked(tracker, cfg, RunFolder(folder / cfg.hydra.sweep.subdir))
        runs = read_runs(folder, sweep)
        write_comparison(folder, runs)
        failed = [r for r in runs if r["state"] != "ok"]
        sweep |= {"ended": now(), "failed": len(failed)}
        write_json(folder / "sweep.json", sweep)
        if sweep["mlflow_run_id"]:
            _try(tracker.end_sweep, sweep, str(folder))
        outcome.exit_code = 1 if failed else 0
        print(closing_table(folder, runs, tracker.how_to_open()), flush=True)


def _of_the_point(composed: DictConfig) -> list[str]:
    """A point's overrides, without those that say how the sweep is run: they make no column of the comparison."""
    return [o for o in composed.hydra.overrides.task if not o.lstrip("+").startswith("sweep.")]


def _try(step: Any, *arguments: Any) -> Any:
    """A tracker that is down is said and does not stop the sweep: the files have everything."""
    try:
        return step(*arguments)
    except Exception as error:
        print(f"vlm-eval: not tracked: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return None


def _track_the_untracked(tracker: Any, cfg: DictConfig, run: RunFolder) -> None:
    """A run that failed or was killed did not track itself, nor one that met a tracker that was down."""
    status = run.status()
    untracked = status.get("state") == "ok" and (status.get("tracking") or not status.get("mlflow_run_id"))
    if untracked or status.get("state") in ("failed", "interrupted"):
        if _try(tracker.log_run, config.validate(cfg), run):
            status = run.status()
            status.pop("tracking", None)
            write_json(run.path / "status.json", status)


def read_runs(folder: Path, sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """A dict a run: folder, overrides, state, error, then the summary. A run that never started is "missing"."""
    runs = []
    for point in sweep["points"]:
        run = RunFolder(folder / point["folder"])
        status = run.status()
        overrides = {k.lstrip("+"): v for k, _, v in (o.partition("=") for o in point["overrides"])}
        runs.append(
            {
                "run": point["folder"],
                **overrides,
                "state": status.get("state", "missing"),
                "error": status.get("error") or status.get("tracking"),
                **run.summary(),
            }
        )
    return runs


def write_comparison(folder: Path, runs: Sequence[dict[str, Any]]) -> None:
    """comparison.csv: a row a run, ok or not; every column any run has."""
    columns = list(dict.fromkeys(key for run in runs for key in run))
    metrics = {key for run in runs for key in RunFolder(folder / run["run"]).summary()}
    first = [c for c in columns if c not in metrics]
    with open(folder / "comparison.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, first + sorted(metrics), restval="")
        writer.writeheader()
        writer.writerows(runs)


def closing_table(folder: Path, runs: Sequence[dict[str, Any]], how_to_open: str) -> str:
    """What a person sees at the end: a row a run, ok or why not, the headline numbers, and where to look."""
    shown = {k: v for k, v in HEADLINES.items() if any(k in run for run in runs)}
    rows = [
        [r["run"], r["state"], *(form.format(r[k]) if k in r else "" for k, (_, form) in shown.items())] for r in runs
    ]
    lines = [text_table(["run", "state", *(head for head, _ in shown.values())], rows)]
    lines += [f"{r['run']}: {r['error']}" for r in runs if r["error"]]
    failed = sum(r["state"] != "ok" for r in runs)
    lines.append(f"Results: {folder}/comparison.csv, one folder a run beside it.")
    if how_to_open:
        lines.append(how_to_open)
    lines.append(f"{len(runs) - failed} of {len(runs)} runs ok" + (f", {failed} failed" if failed else ""))
    return "\n".join(lines)
