"""Start one run's process, show its progress, and see to it that its folder says how it ended.

A process a run: a crash, an out-of-memory kill or a leak ends with it, and this parent imports neither torch nor CUDA.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config
from vlm_eval.progress import Display
from vlm_eval.store import RunFolder

STOP_WITHIN_S = 8.0


def launch(cfg: DictConfig, run_dir: Path, label: str) -> dict[str, Any]:
    """Run one point to its end and return its status.json; never raises for what happens inside the run."""
    folder = RunFolder(run_dir)
    if folder.status().get("state") == "ok":
        print(f"{label}  done already", file=sys.stderr)
        return folder.status()
    display = Display(label)
    folder.set_status("running", "start")  # nothing of an earlier attempt stays if this one dies at once
    command = [sys.executable, "-m", "vlm_eval.run", str(folder.path)]
    with open(folder.path / "run.log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(cfg),
            start_new_session=True,  # its own group: a signal reaches its children too, and Ctrl-C only us
        )
    timed_out, stage = threading.Event(), "start"

    def run_out() -> None:
        timed_out.set()
        _kill(process, signal.SIGKILL)

    timer = threading.Timer(cfg.run.timeout_s or 0, run_out)
    # When the run ends its whole group does: a child that it forked would hold the pipe open, and us with it.
    threading.Thread(target=lambda: (process.wait(), _kill(process, signal.SIGKILL)), daemon=True).start()
    try:
        if cfg.run.timeout_s:
            timer.start()
        for line in process.stdout:
            message = json.loads(line)
            stage = message["stage"]
            display.show(message)
        process.wait()
    except BaseException:  # Ctrl-C or SIGTERM in this process: the run must not outlive it
        _stop(process)
        raise
    finally:
        timer.cancel()
        display.end()
        _kill(process, signal.SIGKILL)  # what the run started and left behind, in its process group
        if process.poll() is not None:
            _say_how_it_died(folder, process.returncode, stage, cfg.run.timeout_s if timed_out.is_set() else None)
    status = folder.status()
    if status["state"] != "ok":
        print(f"{label}  {status['state']} in stage {status['stage']}: {status['error']}", file=sys.stderr)
    elif status.get("tracking"):
        print(f"{label}  {status['tracking']}", file=sys.stderr)
    return status


def _environment(cfg: DictConfig) -> dict[str, str]:
    engine = importlib.import_module(cfg.engine._target_.rpartition(".")[0])
    of_engine = engine.environment(OmegaConf.to_object(cfg.engine)) if hasattr(engine, "environment") else {}
    judge = config.build(cfg.judge)
    of_judge = judge.environment()
    return {**of_judge, **of_engine, **os.environ}  # a person's own setting wins


def _stop(process: subprocess.Popen) -> None:
    _kill(process, signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        _kill(process, signal.SIGKILL)
        process.wait()


def _kill(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _say_how_it_died(folder: RunFolder, code: int, stage: str, killed_after_s: Optional[float]) -> None:
    """The run's own last word if it had one, else the signal and the last lines of its log."""
    if folder.status().get("state") in ("failed", "interrupted", "ok"):
        return
    if killed_after_s:
        reason = f"killed after run.timeout_s={killed_after_s:g}"
    elif code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
    else:
        reason = f"exited with {code}"
    with open(folder.path / "run.log", encoding="utf-8", errors="replace") as log:
        last = [line.strip() for line in deque(log, 3)]
    folder.set_status("failed", stage, f"{reason}; last in run.log: {' | '.join(filter(None, last))}"[:1000])
