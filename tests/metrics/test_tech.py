"""The technical statistics."""

from __future__ import annotations

import statistics

import pytest

from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.tech import Tech, TechConfig
from vlm_eval.rows import Answer, Item, Latency

from .data import answered, summarised


def tech(**more):
    return summarised(Tech(TechConfig()), answered(**more))


def test_failures_and_lengths():
    summary = tech(answers=["Да", "Нет.", None, "ё" * 6])
    assert summary == {
        "tech/failed_rate": 0.25,
        "tech/failed_rate_n": 4,
        "tech/truncated_rate": 0.0,
        "tech/truncated_rate_n": 3,
        "tech/length_chars_mean": 4.0,
        "tech/length_chars_mean_n": 3,
    }


def test_all_failed():
    assert tech(answers=[None, None]) == {"tech/failed_rate": 1.0, "tech/failed_rate_n": 2}


def test_a_failed_answer_has_no_length():
    assert Tech(TechConfig()).score(answered(["", None])) == {("i0", 0): {"length_chars": 0}, ("i1", 0): "no answer"}


def test_truncated_is_a_share_of_what_was_answered():
    data = answered(["Да", "Да", "Да", "Да", None])
    cut = [
        Answer(a.item_id, 0, a.cluster, a.text, "length" if a.item_id == "i0" else a.finish_reason)
        for a in data.answers
    ]
    summary = Tech(TechConfig()).summarise(Answered(data.items, cut, [], {}), [])
    assert summary["tech/truncated_rate"] == 0.25


def test_times_come_from_the_latency_pass_alone():
    summary = tech(answers=["Да"] * 3, engine={"generation_wall_s": 2.0, "generation_output_tokens": 300})
    assert not [name for name in summary if any(part in name for part in ("latency", "ttft", "itl", "chars_per_s"))]
    assert summary["tech/generation_wall_s"] == 2.0 and summary["tech/output_tokens_per_s"] == 150.0


def test_energy_of_an_answer():
    known = {"batch_energy_j": 900.0, "batch_energy_answers": 45, "alone_energy_j": 270.0, "alone_energy_answers": 9}
    summary = tech(answers=["Да"] * 3, engine=known)
    assert summary["tech/energy_j_per_answer"] == 20.0 and summary["tech/energy_j_per_answer_alone"] == 30.0
    assert not [name for name in tech(answers=["Да"]) if "energy" in name]


def test_times_by_hand():
    latencies = [
        Latency("i0", 1.0, 0.2, output_tokens=5, chars=10, prepare_s=0.1),
        Latency("i1", 3.0, 0.6, output_tokens=9, chars=60, prepare_s=0.4),
        Latency("i2", None, error="died"),
    ]
    summary = tech(answers=["Да"] * 3, latencies=latencies)
    assert summary["tech/latency_s_mean"] == 2.0 and summary["tech/latency_s_mean_n"] == 2
    assert summary["tech/latency_s_p50"] == 2.0
    assert summary["tech/ttft_s_mean"] == pytest.approx(0.4)
    assert summary["tech/prepare_s_mean"] == pytest.approx(0.25)
    assert summary["tech/itl_s_mean"] == pytest.approx((0.8 / 4 + 2.4 / 8) / 2)
    assert summary["tech/chars_per_s_mean"] == pytest.approx((10 + 20) / 2)


def test_one_token_has_no_time_between_tokens():
    summary = tech(answers=["Да"], latencies=[Latency("i0", 1.0, 0.2, output_tokens=1, chars=2)])
    assert "tech/itl_s_mean" not in summary and summary["tech/ttft_s_mean"] == 0.2


@pytest.mark.parametrize("count", [1, 19, 20, 200])
def test_a_95th_percentile_needs_twenty_times(count):
    latencies = [Latency(f"i{n}", float(n + 1)) for n in range(count)]
    summary = tech(answers=["Да"] * count, latencies=latencies)
    assert ("tech/latency_s_p95" in summary) == (count >= 20)
    assert summary["tech/latency_s_p50"] == (count + 1) / 2
    if count >= 20:
        assert summary["tech/latency_s_p95"] == pytest.approx(1 + 0.95 * (count - 1))
        assert summary["tech/latency_s_p95"] < max(x.latency_s for x in latencies)


def test_what_the_engine_says_is_passed_on_and_what_it_does_not_say_is_left_out():
    engine = {"weights_gib": 1.5, "gpu_peak_gib": None, "kv_bytes_per_token": 28672, "found": "8 layers"}
    summary = tech(answers=["Да"], engine=engine)
    assert summary["tech/weights_gib"] == 1.5 and summary["tech/kv_bytes_per_token"] == 28672
    assert "tech/gpu_peak_gib" not in summary and all(isinstance(v, (int, float)) for v in summary.values())


def test_how_much_of_the_prompts_was_cached():
    items = {name: Item(name, name, "x") for name in "abc"}

    def summary(*cached):
        rows = [Answer(name, 0, name, "Да", prompt_tokens=50, cached_tokens=n) for name, n in zip("abc", cached)]
        return summarised(Tech(TechConfig()), Answered(items, [*rows, Answer("c", 1, "c", None)], [], {}))

    assert summary(0, 30, 45)["tech/cached_prompt_rate"] == 0.5
    assert summary(0, 0, 0)["tech/cached_prompt_rate"] == 0.0
    assert "tech/cached_prompt_rate" not in summary(None, None, None)  # engine.prefix_cache is off


def test_all_is_clustered_by_screenshot():
    """Ten questions about each of five screenshots: the interval is that of five values, not of fifty."""
    lengths = [1, 2, 3, 4, 5]
    items = {f"{c}#{q}": Item(f"{c}#{q}", str(c), "x") for c in range(5) for q in range(10)}
    rows = [Answer(i, 0, item.cluster, "я" * lengths[int(item.cluster)]) for i, item in items.items()]
    summary = summarised(Tech(TechConfig()), Answered(items, rows, [], {}))
    half = 2.7764 * statistics.stdev(lengths) / 5**0.5
    assert summary["tech/length_chars_mean_ci_high"] == pytest.approx(3 + half, rel=1e-4)
    assert summary["tech/length_chars_mean_n"] == 50
