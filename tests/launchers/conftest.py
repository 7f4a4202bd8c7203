"""Clusters of this machine alone, for as long as the tests last: the daemons of Slurm and of Ray."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from ..helpers import REPO, until

CONF = Path(__file__).with_name("slurm.conf")
NODES = ("plain", "cards")


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


class Slurm:
    """A cluster of two nodes, `plain` and `cards`; its commands find it through SLURM_CONF."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("state", "spool.plain", "spool.cards"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        filled = {"DIR": folder, "HOST": socket.gethostname().partition(".")[0], "USER": getpass.getuser()}
        filled |= {f"{what}_PORT": free_port() for what in ("CONTROLLER", "PLAIN", "CARDS")}
        conf = CONF.read_text()
        for name, value in filled.items():
            conf = conf.replace(f"@{name}@", str(value))
        (folder / "slurm.conf").write_text(conf)
        shutil.copy(CONF.with_name("gres.conf"), folder)
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        files = [f"--{what}={self.folder}/munge.{end}" for what, end in (("pid-file", "pid"), ("log-file", "log"))]
        files += [f"--{what}={self.folder}/munge.{what.partition('-')[0]}" for what in ("key-file", "seed-file")]
        self._begin("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.sock", *files)
        until(lambda: (self.folder / "munge.sock").exists(), "munged listens")
        self._begin("controller", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for node in NODES:
            self.start_node(node)

    def start_node(self, name: str) -> None:
        self._begin(name, "slurmd", "-D", "-f", self.environment["SLURM_CONF"], "-N", name)
        state = ["sinfo", "--noheader", "--format=%t", f"--nodes={name}", "--partition=both"]
        until(
            lambda: subprocess.run(state, env=self.environment, capture_output=True, text=True).stdout == "idle\n",
            f"node {name} is idle",
        )

    def lose(self, name: str) -> None:
        """As when its power fails: the node's daemon is gone, with its jobs and all that they have started."""
        self.daemons[name].kill()
        self.daemons[name].wait()
        for step in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):  # it has just ended, or is somebody else's
                work = step.children(recursive=True) if step.info["name"] == "slurmstepd" else []
                if any(process.environ().get("SLURMD_NODENAME") == name for process in work):
                    for process in (step, *work):
                        process.kill()

    def _begin(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def end(self) -> None:
        for daemon in reversed(self.daemons.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()


@pytest.fixture(scope="session")
def slurm():
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))  # munge wants no folder that others may write to
    cluster = Slurm(folder)
    try:
        cluster.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
            yield cluster
            subprocess.run(["scancel", "--state=RUNNING", f"--user={getpass.getuser()}"], timeout=20)
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


class Ray:
    """A head with two CPUs and no GPU, and what nodes a test adds."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: sockets lie in it
        self.address = f"127.0.0.1:{free_port()}"
        # In a process group of its own, without what tests set; the runs' processes look for our modules.
        self.environment = {**os.environ, "PYTHONPATH": str(REPO), "RAY_USAGE_STATS_ENABLED": "0"}
        self.nodes: dict[str, subprocess.Popen] = {}

    def start_head(self) -> None:
        port = self.address.partition(":")[2]
        options = ["--include-dashboard=false", f"--temp-dir={self.folder}", "--disable-usage-stats"]
        self.start("head", "--head", f"--port={port}", "--num-cpus=2", "--num-gpus=0", *options)

    def start_node(self, name: str, *options: str) -> None:
        self.start(name, f"--address={self.address}", *options)

    def start(self, name: str, *options: str) -> None:
        said = self.folder / f"{name}.out"
        with open(said, "wb") as out:
            command = [Path(sys.executable).with_name("ray"), "start", "--block", *options]
            self.nodes[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        until(lambda: "Ray runtime started" in said.read_text(), f"{name} is there")

    def runs_on(self, process: psutil.Process, name: str) -> bool:
        return self.nodes[name].pid in [parent.pid for parent in process.parents()]

    def lose(self, name: str) -> None:
        """As when its power fails: with its workers and all that they have started."""
        if self.nodes[name].poll() is None:
            node = psutil.Process(self.nodes[name].pid)
            for process in [node, *node.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.nodes[name].wait()

    def end(self) -> None:
        for name in reversed(self.nodes):
            self.lose(name)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster():
    yield from _ray_cluster()


@pytest.fixture
def ray_cluster_of_its_own():
    yield from _ray_cluster()


def _ray_cluster():
    cluster = Ray()
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.end()
