"""One real sweep for all engine tests: two quantisations of the demo model, real vLLM, a real MLflow store."""

from __future__ import annotations

import fcntl
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vlm_eval.store import RunFolder


@dataclass(frozen=True)
class Sweep:
    cwd: Path
    folder: Path
    result: subprocess.CompletedProcess
    parent_modules: list[str]

    @property
    def runs(self) -> list[RunFolder]:
        points = json.loads((self.folder / "sweep.json").read_text())["points"]
        return [RunFolder(self.folder / point["folder"]) for point in points]


# Runs the command line in a process whose loaded modules can be looked at when it is done.
PARENT = """
import json, sys
from vlm_eval.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
json.dump(sorted(sys.modules), open(sys.argv[-1].partition("=")[2] + ".modules", "w"))
sys.exit(code)
"""


def vlm_eval(cwd: Path, *overrides: str, folder: str = "sweep") -> Sweep:
    """`vlm-eval OVERRIDES` in `cwd`; the sweep's (or the run's) folder is `cwd/folder`."""
    where = f"hydra.sweep.dir={cwd / folder}" if "-m" in overrides else f"hydra.run.dir={cwd / folder}"
    result = subprocess.run([sys.executable, "-c", PARENT, *overrides, where], cwd=cwd, capture_output=True, text=True)
    modules = json.loads((cwd / f"{folder}.modules").read_text())
    return Sweep(cwd, cwd / folder, result, modules)


@pytest.fixture(scope="session")
def demo_sweep(tmp_path_factory, worker_id) -> Sweep:
    """Made by whichever of the test processes comes first; nobody writes into it."""
    base = tmp_path_factory.getbasetemp()
    cwd = (base if worker_id == "master" else base.parent) / "demo_sweep"
    cwd.mkdir(exist_ok=True)
    with open(cwd / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := cwd / "made").exists():
            options = ("task=screen_annotation", "task.repeats=2", "engine.latency_pass.items=3")
            made.write_bytes(pickle.dumps(vlm_eval(cwd, "-m", "model=demo", "quant=gptq8,awq", *options)))
        return pickle.loads(made.read_bytes())
