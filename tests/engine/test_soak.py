"""Many starts of the real engine in one sweep: the parent's memory, descriptors, threads and files stay flat."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import QUICK, REPO, make_data

pytestmark = pytest.mark.engine

# The command line in a process that notes, whenever a run has ended, what it holds.
PARENT = """
import ctypes, gc, json, os, sys, threading
import psutil
from tests.helpers import left_in_shared_memory
from vlm_eval import cli, job

me, real, notes = psutil.Process(), job.launch, open(os.environ["SOAK_NOTES"], "w")

def noted(*arguments, **where):
    status = real(*arguments, **where)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free again is not held
    below = [name for _, folders, files in os.walk(os.environ["TMPDIR"]) for name in folders + files]
    temporary = sum(not name.startswith("torchinductor_") for name in below)  # torch's cache is meant to stay
    shm = len(left_in_shared_memory())
    print(json.dumps({"state": status["state"], "error": status["error"], "rss": me.memory_info().rss,
        "fds": me.num_fds(), "threads": me.num_threads(), "children": len(me.children(recursive=True)),
        "temporary": temporary, "shm": shm}), file=notes, flush=True)
    return status

job.launch = noted
sys.exit(cli.main())
"""


def soak(tmp_path: Path, starts: int, prefetch: int) -> list[dict]:
    """What the parent held after each of so many runs, each with an engine of its own."""
    data, temporary = make_data(tmp_path / "data", 1), tmp_path / "tmp"
    temporary.mkdir()
    command = ["-m", "model=demo", "quant=awq", "task=vqa", f"task.data.root={data}", "task.repeats=1", *QUICK]
    command += ["engine.latency_pass.items=0", "task.sampling.max_tokens=4", "engine.max_model_len=1024"]
    command += [f"sweep.prefetch={prefetch}", f"run.seed=range({starts})", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    notes = tmp_path / "notes.jsonl"
    # Otherwise each thread has a heap of its own, and it is a matter of chance which of them have grown to 3 MiB.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    environment |= {"TMPDIR": str(temporary), "SOAK_NOTES": str(notes), "PYTHONPATH": str(REPO)}
    ended = subprocess.run([sys.executable, "-c", PARENT, *command], cwd=tmp_path, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    return [json.loads(line) for line in notes.read_text().splitlines()]


def check_flat(notes: list[dict], starts: int, prefetch: int, most_growth_mib: float) -> str:
    """AssertionError if more is held at the end than when the sweep had warmed up, at most: of runs side by side it
    is a matter of chance what is there when one ends."""
    assert len(notes) == starts and all(note["state"] == "ok" for note in notes)
    early, late = notes[2 : 2 + starts // 5], notes[-(starts // 5) :]
    for what in ("fds", "threads", "children", "temporary", "shm"):
        assert max(n[what] for n in late) <= max(n[what] for n in early), (what, early, late)
    if prefetch:
        assert max(n["children"] for n in notes) <= 1 + 2 * prefetch  # the runs' own processes beside that one
    else:
        assert {n["children"] for n in notes} == {1}  # the process that the runs are forked from
        assert {n["temporary"] for n in notes} == {0}
    growth = (statistics.median(n["rss"] for n in late) - statistics.median(n["rss"] for n in early)) / 2**20
    assert growth < most_growth_mib, f"the parent grew by {growth:.1f} MiB"
    held = notes[-1]
    return (
        f"{starts} starts: parent {held['rss'] / 2**20:.0f} MiB ({growth:+.2f} MiB), {held['fds']} descriptors, "
        f"{held['threads']} threads, {held['temporary']} temporary files, {held['shm']} in /dev/shm"
    )


def test_ten_engine_starts(tmp_path):
    print(check_flat(soak(tmp_path, 10, prefetch=0), 10, prefetch=0, most_growth_mib=3))


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("prefetch", [0, 1])
def test_three_hundred_engine_starts(tmp_path, prefetch):
    print(check_flat(soak(tmp_path, 300, prefetch), 300, prefetch, most_growth_mib=3))
