"""scripts/mlflow-import: a sweep's folder into a store that did not get it, once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers import REPO
from tests.report.sweep import make_sweep
from vlm_eval.report.write import write_report
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tracking.mlflow import KEY


def run_import(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vlm_eval.import_sweep", str(folder), *options]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=300)


@pytest.fixture
def sweep(tmp_path, empty_store) -> Path:
    """A judged sweep of three, one failed, that no store has heard of; its own store is made and empty."""
    folder = make_sweep(tmp_path / "свип 'a'", quants=("gptq4", "awq", "bf16"), failed=["awq"])
    (folder / "mlruns").mkdir()
    shutil.copy(empty_store, folder / "mlruns" / "mlflow.db")
    write_report(folder)
    return folder


def store_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")


def runs_in(client: MlflowClient, experiment: str = "vlm-eval") -> list:
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def rows_in(client: MlflowClient) -> int:
    experiment = client.get_experiment_by_name("vlm-eval").experiment_id
    return len(client.search_traces(locations=[experiment], include_spans=False, max_results=500))


def test_a_sweep_is_there_once_however_often_it_is_imported(sweep, tmp_path):
    done = run_import(sweep)
    assert done.returncode == 0 and "3 of 3 runs are in MLflow" in done.stdout, done.stderr
    client = store_of(sweep)
    [parent] = [r for r in runs_in(client) if r.data.tags["vlm_eval.kind"] == "sweep"]
    children = [r for r in runs_in(client) if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.data.tags["quant"]: r.info.status for r in children} == {
        "gptq4": "FINISHED",
        "awq": "FAILED",
        "bf16": "FINISHED",
    }
    assert parent.info.status == "FINISHED" and parent.data.tags["vlm_eval.failed_runs"] == "1"
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.json", "config.yaml", "report"} <= artifacts
    assert parent.data.params["task.name"] == "vqa" and "quant.name" not in parent.data.params
    assert parent.data.params["command"] == "vlm-eval -m quant=gptq4,bf16"
    assert rows_in(client) == 12
    metrics = {r.data.tags["quant"]: r.data.metrics["judge/match_ratio"] for r in children if r.info.status != "FAILED"}
    assert metrics == pytest.approx({"gptq4": 4.4 / 6, "bf16": 0.9})
    assert read_json(sweep / "sweep.json")["mlflow_run_id"] == parent.info.run_id

    # Again, after requests whose answer was lost: MLflow's client asked twice, and the server made a run each time.
    for run in (parent, *children):
        client.create_run(run.info.experiment_id, tags={KEY: run.data.tags[KEY]})
    said = run_import(sweep)
    assert said.returncode == 0 and said.stderr.count("is of the same folder") == 4, said.stderr
    assert {r.info.run_id for r in runs_in(client)} == {r.info.run_id for r in (parent, *children)}
    # And from a copy whose files know nothing of a store.
    copy = shutil.copytree(sweep, tmp_path / "elsewhere" / "copy")
    for run in (RunFolder(copy / f"demo-{q}-vqa") for q in ("gptq4", "awq", "bf16")):
        run.set_mlflow_run(None)
    uri = f"sqlite:///{sweep}/mlruns/mlflow.db"
    assert run_import(copy, "--uri", uri).returncode == 0
    assert len(runs_in(client)) == 4 and rows_in(client) == 12
    [bf16] = [r.info.run_id for r in children if r.data.tags["quant"] == "bf16"]
    assert len(client.get_metric_history(bf16, "judge/match_ratio")) == 1


def test_another_store_gets_it_too(sweep, tmp_path, empty_store):
    assert run_import(sweep).returncode == 0
    shutil.copy(empty_store, tmp_path / "second.db")
    options = ("--uri", "sqlite:///second.db", "--artifacts", "second", "--experiment", "вторая")
    done = run_import(sweep, *options)
    assert done.returncode == 0, done.stderr
    # The hint is not to scripts/mlflow, which opens the other one.
    assert f"In MLflow's sqlite:///{tmp_path}/second.db" in done.stdout
    client = MlflowClient(f"sqlite:///{tmp_path}/second.db")
    runs = runs_in(client, "вторая")
    [parent] = [r for r in runs if r.data.tags["vlm_eval.kind"] == "sweep"]
    assert [r.data.tags.get("mlflow.parentRunId") for r in runs if r is not parent] == [parent.info.run_id] * 3
    assert (tmp_path / "second").is_dir()
    # The sweep's own store is as it was, and goes on as it was.
    own = store_of(sweep)
    before = {r.info.run_id: r.data.tags.get("mlflow.parentRunId") for r in runs_in(own)}
    assert run_import(sweep).returncode == 0
    assert {r.info.run_id: r.data.tags.get("mlflow.parentRunId") for r in runs_in(own)} == before
    assert len(before) == 4 and rows_in(own) == 12


def test_another_experiment_of_the_same_store_is_another_place(sweep):
    assert run_import(sweep).returncode == 0
    assert run_import(sweep, "--experiment", "другой").returncode == 0
    assert len(runs_in(store_of(sweep))) == len(runs_in(store_of(sweep), "другой")) == 4


def test_a_sweep_that_can_only_be_read_is_imported(sweep):
    """As from an archive; root may write anywhere, so the folder is one that lets nobody."""
    if not os.geteuid():
        pytest.skip("root writes into read-only folders")
    for folder in (sweep, *sweep.glob("demo-*")):
        folder.chmod(0o555)
    try:
        assert run_import(sweep, "--uri", f"sqlite:///{sweep}/mlruns/mlflow.db").returncode == 0
    finally:
        for folder in (sweep, *sweep.glob("demo-*")):
            folder.chmod(0o755)


def test_a_run_that_is_being_made_is_left_alone(sweep):
    with open(sweep / "demo-bf16-vqa" / "run.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        done = run_import(sweep)
    assert done.returncode == 1 and "demo-bf16-vqa: another process works on this run" in done.stderr
    assert len(runs_in(store_of(sweep))) == 3


def test_a_run_alone_is_imported_and_one_that_never_ended_is_named(sweep):
    assert run_import(sweep / "demo-bf16-vqa", "--uri", f"sqlite:///{sweep}/mlruns/mlflow.db").returncode == 0
    [run] = runs_in(store_of(sweep))
    assert run.data.tags["quant"] == "bf16" and "mlflow.parentRunId" not in run.data.tags
    RunFolder(sweep / "demo-gptq4-vqa").set_status("running", "generate")
    done = run_import(sweep)
    assert done.returncode == 1
    assert "demo-gptq4-vqa: left out, it is running" in done.stderr and "2 of 3 runs are in MLflow" in done.stdout


def test_a_full_disk_while_logging_costs_nothing_that_cannot_be_made_good(sweep):
    """No file may grow by more than some kilobytes: sqlite says that its disk is full."""
    store = sweep / "mlruns" / "mlflow.db"
    limit = f"ulimit -f {store.stat().st_size // 1024 + 100}"
    before = {file: file.read_bytes() for file in sweep.glob("demo-*/*.jsonl")}
    command = [*("bash", "-c", f'{limit} && exec "$0" "$@"'), sys.executable, "-m", "vlm_eval.import_sweep"]
    full = subprocess.run([*command, str(sweep)], cwd=sweep.parent, capture_output=True, text=True, timeout=300)
    assert full.returncode == 1, full.stderr
    said = [line for line in full.stderr.splitlines() if line.startswith("scripts/mlflow-import: ")]
    assert said and all("not tracked: " in line or "MLflow: " in line for line in said)
    assert rows_in(store_of(sweep)) < 12
    assert {file: file.read_bytes() for file in sweep.glob("demo-*/*.jsonl")} == before
    assert run_import(sweep).returncode == 0
    assert len(runs_in(store_of(sweep))) == 4 and rows_in(store_of(sweep)) == 12


def test_what_cannot_be_imported_is_one_line(sweep, tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = run_import(tmp_path / "empty")
    assert nothing.returncode == 2 and "no run here that ended" in nothing.stderr
    down = run_import(sweep, "--uri", "http://127.0.0.1:9")
    assert down.returncode == 2 and down.stderr.startswith("scripts/mlflow-import: MLflow: ")
    assert "Traceback" not in down.stderr
    (tmp_path / "no.db").write_text("no database")
    strange = run_import(sweep, "--uri", f"sqlite:///{tmp_path}/no.db")
    assert strange.returncode == 2 and "file is not a database" in strange.stderr.splitlines()[-1]


def test_the_script_is_the_same_command(sweep):
    done = subprocess.run([REPO / "scripts" / "mlflow-import", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "scripts/mlflow-import" in done.stdout
