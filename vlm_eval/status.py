"""`vlm-eval-status SWEEP_DIR`: a line a run, from the files alone, while the sweep runs or after it."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from vlm_eval.store import RunFolder, is_locked, now, read_json
from vlm_eval.sweep import LOCK
from vlm_eval.text_table import text_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="vlm-eval-status", description=__doc__)
    parser.add_argument("sweep_dir", type=Path)
    folder = parser.parse_args().sweep_dir
    sweep = read_json(folder / "sweep.json")
    if not sweep:
        print(f"vlm-eval-status: {folder}: no sweep.json here; give the folder of a sweep", file=sys.stderr)
        return 2
    rows = []
    for point in sweep["points"]:
        run = RunFolder(folder / point["folder"])
        status = run.status()
        rows.append(
            [
                point["folder"],
                _state(run, folder),
                status.get("stage") or "",
                len(run.read("answers")),
                _seconds(status),
                status.get("error") or status.get("tracking") or "",
            ]
        )
    print(text_table(["run", "state", "stage", "answers", "seconds", "error"], rows))
    return 0


def _state(run: RunFolder, sweep: Path) -> str:
    """As in its status.json; "died" for one that had no time to say so, as when the power failed."""
    state = run.status().get("state", "waiting")
    works = is_locked(run.path / "run.log") or is_locked(sweep / LOCK)
    return "died" if state == "running" and not works else state


def _seconds(status: dict) -> str:
    if not status:
        return ""
    ended = datetime.fromisoformat(status["ended"] or now())
    return f"{(ended - datetime.fromisoformat(status['started'])).total_seconds():.0f}"


if __name__ == "__main__":
    sys.exit(main())
