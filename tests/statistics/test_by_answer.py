"""Judgements to one pair of scores an answer; failures are counted, not dropped."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.statistics.intervals import ratio_interval

from .judged import answers, failed, row


def test_judges_weigh_the_same_and_within_them_orders_and_within_them_repeats():
    judgements = [
        *(row("a", "ab", 2, 8), row("a", "ab", 4, 8, judge_repeat=1), row("a", "ba", 7, 4)),  # (3 + 7) / 2, (8 + 4) / 2
        row("a", "ab", 9, 10, judge="k"),
    ]
    assert scores_by_answer(judgements, answers("a")) == {("a", 0): ("shot a", 7, 8)}


def test_a_judge_that_scores_the_candidate_alone_holds_it_against_full_marks():
    assert scores_by_answer([row("a", "single", 7, None)], answers("a")) == {("a", 0): ("shot a", 7, 10)}


def test_without_failures_only_survivors_speak():
    judgements = [row("a", "ab", 6, 8), failed("a", "ba", "invalid"), failed("b", "ab", "refused")]
    assert scores_by_answer(judgements, answers("abc")) == {("a", 0): ("shot a", 6, 8)}


def test_every_failure_counts_as_1_of_10():
    judgements = [
        *(row("a", "ab", 6, 8), failed("a", "ba", "invalid")),
        *(failed("b", status, status) for status in ("refused", "error", "over_budget")),
        *(failed("d", "ab", "not_asked"), failed("d", "ba", "not_asked")),  # no reference
        *(failed("e", "ab", "not_asked"), failed("e", "ba", "not_asked")),  # no answer
    ]
    rows = answers("abcd") + [dataclasses.replace(answers("e")[0], text=None, error="died")]
    assert scores_by_answer(judgements, rows, failed_as=1) == {
        ("a", 0): ("shot a", 3.5, 9),
        ("b", 0): ("shot b", 1, 10),
        ("c", 0): ("shot c", 1, 10),  # never judged
        ("e", 0): ("shot e", 1, 10),
    }


SCORES = st.integers(1, 10)


@settings(deadline=None)  # shared machines pause
@given(st.lists(st.tuples(SCORES, SCORES, SCORES, SCORES, st.booleans()), min_size=1, max_size=30))
def test_it_is_a_bound_of_what_the_lost_judgements_could_have_said(verdicts):
    """Whatever scores the failed ones would have had, the ratio would not have been lower."""
    items = [str(n) for n in range(len(verdicts))]
    full = [
        row(i, o, *pair) for i, (a, b, c, d, _) in zip(items, verdicts) for o, pair in (("ab", (a, b)), ("ba", (c, d)))
    ]
    lost = {i for i, (*_, is_lost) in zip(items, verdicts) if is_lost}
    known = [failed(j.item_id, j.order, "error") if j.item_id in lost and j.order == "ba" else j for j in full]
    bound = ratio_interval(scores_by_answer(known, answers(items), failed_as=1).values())[0]
    assert bound <= ratio_interval(scores_by_answer(full, answers(items)).values())[0] + 1e-12
    if not lost:
        assert bound == pytest.approx(ratio_interval(scores_by_answer(full, answers(items)).values())[0])
