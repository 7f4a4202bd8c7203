"""What this process and its children use, sampled while they work: peaks of memory, and a series over time."""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, Optional, Sequence

import psutil

from vlm_eval.devices import find_device
from vlm_eval.rows import Sample

EVERY_S = 0.1  # peaks
SERIES_EVERY_S = 1.0


class ResourceWatch:
    """Context manager: `host_peak_gib` is resident memory of the process tree, `gpu_peak_gib` what it holds on GPUs;
    `tell` gets a Sample a second.

    vLLM reserves its KV cache ahead, so the GPU peak of two quantisations is alike; weights_gib tells them apart.
    """

    def __init__(self, tell: Callable[[Sample], None]) -> None:
        self.host_peak_gib = 0.0
        self.gpu_peak_gib: Optional[float] = None
        self.gpu_peak_of: Optional[str] = None  # "processes", or "card" where NVML does not know our processes
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ResourceWatch":
        self._nvml = _open_nvml()
        self._told = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        psutil.cpu_percent()  # counts from this thread's call before, and says 0 the first time
        while not self._stop.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        resident, pids = 0, set()
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                resident += process.memory_info().rss
                pids.add(process.pid)
            except psutil.NoSuchProcess:
                continue
        self.host_peak_gib = max(self.host_peak_gib, resident / 2**30)
        if self._nvml is not None:
            try:
                held, self.gpu_peak_of = _on_gpus(self._nvml, pids)
            except self._nvml.NVMLError:  # MIG slices, containers: no figure rather than a wrong one
                self._nvml = None
            else:
                self.gpu_peak_gib = max(self.gpu_peak_gib or 0.0, held / 2**30)
        if (now := time.monotonic()) - self._told >= SERIES_EVERY_S:
            self._told = now
            cards = _cards(self._nvml) if self._nvml is not None else []
            busy, held = tuple(c[0] for c in cards), tuple(c[1] for c in cards)
            self._tell(Sample(round(time.time(), 3), psutil.cpu_percent(), round(resident / 2**30, 4), busy, held))


def _open_nvml() -> Optional[object]:
    """NVML, where there is a GPU and its Python binding (vLLM brings one)."""
    if find_device().kind != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        try:
            from vllm.third_party import pynvml
        except ImportError:
            return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _on_gpus(nvml, pids: set[int]) -> tuple[int, str]:
    """Bytes these processes hold on all GPUs; in a container whose pids NVML does not know, all that is in use on
    the first visible card."""
    held = 0
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid in pids and process.usedGpuMemory:
                held += process.usedGpuMemory
    if held:
        return held, "processes"
    return nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(_visible(nvml)[0])).used, "card"


def _cards(nvml) -> list[tuple[float, float]]:
    """Of each visible card, whoever uses it: how busy it is in percent, and GiB in use. [] where NVML does not say."""
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in _visible(nvml)]
        return [
            (
                float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                round(nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30, 4),
            )
            for handle in handles
        ]
    except nvml.NVMLError:
        return []


def _visible(nvml) -> Sequence[int]:
    """Numbers of the visible cards; of cards named by UUID the first alone."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not named:
        return range(nvml.nvmlDeviceGetCount())
    return [int(name) for name in named if name.isdigit()] or [0]
