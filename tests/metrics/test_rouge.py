"""ROUGE of Russian words and stems, against two libraries."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.metrics.rouge import COLUMNS, Rouge, RougeConfig, lcs_length
from vlm_eval.metrics.russian import normalise, stem, words

from .data import answered, needs_recorded, recorded_rows, summarised

REQUEST = "Здравствуйте! Оплата 20 588 ₽ не прошла: ошибка E-1047, пишет «попробуйте ещё раз»."
PLAIN = ("rouge1_f", "rouge2_f", "rougeL_f")
STEMMED = ("rouge1_f_stemmed", "rouge2_f_stemmed", "rougeL_f_stemmed")
# Few words, so that texts share some; the marks and the emoji are none.
russian_texts = st.lists(
    st.sampled_from("оплата оплаты Оплатой не прошла ещё еще E-1047 20 588 ₽ — 😀 , «карта» картой Wi-Fi".split()),
    max_size=30,
).map(" ".join)


def rouge(answer, reference):
    [found] = Rouge(RougeConfig()).score(answered([answer], [reference])).values()
    return found


def plain(answer, reference):
    return {name: rouge(answer, reference)[name] for name in PLAIN}


# ------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("text", [REQUEST, "Оплата прошла", "12:30", "😀 не работает", "عطل في الدفع"])
def test_the_same_text_scores_1(text):
    assert rouge(text, text) == dict.fromkeys(PLAIN + STEMMED, 1.0)


def test_scores_by_hand():
    found = rouge("оплата картой не прошла", "оплата не прошла вчера вечером")
    assert found["rouge1_f"] == pytest.approx(2 * 3 / (4 + 5))  # оплата, не, прошла
    assert found["rouge2_f"] == pytest.approx(2 * 1 / (3 + 4))  # не прошла
    assert found["rougeL_f"] == pytest.approx(2 * 3 / (4 + 5))
    assert rouge("совсем другое", "оплата не прошла") == dict.fromkeys(PLAIN + STEMMED, 0)


def test_stems_are_the_same_word_where_endings_differ():
    found = rouge("оплаты картой прошли", "оплата карты прошла")
    assert [found[name] for name in PLAIN] == [0, 0, 0]
    assert [found[name] for name in STEMMED] == [1, 1, 1]


def test_order_counts_for_rouge_l_and_repeats_are_clipped():
    assert rouge("прошла не оплата", "оплата не прошла")["rougeL_f"] == pytest.approx(1 / 3)
    assert rouge("не не не не", "не прошла")["rouge1_f"] == pytest.approx(2 * 1 / (4 + 2))


def test_case_and_yo_do_not_count_but_digits_and_words_do():
    assert rouge("ЕЩЁ раз", "еще РАЗ")["rouge2_f"] == 1
    assert rouge("код 1047", "код 1048")["rouge1_f"] == rouge("код 1047", "код 1048")["rouge1_f_stemmed"] == 0.5
    assert rouge("оплата, карта!", "оплата — карта")["rouge2_f"] == 1


def test_what_the_normaliser_keeps():
    assert normalise("«Ещё» 20 588 ₽,\tE-1047_x").split() == ["еще", "20", "588", "e", "1047", "x"]
    composed, apart = "ёлка и её зайка", "е\u0308лка и ее\u0308 заи\u0306ка"
    assert words(apart) == words(composed) == ["елка", "и", "ее", "зайка"]
    assert words("за\u0301мок опе\u00adрация") == ["замок", "операция"]  # a stress mark, a soft hyphen


def test_stems():
    assert {stem(w) for w in ("перевод", "переводы", "переводить", "переводом")} == {"перевод"}
    assert [stem(w) for w in ("1047", "qwen", "не", "да", "x")] == ["1047", "qwen", "не", "да", "x"]


# -------------------------------------------------------------------------------------- against other people's code


def rouge_score_package(answer, reference, tokens):
    from rouge_score import rouge_scorer

    class Tokenizer:
        tokenize = staticmethod(tokens)

    found = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Tokenizer()).score(reference, answer)
    return [found[kind].fmeasure for kind in ("rouge1", "rouge2", "rougeL")]


@needs_recorded
def test_the_recorded_answers_score_as_by_rouge_score():
    rows = recorded_rows()
    data = answered([row["candidate"] for row in rows], [row["reference"] for row in rows])
    found = Rouge(RougeConfig()).score(data)
    assert len(found) == len(rows) == 400
    expected = {}
    for number, row in enumerate(rows):
        pair = row["candidate"], row["reference"]
        if pair not in expected:
            stems = rouge_score_package(*pair, lambda text: [stem(word) for word in words(text)])
            expected[pair] = rouge_score_package(*pair, words) + stems
        assert [found[f"i{number}", 0][name] for name in PLAIN + STEMMED] == pytest.approx(expected[pair], abs=1e-6)
    summary = summarised(Rouge(RougeConfig()), data)
    for place, name in enumerate(PLAIN + STEMMED):
        mean = sum(expected[row["candidate"], row["reference"]][place] for row in rows) / 400
        assert summary[f"rouge/{name}_mean"] == pytest.approx(mean, abs=1e-6) and summary[f"rouge/{name}_mean_n"] == 400
    assert summary["rouge/rouge1_f_stemmed_mean"] > summary["rouge/rouge1_f_mean"] > 0.1


@needs_recorded
def test_the_stems_are_those_of_nltks_snowball():
    from nltk.stem.snowball import RussianStemmer

    theirs = RussianStemmer()
    found = {word for row in recorded_rows() for word in words(row["reference"]) + words(row["candidate"])}
    assert len(found) > 500 and {w: stem(w) for w in found} == {w: theirs.stem(w) for w in found}


def test_torchmetrics_counts_the_same():
    from torchmetrics.functional.text.rouge import rouge_score

    kinds = ("rouge1", "rouge2", "rougeL")
    for answer in (REQUEST, "Оплата не прошла, попробуйте ещё раз.", "ошибка ошибка раз два раз", "Привет"):
        theirs = rouge_score(answer, REQUEST, rouge_keys=kinds, normalizer=normalise)
        assert list(plain(answer, REQUEST).values()) == pytest.approx(
            [float(theirs[f"{kind}_fmeasure"]) for kind in kinds], abs=1e-6
        )


@given(russian_texts, russian_texts)
@settings(max_examples=200, deadline=None)
def test_any_texts_score_as_by_rouge_score(answer, reference):
    if len(words(reference)) > 1:
        assert list(plain(answer, reference).values()) == pytest.approx(rouge_score_package(answer, reference, words))


@given(st.text("абв", max_size=80), st.text("абв", max_size=80))
@settings(deadline=None)
def test_the_longest_common_subsequence_is_that_of_the_table(one, other):
    row = [0] * (len(other) + 1)
    for a in one:
        before, row = row, [0]
        for number, b in enumerate(other):
            row.append(before[number] + 1 if a == b else max(before[number + 1], row[-1]))
    assert lcs_length(one, other) == row[-1]


# --------------------------------------------------------------------------------------------------------- properties

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
    found = rouge(text, REQUEST)
    assert list(found) == COLUMNS and all(0 <= value <= 1 for value in found.values())
    of_itself = rouge(text or " ", text or " ")
    if words(text):
        assert of_itself["rouge1_f"] == 1 and set(of_itself.values()) <= {1, None}
    else:
        assert of_itself == "no word in the reference"


@given(st.text() | russian_texts, st.text() | russian_texts)
@settings(max_examples=200, deadline=None)
def test_nothing_scores_more_than_the_reference_itself(answer, reference):
    if not words(reference):
        assert rouge(answer, reference) == "no word in the reference" if reference else "no reference"
        return
    best, found = rouge(reference, reference), rouge(answer, reference)
    for name in COLUMNS:
        if len(words(reference)) == 1 and "2" in name:
            assert best[name] is None and found[name] is None
        else:
            assert best[name] == 1 and 0 <= found[name] <= 1


def test_against_one_word_there_is_no_rouge_2_and_its_mean_is_over_the_others():
    assert rouge("Да, конечно", "Да")["rouge2_f"] is None and rouge("Да, конечно", "Да")["rouge1_f"] == pytest.approx(
        2 / 3
    )
    summary = summarised(Rouge(RougeConfig()), answered(["Да", "Оплата прошла"], ["Да", "Оплата прошла"]))
    assert summary["rouge/rouge2_f_mean"] == 1 and summary["rouge/rouge2_f_mean_n"] == 1
    assert summary["rouge/rouge1_f_mean_n"] == summary["rouge/rougeL_f_stemmed_mean_n"] == 2


def test_an_answer_without_a_word_scores_0():
    for nothing in ("", "...", "😀"):
        assert rouge(nothing, REQUEST) == dict.fromkeys(PLAIN + STEMMED, 0)


def test_without_answer_or_reference_there_is_a_reason_and_no_score():
    data = answered([REQUEST, None, REQUEST, None], [REQUEST, REQUEST, None, None])
    found = Rouge(RougeConfig()).score(data)
    assert found["i1", 0] == "no answer" and found["i2", 0] == "no reference" and isinstance(found["i3", 0], str)
    assert summarised(Rouge(RougeConfig()), data) == {
        f"rouge/{name}_mean{end}": value for name in PLAIN + STEMMED for end, value in (("", 1.0), ("_n", 1))
    }


def test_why_another_run_gave_no_reference_is_the_reason():
    why = "the run that gives the references has none: out of memory"
    data = answered([REQUEST, None, REQUEST], [None, None, REQUEST], no_reference=[why, why, None])
    found = Rouge(RougeConfig()).score(data)
    assert (found["i0", 0], found["i1", 0]) == (why, "no answer") and isinstance(found["i2", 0], dict)


def test_nothing_scored_leaves_no_number():
    assert summarised(Rouge(RougeConfig()), answered([None], [REQUEST])) == {}


def test_the_mean_has_an_interval_from_five_screenshots_on():
    summary = summarised(Rouge(RougeConfig()), answered(["да", "да", "да", "да", "нет"], ["да"] * 5))
    assert summary["rouge/rouge1_f_mean"] == pytest.approx(0.8) and summary["rouge/rouge1_f_mean_n"] == 5
    assert summary["rouge/rouge1_f_mean_ci_low"] < 0.8 < summary["rouge/rouge1_f_mean_ci_high"]


def test_what_decides_the_stems_is_a_fact():
    assert Rouge(RougeConfig()).facts()["stemmer"].startswith("snowballstemmer ")


def test_twenty_thousand_characters_take_no_minutes():
    """10,000 words of one letter against as many others: a table of a cell a pair of words takes 20 s and 1 GB."""
    one, other = " ".join("абвгд" * 2000), " ".join("гдабв" * 2000)
    began = time.process_time()
    assert rouge(one, other)["rougeL_f"] == pytest.approx(0.9998)
    assert time.process_time() - began < 3


def test_a_thousand_distinct_answers_take_less_than_a_millisecond_each():
    texts = [f"{REQUEST} Номер обращения {n}, дата {n % 31}.12, карта {n * 7919}." for n in range(1000)]
    data = answered(texts, texts[::-1])
    began = time.process_time()
    Rouge(RougeConfig()).score(data)
    assert time.process_time() - began < 1
