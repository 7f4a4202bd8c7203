"""A sweep under a launcher, in a process of its own: the command line, as a person types it on a login node."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

from vlm_eval.store import RunFolder, read_json

from ..helpers import FAULTY, QUICK, REPO, VLM_EVAL, hear_ctrl_c

WHOLE = [(item, repeat) for item in "abc" for repeat in (0, 1)]
CANARY = "canary-7f3a9e5c1d"  # a key in the environment, that is to be in no file


class LaunchedSweep:
    launcher: tuple[str, ...] = ()

    def __init__(self, folder: Path, data: Path, *overrides: str):
        self.folder = folder / "sweep"
        point = ("task=vqa", f"task.data.root={data}", "task.repeats=2", f"hydra.sweep.dir={self.folder}")
        self.command = [VLM_EVAL, "-m", *FAULTY, *QUICK, *self.launcher, *point, *overrides]
        self.log, self.cwd = folder / "engine.log", folder

    def start(self, *more: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(REPO), "FAULTY_ENGINE_LOG": str(self.log)}
        return subprocess.Popen(
            [*self.command, *more],
            cwd=self.cwd,
            env={**environment, "OPENAI_API_KEY": CANARY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_ctrl_c,
        )

    def run(self, *more: str) -> tuple[int, str, str]:
        return ended(self.start(*more))

    def runs(self) -> list[RunFolder]:
        return [RunFolder(self.folder / p["folder"]) for p in read_json(self.folder / "sweep.json")["points"]]

    def answered(self) -> int:
        return sum(line.startswith("answer ") for line in self.log.read_text().splitlines()) if self.log.exists() else 0


def ended(process: subprocess.Popen, within_s: float = 120) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within_s)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def states(sweep: LaunchedSweep) -> list[str]:
    with open(sweep.folder / "comparison.csv", encoding="utf-8", newline="") as rows:
        return [row["state"] for row in csv.DictReader(rows)]


def keys(run: RunFolder) -> list[tuple[str, int]]:
    return sorted((a.item_id, a.repeat) for a in run.read("answers"))
