"""SIGKILL at random moments of a long sweep, each time resumed: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import signal
import time

import psutil
import pytest

from .campaign import differences
from .small_sweep import SmallSweep

LONG = ("engine.delay_s=0.02", "task.repeats=20", "metrics.odd.sleep_s=0.3")  # a run of 80 answers


def kill_at_random(tmp_path, kills: int, seed: int) -> None:
    """Half of the kills hit a run's process, a quarter the sweep's, a quarter both at once. A run that has ended is
    taken away again, so that there is work until the last kill."""
    (tmp_path / "clean").mkdir()
    (tmp_path / "killed").mkdir()
    untouched = SmallSweep(tmp_path / "clean", more=LONG)
    sweep = SmallSweep(tmp_path / "killed", more=LONG)
    draw = random.Random(seed)
    try:
        untouched.begin()
        assert untouched.end(300) == 0, untouched.said()
        expected = untouched.content()
        done = 0
        while done < kills:
            sweep.begin()
            done += _kill(sweep, draw)
            sweep.end(300)
            sweep.until_gone()
            assert not [d for d in differences(sweep.content(), expected) if d.startswith("new")]
            if sweep.runs and all(run.status().get("state") == "ok" for run in sweep.runs):
                _forget_most(sweep, draw)
        assert sweep.resume() == 0, sweep.said()
        assert not (wrong := differences(sweep.content(), expected)), wrong[:20]
        print(f"{done} kills, {len(expected)} rows and numbers as in the clean sweep")
    finally:
        untouched.close()
        sweep.close()


def _kill(sweep: SmallSweep, draw: random.Random) -> int:
    """At a moment within the sweep's usual time; 0 where the sweep was faster."""
    moment, whom = time.monotonic() + draw.uniform(1, 10), draw.choice(["run", "run", "sweep", "both"])
    while time.monotonic() < moment and sweep.process.poll() is None:
        time.sleep(0.01)
    try:
        parent = psutil.Process(sweep.process.pid)
        runs = [p for p in parent.children() if "vlm_eval.run" in p.cmdline()]
        targets = {"run": runs, "sweep": [parent], "both": [parent, *runs]}[whom]
        for process in targets:
            process.send_signal(signal.SIGKILL)
        return bool(targets)
    except psutil.NoSuchProcess:
        return 0


def _forget_most(sweep: SmallSweep, draw: random.Random) -> None:
    """As if the run had been killed after some of its rows, the last of them half written."""
    for run in sweep.runs:
        for kind in ("answers", "judgements"):
            file = run.path / f"{kind}.jsonl"
            content = file.read_bytes()
            file.write_bytes(content[: draw.randrange(len(content))])
        run.set_status("interrupted", "generate")


def test_five_kills(tmp_path):
    kill_at_random(tmp_path, 5, seed=10)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_two_hundred_kills(tmp_path):
    kill_at_random(tmp_path, 200, seed=200)
