"""Sweeps and single runs in multirun/: which there are, which of them run, and their removal."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import time
from pathlib import Path
from typing import Any, Iterator

from vlm_eval.clean.found import HIDDEN, QUIET_S, RUNNING, Found, Runs, extent, half_removed, take_away
from vlm_eval.store import is_locked, read_json


def find_sweeps(asked: argparse.Namespace) -> Iterator[Found]:
    """The folders of multirun/ that are a sweep's or a run's; links and other things are none of ours."""
    folder = Path("multirun")
    yield from half_removed("sweeps", folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        is_ours = any(any(path.glob(name)) for name in ("sweep.json", "sweep.lock", "*/status.json", "*/.hydra"))
        if is_ours and not path.is_symlink() and not path.name.startswith(HIDDEN):
            yield Found("sweeps", path, *extent(path), sweep_state(path), lambda path=path: remove_sweep(path))


def sweep_state(folder: Path) -> str:
    """running; died: it says so itself, and is not; failed: one of its runs did not end ok; ok."""
    if is_running(folder):
        return RUNNING
    if not has_ended(folder):
        return "died"
    return "ok" if set(run_states(folder)) == {"ok"} else "failed"


def is_running(folder: Path) -> bool:
    """A sweep's folder, or that above a single run's."""
    return is_fresh(folder) or any(is_locked(file) for file in lock_files(folder))


def is_fresh(folder: Path) -> bool:
    return not has_ended(folder) and time.time() - extent(folder).changed < QUIET_S


def has_ended(folder: Path) -> bool:
    sweep = read(folder / "sweep.json")
    return bool(sweep.get("ended")) if sweep else "running" not in run_states(folder)


def run_states(folder: Path) -> list[str]:
    """Of a sweep's points, or of the runs that are there; one that never began is running as far as can be told."""
    points = [folder / point["folder"] for point in read(folder / "sweep.json").get("points", [])]
    runs = points or [file.parent for file in folder.glob("*/.hydra")]
    return [read(run / "status.json").get("state", "running") for run in runs]


def read(file: Path) -> dict[str, Any]:
    """A JSON file; {} where there is none, or none that can be read."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def lock_files(folder: Path) -> list[Path]:
    """Held with flock: sweep.lock by a sweep's own process, run.log by that of a run, a judge or an import."""
    return [file for file in [folder / "sweep.lock", *folder.glob("*/run.log")] if file.is_file()]


def remove_sweep(folder: Path) -> None:
    """With all its locks held, so that nothing begins to run in it until it is gone."""
    with contextlib.ExitStack() as held:
        for file in lock_files(folder):
            opened = held.enter_context(open(file, "r+b"))
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Runs(f"{file.name} is locked") from error
        if is_fresh(folder):
            raise Runs("it has not ended and was just written to")
        take_away(folder)
