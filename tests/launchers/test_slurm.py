"""hydra/launcher=submitit_slurm on a real Slurm: arrays, failures, cancelled jobs, time limits, cards, lost nodes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from ..helpers import make_data, until
from .sweep import CANARY, WHOLE, LaunchedSweep, ended, keys, states

pytestmark = pytest.mark.needs("slurmctld", "slurmd", "sbatch", "munge")
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.mem_gb=null")
SLURM += ("hydra.launcher.cpus_per_task=1",)


class Sweep(LaunchedSweep):
    launcher = SLURM


def job_of(sweep: Sweep) -> str:
    [folder] = {p.name.partition("_")[0] for p in (sweep.folder / ".submitit").glob("[0-9]*")}
    return folder


def queue(job: str, shown: str = "%T %r") -> str:
    asked = ["squeue", "--noheader", f"--jobs={job}", f"--format={shown}"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def back_in_the_queue(sweep: Sweep) -> None:
    # Slurm looks every 30 s for jobs that are out of their minute.
    until(lambda: "BeginTime" in queue(job_of(sweep)), "it is back in the queue")
    assert len(keys(sweep.runs()[0])) == 4


def start_now(sweep: Sweep) -> None:
    """Instead of 2 minutes after it came back into the queue."""
    subprocess.run(["scontrol", "update", f"JobId={job_of(sweep)}", "StartTime=now"], check=True)


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data", 3)


def test_points_run_as_an_array_and_one_that_fails_makes_exit_code_1(slurm, tmp_path, data):
    sweep = Sweep(tmp_path, data, "engine.mode=ok,raise,one_bad")
    code, out, err = sweep.run()
    assert code == 1, err
    assert [r.status()["state"] for r in sweep.runs()] == ["ok", "failed", "ok"] == states(sweep), err
    assert "the engine broke" in sweep.runs()[1].status()["error"]
    assert "2 of 3 runs ok" in out and "Slurm job" in err
    assert len(list((sweep.folder / ".submitit").glob("*_[012]"))) == 3  # of one array
    written = [p for p in sweep.folder.rglob("*") if p.is_file()]
    assert not [p for p in written if CANARY.encode() in p.read_bytes()]
    # A finished run of other data is work again, in a job's process too.
    before = sweep.log.read_text()
    (data / "items.csv").write_text((data / "items.csv").read_text().replace("на экране a", "на экране а"))
    code, _, err = sweep.run(f"sweep.resume={sweep.folder}", "engine.mode=ok")
    assert code == 1 and sorted(states(sweep)) == ["failed", "ok", "ok"], err  # the failed one was not asked for
    assert sweep.log.read_text()[len(before) :].count("answer ok a ") == 2


def test_a_cancelled_job_is_told_as_such_and_a_resume_does_the_rest(slurm, tmp_path, data):
    sweep = Sweep(tmp_path, data, "engine.mode=hang,ok", "engine.after=4", "hydra.launcher.array_parallelism=1")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "the first run hangs")
    subprocess.run(["scancel", job_of(sweep)], check=True)  # the one that runs, and the one that waits
    code, out, err = ended(process)
    assert code == 1, err
    first, second = [run.status() for run in sweep.runs()]
    assert first["state"] == second["state"] == "interrupted", (first, second)
    assert first["stage"] == "generate" and first["error"].endswith("_0 ended as CANCELLED"), first
    assert second["stage"] == "start" and second["error"].endswith("_1 ended as CANCELLED"), second
    assert states(sweep) == ["interrupted", "interrupted"] and len(keys(sweep.runs()[0])) == 4
    code, _, err = sweep.run(f"sweep.resume={sweep.folder}")  # 2 answers are left, it does not come to the hanging one
    assert code == 0, err
    assert keys(sweep.runs()[0]) == WHOLE
    assert sweep.answered() == 12  # of both: none was asked for again


def test_a_job_that_is_out_of_time_goes_back_into_the_queue_and_goes_on(slurm, tmp_path, data):
    requeued = Sweep(tmp_path, data, "engine.mode=hang", "engine.after=4", "hydra.launcher.timeout_min=1")
    (tmp_path / "other").mkdir()
    ended_for_good = Sweep(tmp_path / "other", data, *requeued.command[-3:], "hydra.launcher.max_num_timeout=0")
    processes = [s.start() for s in (requeued, ended_for_good)]
    until(lambda: requeued.answered() == 4, "it hangs")
    back_in_the_queue(requeued)
    assert requeued.runs()[0].status()["state"] == "interrupted"
    start_now(requeued)
    code, out, err = ended(processes[1])
    assert code == 1, err
    status = ended_for_good.runs()[0].status()
    assert status["state"] == "interrupted" and "was out of time: timeout_min=1" in status["error"], status
    code, out, err = ended(processes[0])
    assert code == 0 and "PENDING" in err, err
    assert keys(requeued.runs()[0]) == WHOLE
    assert requeued.answered() == 6 and requeued.log.read_text().count("start ") == 2


def test_each_run_gets_a_card_of_its_own(slurm, tmp_path, data):
    cards = ("hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "engine.cards=1", "engine.delay_s=1")
    sweep = Sweep(tmp_path, data, "engine.mode=ok,one_bad", *cards)
    code, _, err = sweep.run()
    assert code == 0, err
    given = [line.split() for line in sweep.log.read_text().splitlines() if line.startswith("cards ")]
    assert sorted(mode for _, mode, *_ in given) == ["ok", "one_bad"]
    assert sorted(card for *_, card, _ in given) == ["0", "1"]


def test_a_preempted_job_goes_on_when_the_other_has_ended(slurm, tmp_path, data):
    whole_node = "hydra.launcher.cpus_per_task=4"
    sweep = Sweep(tmp_path, data, "engine.mode=hang", "engine.after=4", "hydra.launcher.partition=all", whole_node)
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "it hangs")
    urgent = ["sbatch", "--partition=urgent", "--nodelist=plain", "--cpus-per-task=4", "--output=/dev/null"]
    subprocess.run([*urgent, "--wrap=sleep 1"], check=True, capture_output=True)
    back_in_the_queue(sweep)
    start_now(sweep)
    code, _, err = ended(process)
    assert code == 0 and sweep.log.read_text().count("start ") == 2, err
    assert keys(sweep.runs()[0]) == WHOLE and sweep.answered() == 6  # none was asked for again


def test_a_lost_node_s_run_goes_on_on_the_other(slurm, tmp_path, data):
    sweep = Sweep(tmp_path, data, "engine.mode=hang", "engine.after=4", "hydra.launcher.partition=both")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "it hangs")
    lost = queue(job_of(sweep), "%N")
    slurm.lose(lost)
    try:
        back_in_the_queue(sweep)
        start_now(sweep)
        until(lambda: queue(job_of(sweep), "%N") not in ("", lost) or process.poll() is not None, "it goes on")
        code, _, err = ended(process)
    finally:
        slurm.start_node(lost)
    assert code == 0, err
    assert keys(sweep.runs()[0]) == WHOLE and sweep.answered() == 6


def test_ctrl_c_cancels_the_jobs(slurm, tmp_path, data):
    sweep = Sweep(tmp_path, data, "engine.mode=hang,ok", "engine.after=4", "hydra.launcher.array_parallelism=1")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "the first run hangs")
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130 and "this goes on with it" in out, (out, err)
    assert queue(job_of(sweep)) == ""
    assert sweep.runs()[0].status()["state"] == "interrupted" and len(keys(sweep.runs()[0])) == 4


@pytest.mark.parametrize("deaf", [("scancel",), ("scancel", "squeue", "scontrol")])
def test_jobs_that_cannot_be_cancelled_go_on_and_that_is_said(slurm, tmp_path, data, monkeypatch, deaf):
    (tmp_path / "bin").mkdir()
    for name in deaf:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho '{name}: error: no contact' >&2\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    sweep = Sweep(tmp_path, data, "engine.mode=hang,ok", "engine.after=4", "hydra.launcher.array_parallelism=1")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        process = sweep.start()
    until(lambda: sweep.answered() == 4, "the first run hangs")
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130 and f"may go on, for scancel {job_of(sweep)} failed: scancel: error: no contact" in err, err
    first, second = [run.status() for run in sweep.runs()]
    assert first["state"] == "running" and second == {}
    assert sorted(queue(job_of(sweep), "%T").split()) == ["PENDING", "RUNNING"]
    subprocess.run(["scancel", job_of(sweep)], check=True)
    until(lambda: queue(job_of(sweep)) == "", "they are gone")
    assert sweep.runs()[0].status()["state"] == "interrupted"  # its own word, and its answers are kept
    code, _, err = sweep.run(f"sweep.resume={sweep.folder}")
    assert code == 0 and sweep.answered() == 12, err


def test_what_sbatch_refuses_is_one_line(slurm, tmp_path, data):
    sweep = Sweep(tmp_path, data, "engine.mode=ok", "hydra.launcher.partition=gone")
    code, out, err = sweep.run()
    assert code == 2 and err.count("vlm-eval:") == 1 and out == "", err
    assert not (sweep.folder / "sweep.json").exists() and not (sweep.folder / "comparison.csv").exists()
    assert "sbatch: " in err and "invalid partition" in err.lower(), err
    code, _, err = sweep.run("hydra.launcher.partition=all")
    assert code == 0, err
    before = (sweep.folder / "sweep.json").read_text()
    assert sweep.run(f"sweep.resume={sweep.folder}")[0] == 2
    assert (sweep.folder / "sweep.json").read_text() == before  # it was a finished sweep, and is
