"""A command with all its processes: how long it takes, and the memory they hold together at most."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Mapping, Sequence

import psutil

EVERY_S = 0.1


def watched(command: Sequence[str], folder: str | Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """(wall seconds, GiB resident at most); what it says is thrown away unless it fails."""
    with open(Path(folder) / "said.log", "ab") as log:
        began, peak = time.monotonic(), 0.0
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _resident(process) / 2**30)
            time.sleep(EVERY_S)
        took = time.monotonic() - began
    if process.returncode:
        said = Path(log.name).read_text(errors="replace")
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}; {said[-2000:]}")
    return took, peak


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
