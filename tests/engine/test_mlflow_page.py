"""MLflow's own page of a finished demo sweep, in a real browser: what a team lead does there."""

from __future__ import annotations

import re

import pytest
from mlflow import MlflowClient
from playwright.sync_api import expect

from tests import mlflow_server
from tests.engine.conftest import Sweep, vlm_eval
from tests.helpers import REPO
from tests.mlflow_page import chromium, compare_answers, open_answer, open_page, open_runs, show_rationales

pytestmark = [pytest.mark.engine, pytest.mark.needs("chromium")]
QUANTS = {"gptq4", "gptq8", "awq", "bf16"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Sweep:
    """The demo's four quantisations of one task, judged by its rubric."""
    made = vlm_eval(
        tmp_path_factory.mktemp("demo"),
        *("-m", "experiment=demo", "task=screen_annotation", "task.repeats=2", "engine.latency_pass.items=2"),
    )
    assert made.result.returncode == 0, made.result.stderr[-2000:]
    return made


@pytest.fixture(scope="module")
def address(sweep) -> str:
    """scripts/mlflow, as a person opens it where the sweep was run."""
    port, log = mlflow_server.free_port(), sweep.cwd / "page.log"
    command = ["bash", "-c", f"cd '{sweep.cwd}' && exec '{REPO}/scripts/mlflow' --port {port}"]
    process = mlflow_server.start(command, port, log)
    yield f"http://127.0.0.1:{port}"
    mlflow_server.kill(process)


@pytest.fixture
def page(address):
    with chromium() as browser:
        yield open_page(browser, address)


def test_the_sweep_is_there_with_its_runs(page, address, sweep):
    open_runs(page, address)
    expect(page.get_by_text("5 matching runs")).to_be_visible()
    for name in (sweep.folder.name, *QUANTS):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_two_runs_compare_answer_by_answer_with_screenshot_and_rationale(page, address, sweep):
    compare_answers(page, address, "awq", "bf16")
    item = next(i.item_id for i in sweep.runs[0].read("items"))
    # Ten items in two repeats, each a row with both answers: 20 pairs.
    expect(page.get_by_text("20 of 20")).to_be_visible()
    for repeat in (0, 1):
        row = page.get_by_role("row").filter(has_text=f"{item} #{repeat}")
        expect(row.get_by_text("tr-")).to_have_count(2)
    open_answer(page, f"{item} #0")
    both = [run for run in sweep.runs if run.path.name.startswith(("demo-awq", "demo-bf16"))]
    # One trace of each of the two: most answers are the same, so their texts would not tell.
    client = MlflowClient(f"sqlite:///{sweep.cwd}/mlruns/mlflow.db")
    shown = set(re.findall(r"tr-[0-9a-f]{32}", page.get_by_text("Compared IDs").locator("..").inner_text()))
    of = {client.get_trace(trace_id).info.trace_metadata["mlflow.sourceRun"] for trace_id in shown}
    assert len(shown) == 2 and of == {run.status()["mlflow_run_id"] for run in both}
    for text in (a.text for run in both for a in run.read("answers") if (a.item_id, a.repeat) == (item, 0)):
        expect(page.get_by_text(text).last).to_be_visible()
    show_rationales(page)
    expect(page.get_by_text("judge rubric ba", exact=True).first).to_be_visible()
    for run in both:
        [said] = [j for j in run.read("judgements") if (j.item_id, j.repeat, j.order) == (item, 0, "ab")]
        expect(page.get_by_text(said.rationale).first).to_be_visible()


def test_the_artifact_view_lists_an_item_with_four_answers(page, address, sweep):
    page.set_viewport_size({"width": 2400, "height": 1100})  # the page makes only the cells that are in sight
    open_runs(page, address, "ARTIFACT")
    first = sorted((a.item_id, a.repeat) for a in sweep.runs[0].read("answers"))[0]
    row = page.get_by_role("row").filter(has_text=f"{first[0]} #{first[1]}")
    expect(row).to_be_visible()
    said = [line for line in row.inner_text().splitlines() if line.strip()]
    answers = [a.text for run in sweep.runs for a in run.read("answers") if (a.item_id, a.repeat) == first]
    assert len(answers) == 4
    assert said[:2] == [f"{first[0]} #{first[1]}", "(empty)"]  # the sweep itself has none
    assert sorted(said[2:]) == sorted(answers)


def test_memory_and_cpu_are_drawn_over_time(page, address, sweep):
    page.goto(f"{address}/#/experiments/1/runs/{sweep.runs[0].status()['mlflow_run_id']}/system-metrics")
    for name in ("cpu_utilization_percentage", "process_memory_usage_megabytes"):
        expect(page.get_by_text(name, exact=True)).to_be_visible()
    expect(page.locator(".js-plotly-plot .scatterlayer .point").nth(5)).to_be_attached()
