"""Order, length and noise: worked out by hand, and found where they were put in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_eval.rows import Answer
from vlm_eval.statistics.intervals import mean_interval
from vlm_eval.statistics.order_effects import (
    judge_noise,
    length_effect,
    named_order_effects,
    order_changes,
    position_bias,
    within_correlation,
)

from .judged import answers, failed, row

# candidate, reference in order ab, then ba
VERDICTS = {
    "stays": ((8, 6), (9, 5)),
    "flips": ((8, 6), (5, 9)),
    "into a tie": ((8, 6), (7, 7)),
    "out of one": ((7, 7), (5, 8)),
    "tie": ((7, 7), (6, 6)),
}
JUDGEMENTS = [row(item, order, *pair) for item, both in VERDICTS.items() for order, pair in zip(("ab", "ba"), both)]
ROWS = answers(VERDICTS)


def test_reversals_and_changes_of_a_tie_are_counted_apart():
    flips, ties = order_changes(JUDGEMENTS, ROWS)
    assert dict(flips) == {f"shot {item}": float(item == "flips") for item in VERDICTS}
    assert dict(ties) == {f"shot {item}": float(item in ("into a tie", "out of one")) for item in VERDICTS}


def test_position_bias_by_hand():
    assert dict(position_bias(JUDGEMENTS, ROWS)) == {
        "shot stays": -1,  # the candidate had 8 as A and 9 as B, the reference 5 as A and 6 as B
        "shot flips": 3,
        "shot into a tie": 1,
        "shot out of one": 1.5,
        "shot tie": 0,
    }


def test_answers_seen_in_one_order_say_nothing_of_order():
    judgements = [row("a", "ab", 9, 1), failed("a", "ba", "invalid"), row("b", "single", 5, None)]
    assert order_changes(judgements, answers("ab")) == ([], []) and position_bias(judgements, answers("ab")) == []
    assert named_order_effects("judge", judgements, answers("ab")) == {}


def test_a_lean_to_the_first_place_is_found_and_no_other():
    rng = np.random.default_rng(4)
    items = [f"i{n}" for n in range(40)]
    judgements = []
    for item in items:
        candidate, reference = rng.normal(6, 1.5), rng.normal(8, 1.5)
        judgements.append(row(item, "ab", candidate + 0.8 + rng.normal(0, 0.3), reference + rng.normal(0, 0.3)))
        judgements.append(row(item, "ba", candidate + rng.normal(0, 0.3), reference + 0.8 + rng.normal(0, 0.3)))
    found = named_order_effects("judge", judgements, answers(items))
    assert found["judge/position_bias_ci_low"] <= 0.8 <= found["judge/position_bias_ci_high"]
    assert found["judge/position_bias_ci_low"] > 0.6
    swapped = [
        row(j.item_id, {"ab": "ba", "ba": "ab"}[j.order], j.candidate_score, j.reference_score) for j in judgements
    ]
    assert named_order_effects("judge", swapped, answers(items))["judge/position_bias"] == pytest.approx(
        -found["judge/position_bias"]
    )


def test_each_judge_of_a_panel_counts():
    judgements = JUDGEMENTS + [row("flips", order, 8, 6, judge="k") for order in ("ab", "ba")]
    flips, _ = order_changes(judgements, ROWS)
    assert len(flips) == 6 and sum(v for _, v in flips) == 1


def test_length_counts_only_within_items():
    """Long answers to one item score more there; that items with long answers score less must not matter."""
    texts, judgements = [], []
    for n in range(6):
        for repeat, length in enumerate((10, 20, 30)):
            texts.append(Answer(f"i{n}", repeat, f"s{n}", "x" * (length + 100 * n)))
            judgements.append(row(f"i{n}", "ab", 9 - n + repeat / 10, 8, repeat=repeat))
    assert length_effect(judgements, texts) == (pytest.approx(1), pytest.approx(1), pytest.approx(1), 18)
    assert length_effect(judgements, [a for a in texts if a.repeat == 0]) is None  # one answer an item


def test_length_effect_is_the_correlation_of_what_the_items_means_leave():
    rng = np.random.default_rng(1)
    items = np.repeat(np.arange(12), 4)
    x, y = rng.normal(size=(2, 48)) + items
    y += 0.7 * x
    left = [v - np.array([v[items == n].mean() for n in range(12)]).repeat(4) for v in (x, y)]
    r, low, high, n = within_correlation((f"s{i // 2}", f"i{i}", a, b) for i, a, b in zip(items, x, y))
    assert r == pytest.approx(np.corrcoef(*left)[0, 1]) and n == 48 and low < r < high


def test_its_interval_covers_the_truth():
    """30 screenshots, 5 answers each, true correlation 0.4 within them."""
    rng, covered = np.random.default_rng(2), 0
    names = np.repeat([f"s{n}" for n in range(30)], 5).tolist()
    for _ in range(1000):
        x = rng.normal(size=150)
        y = 0.4 * x + math.sqrt(1 - 0.16) * rng.normal(size=150) + rng.normal(size=30).repeat(5)
        _, low, high, _ = within_correlation(zip(names, names, x.tolist(), y.tolist()))
        covered += low <= 0.4 <= high
    assert 0.92 <= covered / 1000 <= 0.97


def test_where_there_is_no_correlation():
    assert within_correlation([]) is None
    assert within_correlation([("s", "i", 1.0, 5.0), ("s", "i", 1.0, 6.0)]) is None
    r, low, high, n = within_correlation([("s", "i", 1.0, 5.0), ("s", "i", 2.0, 6.0), ("s", "k", 2.0, 6.0)])
    assert (r, n) == (pytest.approx(1), 2) and math.isnan(low) and math.isnan(high)


def test_noise_is_what_the_same_question_gives_again():
    rng = np.random.default_rng(3)
    items = [f"i{n}" for n in range(400)]
    judgements = [
        row(item, order, rng.normal(5 + (order == "ab"), 0.7), 8, judge_repeat=k)
        for item in items
        for order in ("ab", "ba")
        for k in range(3)
    ]
    noise, groups = judge_noise(judgements)
    assert (groups, noise) == (800, pytest.approx(0.7, abs=0.03))
    found = named_order_effects("judge", judgements, answers(items))
    assert (found["judge/noise"], found["judge/noise_n"]) == (noise, 800)
    assert judge_noise([j for j in judgements if j.judge_repeat == 0]) is None
    uneven = [row("a", "ab", s, 8, judge_repeat=k) for k, s in enumerate((4, 6))]
    uneven += [row("b", "ab", s, 8, judge_repeat=k) for k, s in enumerate((5, 5, 5, 9))]
    assert judge_noise(uneven) == (pytest.approx(math.sqrt((2 + 12) / 4)), 2)  # squares over degrees of freedom


def test_names_in_the_summary():
    rows = [
        a for item in VERDICTS for a in (Answer(item, 0, f"shot {item}", "x"), Answer(item, 1, f"shot {item}", "xx"))
    ]
    again = [row(j.item_id, j.order, j.candidate_score - 1, j.reference_score, repeat=1) for j in JUDGEMENTS]
    found = named_order_effects("judge", JUDGEMENTS + again, rows)
    names = ("flip_rate", "tie_change_rate", "position_bias", "length_effect")
    assert set(found) == {f"judge/{name}{end}" for name in names for end in ("", "_ci_low", "_ci_high", "_n")}
    assert found["judge/length_effect"] == pytest.approx(-1) and found["judge/position_bias_n"] == 10
    mean, low, high, _ = mean_interval(position_bias(JUDGEMENTS + again, rows))
    assert [found[f"judge/position_bias{end}"] for end in ("", "_ci_low", "_ci_high")] == [mean, low, high]
    assert all(type(value) in (int, float) for value in found.values())
