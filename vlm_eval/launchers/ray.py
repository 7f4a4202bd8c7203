"""Runs as tasks of a Ray cluster: each goes on where it was when its worker or its node is lost.

Points are composed here, as on one machine, and a task is handed what came of it. Ray chooses the node and the cards;
the run itself is a process of its own there too, which ends with its worker.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from omegaconf import DictConfig

from vlm_eval import resolvers, secrets, signals
from vlm_eval.errors import BadInput, one_line
from vlm_eval.job import Job
from vlm_eval.launch import STOP_WITHIN_S, failed, is_done, stop_all
from vlm_eval.store import RunFolder, is_locked

NAME = "hydra/launcher=ray"
POLL_S = 1.0
HEAD_WITHIN_S = 5.0
PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's: how long a head may be away
FREE_WITHIN_S = 4 * STOP_WITHIN_S  # until the process of an attempt before has ended

# --------------------------------------------------------------------------------------- where the command was typed


class Tasks:
    """The connection to a cluster, and, as a context manager around the composing of all jobs, a task for each; the
    manager's end waits for all. BadInput where there is no Ray, no head, or no node that could ever take a run."""

    def __init__(self, params: Mapping[str, Any]):
        _check_there(params["address"])
        import ray

        self._params = params
        self._stopped_by = signals.STOPPED
        self._patience_s = float(os.environ.get(PATIENCE, 60))
        with _own_signals():
            try:
                os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
                os.environ[PATIENCE] = "1000000"  # after it Ray ends this process, before it could compare its runs
                ray.init(params["address"], logging_level=logging.ERROR, log_to_driver=False)
            except Exception as error:  # of many kinds: this machine is no node of the cluster, another version
                raise BadInput(f"{NAME}: {one_line(error)}") from error
        self._node = ray._private.worker._global_node.raylet_socket_name
        _check_granted(params, ray.nodes())
        self._variables = {name: os.environ[name] for name in params["env"] if name in os.environ}
        if missing := [name for name in params["env"] if name not in os.environ]:
            print(f"vlm-eval: hydra.launcher.env: not set here: {', '.join(missing)}", file=sys.stderr)
        self._task = ray.remote(**{name: params[name] for name in ("num_gpus", "num_cpus", "max_retries")})(work)
        # Of those that have not ended, and status.json when they were begun.
        self._jobs: dict[Any, tuple[Job, dict[str, Any]]] = {}

    def __enter__(self) -> "Tasks":
        return self

    def begin(self, cfg: DictConfig) -> None:
        """Hydra's task function: a task for the run that it stands for."""
        job = Job.current(cfg)
        before = RunFolder(job.run_dir).status()
        task = self._task.options(name=job.run_dir.name).remote(job, os.getcwd(), self._variables)
        self._jobs[task] = job, before

    def __exit__(self, kind: Any, error: Any, *_: Any) -> None:
        import ray

        try:
            if error is None:
                print(f"vlm-eval: Ray at {self._params['address']}: {len(self._jobs)} runs", file=sys.stderr)
                self._wait()
        except Exception as raised:
            error = raised
            raise
        finally:  # after a signal, a lost head or whatever was raised: no run outlives its sweep
            if isinstance(error, Exception):
                self._stopped_by = f"its sweep ended: {one_line(error)}"
            self._cancel()
            ray.shutdown()

    def _wait(self) -> None:
        import ray

        total, seen = len(self._jobs), time.monotonic()
        while self._jobs:
            ended, _ = ray.wait(list(self._jobs), timeout=POLL_S)
            for task in ended:
                job, before = self._jobs.pop(task)
                status = self._how_it_ended(task, RunFolder(job.run_dir), before)
                print(f"{job.label}  {status.get('state')}, {total - len(self._jobs)} of {total}", file=sys.stderr)
            # A new head at the same address is another cluster: this machine's node is no part of it, and ends. (To ask
            # Ray for its nodes would then end this process, too.)
            if not (why := _why_no_head(self._params["address"]) or _why_no_node(self._node)):
                seen = time.monotonic()
            elif time.monotonic() - seen > self._patience_s:
                self._stopped_by = f"the Ray head at {self._params['address']} was lost: {why}"
                print(f"vlm-eval: {self._stopped_by}", file=sys.stderr)
                return

    def _how_it_ended(self, task: Any, folder: RunFolder, before: dict[str, Any]) -> dict[str, Any]:
        """The run's own word; what became of its task, where that ended before it could say one."""
        import ray

        try:
            return ray.get(task)
        except ray.exceptions.RayError as error:
            status = folder.status_since(before)
            if status.get("state") in ("ok", "failed"):
                return status
            stage = status.get("stage") or "start"
            if not isinstance(error, (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)):
                return failed(folder, stage, f"its Ray task failed: {one_line(getattr(error, 'cause', error))}")
            _until_free([folder.path], STOP_WITHIN_S)  # the run hears of it, and says so itself: after that, not before
            tries = self._params["max_retries"] + 1
            why = f"its Ray worker or node died, in {tries} of {tries} attempts"
            return failed(folder, stage, why, "interrupted")

    def _cancel(self) -> None:
        import ray

        # Asked to, a worker stops its run with all that it started; by force Ray kills both, and what the run has
        # started is left to itself: so that comes when the worker has had its time.
        for by_force, within_s in ((False, STOP_WITHIN_S + 0.5), (True, 1.0)):
            for task in self._jobs:
                ray.cancel(task, force=by_force)
            if _until_free([job.run_dir for job, _ in self._jobs.values()], within_s):
                break
        for job, before in self._jobs.values():
            folder = RunFolder(job.run_dir)
            status = folder.status_since(before)
            if status.get("state") not in ("ok", "failed") and not is_done(folder, job.made_from):
                failed(folder, status.get("stage") or "start", self._stopped_by, "interrupted")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray's init takes SIGTERM for itself."""
    before = {number: signal.getsignal(number) for number in signals.HEARD}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_there(address: Optional[str]) -> None:
    if find_spec("ray") is None:
        raise BadInput(f"{NAME}: not installed; pip install 'vlm-eval[ray]'")
    host, colon, port = (address or "").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise BadInput(f"{NAME}: hydra.launcher.address={address}: HOST:PORT of the head (or set RAY_ADDRESS)")
    if why := _why_no_head(address):
        raise BadInput(f"{NAME}: no head at {address} ({why}); ray start --head --port={port}")


def _why_no_head(address: str) -> Optional[str]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), HEAD_WITHIN_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _why_no_node(path: str) -> Optional[str]:
    """Of this machine, by its raylet's socket."""
    try:
        with socket.socket(socket.AF_UNIX) as node:
            node.connect(path)
    except OSError as error:
        return f"this machine's node has ended ({error.strerror})"
    return None


def _check_granted(params: Mapping[str, Any], nodes: list[dict[str, Any]]) -> None:
    wanted = {"GPU": params["num_gpus"], "CPU": params["num_cpus"]}
    there = [{name: node["Resources"].get(name, 0) for name in wanted} for node in nodes if node["Alive"]]
    if not any(all(node[name] >= number for name, number in wanted.items()) for node in there):
        have = "; ".join(f"{node['GPU']:g} and {node['CPU']:g}" for node in there)
        raise BadInput(
            f"{NAME}: no node has the {wanted['GPU']:g} GPUs and {wanted['CPU']:g} CPUs of a run "
            f"(hydra.launcher.num_gpus, num_cpus); there are nodes with {have}"
        )


# ---------------------------------------------------------------------------------------------- in a task's own process


def work(job: Job, typed_in: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """status.json of a run, at its end. `typed_in`: the folder from which its paths count. `variables` go into its
    environment, beside those of the node."""
    resolvers.register_resolvers()
    _until_free([job.run_dir], FREE_WITHIN_S)
    status = Future[dict[str, Any]]()
    # In a thread: Ray's cancel is a SIGINT to the main one, which must be at work in Python to see it, and must not
    # ignore it, as what was started in the background does (`ray start &`).
    thread = threading.Thread(target=_resolve, args=(status, job.run), daemon=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with _as_where_it_was_typed(typed_in, variables), secrets.masked_output():
        try:
            thread.start()
            while thread.is_alive():
                thread.join(POLL_S / 5)
        except BaseException:
            stop_all()
            thread.join(STOP_WITHIN_S)
            raise
    return status.result()


def _resolve(outcome: Future, function: Callable[[], Any]) -> None:
    try:
        outcome.set_result(function())
    except BaseException as error:
        outcome.set_exception(error)


@contextmanager
def _as_where_it_was_typed(folder: str, variables: Mapping[str, str]) -> Iterator[None]:
    before, stood = dict(os.environ), os.getcwd()
    try:
        os.chdir(folder)
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's: it would win over engine.cpu_threads
        os.environ.update(variables)
        yield
    finally:  # the next task in this process may be another sweep's
        os.chdir(stood)
        os.environ.clear()
        os.environ.update(before)


def _until_free(run_dirs: Sequence[Path], within_s: float) -> bool:
    """Whether no process works in them any more, which is waited for: one whose worker was killed is a while ending."""
    until = time.monotonic() + within_s
    while (at_work := any(is_locked(run_dir / "run.log") for run_dir in run_dirs)) and time.monotonic() < until:
        time.sleep(0.1)
    return not at_work
