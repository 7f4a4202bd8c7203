"""A sweep: all points checked before the first starts, one sweep.json, one comparison at the end."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, preflight, signals
from vlm_eval.comparison import Run, closing_table, not_comparable, read_runs, write_comparison
from vlm_eval.engines.base import module_of
from vlm_eval.errors import BadInput, one_line
from vlm_eval.resume import command_again, sweep_to_resume
from vlm_eval.secret_input import refuse_in_config
from vlm_eval.store import RunFolder, lock_alone, now, read_json, write_json

LOCK = "sweep.lock"  # held by the process that works on the sweep, as long as it does


@dataclass
class Outcome:
    exit_code: int = 0


def expand(
    points: Sequence[Sequence[str]], compose: Callable[[list[str]], DictConfig]
) -> list[tuple[list[str], DictConfig]]:
    """Each point with its config; with engine.candidate=all one for each candidate that the engine's module knows."""
    found = []
    for point in map(list, points):
        composed = compose(point)
        if OmegaConf.select(composed, "engine.candidate", throw_on_missing=False) != "all":
            found.append((point, composed))
            continue
        cfg = config.validate(composed)
        rest = [o for o in point if o.lstrip("+").partition("=")[0] != "engine.candidate"]
        names = module_of(cfg).candidates(OmegaConf.to_object(cfg.engine), cfg.task.name)
        ones = [[*rest, f"engine.candidate={config.quoted(name)}"] for name in names]
        found += [(one, compose(one)) for one in ones]
    return found


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
    plans, asked, checked = [], {}, []
    for point in composed:
        try:
            run_dir = Path(point.hydra.sweep.dir) / point.hydra.sweep.subdir
            refuse_in_config(point)
            checked.append(config.validate(point))
            plans.append(preflight.check(checked[-1], str(run_dir), asked, point.hydra.overrides.task, _placed(point)))
        except BadInput as error:
            raise BadInput(f"{error} [in {point.hydra.sweep.subdir}]" if len(composed) > 1 else str(error)) from error
    if checked[0].statistics.baseline:
        from vlm_eval.sweep_statistics import check_baseline  # here: it needs numpy

        points = {c.hydra.sweep.subdir: (_of_the_point(c), cfg) for c, cfg in zip(composed, checked)}
        check_baseline(checked[0].statistics.baseline, points, composed[0].sweep.resume)
    return plans


def _placed(composed: DictConfig) -> str:
    """Where its launcher puts a run: what can be known here of memory and cards is known of this machine."""
    launcher = composed.hydra.launcher._target_.rpartition(".")[2]
    return {"LocalGpusLauncher": "shared", "BasicLauncher": "alone"}.get(launcher, "elsewhere")


def _check_resume(composed: Sequence[DictConfig]) -> None:
    """A resume takes the points of that very sweep: other overrides would be another study in its folder."""
    folder = composed[0].sweep.resume
    if not folder:
        return
    old = sweep_to_resume(folder)
    there = {point["folder"] for point in old.get("points", [])}
    foreign = next((c for c in composed if c.hydra.sweep.subdir not in there), None)
    if there and foreign:
        raise BadInput(
            f"sweep.resume={folder}: {foreign.hydra.sweep.subdir} is no point of that sweep: "
            f"{_what_is_foreign(_of_the_point(foreign), [point['overrides'] for point in old['points']])}; start a new "
            f"sweep, or go on with its own command: {command_again(folder, old)}"
        )


def _what_is_foreign(overrides: Sequence[str], points: Sequence[Sequence[str]]) -> str:
    """What no point of the sweep has, or all have but this one."""
    mine, *theirs = ([o for o in point if not config.is_how_it_is_run(o)] for point in (overrides, *points))
    if new := [o for o in mine if not any(o in point for point in theirs)]:
        return f"{', '.join(new)} is not among its overrides"
    if lacking := [o for o in theirs[0] if o not in mine and all(o in point for point in theirs)]:
        return f"{', '.join(lacking)} is missing"
    return f"it has not {', '.join(mine)} together"


@contextmanager
def running(sweep_dir: str, composed: Sequence[DictConfig], plans: Sequence[preflight.Plan]) -> Iterator[Outcome]:
    """Around the launch of all points: sweep.json before it, comparison.csv, the table and the exit code after it."""
    folder = Path(sweep_dir)
    first = config.validate(composed[0])
    tracker = config.build(first.tracking)
    with locked(folder):
        old = read_json(folder / "sweep.json")
        points = [
            {"folder": c.hydra.sweep.subdir, "overrides": _of_the_point(c), "inputs_sha256": plan.made_from}
            for c, plan in zip(composed, plans)
        ]
        # A resume of some of the points leaves the others in the comparison.
        points = [p for p in old.get("points", []) if p["folder"] not in {q["folder"] for q in points}] + points
        sweep = {
            "sweep_id": old.get("sweep_id", folder.name),
            "command": old.get("command") or shlex.join(["vlm-eval", *sys.argv[1:]]),
            "cwd": os.getcwd(),
            "started": old.get("started", now()),
            "ended": None,
            "points": points,
            # Kept for vlm-eval-judge, and for a resume that does not say it again.
            "statistics": {
                k: old.get("statistics", {}).get(k) if v is None else v for k, v in first.statistics.items()
            },
            "failed": None,
            "mlflow_run_id": old.get("mlflow_run_id"),
        }
        sweep["mlflow_run_id"] = _try("vlm-eval", tracker.begin_sweep, sweep, str(folder)) or sweep["mlflow_run_id"]
        write_json(folder / "sweep.json", sweep)
        outcome = Outcome()
        runs = [(cfg, RunFolder(folder / cfg.hydra.sweep.subdir)) for cfg in composed]
        before = [run.status() for _, run in runs]
        try:
            yield outcome
        except BaseException as error:
            if isinstance(error, BadInput) and [run.status() for _, run in runs] == before:  # of the launcher
                _as_before(folder, old, sweep, tracker)
            else:
                _close(folder, sweep, tracker, runs)
            raise
        outcome.exit_code = _close(folder, sweep, tracker, runs)


def _as_before(folder: Path, old: dict[str, Any], sweep: dict[str, Any], tracker: Any) -> None:
    """Nothing was started: a sweep that was there is as it was, a new one is none."""
    if old:
        write_json(folder / "sweep.json", old)
        return
    (folder / "sweep.json").unlink()
    if sweep["mlflow_run_id"]:
        _try("vlm-eval", tracker.end_sweep, sweep | {"ended": now(), "failed": len(sweep["points"])}, str(folder))


def _close(folder: Path, sweep: dict[str, Any], tracker: Any, runs: Sequence[tuple[DictConfig, RunFolder]]) -> int:
    """The exit code: 1 where a run has not ended well."""
    if signals.interrupted():  # what is there counts first, then whoever is told of it
        close_interrupted(folder, sweep | {"ended": now()}, tracker, runs)
        return 1
    _track_the_untracked(tracker, runs)
    return 1 if close(folder, sweep | {"ended": now()}, tracker) else 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The sweep's folder for one process alone: BadInput where another works on it, or where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a")
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror}; mend that, or take another folder") from error
    with lock:
        if not lock_alone(lock):
            raise BadInput(f"{folder}: another process works on this sweep; wait for its end")
        yield


def close_interrupted(folder: Path, sweep: dict[str, Any], tracker: Any, runs: Sequence[Any]) -> None:
    """The short end of a sweep that a signal ended: the files and the table, and the tracker for as long as is left."""
    found = read_runs(folder, sweep)
    _write_end(folder, sweep, found)
    again = f"interrupted; this goes on with it, and makes the report too: {command_again(folder, sweep)}"
    print(closing_table(folder, found, None, [again]), flush=True)
    _track_the_untracked(tracker, runs)
    if sweep["mlflow_run_id"]:
        _try("vlm-eval", tracker.end_sweep, sweep, str(folder))


def close(folder: Path, sweep: dict[str, Any], tracker: Any, program: str = "vlm-eval") -> int:
    """What stands at the end of a sweep: comparison, sweep.json, the parent run, the table. How many runs failed."""
    runs, more = _together(folder, read_runs(folder, sweep), sweep.get("statistics", {}))
    _write_end(folder, sweep, runs)
    report = _write_report(folder, program)
    if sweep["mlflow_run_id"]:  # else it could not be reached when the sweep began
        _try(program, tracker.end_sweep, sweep, str(folder))
    print(closing_table(folder, runs, tracker.how_to_open(), more + report), flush=True)
    return sweep["failed"]


def _write_end(folder: Path, sweep: dict[str, Any], runs: list[Run]) -> None:
    """comparison.csv, and sweep.json with how many runs failed."""
    write_comparison(folder, runs)
    sweep |= {"failed": sum(r.state != "ok" for r in runs), "not_comparable": not_comparable(runs)}
    write_json(folder / "sweep.json", sweep)


def _write_report(folder: Path, program: str) -> list[str]:
    """Where the report is; one that cannot be made is said and costs nothing else."""
    try:
        from vlm_eval.report.write import remake_report  # here: a config error need not wait for it

        return [f"Report: {remake_report(folder)}/index.html"]
    except Exception as error:
        print(f"{program}: no report: {one_line(error)}; vlm-eval-report {folder} tries again", file=sys.stderr)
        return []


def _together(folder: Path, runs: list[Run], asked: dict[str, Any]) -> tuple[list[Run], list[str]]:
    """The runs with what is said of them only beside each other, and sentences about it."""
    if not any("judge/match_ratio" in run.summary for run in runs):
        baseline = asked.get("baseline")
        return runs, [f"statistics.baseline={baseline}: no run is judged, nothing to compare"] if baseline else []
    from vlm_eval.sweep_statistics import compare_runs  # here: it needs numpy

    try:
        return compare_runs(folder, runs, asked.get("baseline"), asked.get("margin"))
    except BadInput as error:  # runs of an earlier version, whose judges cannot be told apart
        return runs, [f"not compared: {error}"]


def _of_the_point(composed: DictConfig) -> list[str]:
    """A point's overrides, without those that say how the sweep is run: they make no column of the comparison."""
    return [o for o in composed.hydra.overrides.task if not o.lstrip("+").startswith(("sweep.", "statistics."))]


def track(tracker: Any, cfg: DictConfig, run: RunFolder, program: str = "vlm-eval") -> bool:
    """Log a run, whatever came in the way when it ran; False, with the reason said and kept, where that fails."""
    try:
        tracked = tracker.log_run(cfg, run)
    except Exception as error:  # the files have everything
        reason = f"not tracked: {one_line(error)}"
        print(f"{program}: {run.path.name}: {reason}", file=sys.stderr)
        _remember(run, {**run.status(), "tracking": reason})
        return False
    status = run.status()
    if tracked and status.pop("tracking", None):
        _remember(run, status)
    return True


def _remember(run: RunFolder, status: dict[str, Any]) -> None:
    try:
        write_json(run.path / "status.json", status)
    except OSError as error:  # a folder that can be read alone
        print(f"{run.path}: {one_line(error)}", file=sys.stderr)


def _try(what: str, step: Any, *arguments: Any) -> Any:
    """A tracker that is down is said and does not stop the sweep: the files have everything."""
    try:
        return step(*arguments)
    except Exception as error:
        print(f"{what}: not tracked: {one_line(error)}", file=sys.stderr)
        return None


def _track_the_untracked(tracker: Any, points: Sequence[tuple[DictConfig, RunFolder]]) -> None:
    """A run that failed or was killed did not track itself, nor one that met a tracker that was down."""
    failed = 0
    for cfg, run in points:
        status = run.status()
        untracked = status.get("state") == "ok" and (status.get("tracking") or not status.get("mlflow_run_id"))
        if untracked or status.get("state") in ("failed", "interrupted"):
            failed += not track(tracker, config.validate(cfg), run)
        if failed == 2:  # it is down: each further try would take as long, and the closing table names the way out
            return
