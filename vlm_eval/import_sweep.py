"""Bring a sweep's folder, or a run's, into MLflow: after the server was down, or into another store.

    scripts/mlflow-import SWEEP_DIR [--uri http://127.0.0.1:5000] [--experiment NAME]

What is there already is completed, nothing is doubled, unless two copies of a sweep are imported at once. Exit code
0: all is there; 1: some runs are not; 2: bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, resolvers
from vlm_eval.engines.recorded import recorded_config
from vlm_eval.errors import BadInput, one_line
from vlm_eval.secret_input import guarded, refuse_in_config
from vlm_eval.store import RunFolder, lock_alone, read_json, write_json
from vlm_eval.sweep import track
from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig

ENDED = ("ok", "failed", "interrupted")
PROGRAM = "scripts/mlflow-import"


@guarded(PROGRAM)
def main() -> int:
    parser = argparse.ArgumentParser(PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_dir", type=Path, help="of a sweep or of one run")
    parser.add_argument("--uri", help="of the store; default: the sweep's own")
    parser.add_argument("--artifacts", help="of a local store that is made now; default: the sweep's own")
    parser.add_argument("--experiment", help="default: the sweep's own")
    asked = parser.parse_args()
    resolvers.register_resolvers()
    try:
        return import_folder(asked.sweep_dir.resolve(), asked.uri, asked.artifacts, asked.experiment)
    except BadInput as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


def import_folder(folder: Path, uri: Optional[str], artifacts: Optional[str], experiment: Optional[str]) -> int:
    """Log all runs that ended, then the sweep itself; says what is not there and why."""
    sweep = read_json(folder / "sweep.json")
    names = [point["folder"] for point in sweep["points"]] if sweep else [""]
    runs = [RunFolder(folder / name) for name in names]
    ended = [run for run in runs if run.status().get("state") in ENDED and (run.path / ".hydra/config.yaml").is_file()]
    if not ended:
        raise BadInput(f"{folder}: no run here that ended; give the folder of a sweep or of a run")
    for run in ended:
        refuse_in_files(run)
    cwd = Path(sweep["cwd"]) if sweep else Path.cwd()
    if uri and uri.startswith("sqlite:///"):  # from where the person stands now, not from where the sweep was run
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    artifacts = artifacts and str(Path(artifacts).resolve())
    with contextlib.chdir(cwd) if cwd.is_dir() else contextlib.nullcontext():
        tracker = _tracker(config.validate(recorded_config(ended[0], cwd)), uri, artifacts, experiment)
        if sweep:
            known, sweep["mlflow_run_id"] = sweep["mlflow_run_id"], _reached(tracker.begin_sweep, sweep, str(folder))
            if uri is None and sweep["mlflow_run_id"] != known:  # of the sweep's own store
                write_json(folder / "sweep.json", sweep)
        there = [_track(tracker, recorded_config(run, cwd), run) for run in ended]
        if sweep:
            _reached(tracker.end_sweep, sweep, str(folder))
        where = tracker.how_to_open()
    for run in (run for run in runs if run not in ended):
        print(f"{run.path.name}: left out, it is {run.status().get('state', 'not begun')}", file=sys.stderr)
    print(f"{sum(there)} of {len(runs)} runs are in MLflow. {where}")
    return 0 if sum(there) == len(runs) else 1


def refuse_in_files(run: RunFolder) -> None:
    """BadInput where the files that Hydra wrote for a run, which go to MLflow as they are, hold a secret."""
    for file in sorted((run.path / ".hydra").glob("*.yaml")):
        try:
            refuse_in_config(OmegaConf.load(file))
        except BadInput as error:
            raise BadInput(f"{file}: {error}") from error


def _track(tracker: Mlflow, cfg: DictConfig, run: RunFolder) -> bool:
    """Log one run, unless it is still being made, or another import is at it."""
    with contextlib.ExitStack() as open_files:
        try:
            log = open_files.enter_context(open(run.path / "run.log", "a", encoding="utf-8"))
            if not lock_alone(log):
                print(f"{PROGRAM}: {run.path.name}: another process works on this run", file=sys.stderr)
                return False
        except OSError:
            pass  # a folder that can be read alone: nobody works on it
        return track(tracker, config.validate(cfg), run, PROGRAM)


def _tracker(cfg: DictConfig, uri: Optional[str], artifacts: Optional[str], experiment: Optional[str]) -> Mlflow:
    """The sweep's own, with what was said now in its place."""
    own = OmegaConf.to_object(cfg.tracking)
    if not isinstance(own, MlflowConfig) and not uri:
        raise BadInput("the sweep was run with tracking=none; say where to: --uri sqlite:///mlruns/mlflow.db")
    known = own if isinstance(own, MlflowConfig) else MlflowConfig(_target_="", uri=uri)
    return Mlflow(
        MlflowConfig(
            _target_=known._target_,
            uri=uri or known.uri,
            # Where a store puts artifacts is its own affair: the sweep's folder for them is that of the sweep's store.
            artifacts=artifacts or (None if uri else known.artifacts),
            experiment=experiment or known.experiment,
            screenshots=known.screenshots,
            rows=known.rows,
        )
    )


def _reached(step: Any, *arguments: Any) -> Any:
    """A store that cannot be reached at all, or is none, is said in one line."""
    try:
        return step(*arguments)
    except Exception as error:  # of MLflow, SQLAlchemy, a database's driver, the disk
        raise BadInput(f"MLflow: {one_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
