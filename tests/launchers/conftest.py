"""A Slurm cluster of this machine alone: munged, slurmctld and slurmd from a folder of their own, for as long as the
tests last."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ..helpers import REPO

CONF = Path(__file__).with_name("slurm.conf")


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="session")
def slurm():
    """The cluster's folder; its commands find it through SLURM_CONF."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))  # munge wants no folder that others may write to
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    filled = {"DIR": folder, "HOST": host, "USER": getpass.getuser()}
    filled |= {"CONTROLLER_PORT": free_port(), "NODE_PORT": free_port()}
    conf = CONF.read_text()
    for name, value in filled.items():
        conf = conf.replace(f"@{name}@", str(value))
    (folder / "slurm.conf").write_text(conf)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    files = [f"--{what}={folder}/munge.{end}" for what, end in (("pid-file", "pid"), ("log-file", "log"))]
    files += [f"--key-file={folder}/munge.key", f"--socket={folder}/munge.sock", f"--seed-file={folder}/munge.seed"]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *files],
            ["slurmctld", "-D", "-f", folder / "slurm.conf"],
            ["slurmd", "-D", "-f", folder / "slurm.conf", "-N", host],
        ):
            with open(folder / f"{command[0]}.out", "ab") as out:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
                )
            if command[0] == "munged":
                until(lambda: (folder / "munge.sock").exists(), "munged listens")
        state = ["sinfo", "--noheader", "--format=%t"]
        run = lambda: subprocess.run(state, env=environment, capture_output=True, text=True).stdout.strip()  # noqa: E731
        until(lambda: run() == "idle", "the node is idle")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
            yield folder
            subprocess.run(["scancel", "--state=RUNNING", f"--user={getpass.getuser()}"], timeout=20)
    finally:
        for daemon in reversed(daemons):
            end(daemon, 10)
        shutil.rmtree(folder, ignore_errors=True)


def end(daemon: subprocess.Popen, seconds: float) -> None:
    """The process and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGTERM)
    try:
        daemon.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def until(reached, what: str, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not after {seconds:g} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def ray_head():
    """A cluster of this machine alone, with 2 CPUs and no GPU: its address."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: sockets lie in it
    port = free_port()
    # In a process group of its own, without what tests set; the runs' processes look for our modules.
    environment = {**os.environ, "PYTHONPATH": str(REPO), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [Path(sys.executable).with_name("ray"), "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
    command += ["--num-gpus=0", "--include-dashboard=false", f"--temp-dir={folder}", "--disable-usage-stats"]
    with open(folder / "head.out", "ab") as out:
        head = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        until(lambda: "Ray runtime started" in (folder / "head.out").read_text(), "the head is there")
        yield f"127.0.0.1:{port}"
    finally:
        end(head, 20)
        shutil.rmtree(folder, ignore_errors=True)
