"""How alike the repeats' answers are."""

from __future__ import annotations

import statistics
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.consistency import Consistency, ConsistencyConfig
from vlm_eval.metrics.russian import words
from vlm_eval.rows import Answer, Item

from .data import answered, needs_recorded, recorded_rows, summarised

ONE_REPEAT = "one repeat: nothing to compare"


def columns(*texts):
    """Of one item's answers, in the order of its repeats."""
    return list(Consistency(ConsistencyConfig()).score(answered(texts, repeats=len(texts))).values())


def summary_of(answers, repeats, **more):
    return summarised(Consistency(ConsistencyConfig()), answered(answers, repeats=repeats, **more))


def test_columns_by_hand():
    first, second, third = columns("Оплата не прошла", "Оплата не прошла", "Оплата картой не прошла")
    assert first == second == {"same_answers": 0.5, "pairwise_rouge1_f": pytest.approx((1 + 6 / 7) / 2)}
    assert third == {"same_answers": 0, "pairwise_rouge1_f": pytest.approx(6 / 7)}


def test_the_same_to_the_letter_is_more_than_the_same_words():
    assert columns("Ещё раз!", "еще раз") == [{"same_answers": 0, "pairwise_rouge1_f": 1}] * 2


def test_summary_by_hand():
    summary = summary_of(["да", "да", "да, верно", "нет", "нет", "нет"], repeats=3)
    assert summary == {
        "consistency/exact_rate": pytest.approx((1 / 3 + 1) / 2),
        "consistency/exact_rate_n": 2,
        "consistency/rouge1_f_mean": pytest.approx(((1 + 2 / 3 + 2 / 3) / 3 + 1) / 2),
        "consistency/rouge1_f_mean_n": 2,
        "consistency/length_chars_sd_mean": pytest.approx((statistics.stdev([2, 2, 9]) + 0) / 2),
        "consistency/length_chars_sd_mean_n": 2,
    }


def test_one_repeat_gives_nothing_and_says_so():
    data = answered(["Да", "Нет", None], facts=[("да",)] * 3)
    assert Consistency(ConsistencyConfig()).score(data) == {
        ("i0", 0): ONE_REPEAT,
        ("i1", 0): ONE_REPEAT,
        ("i2", 0): "no answer",
    }
    assert summarised(Consistency(ConsistencyConfig()), data) == {}


def test_a_failed_answer_is_in_no_pair():
    assert columns("да", None, "да") == [{"same_answers": 1, "pairwise_rouge1_f": 1}, "no answer"] + [
        {"same_answers": 1, "pairwise_rouge1_f": 1}
    ]
    assert columns(None, None) == ["no answer"] * 2
    assert columns("да", None) == ["no other repeat was answered", "no answer"]
    summary = summary_of(["да", None, "да", None, None, "нет", None, None, None], repeats=3)
    assert summary["consistency/exact_rate"] == 1 and summary["consistency/exact_rate_n"] == 1


def test_an_items_weight_does_not_depend_on_how_many_of_its_answers_failed():
    summary = summary_of(["да", None, None, "да", "а б", "в г", "д е", "ж з"], repeats=4)
    assert summary["consistency/exact_rate"] == summary["consistency/rouge1_f_mean"] == 0.5


def test_answers_of_an_item_need_not_stand_together():
    items = {name: Item(name, name, "x") for name in ("a", "b")}
    rows = [Answer(name, repeat, name, name * 3) for repeat in range(3) for name in items]
    found = Consistency(ConsistencyConfig()).score(Answered(items, rows, [], {}))
    assert list(found.values()) == [{"same_answers": 1, "pairwise_rouge1_f": 1}] * 6


def test_facts_agree_where_all_answers_or_none_have_them():
    answers = ["Код 1047, лимит", "Код 1047", "Код 1048", "Лимит", "Лимит", "Лимит"]
    summary = summary_of(answers, 3, facts=[("1047", "код", "наличные"), ("лимит",)])
    assert summary["consistency/facts_agreement"] == pytest.approx((2 / 3 + 1) / 2)  # 1047: in two of three
    assert summary["consistency/facts_agreement_n"] == 2


def test_an_item_without_facts_has_no_agreement_of_facts():
    summary = summary_of(["Код 1047", "Код 1048", "да", "да"], 2, facts=[("1047",), ()])
    assert summary["consistency/facts_agreement"] == 0 and summary["consistency/facts_agreement_n"] == 1
    assert summary["consistency/exact_rate_n"] == 2
    assert "consistency/facts_agreement" not in summary_of(["да", "да"], 2, facts=[()])


def test_the_interval_is_by_screenshot():
    """Three questions about each of eight screenshots: eight values, not twenty-four."""
    items = {f"{c}#{q}": Item(f"{c}#{q}", str(c), "x") for c in range(8) for q in range(3)}
    rows = [
        Answer(i, k, item.cluster, "да" if k == 0 or int(item.cluster) % 2 else "нет")
        for i, item in items.items()
        for k in range(2)
    ]
    summary = summarised(Consistency(ConsistencyConfig()), Answered(items, rows, [], {}))
    half = 2.3646 * statistics.stdev([0, 1] * 4) / 8**0.5
    assert summary["consistency/exact_rate"] == 0.5 and summary["consistency/exact_rate_n"] == 24
    assert summary["consistency/exact_rate_ci_high"] == pytest.approx(0.5 + half, rel=1e-4)


STRANGE = [
    "",
    " \n",
    "Нет",
    "...?!",
    "😀🙏🏽",
    "لم يتم الدفع \u202e",
    "Опл\0ата\0",
    "\ud83d",
    "Оплата не прошла. " * 1100,
]


def test_strange_texts():
    for text in STRANGE:
        assert columns(text, text) == [{"same_answers": 1, "pairwise_rouge1_f": 1}] * 2
    for one, other in combinations(STRANGE, 2):
        first, second = columns(one, other)
        assert first == second and first["same_answers"] == 0
        # Of two texts without a word nobody can say what they share.
        assert first["pairwise_rouge1_f"] == (0 if words(one) or words(other) else None)
    assert len(summary_of(STRANGE, repeats=len(STRANGE))) == 6


@given(st.lists(st.none() | st.text() | st.sampled_from(["да", "да, верно", "нет"]), min_size=2, max_size=6))
@settings(deadline=None)
def test_repeating_oneself_is_the_most_consistent(texts):
    found = columns(*texts)
    for text, scored in zip(texts, found, strict=True):
        if text is None or sum(other is not None for other in texts) < 2:
            assert isinstance(scored, str)
        else:
            assert 0 <= scored["same_answers"] <= 1 and 0 <= (scored["pairwise_rouge1_f"] or 0) <= 1
            assert columns(text, text)[0] == {"same_answers": 1, "pairwise_rouge1_f": 1}
    summary = summary_of(texts, repeats=len(texts))
    if len({text for text in texts if text is not None}) > 1:
        assert summary["consistency/exact_rate"] < 1
    elif summary:
        assert summary["consistency/exact_rate"] == summary["consistency/rouge1_f_mean"] == 1
        assert summary["consistency/length_chars_sd_mean"] == 0


@needs_recorded
def test_the_recorded_answers_by_another_count():
    """All pairs one by one, ROUGE-1 by the rouge-score package."""
    from rouge_score import rouge_scorer

    class Tokenizer:
        tokenize = staticmethod(words)

    rows = recorded_rows()
    scorer = rouge_scorer.RougeScorer(["rouge1"], tokenizer=Tokenizer())
    groups = [[row["candidate"] for row in rows[start : start + 5]] for start in range(0, 400, 5)]
    assert all(len({(r["model_name"], r["image"]) for r in rows[start : start + 5]}) == 1 for start in range(0, 400, 5))
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    summary = summary_of([row["candidate"] for row in rows], repeats=5)
    assert summary["consistency/exact_rate"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    expected = [scorer.score(b, a)["rouge1"].fmeasure for a, b in pairs]
    assert summary["consistency/rouge1_f_mean"] == pytest.approx(sum(expected) / len(expected))
    spread = [statistics.stdev(map(len, group)) for group in groups]
    assert summary["consistency/length_chars_sd_mean"] == pytest.approx(sum(spread) / 80)
    assert summary["consistency/exact_rate_n"] == 80
