"""Runs as jobs of Slurm, through submitit: what its launcher leaves open.

submitit asks sacct how jobs end, which many clusters do not have, and raises for the first that has not ended well
while the others still run. So here squeue says when all have ended, and each run's status.json how. A job that is
stopped leaves no result: put back into the queue by Slurm (preemption, a lost node) or by submitit (its time is over),
it is waited for.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

from omegaconf import DictConfig

from vlm_eval import resolvers, secrets, signals
from vlm_eval.errors import BadInput, one_line
from vlm_eval.job import Job
from vlm_eval.launch import STOP_WITHIN_S, failed
from vlm_eval.scheduling.forks import Process, start_anew
from vlm_eval.store import RunFolder

POLL_S = 2.0
FORGOTTEN = "unknown to Slurm by now"
OVER = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE"}
OVER |= {"BOOT_FAIL", FORGOTTEN}  # states that a job does not leave
OUT_OF_TIME = 124  # exit code of a job whose time is over and that is not put back into the queue


# --------------------------------------------------------------------------------------- where the command was typed


def check_there(installed: bool) -> None:
    """BadInput where no job could be submitted."""
    if not installed:
        raise BadInput("hydra/launcher=submitit_slurm: not installed; pip install 'vlm-eval[slurm]'")
    if missing := [program for program in ("sbatch", "squeue", "scontrol") if not shutil.which(program)]:
        raise BadInput(
            f"hydra/launcher=submitit_slurm: no {', '.join(missing)} on this machine; start it on one that submits jobs"
        )


def launch(
    launcher: Any, params: Mapping[str, Any], config: DictConfig, points: Sequence[Sequence[str]]
) -> Sequence[Any]:
    """Submit all points as one array and wait until the last has ended; each run's folder then says how."""
    from hydra.core.singleton import Singleton

    load = launcher.hydra_context.config_loader.load_sweep_config
    folders = [RunFolder(Path(config.hydra.sweep.dir) / load(config, list(p)).hydra.sweep.subdir) for p in points]
    before = [folder.status() for folder in folders]
    numbers = range(len(points))
    jobs = _submit(
        params,
        launcher,
        *([list(p) for p in points], ["hydra.sweep.dir"] * len(points), numbers, [f"job_{n}" for n in numbers]),
        [Singleton.get_state()] * len(points),
    )
    array = jobs[0].job_id.partition("_")[0]
    print(f"vlm-eval: Slurm job {array}: {len(jobs)} runs, logs in {jobs[0].paths.folder.parent}", file=sys.stderr)
    may_go_on = False
    try:
        _wait(array)
    except BaseException:  # Ctrl-C or SIGTERM: no run outlives its sweep
        cancelled = subprocess.run(["scancel", array], capture_output=True, text=True)
        if may_go_on := cancelled.returncode != 0:
            said = " ".join(cancelled.stderr.split())
            print(f"vlm-eval: its jobs may go on, for scancel {array} failed: {said}", file=sys.stderr)
        _wait(array, STOP_WITHIN_S)
        raise
    finally:
        for job, folder, status in zip(jobs, folders, before):
            _say_how_it_ended(job, folder, status, params, may_go_on)
    return []


def _submit(params: Mapping[str, Any], *job: Any) -> Sequence[Any]:
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    given = dict(params)
    folder, requeues = given.pop("submitit_folder"), given.pop("max_num_timeout")
    everywhere = BaseQueueConf.__dataclass_fields__
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=requeues)
        executor.update_parameters(**{k if k in everywhere else f"slurm_{k}": v for k, v in given.items()})
        return executor.map_array(*job)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        said = re.findall(r"sbatch: (?:error: )?(.+)", str(error)) or [one_line(error)]
        raise BadInput(f"hydra/launcher=submitit_slurm: sbatch: {'; '.join(dict.fromkeys(said))}") from error


def _wait(array: str, at_most_s: float = float("inf")) -> None:
    """Until squeue has none of its jobs any more; those that wait to go on count."""
    until, said = time.monotonic() + at_most_s, None
    while time.monotonic() < until:
        asked = subprocess.run(
            ["squeue", "--noheader", "--array", f"--jobs={array}", "--format=%T|%r"], capture_output=True, text=True
        )
        if asked.returncode == 0:
            states = Counter(line.replace("|None", "").replace("|", ": ") for line in asked.stdout.split("\n") if line)
            now = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        elif "Invalid job id" in asked.stderr:  # long over
            states, now = {}, ""
        else:
            states, now = {"unknown": 1}, f"squeue cannot be asked, waiting: {' '.join(asked.stderr.split())}"
        if not states:
            return
        if now != said:
            print(f"vlm-eval: Slurm job {array}: {now}", file=sys.stderr)
        said = now
        time.sleep(POLL_S)


def _say_how_it_ended(
    job: Any, folder: RunFolder, before: dict[str, Any], params: Mapping[str, Any], may_go_on: bool
) -> None:
    """Of a run that could not say it itself: its job was cancelled, its time was over, its node was lost."""
    status = folder.status_since(before)
    if status.get("state") in ("ok", "failed"):
        return
    outcome = _outcome(job)
    if outcome == "success":  # done already, or another process works on it
        return
    stage = status.get("stage") or "start"
    if outcome:
        failed(folder, stage, f"its Slurm job {job.job_id} failed: {outcome}")
        return
    state, code = _ended(job.job_id)
    if may_go_on and state not in OVER:  # it could not be cancelled: its own word is still to come
        return
    if state == "TIMEOUT" or code == OUT_OF_TIME:
        requeued, minutes = params["max_num_timeout"], params["timeout_min"]
        why = f"was out of time: timeout_min={minutes} of hydra.launcher, put back into the queue {requeued} times"
    else:
        why = f"ended as {state}" + (f" with exit code {code}" if code else "")
    by_slurm = code == OUT_OF_TIME or state != "FAILED"
    failed(folder, stage, f"its Slurm job {job.job_id} {why}", "interrupted" if by_slurm else "failed")


def _outcome(job: Any) -> Optional[str]:
    """ "success", the last line of the job's traceback, or None for a job that left no result."""
    import submitit

    try:
        outcome, result = submitit.core.utils.pickle_load(job.paths.result_pickle)
    except FileNotFoundError:
        return None
    except Exception as error:
        return one_line(error)
    return "success" if outcome == "success" else secrets.mask(result.strip().rpartition("\n")[2])


def _ended(job_id: str) -> tuple[str, int]:
    """Slurm's word for it and the exit code, as long as it remembers."""
    asked = subprocess.run(["scontrol", "--oneliner", "show", "job", job_id], capture_output=True, text=True)
    state, code = re.search(r"JobState=(\w+)", asked.stdout), re.search(r"ExitCode=(\d+)", asked.stdout)
    if state:
        return state[1], int(code[1]) if code else 0
    return (FORGOTTEN if "Invalid job id" in asked.stderr else "unknown, for Slurm cannot be asked"), 0


# --------------------------------------------------------------------------------------------- in a job's own process


@contextmanager
def in_a_job() -> Iterator[None]:
    """Around a job's work. A signal stops the run and ends the job without a result."""
    resolvers.register_resolvers()
    requeue = signal.getsignal(_before_the_end())  # submitit's

    def out_of_time(number: int, frame: Any) -> None:
        import submitit

        for other in signals.HEARD:  # which Slurm sends next
            signal.signal(other, signal.SIG_IGN)
        try:
            requeue(number, frame)  # which exits
        except submitit.core.utils.UncompletedJobError:  # too often
            sys.exit(OUT_OF_TIME)

    with secrets.masked_output(), signals.heard():
        if callable(requeue):
            signal.signal(_before_the_end(), out_of_time)
        yield


def _before_the_end() -> signal.Signals:
    """The signal that submitit has Slurm send before a job's time is over."""
    from submitit.core.job_environment import JobEnvironment

    return JobEnvironment._usr_sig()


def job(cfg: DictConfig) -> str:
    return Job.current(cfg).run(start=_start_deaf)["state"]


def _start_deaf(*arguments: Any) -> Process:
    """Slurm sends that signal to every process of a job, and most die of it; one that is blocked is so in children."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [_before_the_end()])
    try:
        return start_anew(*arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [_before_the_end()])
