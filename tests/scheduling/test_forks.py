"""Runs as forks of a process that has the imports behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vlm_eval.scheduling.forks import Forks, start_anew

from ..helpers import REPO

# Stands in for a heavy library: slow to import, counts how often, and says what it saw when it was imported.
SLOW = """
import os, time
time.sleep(1)
with open(os.environ["SLOW_LOG"], "a") as log:
    print(os.getpid(), file=log)
"""


@pytest.fixture
def forks(tmp_path, monkeypatch):
    (tmp_path / "slow_import.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}", "SLOW_LOG": str(tmp_path / "imported")}
    made = Forks(["slow_import"], environment, tmp_path / "imports.log")
    yield made, environment, tmp_path
    made.close()


def start(forks, environment, tmp_path, name="run", **more):
    """A run without a config: it fails with that, which is enough of a life."""
    (tmp_path / name).mkdir()
    with open(tmp_path / name / "run.log", "ab") as log:
        return forks.start(tmp_path / name, log, {**environment, **more})


def hanging(run_dir):
    """A folder whose run reads its config for ever."""
    (run_dir / ".hydra").mkdir(parents=True)
    os.mkfifo(run_dir / ".hydra" / "config.yaml")


def test_many_runs_pay_the_import_once(forks):
    server, environment, tmp_path = forks
    processes = [start(server, environment, tmp_path, f"run{n}", TMPDIR=str(tmp_path)) for n in range(5)]
    assert [process.wait(30) for process in processes] == [1] * 5
    assert len({process.pid for process in processes}) == 5
    assert len((tmp_path / "imported").read_text().split()) == 1
    assert processes[0].poll() == 1
    for n, process in enumerate(processes):
        said = [json.loads(line) for line in process.stdout]
        assert "config.yaml" in said[-1]["error"]
        assert json.loads((tmp_path / f"run{n}" / "status.json").read_text())["state"] == "failed"
        assert "FileNotFoundError" in (tmp_path / f"run{n}" / "run.log").read_text()


def test_a_run_that_wants_another_environment_is_a_python_of_its_own(forks):
    server, environment, tmp_path = forks
    process = start(server, environment, tmp_path, OMP_NUM_THREADS="7")
    assert isinstance(process, subprocess.Popen)
    assert process.wait(60) == 1


def test_a_signal_reaches_a_fork_and_its_end_is_told(forks):
    server, environment, tmp_path = forks
    hanging(tmp_path / "run")
    with open(tmp_path / "run" / "run.log", "ab") as log:
        process = server.start(tmp_path / "run", log, environment)
    assert os.getpgid(process.pid) == process.pid and process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def test_when_the_sweep_dies_the_forks_and_their_origin_do(tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "status.json")
    sweep = f"""
import os, sys, time
from pathlib import Path
from vlm_eval.scheduling.forks import Forks
forks = Forks(["json"], dict(os.environ), Path({str(tmp_path / "imports.log")!r}))
with open({str(tmp_path / "run" / "run.log")!r}, "ab") as log:
    process = forks.start(Path({str(tmp_path / "run")!r}), log, dict(os.environ))
print(process.pid, forks._server.pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", sweep], stdout=subprocess.PIPE, text=True) as dying:
        pids = [int(word) for word in dying.stdout.readline().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
        time.sleep(0.5)  # the run asks for the signal at its beginning
        dying.kill()
    until = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_when_their_origin_dies_the_next_run_is_a_python_of_its_own(forks):
    server, environment, tmp_path = forks
    assert start(server, environment, tmp_path, "first").wait(30) == 1
    server._server.kill()
    server._server.wait()
    time.sleep(0.2)
    process = start(server, environment, tmp_path, "second")
    assert isinstance(process, subprocess.Popen) and process.wait(60) == 1


FORKS_THE_SECOND_TIME = """
import os
really = os.fork
def fork():
    os.fork = really
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
"""


def test_a_fork_that_is_refused_costs_that_run_its_imports_alone(tmp_path, capfd):
    (tmp_path / "poor.py").write_text(FORKS_THE_SECOND_TIME)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    server = Forks(["poor"], environment, tmp_path / "imports.log")
    first, second = (start(server, environment, tmp_path, name) for name in ("first", "second"))
    assert isinstance(first, subprocess.Popen) and not isinstance(second, subprocess.Popen)
    assert "first: not forked, imports anew: " in (said := capfd.readouterr().err) and "unavailable" in said
    assert [first.wait(60), second.wait(60)] == [1, 1]
    server.close()


def test_imports_that_nobody_wants_any_more_are_not_waited_for(tmp_path):
    (tmp_path / "endless.py").write_text("import time; time.sleep(60)")
    server = Forks(["endless"], {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}, tmp_path / "imports.log")
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 5


def test_what_an_import_says_is_kept_and_an_empty_log_is_not(tmp_path):
    (tmp_path / "talks.py").write_text("print('imported with a word')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    for module, left in (("talks", "imported with a word\n"), ("no_such_module_at_all", "ModuleNotFoundError")):
        log = tmp_path / f"{module}.log"
        server = Forks([module], environment, log)
        start(server, environment, tmp_path, f"run of {module}").wait(30)  # by then it has imported
        server.close()
        assert left in log.read_text()
    server = Forks(["json"], environment, tmp_path / "empty.log")
    server.close()
    assert not (tmp_path / "empty.log").exists()


def test_a_key_in_what_an_import_says_is_masked(tmp_path):
    (tmp_path / "tells.py").write_text("import os; print(os.environ['SOME_API_KEY'])")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}", "SOME_API_KEY": "correct-horse-battery-9"}
    server = Forks(["tells"], environment, Path(tmp_path / "log"))
    start(server, environment, tmp_path).wait(30)
    server.close()
    assert (tmp_path / "log").read_text() == "***\n"


def test_start_anew_is_a_run_of_its_own_group(tmp_path):
    with open(tmp_path / "run.log", "ab") as log:
        process = start_anew(tmp_path, log, dict(os.environ))
    assert os.getpgid(process.pid) == process.pid
    assert process.wait(60) == 1
