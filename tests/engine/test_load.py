"""Latency under load through real vLLM on a CPU: two levels and a rate, and what a resume keeps of them."""

from __future__ import annotations

import pytest

from tests.engine.conftest import Sweep, vlm_eval
from vlm_eval.engines.vllm_load import AsyncVllm
from vlm_eval.load import arrivals
from vlm_eval.store import RunFolder

pytestmark = pytest.mark.engine

COMMAND = (
    *("-m", "quant=bf16", "task.repeats=1", "task.sampling.max_tokens=8", "engine.latency_pass.items=0"),
    *("engine.load=[1,2]", "engine.rates=[6]", "engine.load_requests=8", "metrics=default", "tracking=none"),
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Sweep:
    found = vlm_eval(tmp_path_factory.mktemp("load"), *COMMAND)
    assert found.result.returncode == 0, found.result.stderr
    return found


@pytest.fixture(scope="module")
def run(sweep) -> RunFolder:
    return sweep.runs[0]


def levels_of(run: RunFolder) -> dict[str, list]:
    found: dict[str, list] = {}
    for row in run.read("load"):
        found.setdefault(row.level_name, []).append(row)
    return found


def test_each_level_has_all_its_requests_timed(run):
    levels = levels_of(run)
    assert {name: len(rows) for name, rows in levels.items()} == {"c1": 8, "c2": 8, "r6": 8}
    addresses = {(a.item_id, a.repeat): a.inputs for a in run.read("answers")}
    for rows in levels.values():
        assert [row.number for row in rows] == list(range(8))
        for row in rows:
            assert row.error is None and 0 < row.ttft_s <= row.latency_s < 60
            assert 1 <= row.output_tokens <= 8 and len(row.itl_s) < row.output_tokens
            assert row.ttft_s + sum(row.itl_s) <= row.latency_s + 1e-5
            assert row.inputs == addresses[row.item_id, row.repeat]
    assert [row.planned_s for row in levels["r6"]] == arrivals(6.0, 8, seed=0)
    assert all(0 <= row.sent_s - row.planned_s < 0.5 for row in levels["r6"])


def test_never_more_are_under_way_than_the_level_says(run):
    for name, most in (("c1", 1), ("c2", 2)):
        rows = levels_of(run)[name]
        # Times are rounded to a microsecond.
        together = [sum(a.sent_s <= b.sent_s < a.sent_s + a.latency_s - 2e-6 for a in rows) for b in rows]
        assert max(together) == most


def test_the_summary_has_each_level_and_no_tail_of_eight_requests(run):
    summary = run.summary()
    for name in ("c1", "c2", "r6"):
        assert (summary[f"load/{name}/n"], summary[f"load/{name}/failed_rate"]) == (8, 0)
        for number in ("ttft_s_p50", "itl_s_p50", "latency_s_p50"):
            low, high = (summary[f"load/{name}/{number}_ci_{end}"] for end in ("low", "high"))
            assert 0 < low <= summary[f"load/{name}/{number}"] <= high
        assert summary[f"load/{name}/output_tokens_per_s"] > summary[f"load/{name}/requests_per_s"] > 0
    assert not [name for name in summary if name.startswith("load/") and ("p95" in name or "p99" in name)]
    assert run.provenance()["not_scored"] == {}


def test_the_report_has_the_curve_and_the_table_the_columns(sweep):
    assert (sweep.folder / "report" / "plots" / "load.png").is_file()
    head = (sweep.folder / "comparison.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"load/c2/latency_s_p50", "load/r6/output_tokens_per_s"} <= set(head)


def test_the_load_engine_shares_nothing_between_requests(run):
    arguments = run.provenance()["load"]["arguments"]
    assert arguments["enable_prefix_caching"] is False and arguments["mm_processor_cache_gb"] == 0
    assert AsyncVllm({"enable_prefix_caching": True}).arguments["enable_prefix_caching"] is False


def test_a_resume_keeps_whole_levels_and_measures_a_half_one_again(sweep, run):
    """The last test of this module: it works in the folder that the others read."""
    before = levels_of(run)
    run.replace("load", [*before["c1"], *before["c2"][:5], *before["r6"]])
    run.set_status("interrupted", "load", "stopped by a signal")
    again = vlm_eval(sweep.cwd, *COMMAND)
    assert again.result.returncode == 0, again.result.stderr
    after = levels_of(run)
    assert after["c1"] == before["c1"] and after["r6"] == before["r6"]
    assert len(after["c2"]) == 8 and not set(after["c2"]) & set(before["c2"])
    assert "generate" not in again.result.stderr  # every answer was there
