"""ROUGE with torchmetrics, and the technical statistics."""

from __future__ import annotations

import statistics

import pytest

from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.rouge import Rouge, RougeConfig, normalise
from vlm_eval.metrics.tech import Tech, TechConfig
from vlm_eval.rows import Answer, Item, Latency

from .data import answered, summarised

REQUEST = "Здравствуйте! Оплата 20 588 ₽ не прошла: ошибка E-1047, пишет «попробуйте ещё раз»."


# ---------------------------------------------------------------------------------------------------------------- ROUGE


def rouge(answer, reference):
    [found] = Rouge(RougeConfig()).score(answered([answer], [reference])).values()
    return found


@pytest.mark.parametrize("text", [REQUEST, "Да", "12:30", "😀 не работает", "عطل في الدفع"])
def test_the_same_text_scores_1(text):
    found = rouge(text, text)
    assert found["rouge1_f"] == found["rougeL_f"] == pytest.approx(1)
    assert set(found) == {"rouge1_f", "rouge2_f", "rougeL_f"}


def test_scores_by_hand():
    found = rouge("оплата картой не прошла", "оплата не прошла вчера вечером")
    assert found["rouge1_f"] == pytest.approx(2 * 3 / (4 + 5))  # оплата, не, прошла
    assert found["rouge2_f"] == pytest.approx(2 * 1 / (3 + 4))  # не прошла
    assert found["rougeL_f"] == pytest.approx(2 * 3 / (4 + 5))
    assert rouge("совсем другое", "оплата не прошла") == {"rouge1_f": 0, "rouge2_f": 0, "rougeL_f": 0}


def test_order_counts_for_rouge_l_and_repeats_are_clipped():
    assert rouge("прошла не оплата", "оплата не прошла")["rougeL_f"] == pytest.approx(1 / 3)
    assert rouge("не не не не", "не прошла")["rouge1_f"] == pytest.approx(2 * 1 / (4 + 2))


def test_case_and_yo_do_not_count_but_digits_and_words_do():
    assert rouge("ЕЩЁ раз", "еще РАЗ")["rouge2_f"] == pytest.approx(1)
    assert rouge("код 1047", "код 1048")["rouge1_f"] == pytest.approx(0.5)
    assert rouge("оплата, карта!", "оплата — карта")["rouge2_f"] == pytest.approx(1)


def test_what_the_normaliser_keeps():
    assert normalise("«Ещё» 20 588 ₽,\tE-1047_x").split() == ["еще", "20", "588", "e", "1047", "x"]


STRANGE = {
    "empty": "",
    "spaces": " \n\t ",
    "one word": "Нет",
    "punctuation": "...?!",
    "emoji": "😀🙏🏽👨‍👩‍👧",
    "long": "Оплата не прошла, ошибка 504. " * 667,
    "right to left": "لم يتم الدفع \u202e",
    "NUL": "Опл\0ата\0",
    "lone surrogate": "\ud83d",
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_texts_are_scored_and_do_not_crash(text):
    for found in (rouge(text, REQUEST), rouge(REQUEST, text or "x")):
        assert set(found) == {"rouge1_f", "rouge2_f", "rougeL_f"} and all(0 <= value <= 1 for value in found.values())


def test_an_empty_answer_is_an_answer_that_scores_0():
    assert rouge("", REQUEST) == {"rouge1_f": 0, "rouge2_f": 0, "rougeL_f": 0}


def test_without_answer_or_reference_there_is_a_reason_and_no_score():
    data = answered([REQUEST, None, REQUEST, None], [REQUEST, REQUEST, None, None])
    found = Rouge(RougeConfig()).score(data)
    assert found["i1", 0] == "no answer" and found["i2", 0] == "no reference" and isinstance(found["i3", 0], str)
    summary = summarised(Rouge(RougeConfig()), data)
    assert summary == {
        f"rouge/{k}_f_mean{end}": value for k in ("rouge1", "rouge2", "rougeL") for end, value in (("", 1.0), ("_n", 1))
    }


def test_nothing_scored_leaves_no_number():
    assert summarised(Rouge(RougeConfig()), answered([None], [REQUEST])) == {}


def test_the_mean_has_an_interval_from_five_screenshots_on():
    summary = summarised(Rouge(RougeConfig()), answered(["да", "да", "да", "да", "нет"], ["да"] * 5))
    assert summary["rouge/rouge1_f_mean"] == pytest.approx(0.8) and summary["rouge/rouge1_f_mean_n"] == 5
    assert summary["rouge/rouge1_f_mean_ci_low"] < 0.8 < summary["rouge/rouge1_f_mean_ci_high"]


# ----------------------------------------------------------------------------------------------------------------- tech


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


def test_times_by_hand():
    latencies = [
        Latency("i0", 1.0, 0.2, output_tokens=5, chars=10),
        Latency("i1", 3.0, 0.6, output_tokens=9, chars=60),
        Latency("i2", None, error="died"),
    ]
    summary = tech(answers=["Да"] * 3, latencies=latencies)
    assert summary["tech/latency_s_mean"] == 2.0 and summary["tech/latency_s_mean_n"] == 2
    assert summary["tech/latency_s_p50"] == 2.0
    assert summary["tech/ttft_s_mean"] == pytest.approx(0.4)
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


def test_all_is_clustered_by_screenshot():
    """Ten questions about each of five screenshots: the interval is that of five values, not of fifty."""
    lengths = [1, 2, 3, 4, 5]
    items = {f"{c}#{q}": Item(f"{c}#{q}", str(c), "x") for c in range(5) for q in range(10)}
    rows = [Answer(i, 0, item.cluster, "я" * lengths[int(item.cluster)]) for i, item in items.items()]
    summary = summarised(Tech(TechConfig()), Answered(items, rows, [], {}))
    half = 2.7764 * statistics.stdev(lengths) / 5**0.5
    assert summary["tech/length_chars_mean_ci_high"] == pytest.approx(3 + half, rel=1e-4)
    assert summary["tech/length_chars_mean_n"] == 50
