"""Peak memory of this process and its children, sampled while it works."""

from __future__ import annotations

import os
import threading
from typing import Optional

import psutil

from vlm_eval.devices import find_device

EVERY_S = 0.1


class PeakMemory:
    """Context manager: `host_peak_gib` is resident memory of the process tree, `gpu_peak_gib` what it holds on GPUs.

    vLLM reserves its KV cache ahead, so the GPU peak of two quantisations is alike; weights_gib tells them apart.
    """

    def __init__(self) -> None:
        self.host_peak_gib = 0.0
        self.gpu_peak_gib: Optional[float] = None
        self.gpu_peak_of: Optional[str] = None  # "processes", or "card" where NVML does not know our processes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._nvml = _open_nvml()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
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
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    handle = nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)
    return nvml.nvmlDeviceGetMemoryInfo(handle).used, "card"
