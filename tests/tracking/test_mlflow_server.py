"""scripts/mlflow_server, the real thing: MLflow over HTTP, a PostgreSQL of its own, what is left after every end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from tests import mlflow_server
from tests.helpers import REPO
from tests.report.sweep import make_sweep
from vlm_eval import resolvers
from vlm_eval.store import RunFolder, read_json, write_json
from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig

pytestmark = pytest.mark.needs("postgres")

SCRIPT = str(REPO / "scripts" / "mlflow_server")
SAID = "Как сменить тариф? 🙂"
PASSWORD = "geheim42"


def environment(**more: str) -> dict[str, str]:
    # MLFLOW_TRACKING_URI: what the person exported in the shell where the server is started again.
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_BACKEND_STORE_URI"}
    return kept | {"VLM_EVAL_VENV": sys.prefix, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"} | more


def refused(*arguments: str | Path, **more: str) -> str:
    """What it says, in one line, when it does not start."""
    command = [SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout, (done.stdout, done.stderr)
    [line] = done.stderr.splitlines()
    assert line.startswith("scripts/mlflow_server: ")
    return line


def running(what: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and what in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


class Server:
    def __init__(self, data: Path):
        self.data, self.log = data, data.with_suffix(".log")
        self.port = mlflow_server.free_port()
        self.process: subprocess.Popen | None = None

    def start(self, **more: str) -> MlflowClient:
        command = [SCRIPT, "--data", str(self.data), f"--port={self.port}", "--workers", "1"]
        self.process = mlflow_server.start(command, self.port, self.log, **environment(**more))
        return MlflowClient(f"http://127.0.0.1:{self.port}")

    def database(self, query: str) -> list[tuple]:
        engine = create_engine(f"postgresql://mlflow@/mlflow?host={(self.data / 'socket').readlink()}")
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def one(self, argument: str) -> psutil.Process:
        """Its process with this argument: `--artifacts-destination` of MLflow, `-k` of PostgreSQL."""
        [found] = [p for p in psutil.Process(self.process.pid).children() if argument in p.cmdline()]
        return found

    def end(self, how: signal.Signals) -> int:
        """Its exit code; nothing may be left."""
        family = self.family()
        self.process.send_signal(how)
        code = self.process.wait(30)
        self.assert_gone(family)
        return code

    def assert_gone(self, family: list[psutil.Process], seconds: float = 0) -> None:
        _, alive = psutil.wait_procs(family, seconds)
        assert not alive and not running(str(self.data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where PostgreSQL may be: root's runs as the user postgres, who may not enter pytest's folders."""
    if os.geteuid():
        yield tmp_path_factory.mktemp("server")
    else:
        with tempfile.TemporaryDirectory(prefix="vlm-eval-test.", dir="/tmp") as made:
            os.chmod(made, 0o711)
            yield Path(made)


@pytest.fixture(scope="module")
def started(folder):
    server = Server(folder / "data")
    yield server
    if server.process and server.process.poll() is None:
        server.end(signal.SIGTERM)


@pytest.fixture
def server(started):
    """Running: started where the test before ended it."""
    if started.process is None or started.process.poll() is not None:
        started.start()
    return started


@pytest.fixture
def client(server) -> MlflowClient:
    return MlflowClient(f"http://127.0.0.1:{server.port}")


@pytest.fixture(scope="module")
def run_id(started, tmp_path_factory) -> str:
    client = started.start()
    run_id = client.create_run(client.create_experiment("vlm-eval"), run_name="проба").info.run_id
    client.set_tag(run_id, "вопрос", SAID)
    client.log_metric(run_id, "judge/match_ratio", 0.93)
    file = tmp_path_factory.mktemp("artifact") / "ответ.txt"
    file.write_text(SAID)
    client.log_artifact(run_id, str(file))
    return run_id


def assert_is_there(client: MlflowClient, run_id: str, to: Path) -> None:
    run = client.get_run(run_id)
    assert run.info.run_name == "проба" and run.data.tags["вопрос"] == SAID
    assert run.data.metrics == {"judge/match_ratio": 0.93}
    assert Path(client.download_artifacts(run_id, "ответ.txt", str(to))).read_text() == SAID


def test_a_run_over_http_is_in_postgresql(run_id, server, client, tmp_path):
    assert_is_there(client, run_id, tmp_path)
    [found] = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.`вопрос` ILIKE '%СМЕНИТЬ ТАРИФ%'")
    assert found.info.run_id == run_id
    assert server.database(f"select value from tags where run_uuid = '{run_id}' and key = 'вопрос'") == [(SAID,)]
    assert list((server.data / "artifacts").rglob("ответ.txt"))
    assert f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{server.port}\n" in server.log.read_text()


def test_a_sweep_is_there_with_all_rows_and_once(run_id, server, client, tmp_path):
    """tracking=mlflow_server over HTTP: rows, judgements, screenshots and odd letters, logged twice."""
    folder = make_sweep(tmp_path / "sweep", items=4, texts={"item/2": "пол \ud83d эмодзи и \x00"})
    (folder / "demo-bf16-vqa" / "system.jsonl").write_text('{"time_s": 1.5, "cpu_percent": 50.0, "host_gib": 2.0}\n')
    long = RunFolder(folder / "demo-gptq4-vqa")  # PostgreSQL keeps 50 characters of a row's name
    for kind in ("items", "answers", "scores", "judgements"):
        long.replace(kind, [dataclasses.replace(x, item_id=f"{x.item_id} {SAID * 5}") for x in long.read(kind)])
    tracker = Mlflow(MlflowConfig(uri=f"http://127.0.0.1:{server.port}", experiment="свип"))
    sweep = read_json(folder / "sweep.json")
    for _ in range(2):
        sweep["mlflow_run_id"] = tracker.begin_sweep(sweep, str(folder))
        write_json(folder / "sweep.json", sweep)
        runs = [RunFolder(folder / f"demo-{quant}-vqa") for quant in ("gptq4", "bf16")]
        ids = [tracker.log_run(resolvers.load_config(run.path), run) for run in runs]
        tracker.end_sweep(sweep, str(folder))
    experiment = client.get_experiment_by_name("свип").experiment_id
    assert {run.info.run_id for run in client.search_runs([experiment])} == {sweep["mlflow_run_id"], *ids}
    assert len(client.search_traces(locations=[experiment], run_id=ids[0])) == 4
    found = client.search_traces(locations=[experiment], run_id=ids[1])
    assert len(found) == 4
    odd = next(t for t in found if t.info.client_request_id == "item/2 #0")
    assert odd.data.spans[0].outputs == "пол ? эмодзи и \N{REPLACEMENT CHARACTER}"
    assert odd.data.spans[0].inputs["screenshot"].startswith("mlflow-attachment://")
    assert {a.name for a in odd.info.assessments if a.rationale} == {"judge stern ab", "judge stern ba"}
    [used] = client.get_metric_history(ids[1], "system/process_memory_usage_megabytes")
    assert (used.value, used.timestamp) == (2048.0, 1500)
    [dataset] = client.get_run(ids[1]).inputs.dataset_inputs
    assert dataset.dataset.name == "data" and '"num_rows": 4' in dataset.dataset.profile


def test_a_server_that_dies_while_rows_are_written_costs_no_row(run_id, server, tmp_path):
    folder = make_sweep(tmp_path / "sweep", quants=("bf16",), items=60)
    command = [sys.executable, "-m", "vlm_eval.import_sweep", str(folder), "--experiment", "смерть"]
    command += ["--uri", f"http://127.0.0.1:{server.port}"]
    one = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    query = "select count(*) from trace_info where client_request_id like 'item/5%'"
    for _ in range(600):
        if server.database(query) != [(0,)]:
            break
        time.sleep(0.05)
    mlflow_server.kill(server.process)
    began = time.monotonic()
    out, said = one.communicate(timeout=300)
    assert one.returncode in (1, 2) and time.monotonic() - began < 200, said  # not some seconds a row
    assert "MLflow" in said or "not tracked" in said
    client = server.start()
    two = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())
    assert two.returncode == 0, two.stderr
    experiment = client.get_experiment_by_name("смерть").experiment_id
    found = client.search_traces(locations=[experiment], include_spans=False, max_results=500)
    whole = [t.info.client_request_id for t in found if "mlflow.sourceRun" in t.info.trace_metadata]
    assert sorted(whole) == sorted(f"item/{n} #0" for n in range(60))
    assert len(found) - len(whole) <= 1  # a first half is young, and removed when it is 10 minutes old
    assert len(client.search_runs([experiment])) == 2


def test_only_loopback_is_bound_and_by_mlflow_alone(run_id, server):
    mlflow = [p for p in server.family() if p.name() != "postgres"]
    addresses = {c.laddr for p in mlflow for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert addresses == {("127.0.0.1", server.port)}
    assert not server.one("-k").net_connections("inet")
    assert (server.data / "socket").stat().st_mode & 0o777 == 0o700


def test_a_second_start_is_refused(run_id, server, client, folder):
    assert f"another scripts/mlflow_server runs on {server.data}" in refused("--data", server.data, "--port", "5001")
    assert f"port {server.port} of 127.0.0.1 is taken" in refused("--data", folder / "b", "--port", server.port)
    assert not running(str(folder / "b")) and not (folder / "b" / "postgres").exists()
    assert client.get_run(run_id)  # the first one is none the worse


def test_sigterm_ends_all_and_the_next_start_has_the_runs(run_id, server, tmp_path):
    socket = (server.data / "socket").readlink()
    assert server.end(signal.SIGTERM) == 143
    assert not socket.exists() and not (server.data / "postgres" / "postmaster.pid").exists()
    assert "database system is shut down" in (server.data / "postgres.log").read_text()
    assert_is_there(server.start(), run_id, tmp_path)


def test_killed_itself_it_takes_both_along(run_id, server, tmp_path):
    family = server.family()
    mlflow_server.kill(server.process)
    server.assert_gone(family, 20)
    assert_is_there(server.start(), run_id, tmp_path)


def test_all_killed_at_once_it_starts_again(run_id, server, tmp_path):
    socket = (server.data / "socket").readlink()
    family = server.family()
    for process in [psutil.Process(server.process.pid), *family]:
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's end with their parent
            process.kill()
    server.process.wait()
    server.assert_gone(family, 5)
    pid = server.data / "postgres" / "postmaster.pid"
    pid.write_text(pid.read_text().replace(pid.read_text().split()[0], str(os.getpid()), 1))  # another's by now
    assert_is_there(server.start(), run_id, tmp_path)
    assert not socket.exists()


def test_a_password_in_an_argument_is_refused(folder):
    for uri in (f"postgresql://team:{PASSWORD}@host/mlflow", f"postgresql://team@host/mlflow?password={PASSWORD}"):
        for arguments in (["--database", uri], [f"--database={uri}"], ["--registry-store-uri", uri]):
            line = refused("--data", folder / "b", *arguments)
            assert "MLFLOW_BACKEND_STORE_URI" in line and PASSWORD not in line


def test_a_password_from_the_environment_is_seen_nowhere(run_id, server, folder):
    """Another database than its own: here the one of the first server, whose PostgreSQL lets any password in."""
    uri = f"postgresql://mlflow:{PASSWORD}@/mlflow?host={(server.data / 'socket').readlink()}"
    other = Server(folder / "other")
    client = other.start(MLFLOW_BACKEND_STORE_URI=uri)
    assert client.get_run(run_id).data.tags["вопрос"] == SAID
    assert len(other.family()) >= 3 and not running(PASSWORD)
    assert not (other.data / "postgres").exists()
    assert other.end(signal.SIGINT) == 130
    assert PASSWORD not in other.log.read_text()
    assert server.process.poll() is None


@pytest.mark.parametrize(
    "uri, said",
    [
        (f"postgresql://team:{PASSWORD}@127.0.0.1:9/mlflow", "Connection refused"),
        (f"postgresql://team:ge@{PASSWORD}@127.0.0.1:9/mlflow", "@ is written %40"),
        (f"no database {PASSWORD}", "not a database URI"),
    ],
)
def test_a_database_that_is_not_there_is_said(folder, uri, said):
    port = str(mlflow_server.free_port())
    line = refused("--data", folder / "b", "--port", port, MLFLOW_BACKEND_STORE_URI=uri)
    assert said in line and PASSWORD not in line


def test_a_broken_data_folder_is_said(folder):
    port = f"--port={mlflow_server.free_port()}"
    (folder / "file").touch()
    assert "cannot write to the folder" in refused("--data", folder / "file", port)
    (folder / "empty" / "postgres").mkdir(parents=True)
    assert "is no PostgreSQL cluster" in refused("--data", folder / "empty", port)
    assert not running(str(folder / "empty"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_a_folder_that_the_user_postgres_may_not_enter_is_said(folder):
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    line = refused("--data", closed / "a" / "b", f"--port={mlflow_server.free_port()}")
    assert f"may not enter {closed}:" in line


@pytest.mark.parametrize("victim, name", [("--artifacts-destination", "mlflow server"), ("-k", "PostgreSQL")])
def test_when_one_of_the_two_dies_the_other_ends(run_id, server, victim, name):
    family = server.family()
    server.one(victim).kill()
    assert server.process.wait(30) == 1
    server.assert_gone(family, 5)
    assert server.log.read_text().splitlines()[-1].startswith(f"scripts/mlflow_server: {name}")
