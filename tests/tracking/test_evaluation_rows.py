"""A run's answers as evaluation rows in a real MLflow store: all there, paired, never twice."""

from __future__ import annotations

import dataclasses
import io
import random
import shutil
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from PIL import Image

from tests.report.sweep import make_sweep
from vlm_eval import resolvers
from vlm_eval.judging import summarise_judges
from vlm_eval.rows import Answer, Judgement, Latency
from vlm_eval.store import RunFolder
from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig

SCRIPT = "</script><script>alert(1)</script>"
ODD = "пол \ud83d эмодзи и \x00"


class Store:
    """A local store with what was logged to it."""

    def __init__(self, folder: Path, **options):
        self.tracker = Mlflow(
            MlflowConfig(uri=f"sqlite:///{folder}/m.db", artifacts=str(folder / "artifacts"), **options)
        )
        self.client = MlflowClient(f"sqlite:///{folder}/m.db")

    def log(self, run: RunFolder) -> str:
        return self.tracker.log_run(resolvers.load_config(run.path), run)

    def rows(self, run_id: str) -> dict[str, object]:
        """Name -> TraceInfo; all traces of the run, whoever wrote them."""
        experiment = self.client.get_run(run_id).info.experiment_id
        traces = self.client.search_traces(locations=[experiment], run_id=run_id, include_spans=False, max_results=500)
        found = {t.info.client_request_id: t.info for t in traces}
        assert len(found) == len(traces)
        return found


def says(trace) -> dict[str, object]:
    return {a.name: a for a in trace.assessments}


@pytest.fixture(autouse=True)
def made_store(tmp_path, empty_store):
    """A store that is made already: its tables take MLflow 3 s."""
    shutil.copy(empty_store, tmp_path / "m.db")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """gptq4 of a sweep of two; its first judgement was refused, its second answer failed, its third is odd."""
    folder = make_sweep(tmp_path / "sweep", texts={"item/2": SCRIPT, "item/3": ODD})
    run = RunFolder(folder / "demo-gptq4-vqa")
    first, *others = run.read("judgements")
    refused = Judgement(first.item_id, 0, "stern", "ab", 0, True, None, None, None, "refused", error="не буду")
    run.replace("judgements", [refused, *(j for j in others if j.item_id != "item/1")])
    failed = Answer("item/1", 0, "1.png", None, error="timeout")
    run.replace("answers", [failed if a.item_id == "item/1" else a for a in run.read("answers")])
    run.append("latency", [Latency("item/2", 1.25)])
    return run


def test_every_answer_is_a_row_with_its_judgements_in_both_orders(store, run):
    rows = store.rows(store.log(run))
    assert sorted(rows) == [f"item/{n} #0" for n in range(6)]
    said = says(rows["item/2 #0"])
    assert {
        "judge stern ab",
        "judge stern ba",
        "match_ratio",
        "metric facts_recall",
        "metric latency_s",
        "reference",
    } == set(said)
    verdict = said["judge stern ba"]
    assert verdict.feedback.value == 8.0 and verdict.rationale == "потому что ba <b>gptq4</b>"
    assert (verdict.source.source_type, verdict.source.source_id) == ("LLM_JUDGE", "stern")
    assert verdict.metadata["reference_score"] == "10.0" and verdict.metadata["order"] == "ba"
    assert said["match_ratio"].feedback.value == pytest.approx(0.8) and said["metric latency_s"].feedback.value == 1.25
    assert said["match_ratio"].source.source_type == "CODE"
    assert said["reference"].expectation.value == "Чат"
    assert rows["item/2 #0"].response_preview == SCRIPT  # as text
    assert "Что на экране 2?" in rows["item/2 #0"].request_preview


def test_what_failed_is_shown_as_such(store, run):
    rows = store.rows(store.log(run))
    refused = says(rows["item/0 #0"])["judge stern ab"]
    assert refused.feedback.value is None
    assert (refused.feedback.error.error_code, refused.feedback.error.error_message) == ("REFUSED", "не буду")
    failed = rows["item/1 #0"]
    assert failed.state == "ERROR" and failed.response_preview == "no answer: timeout"
    assert "match_ratio" not in says(failed)
    assert rows["item/0 #0"].state == "OK"


def test_the_screenshot_is_in_the_row(store, run, tmp_path):
    rows = store.rows(store.log(run))
    span = store.client.get_trace(rows["item/2 #0"].trace_id).data.spans[0]
    assert span.outputs == SCRIPT and span.inputs["question"] == "Что на экране 2?"
    assert span.inputs["screenshot"].startswith("mlflow-attachment://")
    [file] = (tmp_path / "artifacts").glob(f"traces/{rows['item/2 #0'].trace_id}/artifacts/attachments/*")
    assert Image.open(io.BytesIO(file.read_bytes())).size == (60, 90)


def test_screenshots_can_be_left_out(run, tmp_path):
    store = Store(tmp_path, screenshots=False)
    rows = store.rows(store.log(run))
    assert store.client.get_trace(rows["item/2 #0"].trace_id).data.spans[0].inputs["screenshot"] == "images/2.png"
    assert not list(tmp_path.glob("artifacts/**/attachments"))
    assert not list(tmp_path.glob("artifacts/**/*.png"))


def test_text_that_databases_refuse_is_kept_as_far_as_they_take_it(store, run):
    rows = store.rows(store.log(run))
    assert rows["item/3 #0"].response_preview == "пол ? эмодзи и \N{REPLACEMENT CHARACTER}"


def test_rows_of_two_runs_pair_unless_the_picture_is_another(store, run):
    other = RunFolder(run.path.with_name("demo-bf16-vqa"))
    first, *others = other.read("items")
    other.replace("items", [dataclasses.replace(first, image_sha256="another"), *others])
    ours, theirs = (
        {name: trace.tags["mlflow.eval.requestId"] for name, trace in store.rows(store.log(r)).items()}
        for r in (run, other)
    )
    assert len(set(ours.values())) == 6
    assert [name for name in ours if ours[name] != theirs[name]] == ["item/0 #0"]


def test_repeats_are_rows_of_their_own_and_pair_by_their_number(store, run):
    more = [dataclasses.replace(a, repeat=1) for a in run.read("answers")]
    run.append("answers", more)
    rows = store.rows(store.log(run))
    assert len(rows) == 12
    assert len({t.tags["mlflow.eval.requestId"] for t in rows.values()}) == 12


def test_logged_again_nothing_is_written(store, run, monkeypatch):
    run_id = store.log(run)
    before = {name: (t.trace_id, len(t.assessments)) for name, t in store.rows(run_id).items()}
    monkeypatch.setattr(mlflow, "start_span_no_context", None)
    monkeypatch.setattr(mlflow, "log_assessment", None)
    assert store.log(run) == run_id
    assert {name: (t.trace_id, len(t.assessments)) for name, t in store.rows(run_id).items()} == before
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_another_judge_is_added_and_what_people_wrote_stays(store, run):
    run_id = store.log(run)
    before = store.rows(run_id)
    mlflow.set_tracking_uri(store.client.tracking_uri)
    theirs = Feedback(name="нравится", value=True, source=AssessmentSource("HUMAN", "lead"))
    mlflow.log_assessment(before["item/2 #0"].trace_id, theirs)
    run.append("judgements", [Judgement("item/2", 0, "mild", "ab", 0, True, 9.0, 9.0, "хорошо", "ok")])
    entry = {"main": False, "names": ["mild"], "config": {}, "facts": {}, "source": "HUMAN"}
    run.provenance(judges={**run.provenance()["judges"], "mild": entry})
    redone = [
        dataclasses.replace(j, candidate_score=2.0) if j.item_id == "item/4" else j for j in run.read("judgements")
    ]
    run.replace("judgements", redone)
    summarise_judges(run)
    assert store.log(run) == run_id
    after = store.rows(run_id)
    assert {n: t.trace_id for n, t in after.items()} == {n: t.trace_id for n, t in before.items()}
    said = says(after["item/2 #0"])
    assert said["judge mild ab"].rationale == "хорошо" and said["judge mild ab"].source.source_type == "HUMAN"
    assert said["нравится"].feedback.value is True
    assert [a.feedback.value for a in after["item/4 #0"].assessments if a.name.startswith("judge stern")] == [2.0, 2.0]
    assert says(after["item/4 #0"])["match_ratio"].feedback.value == pytest.approx(0.2)


def test_a_new_answer_takes_the_place_of_the_old(store, run):
    run_id = store.log(run)
    before = store.rows(run_id)
    answers = [dataclasses.replace(a, text="Другое") if a.item_id == "item/5" else a for a in run.read("answers")]
    run.replace("answers", answers)
    store.log(run)
    after = store.rows(run_id)
    assert len(after) == 6 and after["item/5 #0"].response_preview == "Другое"
    assert [n for n in after if after[n].trace_id != before[n].trace_id] == ["item/5 #0"]


def test_a_row_that_the_store_lost_is_written_again(store, run):
    run_id = store.log(run)
    lost = store.rows(run_id)["item/4 #0"]
    store.client.delete_traces(lost.experiment_id, trace_ids=[lost.trace_id])
    assert len(store.rows(run_id)) == 5
    store.log(run)
    assert len(store.rows(run_id)) == 6


def _failing(monkeypatch, fails):
    """A store that cannot write the traces numbered so."""
    real, count = SqlAlchemyStore.start_trace, iter(range(10**6))

    def start_trace(self, trace_info):
        if fails(next(count)):
            raise MlflowException("QueuePool limit of size 5 overflow 10 reached")
        return real(self, trace_info)

    monkeypatch.setattr(SqlAlchemyStore, "start_trace", start_trace)


def test_a_gap_is_filled_at_the_next_attempt(store, run, monkeypatch):
    _failing(monkeypatch, lambda number: number in (1, 4))
    rows = store.rows(store.log(run))
    assert len(rows) == 6 and all("reference" in says(t) for t in rows.values())
    everything = store.client.search_traces(locations=[rows["item/0 #0"].experiment_id], include_spans=False)
    assert len(everything) == 6  # no half of one is left


def test_a_gap_that_stays_fails_the_stage_and_is_named(store, run, monkeypatch):
    _failing(monkeypatch, lambda number: True)
    with pytest.raises(
        RuntimeError, match=r"6 of 6 answers are not whole in MLflow, the first item/0 #0, .*: .*QueuePool limit"
    ):
        store.log(run)
    run_id = run.status()["mlflow_run_id"]  # the run is known, so that a second attempt goes on in it
    logged = store.client.get_run(run_id)
    assert "6 of 6 answers" in logged.data.tags["vlm_eval.rows_missing"]
    assert logged.info.status == "FINISHED" and logged.data.metrics["tech/weights_gib"] == 6.0  # all else is there
    monkeypatch.undo()
    assert store.log(run) == run_id
    assert len(store.rows(run_id)) == 6
    assert "vlm_eval.rows_missing" not in store.client.get_run(run_id).data.tags


def test_a_server_that_is_gone_is_not_asked_for_every_row(store, run, monkeypatch):
    """Each call to a server that is down takes many seconds."""
    written = []
    real = mlflow.start_span_no_context
    monkeypatch.setattr(mlflow, "start_span_no_context", lambda *a, **k: written.append(1) or real(*a, **k))
    _failing(monkeypatch, lambda number: True)
    with pytest.raises(RuntimeError):
        store.log(run)
    assert len(written) == 3  # one an attempt


def test_a_screenshot_that_could_not_be_stored_makes_the_row_again(store, run, monkeypatch):
    from mlflow.tracing.client import TracingClient

    real, fails = TracingClient._upload_attachments, iter([True])

    def upload(self, info, attachments):
        if next(fails, False):
            raise OSError("No space left on device")
        return real(self, info, attachments)

    monkeypatch.setattr(TracingClient, "_upload_attachments", upload)
    rows = store.rows(store.log(run))
    assert len(rows) == 6
    for trace in rows.values():
        [picture] = Path(store.tracker.config.artifacts).glob(f"traces/{trace.trace_id}/artifacts/attachments/*")
        assert picture.stat().st_size > 100


def test_the_first_half_of_a_trace_whose_process_died_is_removed(store, run, monkeypatch):
    run_id = store.log(run)
    experiment = store.client.get_run(run_id).info.experiment_id
    _failing(monkeypatch, lambda number: True)
    mlflow.set_tracking_uri(store.client.tracking_uri)
    for age_s, name in ((3600, "answer"), (10, "answer"), (3600, "somebody's")):
        mlflow.start_span_no_context(name, experiment_id=experiment, start_time_ns=time.time_ns() - age_s * 10**9).end()
    mlflow.flush_trace_async_logging()
    monkeypatch.undo()
    nameless = lambda: store.client.search_traces(locations=[experiment], filter_string="trace.name IS NULL")  # noqa: E731
    assert len(nameless()) == 3
    store.log(run)
    # The young one may be another process's, which is writing its second half now.
    assert sorted(t.data.spans[0].name for t in nameless()) == ["answer", "somebody's"]
    assert len(store.rows(run_id)) == 6


def test_long_names_fit_into_the_columns_of_all_databases(store, tmp_path):
    run = RunFolder(make_sweep(tmp_path / "long") / "demo-bf16-vqa")
    for kind in ("items", "answers", "scores", "judgements"):
        run.replace(kind, [dataclasses.replace(x, item_id="images/папка/" + x.item_id * 12) for x in run.read(kind)])
    rows = store.rows(store.log(run))
    assert len(rows) == 6 and all(len(key) <= 50 for key in rows)
    assert all(("images/папка/" + "item/0" * 12 in t.request_preview) == ("item/0" * 3 in k) for k, t in rows.items())


def test_screenshots_that_are_gone_are_left_out_and_the_rest_is_logged(store, run):
    (Path(run.provenance()["data_root"]) / "images" / "2.png").unlink()
    run_id = store.log(run)
    rows = store.rows(run_id)
    assert len(rows) == 6 and store.client.get_run(run_id).info.status == "FINISHED"
    assert store.client.get_trace(rows["item/2 #0"].trace_id).data.spans[0].inputs["screenshot"] == "images/2.png"
    assert len(store.client.list_artifacts(run_id, "screenshots/images")) == 5


def test_runs_whose_engine_seeded_python_alike_keep_rows_of_their_own(store, run):
    """vLLM calls random.seed(0) in every run's process, and MLflow draws its ids from those numbers."""
    ids = []
    for one in (run, RunFolder(run.path.with_name("demo-bf16-vqa"))):
        random.seed(0)
        ids.append(store.log(one))
        assert random.random() == random.Random(0).random()  # left as it was
    first, second = (store.rows(run_id) for run_id in ids)
    assert len(first) == len(second) == 6
    assert not {t.trace_id for t in first.values()} & {t.trace_id for t in second.values()}


def test_rows_can_be_switched_off(run, tmp_path):
    store = Store(tmp_path, rows=False)
    assert store.rows(store.log(run)) == {}
