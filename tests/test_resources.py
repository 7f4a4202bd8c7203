"""What a run uses while it answers: peaks, and a sample a second; NVML is a stand-in, there is no GPU here."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from vlm_eval import resources
from vlm_eval.generate import _energy, _spent
from vlm_eval.reasons import Reason
from vlm_eval.resources import ResourceWatch

GIB = 2**30


class Nvml:
    """Two cards; other people's processes hold 60 GiB of the first, ours what `ours` says."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.ours = 0.0
        self.counts_energy = True
        self.lost = False

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"card{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return {"GPU-b": "card1"}[uuid]

    def nvmlDeviceGetComputeRunningProcesses(self, card):
        known = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=int(self.ours * GIB))] if self.ours else []
        return [SimpleNamespace(pid=1, usedGpuMemory=60 * GIB), *known] if card == "card0" else []

    def nvmlDeviceGetMemoryInfo(self, card):
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(used=int((60 + self.ours) * GIB) if card == "card0" else GIB)

    def nvmlDeviceGetTotalEnergyConsumption(self, card):
        if not self.counts_energy:
            raise self.NVMLError("Not Supported")
        return 5_000_000 if card == "card0" else 2_000_500  # mJ

    def nvmlDeviceGetUtilizationRates(self, card):
        return SimpleNamespace(gpu=70 if card == "card0" else 5)


@pytest.fixture
def nvml(monkeypatch) -> Nvml:
    stand_in = Nvml()
    monkeypatch.setattr(resources, "_open_nvml", lambda: stand_in)
    monkeypatch.setattr(resources, "SERIES_EVERY_S", 0.2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stand_in


def watched(seconds: float = 0.5, then=lambda: None, tell=None) -> tuple[ResourceWatch, list]:
    samples = []
    with ResourceWatch(tell or samples.append) as used:
        time.sleep(seconds / 2)
        then()
        time.sleep(seconds / 2)
    return used, samples


def test_the_peak_is_of_our_processes_and_not_of_the_card_before_they_allocate(nvml):
    used, _ = watched(then=lambda: setattr(nvml, "ours", 5.0))
    assert (used.gpu_peak_of, used.gpu_peak_gib) == ("processes", 5.0)


def test_where_nvml_does_not_know_our_processes_it_is_the_cards(nvml):
    used, _ = watched()
    assert (used.gpu_peak_of, used.gpu_peak_gib) == ("card", 60.0)


def test_samples_have_all_visible_cards(nvml, monkeypatch):
    _, samples = watched()
    assert samples and all(s.gpu_percent == (70.0, 5.0) and s.gpu_gib == (60.0, 1.0) for s in samples)
    assert all(s.host_gib > 0.01 and 0 <= s.cpu_percent <= 100 for s in samples)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    _, samples = watched()
    assert {s.gpu_percent for s in samples} == {(5.0,)}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    _, samples = watched()
    assert {s.gpu_percent for s in samples} == {(5.0, 70.0)}


def test_energy_is_of_the_cards_that_the_engine_has(nvml, monkeypatch):
    assert resources.energy_j(2) == 7000.5
    assert resources.energy_j(1) == 5000.0  # one of those that are visible
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert resources.energy_j(1) == 2000.5
    nvml.counts_energy = False
    assert resources.energy_j(1) is None


def test_children_count_and_are_looked_for_once_a_sample_of_the_series(nvml, monkeypatch):
    """To look for them is to read all of /proc, in a thread beside the one that has an engine's kernels to launch."""
    looks, children = [], psutil.Process.children
    monkeypatch.setattr(
        psutil.Process, "children", lambda self, recursive: looks.append(self) or children(self, recursive)
    )
    held = "import time; held = bytearray(400 * 2**20); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", held]) as child:
        try:
            used, samples = watched(3.0)
        finally:
            child.kill()
    assert used.host_peak_gib > psutil.Process().memory_info().rss / GIB + 0.35
    assert len(looks) == len(samples) and 5 < len(samples) < 20


def test_a_card_that_is_lost_ends_its_figures_and_not_the_watch(nvml):
    nvml.ours = 5.0
    used, samples = watched(1.0, then=lambda: setattr(nvml, "lost", True))
    assert (used.gpu_peak_of, used.gpu_peak_gib) == ("processes", 5.0)
    assert samples[0].gpu_gib == (65.0, 1.0) and samples[-1].gpu_gib == () and samples[-1].host_gib > 0.01


def test_a_full_disk_ends_the_series_and_not_the_watch(nvml, capsys):
    def full(sample):
        raise OSError(28, "No space left on device")

    held = []
    used, _ = watched(1.0, then=lambda: held.append(bytearray(300 * 2**20)), tell=full)
    assert used.host_peak_gib > 0.3
    assert capsys.readouterr().err.count("no more samples in system.jsonl") == 1


def test_without_a_gpu_there_is_no_gpu_peak(monkeypatch):
    monkeypatch.setattr(resources, "_open_nvml", lambda: None)
    used, _ = watched(0.2)
    assert used.gpu_peak_gib is None and used.gpu_peak_of is None and used.host_peak_gib > 0.01


def test_a_reason_can_be_copied():
    why = Reason("may_be_worse", worse=0.1, margin=0.05)
    for copied in (copy.deepcopy(why), pickle.loads(pickle.dumps(why))):
        assert copied == why and (copied.rule, copied.words) == (why.rule, why.words)


def test_energy_adds_up_over_attempts_and_none_is_none():
    nothing = {"alone_energy_j": None, "alone_energy_answers": None}  # of a replayed run
    assert _energy("alone", nothing, _spent(None, None, 3)) == {}
    before = _energy("batch", {}, _spent(100.0, 110.0, 2))
    assert before == {"batch_energy_j": 10.0, "batch_energy_answers": 2}
    assert _energy("batch", before, _spent(5.0, 8.5, 3)) == {"batch_energy_j": 13.5, "batch_energy_answers": 5}
