"""An engine that answers at once and, after so many answers, breaks in the way that `mode` names.

`FAULTY_ENGINE_MENDED=1` mends it, so that a resumed sweep meets the same config with another outcome;
`FAULTY_ENGINE_LOG` names a file to which each start and each request adds a line.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence

import psutil

from vlm_eval.engines.base import Candidate, Engine, Request, first_of_each
from vlm_eval.rows import Answer, Latency


@dataclass
class FaultyEngineConfig:
    _target_: str = "???"
    mode: str = "ok"
    after: int = 2  # answers before it breaks
    latency_items: int = 0
    retries: int = 0
    delay_s: float = 0.0
    warm_up_s: float = 0.0
    cards: int = 0
    gib: Optional[float] = None


def restarts(config: FaultyEngineConfig) -> int:
    return config.retries


def _raise() -> None:
    raise ValueError("the engine broke\nover two lines")


def _hang() -> None:
    """With a child, as engines have them, and deaf to SIGTERM there."""
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", child])
    time.sleep(600)


def _deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _hang()


def _litter() -> None:
    tempfile.mkdtemp()
    tempfile.mkstemp()


def _memory() -> None:
    limit = psutil.Process().memory_info().vms + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    held = []
    while True:
        held.append(bytearray(2**24))


def _thread() -> None:
    """A thread that would keep the interpreter from ending."""
    threading.Thread(target=time.sleep, args=[600]).start()
    _raise()


def _recurse() -> None:
    _recurse()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fork() -> None:
    """A forked child keeps the pipe to the parent open long after this process is done."""
    if os.fork() == 0:
        time.sleep(600)


FAULTS = {
    "fork": _fork,
    "raise": _raise,
    "exit": lambda: sys.exit(0),
    "kill": _kill,
    "litter": _litter,
    "kill_litter": lambda: (_litter(), _kill()),
    "deaf": _deaf,
    "segfault": lambda: ctypes.string_at(0),
    "os_exit": lambda: os._exit(0),
    "hang": _hang,
    "memory": _memory,
    "thread": _thread,
    "abort": os.abort,
    "recursion": _recurse,
}


class FaultyEngine(Engine):
    def __init__(self, config: FaultyEngineConfig, candidate: Candidate):
        self.config = config
        self.mode = "ok" if os.environ.get("FAULTY_ENGINE_MENDED") else config.mode

    def need(self, todo: Sequence[Request]) -> dict[str, Any]:
        return {"cards": self.config.cards, "gib": self.config.gib}

    def check(self, task: Any, items: Any) -> Optional[float]:
        return None

    def alone(self, requests: Sequence[Request]) -> list[Request]:
        return first_of_each(requests)[: self.config.latency_items]

    def start(self) -> dict[str, Any]:
        _log("start", self.config.mode)
        if self.config.cards:
            _log("cards", self.config.mode, os.environ["CUDA_VISIBLE_DEVICES"], str(self.share_gib))
        if self.mode == "oom" and self.share_gib is not None:
            raise RuntimeError(f"CUDA out of memory: {self.share_gib} GiB do not do")
        if self.mode == "start":
            raise RuntimeError("no such weights")
        return {"found": "nothing, it is a fake", "engine_start_s": 0.01}

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        if self.mode == "lost_card" and os.environ["CUDA_VISIBLE_DEVICES"] == "1":
            raise RuntimeError("CUDA error: GPU is lost")
        for number, request in enumerate(requests):
            time.sleep(self.config.delay_s)
            if number == self.config.after and self.mode in FAULTS:
                FAULTS[self.mode]()
            _log("answer", self.config.mode, request.item_id, str(request.repeat))
            one_bad = self.mode == "one_bad" and number == self.config.after
            bad = one_bad or self.mode == "all_bad"
            yield [self._answer(request, "refused by the engine" if bad else None)]

    def time_alone(self, requests: Sequence[Request]) -> Iterator[list[Latency]]:
        for request in requests:
            yield [Latency(request.item_id, 0.5, 0.1, output_tokens=5, chars=10)]

    def warm_up(self, requests: Sequence[Request]) -> None:
        time.sleep(self.config.warm_up_s)
        if self.config.warm_up_s:
            _log("warmed up", self.config.mode)

    def stop(self) -> None:
        _log("stop", self.config.mode)

    def _answer(self, request: Request, error: Optional[str]) -> Answer:
        key = (request.item_id, request.repeat, request.cluster)
        if error:
            return Answer(*key, None, seed=request.seed, error=error)
        return Answer(*key, f"Ответ {request.item_id}", "stop", 10, 5, request.seed)


def _log(*words: str) -> None:
    if "FAULTY_ENGINE_LOG" in os.environ:
        with open(os.environ["FAULTY_ENGINE_LOG"], "a", encoding="utf-8") as out:
            print(*words, file=out)
