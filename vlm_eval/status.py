"""`vlm-eval-status SWEEP_DIR`: a line a run, from the files alone, while the sweep runs or after it. A single run's
folder will do, too."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from vlm_eval.comparison import NOT_BEGUN
from vlm_eval.resume import is_run_of_sweep
from vlm_eval.store import RunFolder, is_locked, now, read_json
from vlm_eval.sweep import LOCK
from vlm_eval.text_table import text_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="vlm-eval-status", description=__doc__)
    parser.add_argument("sweep_dir", type=Path, help="a sweep's folder, or that of a single run")
    folder = parser.parse_args().sweep_dir
    if sweep := read_json(folder / "sweep.json"):
        rows = [_row(point["folder"], RunFolder(folder / point["folder"]), folder) for point in sweep["points"]]
    elif is_run_of_sweep(folder):
        print(f"vlm-eval-status: {folder}: a run of a sweep; give the folder above it", file=sys.stderr)
        return 2
    elif (folder / "status.json").is_file():
        rows = [_row(folder.resolve().name, RunFolder(folder), folder)]
    else:
        what = "no sweep.json here; give the folder of a sweep or of a single run"
        print(f"vlm-eval-status: {folder}: {what}", file=sys.stderr)
        return 2
    print(text_table(["run", "state", "stage", "answers", "seconds", "error"], rows))
    return 0


def _row(name: str, run: RunFolder, sweep: Path) -> list[Any]:
    status = run.status()
    return [
        name,
        _state(run, sweep),
        status.get("stage") or "",
        len(run.read("answers")),
        _seconds(status),
        status.get("error") or status.get("tracking") or "",
    ]


def _state(run: RunFolder, sweep: Path) -> str:
    """As in its status.json; "died" for one that had no time to say so, as when the power failed. One that has none
    waits only as long as its sweep is at work."""
    state = run.status().get("state")
    sweep_works = is_locked(sweep / LOCK)
    if state is None:
        return "waiting" if sweep_works else NOT_BEGUN
    return "died" if state == "running" and not (sweep_works or is_locked(run.path / "run.log")) else state


def _seconds(status: dict) -> str:
    if not status:
        return ""
    ended = datetime.fromisoformat(status["ended"] or now())
    return f"{(ended - datetime.fromisoformat(status['started'])).total_seconds():.0f}"


if __name__ == "__main__":
    sys.exit(main())
