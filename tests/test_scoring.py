"""What a metric says of itself reaches the person: before the run, at its end, in the files, in MLflow."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vlm_eval.store import RunFolder, read_json

from .helpers import FAULTY, make_data


@pytest.fixture
def run(vlm_eval_cli, tmp_path):
    data = make_data(tmp_path / "data")
    fixed = (*FAULTY, "task=vqa", f"task.data.root={data}", "metrics=[tech,odd]", "judge=none")
    return lambda *more, sweep=False: vlm_eval_cli(*(["-m"] if sweep else []), *fixed, *more)


def the_run() -> RunFolder:
    [folder] = [p.parent for p in Path("multirun").glob("*/*/status.json")]
    return RunFolder(folder)


def test_a_metric_that_cannot_work_stops_everything_before_the_engine(run):
    ended = run("metrics.odd.mode=refused", "tracking=none")
    assert (ended.code, ended.err) == (2, "vlm-eval: metrics.odd.mode=refused: no weights in that folder\n")
    assert not Path("multirun").exists()


def test_a_metric_that_this_machine_has_not_is_said_first_and_last_and_the_rest_is_scored(run):
    ended = run("metrics.odd.mode=unavailable", "tracking=none", sweep=True)
    assert ended.code == 0
    assert "vlm-eval: odd will not be scored: no Java here\n" in ended.err
    assert "odd: not scored in 1 of 1 runs: no Java here\n" in ended.out
    folder = the_run()
    assert {s.unscored["odd"] for s in folder.read("scores")} == {"no Java here"}
    assert folder.provenance()["not_scored"] == {"odd": "no Java here"}
    assert "odd/mean" not in folder.summary() and "tech/length_chars_mean" in folder.summary()


def test_what_the_numbers_depend_on_is_kept(run):
    from vlm_eval.tracking.client import client_of

    assert run("tracking=mlflow_local").code == 0
    folder = the_run()
    assert folder.provenance()["metrics"] == {"tech": {}, "odd": {"maker": "one"}}
    tags = client_of("sqlite:///mlruns/mlflow.db").get_run(folder.status()["mlflow_run_id"]).data.tags
    assert tags["vlm_eval.odd.maker"] == "one"


def test_runs_of_different_makers_are_flagged_in_table_files_and_mlflow(run, monkeypatch):
    from vlm_eval.tracking.client import client_of

    fixed = ("tracking=mlflow_local", "hydra.sweep.dir=sweep")
    assert run("quant=awq", *fixed, sweep=True).code == 0
    monkeypatch.setenv("ODD_METRIC_MAKER", "two")
    ended = run("quant=awq,bf16", *fixed, sweep=True)  # awq is done already
    said = "odd: not comparable between all runs, odd.maker differs: one (1 runs), two (1 runs)"
    assert ended.code == 0 and said in ended.out.splitlines()
    sweep = read_json(Path("sweep/sweep.json"))
    assert sweep["not_comparable"] == [said]
    with open("sweep/comparison.csv", encoding="utf-8", newline="") as table:
        assert {row["odd.maker"] for row in csv.DictReader(table)} == {"one", "two"}
    parent = client_of("sqlite:///mlruns/mlflow.db").get_run(sweep["mlflow_run_id"])
    assert parent.data.tags["vlm_eval.not_comparable"] == said


def test_scores_that_are_whole_are_not_made_again(run, monkeypatch, tmp_path):
    log = tmp_path / "log"
    monkeypatch.setenv("ODD_METRIC_LOG", str(log))
    fixed = ("tracking=none", "hydra.run.dir=run")
    assert run(*fixed).code == 0
    RunFolder("run").set_status("interrupted", "judge", "stopped by a signal")
    assert run(*fixed).code == 0
    assert log.read_text().count("scored") == 1


def test_a_metric_is_asked_once_before_a_sweep_and_once_for_each_of_its_configs(run, monkeypatch, tmp_path):
    log = tmp_path / "log"
    monkeypatch.setenv("ODD_METRIC_LOG", str(log))
    assert run("quant=awq,bf16", "sweep.dry_run=true", sweep=True).code == 0
    assert log.read_text().split() == ["checked"]
    assert run("quant=awq,bf16", "metrics.odd.mode=ok,unavailable", "sweep.dry_run=true", sweep=True).code == 0
    assert log.read_text().split() == ["checked"] * 3


def test_a_metric_that_breaks_fails_the_run_and_loses_no_answer(run):
    ended = run("metrics.odd.mode=broken", "tracking=none", "hydra.run.dir=run")
    assert ended.code == 1
    status = RunFolder("run").status()
    assert (status["stage"], status["error"]) == ("score", "ValueError: the metric broke")
    assert len(RunFolder("run").read("answers")) == 3
