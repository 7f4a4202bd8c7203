"""The device a run will use, found without importing CUDA or torch."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Device:
    kind: str  # "cuda" or "cpu"
    name: str
    total_gib: float
    free_gib: float


@functools.cache
def find_device() -> Device:
    """The first visible NVIDIA GPU as nvidia-smi tells it, else the CPU and its memory."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "" and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
        answer = subprocess.run(query + (["-i", first] if first else []), capture_output=True, text=True, timeout=30)
        if answer.returncode == 0 and answer.stdout.strip():
            name, total, free = (part.strip() for part in answer.stdout.splitlines()[0].split(","))
            return Device("cuda", name, float(total) / 1024, float(free) / 1024)
    memory = psutil.virtual_memory()
    return Device("cpu", _cpu_name(), memory.total / 2**30, memory.available / 2**30)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    except OSError:
        return "CPU"
