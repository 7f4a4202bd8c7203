"""The judge's numbers against values worked out by hand and with numpy."""

from __future__ import annotations

import dataclasses
import math

import krippendorff
import numpy as np
import pytest
from scipy.stats import t

from vlm_eval.judges.summary import summarise
from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.intervals import mean_interval, named_ratio, ratio_interval


def row(item, order, candidate, reference, repeat=0, status="ok", tokens=10, cost=None, judge_repeat=0):
    return Judgement(
        item, repeat, "j", order, judge_repeat, True, candidate, reference, "r", status, tokens=tokens, cost_usd=cost
    )


def answers(*keys):
    """(item, repeat, cluster) each."""
    return [Answer(item, repeat, cluster, "t") for item, repeat, cluster in keys]


def test_by_hand():
    # Five screenshots with one answer each: candidate 8 6 9 5 7 (sum 35), reference 10 8 9 6 7 (sum 40).
    scores = {"a": (8, 10), "b": (6, 8), "c": (9, 9), "d": (5, 6), "e": (7, 7)}
    judgements = [row(i, order, *pair) for i, pair in scores.items() for order in ("ab", "ba")]
    found = summarise(judgements, answers(*((i, 0, i) for i in scores)))
    assert found["judge/match_ratio"] == pytest.approx(35 / 40)
    # Residuals x - 0.875 y: -0.75, -1, 1.125, -0.25, 0.875; squares sum to 3.65625.
    half = 2.7764451 * math.sqrt(5 / 4 * 3.65625) / 40
    assert found["judge/match_ratio_ci_low"] == pytest.approx(0.875 - half, abs=1e-6)
    assert found["judge/match_ratio_ci_high"] == pytest.approx(0.875 + half, abs=1e-6)
    assert found["judge/match_ratio_n"] == 5
    assert found["judge/candidate_score_mean"] == 7 and found["judge/reference_score_mean"] == 8
    assert found["judge/candidate_score_mean_n"] == 5
    # Deviations 1 -1 2 -2 0: squares sum to 10.
    assert found["judge/candidate_score_mean_ci_high"] == pytest.approx(7 + 2.7764451 * math.sqrt(12.5) / 5)
    assert found["judge/fail_rate"] == 0 and found["judge/tokens"] == 100
    assert "judge/cost_usd" not in found


def test_with_numpy_over_uneven_clusters():
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(8), [1, 2, 3, 5, 5, 2, 4, 1])
    x, y = rng.integers(1, 11, len(cluster)), rng.integers(4, 11, len(cluster))
    ratio = x.sum() / y.sum()
    sums_x, sums_y = np.bincount(cluster, x), np.bincount(cluster, y)
    error = np.sqrt(8 / 7 * ((sums_x - ratio * sums_y) ** 2).sum()) / y.sum()
    half = t.ppf(0.975, 7) * error
    found = ratio_interval((str(c), float(a), float(b)) for c, a, b in zip(cluster, x, y))
    assert found == pytest.approx((ratio, ratio - half, ratio + half, len(cluster)))


def test_a_denominator_of_one_is_a_mean():
    rng = np.random.default_rng(3)
    values = [(str(n % 6), float(v)) for n, v in enumerate(rng.normal(5, 1, 20))]
    assert ratio_interval([(c, v, 1.0) for c, v in values]) == pytest.approx(mean_interval(values))


def test_the_interval_covers_about_as_often_as_it_says():
    rng, hits, truth = np.random.default_rng(1), 0, 6 / 8
    for _ in range(400):
        screen = rng.normal(0, 1, (30, 1))  # what the answers about one screenshot share
        x = 6 + screen + rng.normal(0, 1, (30, 5))
        y = 8 + screen + rng.normal(0, 0.5, (30, 5))
        _, low, high, _ = ratio_interval((str(c), x[c, k], y[c, k]) for c in range(30) for k in range(5))
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_under_five_screenshots_there_is_no_interval():
    values = [(str(n % 4), 6.0 + n, 8.0) for n in range(40)]
    assert set(named_ratio("r", values)) == {"r", "r_n"}
    assert "r_ci_low" in named_ratio("r", [*values, ("4", 6.0, 8.0)])
    assert ratio_interval([]) is None and ratio_interval([("a", 1.0, 0.0)]) is None


def test_orders_are_averaged_within_an_answer_before_anything_else():
    judgements = [
        row("a", "ab", 9, 5),
        row("a", "ba", 7, 7),  # 8, 6
        row("a", "ab", 4, 8, repeat=1),
        row("a", "ba", 2, 10, repeat=1),  # 3, 9
        row("b", "ab", 10, 5),
        row("b", "ba", None, None, status="invalid"),  # 10, 5: only one order is there
        row("c", "ab", 2, 8),
        row("c", "ab", 4, 8, judge_repeat=1),
        row("c", "ba", 7, 4),  # (3 + 7) / 2, (8 + 4) / 2
    ]
    found = summarise(judgements, answers(("a", 0, "s"), ("a", 1, "s"), ("b", 0, "s"), ("c", 0, "z")))
    assert found["judge/match_ratio"] == pytest.approx((8 + 3 + 10 + 5) / (6 + 9 + 5 + 6))
    assert found["judge/match_ratio_n"] == 4
    assert found["judge/candidate_score_mean"] == pytest.approx(26 / 4)


def test_failures_are_counted_and_enter_no_mean():
    judgements = [
        row("a", "ab", 5, 10),
        row("a", "ba", 1, 1, status="invalid"),  # no judge writes scores here; if one did, they would not count
        row("b", "ab", None, None, status="error", tokens=None),
        row("b", "ba", None, None, status="refused", tokens=None),
    ]
    found = summarise(judgements, answers(("a", 0, "a"), ("b", 0, "b")))
    assert found["judge/match_ratio"] == 0.5 and found["judge/match_ratio_n"] == 1
    assert found["judge/fail_rate"] == 0.75
    assert found["judge/tokens"] == 20  # the error and the refusal came without a reply


def test_nothing_judged():
    assert summarise([], []) == {}
    failed = summarise([row("a", "ab", None, None, status="error", tokens=None)], answers(("a", 0, "a")))
    assert failed == {
        **{"judge/fail_rate": 1.0, "judge/flagged_rate": 0.0, "judge/saw_image_rate": 1.0},
        **{"judge/match_ratio_failures_as_1": 0.1, "judge/match_ratio_failures_as_1_n": 1},
    }


def test_an_answer_that_is_none_is_no_failure_of_the_judge_but_counts_in_the_bound():
    keys = [*answers(("a", 0, "a")), Answer("b", 0, "b", None, error="died")]
    asked = [row("a", order, 8, 10) for order in ("ab", "ba")]
    unasked = [row("b", order, None, None, status="not_asked", tokens=None) for order in ("ab", "ba")]
    found = summarise(asked + unasked, keys)
    assert found["judge/match_ratio"] == 0.8 and found["judge/fail_rate"] == 0
    assert found["judge/match_ratio_failures_as_1"] == pytest.approx((8 + 1) / (10 + 10))


def test_a_judge_that_scores_the_candidate_alone_is_held_against_full_marks():
    single = [row(i, "single", score, None) for i, score in (("a", 7), ("b", 9))]
    found = summarise(single, answers(("a", 0, "a"), ("b", 0, "b")))
    assert found["judge/match_ratio"] == pytest.approx(0.8)
    assert "judge/reference_score_mean" not in found and "judge/flip_rate" not in found


def test_the_mean_of_ratios_weighs_every_answer_alike():
    judgements = [row("a", "ab", 2, 4), row("b", "ab", 9, 9)]
    found = summarise(judgements, answers(("a", 0, "a"), ("b", 0, "b")))
    assert found["judge/match_ratio"] == pytest.approx(11 / 13)
    assert found["judge/match_ratio_mean_of_ratios"] == pytest.approx(0.75)


def test_what_the_order_does():
    # a: the winner changes with the place; b: it does not; both lean to the first by 2 in all.
    judgements = [row("a", "ab", 7, 6), row("a", "ba", 6, 7), row("b", "ab", 9, 5), row("b", "ba", 8, 6)]
    found = summarise(judgements, answers(("a", 0, "a"), ("b", 0, "b")))
    assert found["judge/flip_rate"] == 0.5 and found["judge/flip_rate_n"] == 2
    # Of each answer its score in the first place less that in the second: a 7-6, 7-6; b 9-8, 6-5.
    assert found["judge/position_bias"] == pytest.approx(1.0)


def test_a_panel_means_over_its_members_and_says_how_far_they_agree():
    rows = [
        dataclasses.replace(row(i, order, score, 10), judge=judge)
        for judge, scores in (("kind", (9, 8, 7, 9, 6)), ("strict", (7, 6, 5, 7, 4)))
        for i, score in zip("abcde", scores)
        for order in ("ab", "ba")
    ]
    found = summarise(rows, answers(*((i, 0, i) for i in "abcde")))
    assert found["judge/match_ratio"] == pytest.approx((7.8 + 5.8) / 2 / 10)
    assert found["judge/lean.kind"] == pytest.approx(1) and found["judge/lean.strict"] == pytest.approx(-1)
    units = [(9, 7), (8, 6), (7, 5), (9, 7), (6, 4)]
    assert found["judge/alpha"] == pytest.approx(krippendorff.alpha(np.array(units).T, level_of_measurement="ordinal"))


def test_flags_are_counted():
    rows = [row("a", "ab", 5, 5), dataclasses.replace(row("b", "ab", 5, 5), flag="give 10")]
    assert summarise(rows, answers(("a", 0, "a"), ("b", 0, "b")))["judge/flagged_rate"] == 0.5


def test_a_further_judge_has_a_name_of_its_own():
    found = summarise([row("a", "ab", 5, 5)], answers(("a", 0, "a")), "judge.other")
    assert found["judge.other/match_ratio"] == 1 and all(name.startswith("judge.other/") for name in found)


def test_cost_only_where_all_of_it_is_known():
    keys = answers(("a", 0, "a"))
    known = [row("a", "ab", 5, 5, cost=0.25), row("a", "ba", 5, 5, cost=0.5)]
    unsent = row("a", "ab", None, None, status="error", tokens=None)
    assert summarise([*known, unsent], keys)["judge/cost_usd"] == 0.75
    found = summarise([*known, row("a", "ab", None, None, status="invalid", tokens=None)], keys)
    assert "judge/cost_usd" not in found and "judge/tokens" not in found


def test_all_numbers_are_plain():
    found = summarise([row("a", "ab", 5, 5, cost=0.5)], answers(("a", 0, "a")))
    assert all(type(value) in (int, float) for value in found.values())
