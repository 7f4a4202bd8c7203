"""What a finished sweep left in MLflow: the local store it wrote to, and a real server over HTTP."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from mlflow import MlflowClient

from tests import mlflow_server
from tests.engine.conftest import vlm_eval
from vlm_eval import resolvers
from vlm_eval.store import RunFolder
from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig

pytestmark = pytest.mark.engine


def check_child(client: MlflowClient, run, folder) -> None:
    """Params, metrics and artifacts of one run are those of its folder."""
    assert run.info.status == "FINISHED"
    assert {k: run.data.metrics[k] for k in folder.summary()} == pytest.approx(folder.summary())
    assert run.data.params["quant.name"] in ("gptq8", "awq")
    assert run.data.params["task.sampling.temperature"] == "0.1"
    names = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"answers.jsonl", "scores.jsonl", "latency.jsonl", "summary.json", "provenance.json", "status.json"} <= names
    [images] = client.list_artifacts(run.info.run_id, "screenshots")
    assert len(client.list_artifacts(run.info.run_id, images.path)) == 10


def test_local_store_has_a_parent_and_a_child_a_run(demo_sweep):
    client = MlflowClient(f"sqlite:///{demo_sweep.cwd}/mlruns/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "vlm-eval"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    sweep = json.loads((demo_sweep.folder / "sweep.json").read_text())
    assert parent.info.run_id == sweep["mlflow_run_id"]
    assert parent.info.status == "FINISHED"
    assert {"sweep.json", "comparison.csv"} <= {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {r.info.run_name for r in children} == {"gptq8", "awq"}
    for folder in demo_sweep.runs:
        [child] = [r for r in children if r.info.run_id == folder.status()["mlflow_run_id"]]
        check_child(client, child, folder)


@pytest.fixture
def server(tmp_path):
    port = mlflow_server.free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/m.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    # Without its job runner, as in scripts/mlflow: that serves MLflow's own judges, and hung here at start.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = mlflow_server.start(command, port, tmp_path / "server.log", **environment)
    yield f"http://127.0.0.1:{port}"
    mlflow_server.kill(process)


def test_a_server_gets_the_same_over_http(demo_sweep, server, tmp_path):
    tracker = Mlflow(MlflowConfig(uri=server, artifacts=None))
    # A copy: it has the id of its run in the local store, which this server does not know.
    folder = RunFolder(shutil.copytree(demo_sweep.runs[0].path, tmp_path / "run"))
    assert folder.status()["mlflow_run_id"]
    run_id = tracker.log_run(resolvers.load_config(folder.path), folder)
    client = MlflowClient(server)
    check_child(client, client.get_run(run_id), folder)


def test_a_tracker_that_is_down_loses_nothing_and_is_said(tmp_path):
    run = vlm_eval(
        tmp_path,
        "quant=awq",
        "task.repeats=1",
        "engine.latency_pass.items=0",
        "tracking=mlflow_server",
        "tracking.uri=http://127.0.0.1:9",
        folder="run",
    )
    status = json.loads((run.folder / "status.json").read_text())
    assert status["state"] == "ok" and "not tracked" in status["tracking"] and status["mlflow_run_id"] is None
    assert "not tracked" in run.result.stderr
