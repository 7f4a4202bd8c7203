"""hydra/launcher=ray on a real Ray: failures, cards, lost workers, nodes and head, Ctrl-C, what none can grant."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from ..helpers import make_data, until
from .conftest import Ray, free_port
from .sweep import CANARY, WHOLE, LaunchedSweep, ended, keys, states


class Sweep(LaunchedSweep):
    launcher = ("hydra/launcher=ray", "hydra.launcher.num_gpus=0", "hydra.launcher.num_cpus=1")
    launcher += ("hydra.launcher.env=[FAULTY_ENGINE_LOG,OPENAI_API_KEY]",)

    def __init__(self, cluster: Ray, folder: Path, data: Path, *overrides: str):
        super().__init__(folder, data, f"hydra.launcher.address={cluster.address}", *overrides)

    def processes(self) -> list[psutil.Process]:
        """Of its runs, wherever they were started."""
        return [p for p in psutil.process_iter() if str(self.folder) in " ".join(_command(p))]

    def process(self) -> psutil.Process:
        """The only one, once it is: what a process has just forked looks like itself."""
        found: list[psutil.Process] = []

        def only_one() -> bool:
            found[:] = self.processes()
            return len(found) == 1

        until(only_one, lambda: f"one process works: {[(p, p.parents()) for p in found]}")
        return found[0]


def _command(process: psutil.Process) -> list[str]:
    try:
        return command if "vlm_eval.run" in (command := process.cmdline()) else []
    except psutil.Error:
        return []


def until_gone(processes: list[psutil.Process]) -> None:
    left = lambda: [p for p in processes if p.is_running() and p.status() != "zombie"]  # noqa: E731
    until(lambda: not left(), lambda: f"they are gone: {left()}", 10)


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data", 3)


def test_points_run_as_tasks_and_one_that_fails_makes_exit_code_1(ray_cluster, tmp_path, data):
    from_here = data.relative_to(tmp_path)  # where the command is typed, and Ray was not started
    sweep = Sweep(ray_cluster, tmp_path, from_here, "engine.mode=ok,raise,one_bad")
    code, out, err = sweep.run()
    assert code == 1, err
    assert [r.status()["state"] for r in sweep.runs()] == ["ok", "failed", "ok"] == states(sweep), err
    assert "the engine broke" in sweep.runs()[1].status()["error"]
    assert "2 of 3 runs ok" in out and "3 of 3" in err
    assert not [p for p in sweep.folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    sessions = [p for p in Path("/tmp").glob("ray-*/session_*/logs/*") if p.is_file()]
    assert sessions and not [p for p in sessions if CANARY.encode() in p.read_bytes()]


def test_a_killed_worker_s_run_goes_on_in_another(ray_cluster, tmp_path, data):
    sweep = Sweep(ray_cluster, tmp_path, data, "engine.mode=hang", "engine.after=4")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "it hangs")
    run = sweep.process()
    assert "OMP_NUM_THREADS" not in run.environ()  # Ray's own would win over engine.cpu_threads
    run.parent().kill()  # Ray's worker
    code, out, err = ended(process)  # 2 answers are left, it does not come to the hanging one
    assert code == 0, err
    assert keys(sweep.runs()[0]) == WHOLE and sweep.answered() == 6
    assert not run.is_running()


def test_a_worker_that_dies_too_often_is_told(ray_cluster, tmp_path, data):
    sweep = Sweep(ray_cluster, tmp_path, data, "engine.mode=hang", "engine.after=2", "hydra.launcher.max_retries=1")
    process = sweep.start()
    for answers in (2, 4):
        until(lambda wanted=answers: sweep.answered() == wanted, "it hangs")
        run = sweep.process()
        run.parent().kill()
    code, out, err = ended(process)
    status = sweep.runs()[0].status()
    assert code == 1 and status["state"] == "interrupted", err
    assert "its Ray worker or node died, in 2 of 2 attempts" in status["error"]
    assert len(keys(sweep.runs()[0])) == 4


@pytest.fixture
def two_nodes(ray_cluster):
    """Beside the head, with a card each: nobody opens it."""
    names = ("one", "two")
    for name in names:
        ray_cluster.start_node(name, "--num-cpus=1", "--num-gpus=1")
    yield names
    for name in names:
        ray_cluster.lose(name)


def test_each_run_gets_a_card_and_a_lost_node_s_goes_on_on_another(ray_cluster, two_nodes, tmp_path, data):
    cards = ("hydra.launcher.num_gpus=1", "engine.cards=1")
    sweep = Sweep(ray_cluster, tmp_path, data, "engine.mode=hang,ok", "engine.after=4", *cards)
    process = sweep.start()
    until(lambda: sweep.answered() == 10, "one run hangs, the other is done")
    run = sweep.process()
    [lost] = [name for name in two_nodes if ray_cluster.runs_on(run, name)]
    ray_cluster.lose(lost)
    code, _, err = ended(process)
    assert code == 0, err
    assert [keys(run) for run in sweep.runs()] == [WHOLE, WHOLE] and sweep.answered() == 12
    given = [line.split()[1:3] for line in sweep.log.read_text().splitlines() if line.startswith("cards ")]
    assert sorted(given) == [["hang", "0"], ["hang", "0"], ["ok", "0"]]


def test_a_lost_head_is_told_and_a_resume_goes_on(ray_cluster, ray_cluster_of_its_own, tmp_path, data, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")
    ray_cluster_of_its_own.start_node("other", "--num-cpus=1", "--num-gpus=1")
    sweep = Sweep(ray_cluster_of_its_own, tmp_path, data, "engine.mode=hang,ok", "engine.after=4")
    process = sweep.start("hydra.launcher.num_gpus=1")
    until(lambda: sweep.answered() == 4, "the first run hangs, the second waits for the card")
    run = sweep.process()
    with_children = [run, *run.children(recursive=True)]
    ray_cluster_of_its_own.lose("head")
    code, out, err = ended(process)
    assert code == 1 and states(sweep) == ["interrupted", "interrupted"], err
    for status in [run.status() for run in sweep.runs()]:
        assert status["state"] == "interrupted" and "the Ray head at 127.0.0.1" in status["error"], status
    until_gone(with_children)
    sweep = Sweep(ray_cluster, tmp_path, data, "engine.mode=hang,ok", "engine.after=4")
    code, _, err = sweep.run(f"sweep.resume={sweep.folder}")
    assert code == 0, err
    assert [keys(run) for run in sweep.runs()] == [WHOLE, WHOLE] and sweep.answered() == 12


def test_a_new_head_at_the_old_address_is_another_cluster(ray_cluster_of_its_own, tmp_path, data, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    sweep = Sweep(ray_cluster_of_its_own, tmp_path, data, "engine.mode=hang", "engine.after=4")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "it hangs")
    ray_cluster_of_its_own.lose("head")
    ray_cluster_of_its_own.start_head()
    code, _, err = ended(process)
    assert code == 1 and states(sweep) == ["interrupted"], err
    assert "this machine's node has ended" in sweep.runs()[0].status()["error"]


def test_ctrl_c_ends_the_runs_and_a_resume_goes_on(ray_cluster, tmp_path, data):
    sweep = Sweep(ray_cluster, tmp_path, data, "engine.mode=hang,ok", "engine.after=4", "hydra.launcher.num_cpus=2")
    process = sweep.start()
    until(lambda: sweep.answered() == 4, "the first run hangs")
    run = sweep.process()
    with_children = [run, *run.children(recursive=True)]
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130 and "this goes on with it" in out, (out, err)
    until_gone(with_children)
    assert sweep.runs()[0].status()["state"] == "interrupted" and len(keys(sweep.runs()[0])) == 4
    code, _, err = sweep.run(f"sweep.resume={sweep.folder}")
    assert code == 0, err
    assert [keys(run) for run in sweep.runs()] == [WHOLE, WHOLE] and sweep.answered() == 12


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hydra.launcher.num_gpus=1",), "no node has the 1 GPUs and 1 CPUs of a run"),
        (("hydra.launcher.address=127.0.0.1:{port}",), "no head at 127.0.0.1:{port} (Connection refused"),
        (("hydra.launcher.address=null",), "HOST:PORT of the head"),
    ],
)
def test_what_cannot_be_is_one_line(overrides, said, ray_cluster, tmp_path, data):
    port = free_port()
    sweep = Sweep(ray_cluster, tmp_path, data, *(o.format(port=port) for o in overrides))
    code, _, err = sweep.run()
    assert code == 2 and len(err.splitlines()) == 1 and said.format(port=port) in err, err
    assert not sweep.folder.exists()
