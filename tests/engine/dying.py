"""The real engine, until its process is killed in the middle of a batch (once a folder)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from vlm_eval.engines.vllm import VllmEngine, VllmEngineConfig, environment, restarts  # noqa: F401  (for the launcher)


class DyingVllmEngineConfig(VllmEngineConfig):
    pass


class DyingVllmEngine(VllmEngine):
    """Dies after 5 finished answers, unless the file `died` says that it did so already."""

    def answer(self, requests):
        done = 0
        for finished in super().answer(requests):
            yield finished  # the run appends these before it comes back here
            done += len(finished)
            if done >= 5 and not Path("died").exists():
                Path("died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
