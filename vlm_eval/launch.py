"""Start one run's process, show its progress, and see to it that its folder says how it ended.

A process a run: a crash, an out-of-memory kill or a leak ends with it, and this parent imports neither torch nor CUDA.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, secrets, signals
from vlm_eval.errors import one_line
from vlm_eval.progress import Display
from vlm_eval.store import RunFolder, is_locked, now

STOP_WITHIN_S = 6.0  # of signals.END_WITHIN_S; the rest is for what the sweep has to write
STAGES_OF_ENGINE = ("start engine", "latency", "generate")


@dataclass
class Ended:
    """How one process of a run ended, as far as its parent was told."""

    code: Optional[int] = None  # None: it never began
    stage: str = "start"
    error: Optional[str] = None  # its own last word
    engine_died: bool = False  # its own word for an engine that raised
    timed_out: bool = False

    @property
    def of_engine(self) -> bool:
        """Whether it was the engine's end: it raised, or the process died while the engine was at work."""
        return self.engine_died or self.error is None and self.stage in STAGES_OF_ENGINE


def launch(cfg: DictConfig, run_dir: Path, label: str, made_from: Optional[str] = None) -> dict[str, Any]:
    """Run one point to its end and return its status.json; never raises for what happens inside the run.

    `made_from`: hash of its inputs; one that has ended ok from other inputs is run again."""
    folder = RunFolder(run_dir)
    if folder.status().get("state") == "ok" and made_from in (None, folder.provenance().get("inputs_sha256")):
        print(f"{label}  done already", file=sys.stderr)
        return folder.status()
    if is_locked(folder.path / "run.log"):  # whose status is the other process's to say
        print(f"{label}  not started: another process works on it", file=sys.stderr)
        return {"state": "failed", "stage": "start", "error": "another process works on this run"}
    until = time.monotonic() + cfg.run.timeout_s if cfg.run.timeout_s else None
    restarts, engine_restarts = _restarts(cfg), []
    folder.provenance(engine_restarts=engine_restarts)  # those of an earlier attempt are no matter of this one
    while True:
        ended = Ended()
        folder.set_status("running", "start")  # nothing of an earlier attempt stays if this one dies at once
        try:
            _attempt(cfg, folder, Display(label), until, ended)
        finally:
            with suppress(OSError):  # removed, or not ours to write: its end below is masked as all errors are
                secrets.mask_file(folder.path / "run.log")
            status = _status_after(folder, ended, cfg.run.timeout_s)
        if status["state"] != "failed" or ended.timed_out or not ended.of_engine or len(engine_restarts) == restarts:
            break
        engine_restarts.append({"at": now(), "stage": status["stage"], "error": status["error"]})
        folder.provenance(engine_restarts=engine_restarts)
        again = f"started again, {len(engine_restarts)} of engine.retries={restarts}"
        print(f"{label}  engine died in stage {status['stage']}: {status['error']}; {again}", file=sys.stderr)
    if status["state"] != "ok":
        print(f"{label}  {status['state']} in stage {status['stage']}: {status['error']}", file=sys.stderr)
    elif status.get("tracking"):
        print(f"{label}  {status['tracking']}", file=sys.stderr)
    return status


def _attempt(cfg: DictConfig, folder: RunFolder, display: Display, until: Optional[float], ended: Ended) -> None:
    """One process, from its start to its end and that of all it started; `ended` is filled as it goes."""
    command = [sys.executable, "-m", "vlm_eval.run", str(folder.path)]
    with _own_temporary_files() as temporary, open(folder.path / "run.log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(cfg) | temporary,
            start_new_session=True,  # its own group: a signal reaches its children too, and Ctrl-C only us
        )

        def run_out() -> None:
            ended.timed_out = True
            _kill(process, signal.SIGKILL)

        def end_at_once() -> None:
            _kill(process, signal.SIGKILL)
            if folder.status().get("state") == "running":
                failed(folder, ended.stage, signals.STOPPED, "interrupted")

        timer = threading.Timer(max(0.0, until - time.monotonic()) if until else 0, run_out)
        # When the run ends its whole group does: a child that it forked would hold the pipe open, and us with it.
        threading.Thread(target=lambda: (process.wait(), _kill(process, signal.SIGKILL)), daemon=True).start()
        with signals.at_once(end_at_once):
            try:
                if until:
                    timer.start()
                for line in process.stdout:
                    message = json.loads(line)
                    ended.stage = message["stage"]
                    if "error" in message:
                        ended.error, ended.engine_died = message["error"], message["engine_died"]
                    else:
                        display.show(message)
                process.wait()
            except BaseException:  # Ctrl-C or SIGTERM in this process: the run must not outlive it
                _stop(process)
                raise
            finally:
                timer.cancel()
                display.end()
                _kill(process, signal.SIGKILL)  # what the run started and left behind, in its process group
                ended.code = process.poll()


@contextmanager
def _own_temporary_files() -> Iterator[dict[str, str]]:
    """A folder for all temporary files of a run, whatever makes them; gone with the run, however that ends."""
    shared = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="vlm-eval-")
    try:
        # What torch compiles is kept on purpose: one place for all runs.
        inductor = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{shared}/torchinductor_{os.getuid()}"
        yield {"TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": inductor}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _restarts(cfg: DictConfig) -> int:
    """How often the engine's process is started again at most; an engine's module says so, as it does of variables."""
    engine = importlib.import_module(cfg.engine._target_.rpartition(".")[0])
    return engine.restarts(OmegaConf.to_object(cfg.engine)) if hasattr(engine, "restarts") else 0


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


def _status_after(folder: RunFolder, ended: Ended, timeout_s: Optional[float]) -> dict[str, Any]:
    """The run's own last word if it had one, else the signal and the last lines of its log."""
    status = folder.status()
    if status.get("state") in ("failed", "interrupted", "ok"):
        return status
    if signals.interrupted():
        return failed(folder, ended.stage, signals.STOPPED, "interrupted")
    if ended.error is not None:  # which it could not write
        return failed(folder, ended.stage, ended.error)
    if ended.timed_out:
        reason = f"killed after run.timeout_s={timeout_s:g}"
    elif ended.code is None:
        reason = "its process was not started"
    elif ended.code < 0:
        reason = f"killed by {signal.Signals(-ended.code).name}"
    else:
        reason = f"exited with {ended.code}"
    return failed(folder, ended.stage, f"{reason}; {_end_of_log(folder)}"[:1000])


def _end_of_log(folder: RunFolder) -> str:
    try:
        with open(folder.path / "run.log", encoding="utf-8", errors="replace") as log:
            last = [line.strip() for line in deque(log, 3)]
    except OSError as error:
        return f"no run.log: {error.strerror}"
    return f"last in run.log: {' | '.join(filter(None, last))}"


def failed(folder: RunFolder, stage: str, reason: str, state: str = "failed") -> dict[str, Any]:
    """Say it in status.json; where that cannot be written, in what is returned, and why it is not in the file."""
    try:
        folder.set_status(state, stage, reason)
        return folder.status()
    except OSError as error:
        return {"state": state, "stage": stage, "error": f"{reason} (status.json not written: {one_line(error)})"}
