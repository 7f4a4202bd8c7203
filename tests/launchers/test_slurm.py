"""hydra/launcher=submitit_slurm on a real Slurm: arrays, failures, cancelled jobs, time limits."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from ..helpers import make_data
from .conftest import until
from .sweep import CANARY, LaunchedSweep, ended, keys, states

pytestmark = pytest.mark.needs("slurmctld", "slurmd", "sbatch", "munge")
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.mem_gb=null")
SLURM += ("hydra.launcher.cpus_per_task=1",)


class Sweep(LaunchedSweep):
    launcher = SLURM


def job_of(sweep: Sweep) -> str:
    [folder] = {p.name.partition("_")[0] for p in (sweep.folder / ".submitit").glob("[0-9]*")}
    return folder


def queue(job: str) -> str:
    return subprocess.run(["squeue", "--noheader", f"--jobs={job}"], capture_output=True, text=True).stdout


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
    assert keys(sweep.runs()[0]) == [(item, repeat) for item in "abc" for repeat in (0, 1)]
    assert sweep.answered() == 12  # of both: none was asked for again


def test_a_job_that_is_out_of_time_goes_back_into_the_queue_and_goes_on(slurm, tmp_path, data):
    requeued = Sweep(tmp_path, data, "engine.mode=hang", "engine.after=4", "hydra.launcher.timeout_min=1")
    (tmp_path / "other").mkdir()
    ended_for_good = Sweep(tmp_path / "other", data, *requeued.command[-3:], "hydra.launcher.max_num_timeout=0")
    processes = [s.start() for s in (requeued, ended_for_good)]
    until(lambda: requeued.answered() == 4, "it hangs")
    job = job_of(requeued)
    until(lambda: "BeginTime" in queue(job), "it is back in the queue", 50)
    assert requeued.runs()[0].status()["state"] == "interrupted" and len(keys(requeued.runs()[0])) == 4
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)  # instead of 2 minutes
    code, out, err = ended(processes[1])
    assert code == 1, err
    status = ended_for_good.runs()[0].status()
    assert status["state"] == "interrupted" and "was out of time: timeout_min=1" in status["error"], status
    code, out, err = ended(processes[0])
    assert code == 0 and "PENDING" in err, err
    assert keys(requeued.runs()[0]) == [(item, repeat) for item in "abc" for repeat in (0, 1)]
    assert requeued.answered() == 6 and requeued.log.read_text().count("start ") == 2


def test_ctrl_c_cancels_the_jobs(slurm, tmp_path, data):
    sweep = Sweep(tmp_path, data, "engine.mode=hang,ok", "engine.after=4", "hydra.launcher.array_parallelism=1")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "the first run hangs")
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130 and "this goes on with it" in out, (out, err)
    assert queue(job_of(sweep)) == ""
    assert sweep.runs()[0].status()["state"] == "interrupted" and len(keys(sweep.runs()[0])) == 4


def test_what_sbatch_refuses_is_one_line(slurm, tmp_path, data):
    code, _, err = Sweep(tmp_path, data, "hydra.launcher.partition=gone").run()
    assert code == 2 and err.count("vlm-eval:") == 1, err
    assert "sbatch: " in err and "invalid partition" in err.lower(), err
