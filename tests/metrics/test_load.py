"""The numbers of a level of load, by hand."""

from __future__ import annotations

import pytest

from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.load import Load, LoadConfig
from vlm_eval.rows import UnderLoad


def summary_of(rows):
    return Load(LoadConfig()).summarise(Answered({}, [], [], {}, rows), [])


def row(number, latency=1.0, kind="concurrency", level=2.0, **more):
    times = {"latency_s": latency, "ttft_s": latency / 4, "itl_s": (0.1, 0.2), "output_tokens": 3}
    times = {} if "error" in more else times
    return UnderLoad(kind, level, number, f"i{number}", 0, **{"sent_s": float(number), **times, **more})


def test_nothing_where_no_load_was_measured():
    assert summary_of([]) == {} and Load(LoadConfig()).score(Answered({}, [], [], {})) == {}


def test_a_level_by_hand():
    summary = summary_of([row(n, latency=1.0 + n) for n in range(8)])
    assert summary["load/c2/n"] == 8 and summary["load/c2/failed_rate"] == 0
    assert summary["load/c2/latency_s_p50"] == 4.5
    assert (summary["load/c2/latency_s_p50_ci_low"], summary["load/c2/latency_s_p50_ci_high"]) == (1.0, 8.0)
    assert summary["load/c2/ttft_s_p50"] == 4.5 / 4 and summary["load/c2/itl_s_p50"] == pytest.approx(0.15)
    passed = 7.0 + 8.0  # from the first that was sent to the end of the last
    assert summary["load/c2/output_tokens_per_s"] == 24 / passed
    assert summary["load/c2/requests_per_s"] == 8 / passed
    assert not [name for name in summary if "p95" in name or "p99" in name]


def test_a_failed_request_is_counted_and_is_no_time_of_0():
    rows = [row(n) for n in range(6)]
    rows += [row(n, error="refused") for n in (6, 7)]
    summary = summary_of(rows)
    assert summary["load/c2/n"] == 8 and summary["load/c2/failed_rate"] == 0.25
    assert summary["load/c2/latency_s_p50"] == 1.0 and summary["load/c2/latency_s_p50_ci_low"] == 1.0
    only = summary_of(rows[6:])
    assert only == {"load/c2/n": 2, "load/c2/failed_rate": 1.0}


def test_of_gaps_there_is_a_tail_only_where_requests_are_many():
    """59 answers have 5900 gaps, and no 95th percentile."""
    summary = summary_of([row(n, itl_s=(0.01,) * 100) for n in range(59)])
    assert "load/c2/itl_s_p50" in summary and "load/c2/itl_s_p95" not in summary
    summary = summary_of([row(n, itl_s=(0.01,) * 100) for n in range(60)])
    assert "load/c2/itl_s_p95" in summary and "load/c2/itl_s_p99" not in summary


def test_a_rate_is_counted_from_the_planned_arrivals_and_its_names_are_ones_that_mlflow_takes():
    from mlflow.utils.validation import _validate_metric_name

    rows = [row(n, kind="rate", level=0.5, planned_s=2.0 * n, sent_s=2.0 * n + 0.5) for n in range(6)]
    summary = summary_of(rows)
    assert summary["load/r0.5/requests_per_s"] == 6 / 11.0
    for name in summary:
        _validate_metric_name(name)
