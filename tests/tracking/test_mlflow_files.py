"""What MLflow gets of a run and of a sweep, in a real local store."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from tests.helpers import python
from tests.report.sweep import make_sweep
from vlm_eval import resolvers
from vlm_eval.report.write import write_report
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig


@pytest.fixture
def store(tmp_path) -> MlflowConfig:
    return MlflowConfig(uri=f"sqlite:///{tmp_path}/m.db", artifacts=str(tmp_path / "artifacts"))


def logged(store: MlflowConfig, run: RunFolder) -> str:
    return Mlflow(store).log_run(resolvers.load_config(run.path), run)


def table(store: MlflowConfig, run_id: str) -> list[dict]:
    file = download_artifacts(run_id=run_id, artifact_path="answers.json", tracking_uri=store.uri)
    found = json.loads(Path(file).read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_answers_are_one_table_keyed_by_item_and_logged_again_it_is_replaced(store, tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "bf16"), items=6)
    runs = [RunFolder(folder / f"demo-{quant}-vqa") for quant in ("gptq4", "bf16")]
    ids = [logged(store, run) for run in runs]
    assert [logged(store, run) for run in runs] == ids  # no row twice
    first, second = (table(store, run_id) for run_id in ids)
    assert len(first) == 6
    assert [(r["item"], r["question"]) for r in first] == [(r["item"], r["question"]) for r in second]
    assert list(first[0])[:2] == ["item", "answer"] and first[0]["item"] == "item/0 #0"  # what the page begins with
    assert first[0]["answer"] == "Ответ gptq4" and first[0]["match_ratio"] == pytest.approx(0.4)
    assert first[0]["rationale"].splitlines()[1] == "stern ba: потому что ba <b>gptq4</b>"
    tags = MlflowClient(store.uri).get_run(ids[0]).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "answers.json", "type": "table"}]


def test_runs_are_found_and_grouped_by_their_judge_and_data(store, tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "bf16"))
    ids = [logged(store, RunFolder(folder / f"demo-{quant}-vqa")) for quant in ("gptq4", "bf16")]
    client = MlflowClient(store.uri)
    [experiment] = [e.experiment_id for e in client.search_experiments() if e.name == "vlm-eval"]
    found = client.search_runs([experiment], "tags.judge = 'stern' and tags.quant = 'bf16'")
    assert [run.info.run_id for run in found] == [ids[1]]
    hashes = {client.get_run(run_id).data.tags["data_sha256"] for run_id in ids}
    assert len(hashes) == 1 and len(hashes.pop()) == 64
    run = RunFolder(folder / "demo-bf16-vqa")
    first, *others = run.read("items")
    run.replace("items", [dataclasses.replace(first, reference="Другой чат"), *others])
    logged(store, run)
    assert client.get_run(ids[0]).data.tags["data_sha256"] != client.get_run(ids[1]).data.tags["data_sha256"]


def test_a_run_says_which_checkpoint_was_loaded(store, tmp_path):
    run = RunFolder(make_sweep(tmp_path / "s") / "demo-gptq4-vqa")
    run.provenance(engine={"checkpoint": "hub/name", "checkpoint_sha256": "ab12", "bits": 4, "weights_gib": 6.5})
    tags = MlflowClient(store.uri).get_run(logged(store, run)).data.tags
    found = [tags[name] for name in ("checkpoint", "checkpoint_sha256", "bits", "weights_gib")]
    assert found == ["hub/name", "ab12", "4", "6.5"]


def test_the_report_is_an_artifact_of_the_sweep(store, tmp_path):
    folder = make_sweep(tmp_path / "s")
    sweep, tracker = read_json(folder / "sweep.json"), Mlflow(store)
    sweep["mlflow_run_id"] = tracker.begin_sweep(sweep, str(folder))
    write_report(folder)
    tracker.end_sweep(sweep, str(folder))
    names = {a.path for a in MlflowClient(store.uri).list_artifacts(sweep["mlflow_run_id"], "report")}
    assert {"report/index.html", "report/report.md", "report/judgement_scores.xlsx"} <= names


def test_a_new_store_is_made_without_a_word(tmp_path):
    program = (
        "from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig; "
        "Mlflow(MlflowConfig(uri='sqlite:///new/m.db', artifacts='a')).begin_sweep("
        "{'sweep_id': 's', 'command': 'c', 'started': '2026-11-24T12:00:00+00:00'}, 'here')"
    )
    made = python(program, cwd=tmp_path)
    assert made.returncode == 0 and (made.stdout, made.stderr) == ("", "")
    assert (tmp_path / "new" / "m.db").is_file()


def test_a_run_that_was_deleted_on_the_page_is_logged_as_a_new_one(store, tmp_path):
    run = RunFolder(make_sweep(tmp_path / "s") / "demo-bf16-vqa")
    first = logged(store, run)
    MlflowClient(store.uri).delete_run(first)
    second = logged(store, run)
    assert second != first and run.status()["mlflow_run_id"] == second
