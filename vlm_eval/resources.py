"""What this process and its children use, sampled while they work: peaks of memory, and a series over time."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from typing import Any, Callable, Optional, Sequence

import psutil

from vlm_eval.devices import find_device
from vlm_eval.rows import Sample

EVERY_S = 0.1  # peaks
SERIES_EVERY_S = 1.0  # and which children there are: all of /proc is read for it, in a thread beside the engine's


class ResourceWatch:
    """Context manager: `host_peak_gib` is resident memory of the process tree, `gpu_peak_gib` what it held on GPUs at
    most; `tell` gets a Sample a second.

    vLLM reserves its KV cache ahead, so the GPU peak of two quantisations is alike; weights_gib tells them apart.
    """

    def __init__(self, tell: Callable[[Sample], None]) -> None:
        self.host_peak_gib = 0.0
        self._tree: Sequence[psutil.Process] = ()
        self._gpu_peaks: dict[str, float] = {}  # of our "processes", and of the "card" whoever uses it
        self._tell: Optional[Callable[[Sample], None]] = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def gpu_peak_of(self) -> Optional[str]:
        """What the GPU's peak is of: "processes", or "card" where NVML never knew our processes, as in a container."""
        if not self._gpu_peaks:
            return None
        return "processes" if self._gpu_peaks["processes"] else "card"

    @property
    def gpu_peak_gib(self) -> Optional[float]:
        return self._gpu_peaks[self.gpu_peak_of] if self._gpu_peaks else None

    def __enter__(self) -> "ResourceWatch":
        self._nvml = _open_nvml()
        self._told = time.monotonic() - SERIES_EVERY_S  # at once, so that the shortest attempt at a run has a sample
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        psutil.cpu_percent()  # counts from this thread's call before, and says 0 the first time
        while not self._stop.wait(EVERY_S):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        resident, pids = 0, set()
        if due := time.monotonic() - self._told >= SERIES_EVERY_S:
            me = psutil.Process()
            self._tree = [me, *me.children(recursive=True)]
        for process in self._tree:
            try:
                resident += process.memory_info().rss
                pids.add(process.pid)
            except psutil.NoSuchProcess:
                continue
        self.host_peak_gib = max(self.host_peak_gib, resident / 2**30)
        if self._nvml is not None:
            try:
                used = _on_gpus(self._nvml, pids)
            except self._nvml.NVMLError:  # MIG slices, containers: no figure rather than a wrong one
                self._nvml = None
            else:
                self._gpu_peaks = {of: max(self._gpu_peaks.get(of, 0.0), n / 2**30) for of, n in used.items()}
        if due:
            self._told = time.monotonic()
            self._tell_of(resident)

    def _tell_of(self, resident: int) -> None:
        if self._tell is None:
            return
        cards = _cards(self._nvml) if self._nvml is not None else []
        busy, held = tuple(c[0] for c in cards), tuple(c[1] for c in cards)
        sample = Sample(round(time.time(), 3), psutil.cpu_percent(), round(resident / 2**30, 4), busy, held)
        try:
            self._tell(sample)
        except OSError as error:  # a full disk ends the series; the peaks are watched on
            print(f"no more samples in system.jsonl: {error}", file=sys.stderr)
            self._tell = None


def energy_j(cards: int) -> Optional[float]:
    """Joules that the first visible cards, so many, have taken since their driver was loaded, whoever used them; None
    where NVML does not say: on a CPU, of MIG slices, before Volta."""
    if (nvml := _open_nvml()) is None:
        return None
    try:
        return sum(nvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in _visible(nvml)[:cards]) / 1000
    except nvml.NVMLError:
        return None


def peaks_of(samples: Sequence[Sample]) -> dict[str, Any]:
    """Peaks as the series has them, of a run that was killed before it could write its own; a sample a second sees less
    than ten."""
    if not samples:
        return {}
    cards = [sample.gpu_gib[0] for sample in samples if sample.gpu_gib]
    of_card = {"gpu_peak_gib": max(cards), "gpu_peak_of": "card"} if cards else {}
    return {"host_peak_gib": max(sample.host_gib for sample in samples), **of_card}


@functools.cache
def _open_nvml() -> Optional[Any]:
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


def _on_gpus(nvml, pids: set[int]) -> dict[str, int]:
    """Bytes in use: by these "processes" on all GPUs, and by anybody on the first visible "card"."""
    held = 0
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid in pids and process.usedGpuMemory:
                held += process.usedGpuMemory
    return {"processes": held, "card": nvml.nvmlDeviceGetMemoryInfo(_visible(nvml)[0]).used}


def _cards(nvml) -> list[tuple[float, float]]:
    """Of each visible card, whoever uses it: how busy it is in percent, and GiB in use. [] where NVML does not say."""
    try:
        return [
            (
                float(nvml.nvmlDeviceGetUtilizationRates(card).gpu),
                round(nvml.nvmlDeviceGetMemoryInfo(card).used / 2**30, 4),
            )
            for card in _visible(nvml)
        ]
    except nvml.NVMLError:
        return []


def _visible(nvml) -> list[Any]:
    """Handles of the cards in CUDA_VISIBLE_DEVICES, which names them by number or by UUID; of all where it is unset."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not named:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
        for name in named
    ]
