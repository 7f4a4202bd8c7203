"""What vLLM wants to know of a model's class before it starts, found in a fork.

vLLM looks the class over in a process of its own, "to avoid initializing CUDA", and keeps what it found in its cache.
That process imports vLLM anew, 12 to 30 s, with the first start of each architecture under each release. A fork of this
process, which has the imports and no CUDA yet, does the same in a tenth of a second (on a CPU).
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

LIMIT_S = 30.0


def inspect(folder: str) -> None:
    """For the architectures of a checkpoint's folder. Where it fails vLLM does it by itself, and run.log says so."""
    try:
        from vllm.model_executor.models import registry

        config = json.loads((Path(folder) / "config.json").read_text())
        by_vllm = registry._run_in_subprocess
        registry._run_in_subprocess = in_fork
        try:
            for architecture in config.get("architectures", ()):
                if architecture in registry.ModelRegistry.models:
                    registry.ModelRegistry.models[architecture].inspect_model_cls()
        finally:
            registry._run_in_subprocess = by_vllm
    except Exception:  # vLLM's own, and different with each release
        print("left to vLLM's own process: the look at the model's class", file=sys.stderr)
        traceback.print_exc()


@contextmanager
def _killed_after(seconds: float, pid: int) -> Iterator[None]:
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def in_fork(function: Callable[[], Any]) -> Any:
    """What it returns; RuntimeError where it raised, or its process died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(write, "wb") as out:
                out.write(pickle.dumps(function()))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as found, _killed_after(LIMIT_S, child):  # a lock that another thread held is held there
        data = found.read()
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError(f"the process that looks at the model's class ended with {code}")
    return pickle.loads(data)
