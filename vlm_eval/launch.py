"""Start one run's process, show its progress, and see to it that its folder says how it ended.

A process a run: a crash, an out-of-memory kill or a leak ends with it, and this parent imports neither torch nor CUDA.
"""

from __future__ import annotations

import json
import os
import re
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
from typing import Any, Callable, Iterator, Mapping, Optional

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, secrets, signals
from vlm_eval.engines.base import module_of
from vlm_eval.errors import one_line
from vlm_eval.progress import Display
from vlm_eval.scheduling.forks import Process, start_anew
from vlm_eval.scheduling.scheduler import ANYWHERE, ENGINE_STAGES, Anywhere, Need, Place, Stopped
from vlm_eval.store import RunFolder, is_locked, now

STOP_WITHIN_S = 6.0  # of signals.END_WITHIN_S; the rest is for what the sweep has to write
# As torch, vLLM, and kernels that only hear that torch gave them nothing, say it.
OUT_OF_MEMORY = re.compile(r"out of memory|free memory|available memory|kv cache|aten::empty", re.IGNORECASE)


@dataclass
class Ended:
    """How one process of a run ended, as far as its parent was told."""

    code: Optional[int] = None  # None: it never began
    stage: str = "start"
    error: Optional[str] = None  # its own last word
    engine_died: bool = False  # its own word for an engine that raised
    timed_out: bool = False
    handed_over: bool = False  # another process goes on: this one's end has freed its card

    @property
    def of_engine(self) -> bool:
        """Whether it was the engine's end: it raised, or the process died while the engine was at work."""
        return self.engine_died or self.error is None and self.stage in ENGINE_STAGES

    @property
    def out_of_memory(self) -> bool:
        return self.stage in ENGINE_STAGES and bool(OUT_OF_MEMORY.search(self.error or ""))


def launch(
    cfg: DictConfig,
    run_dir: Path,
    label: str,
    made_from: Optional[str] = None,
    place: Place | Anywhere = ANYWHERE,
    start: Callable[..., Process] = start_anew,
) -> dict[str, Any]:
    """Run one point to its end and return its status.json; never raises for what happens inside the run.

    `made_from`: hash of its inputs; one that has ended ok from other inputs is run again. `place`: where it may run,
    beside others. `start`: how its process is started."""
    folder = RunFolder(run_dir)
    if is_done(folder, made_from):
        print(f"{label}  done already", file=sys.stderr)
        return folder.status()
    if is_locked(folder.path / "run.log"):  # whose status is the other process's to say
        print(f"{label}  not started: another process works on it", file=sys.stderr)
        return {"state": "failed", "stage": "start", "error": "another process works on this run"}
    clock, began = Clock(cfg.run.timeout_s), now()
    restarts, died, engine_restarts = _restarts(cfg), 0, []
    folder.provenance(engine_restarts=engine_restarts)  # those of an earlier attempt are no matter of this one
    while True:
        ended = Ended()
        # Nothing of an earlier attempt stays if this one dies at once.
        folder.set_status("running", "start", started=began)
        try:
            _attempt(cfg, folder, Display(label), clock, ended, place, start)
        finally:
            if ended.stage in ENGINE_STAGES and (ended.error or ended.code) and not signals.interrupted():
                place.engine_died()  # before its card is the next one's
            place.pause()
            with suppress(OSError):  # removed, or not ours to write: its end below is masked as all errors are
                secrets.mask_file(folder.path / "run.log")
            if not ended.handed_over or ended.code:
                status = _status_after(folder, ended, cfg.run.timeout_s)
        if ended.handed_over and not ended.code:
            continue
        if status["state"] != "failed" or ended.timed_out:
            break
        if ended.out_of_memory and not place.whole_card:
            place.whole_card, again = True, "tried again with a card to itself"
        elif ended.of_engine and died < restarts:
            died += 1
            again = f"started again, {died} of engine.retries={restarts}"
        else:
            break
        engine_restarts.append({"at": now(), "stage": status["stage"], "error": status["error"], "then": again})
        folder.provenance(engine_restarts=engine_restarts)
        print(f"{label}  engine died in stage {status['stage']}: {status['error']}; {again}", file=sys.stderr)
    if status["state"] != "ok":
        print(f"{label}  {status['state']} in stage {status['stage']}: {status['error']}", file=sys.stderr)
    elif status.get("tracking"):
        print(f"{label}  {status['tracking']}", file=sys.stderr)
    return status


def is_done(folder: RunFolder, made_from: Optional[str]) -> bool:
    """Whether a run has ended ok, and from these inputs."""
    return folder.status().get("state") == "ok" and made_from in (None, folder.provenance().get("inputs_sha256"))


def _attempt(
    cfg: DictConfig,
    folder: RunFolder,
    display: Display,
    clock: Clock,
    ended: Ended,
    place: Place | Anywhere,
    start: Callable[..., Process],
) -> None:
    """One process, from its start to its end and that of all it started; `ended` is filled as it goes."""
    with _own_temporary_files() as temporary, open(folder.path / "run.log", "ab") as log:
        process = start(folder.path, log, environment(cfg) | temporary)
        _running.add(process)

        def run_out() -> None:
            ended.timed_out = True
            _kill(process, signal.SIGKILL)

        def end_at_once() -> None:
            _kill(process, signal.SIGKILL)
            if folder.status().get("state") == "running":
                failed(folder, ended.stage, signals.STOPPED, "interrupted")

        # When the run ends its whole group does: a child that it forked would hold the pipe open, and us with it.
        threading.Thread(target=lambda: (process.wait(), _kill(process, signal.SIGKILL)), daemon=True).start()
        with signals.at_once(end_at_once), process.stdin, process.stdout:
            try:
                clock.go(run_out)
                if signals.interrupted():  # after stop_all(), of which it was no part
                    raise Stopped
                for line in process.stdout:
                    message = json.loads(line)
                    ended.stage = message["stage"]
                    if "error" in message:
                        ended.error, ended.engine_died = message["error"], message["engine_died"]
                    elif "asks" in message:
                        clock.hold()
                        display.end()  # the time that it waits is not the stage's
                        granted = place.enter(message["stage"], _need(message["asks"]))
                        clock.go(run_out)
                        _tell(process, granted)
                    elif "handed_over" in message:
                        ended.handed_over = True
                    else:
                        display.show(message)
                process.wait()
            except BaseException:  # Ctrl-C or SIGTERM in this process: the run must not outlive it
                _stop(process)
                raise
            finally:
                clock.hold()
                display.end()
                _kill(process, signal.SIGKILL)  # what the run started and left behind, in its process group
                ended.code = process.poll()
                _running.discard(process)


def _need(asks: Mapping[str, Any]) -> Optional[Need]:
    return Need(asks.get("gib"), asks["cards"]) if "cards" in asks else None


def _tell(process: Process, granted: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):  # it has ended while it waited
        process.stdin.write(json.dumps(granted) + "\n")
        process.stdin.flush()


_running: set[Process] = set()


def stop_all() -> None:
    """When a signal has ended the sweep: every run's process is told to stop, and those that do not are killed."""
    processes, until = list(_running), time.monotonic() + STOP_WITHIN_S
    for process in processes:
        _kill(process, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(process, signal.SIGKILL)


class Clock:
    """run.timeout_s, which does not count while a run waits for its turn."""

    def __init__(self, seconds: Optional[float]):
        self._left, self._timer, self._since = seconds, None, 0.0

    def go(self, run_out: Callable[[], None]) -> None:
        if self._left is not None:
            self._timer, self._since = threading.Timer(max(0.0, self._left), run_out), time.monotonic()
            self._timer.daemon = True
            self._timer.start()

    def hold(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer, self._left = None, self._left - (time.monotonic() - self._since)


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
    engine = module_of(cfg)
    return engine.restarts(OmegaConf.to_object(cfg.engine)) if hasattr(engine, "restarts") else 0


def environment(cfg: DictConfig) -> dict[str, str]:
    """Of a run's process."""
    engine = module_of(cfg)
    of_engine = engine.environment(OmegaConf.to_object(cfg.engine)) if hasattr(engine, "environment") else {}
    judge = config.build(cfg.judge)
    of_judge = judge.environment()
    # CUDA's own order of cards is by their speed, that of nvidia-smi and NVML, which say what is free, is not.
    common = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**common, **of_judge, **of_engine, **os.environ}  # a person's own setting wins


def _stop(process: Process) -> None:
    _kill(process, signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        _kill(process, signal.SIGKILL)
        process.wait()


def _kill(process: Process, number: int) -> None:
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
            last = deque(filter(None, map(str.strip, log)), 3)
    except OSError as error:
        return f"no run.log: {error.strerror}"
    return f"last in run.log: {' | '.join(last)}" if last else "run.log is empty"


def failed(folder: RunFolder, stage: str, reason: str, state: str = "failed") -> dict[str, Any]:
    """Say it in status.json; where that cannot be written, in what is returned, and why it is not in the file."""
    try:
        folder.set_status(state, stage, reason)
        return folder.status()
    except OSError as error:
        return {"state": state, "stage": stage, "error": f"{reason} (status.json not written: {one_line(error)})"}
