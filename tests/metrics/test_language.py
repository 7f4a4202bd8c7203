"""Mistakes that pylat-ru finds, scripts, and the numbers of a run."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.errors import BadInput
from vlm_eval.metrics import grammar
from vlm_eval.metrics.language import KnownWords, latin_words, of_scripts, script
from vlm_eval.metrics.refusals import is_refusal

from .data import answered, as_scores, needs_recorded, recorded_rows, summarised
from .language_metric import CLEAN, STRANGE, WRONG, columns, language, pylat_ru

# --------------------------------------------------------------------------------------------------- mistakes, pylat-ru


def test_spelling_mistakes_are_counted_and_listed():
    wrong, clean = columns(WRONG, CLEAN)
    assert wrong["grammar_errors"] == 2 and wrong["error_words"] == ["Превет", "работаит"]
    assert clean["grammar_errors"] == 0 and clean["error_words"] == []
    assert wrong["russian_words"] == 6 and "grammar_error_reason" not in wrong


def test_grammar_and_punctuation_are_mistakes_and_spaces_are_not():
    agreement, comma, spaces = columns("Он хочет вернутся домой.", "Пожалуйста помогите мне.", "Да  ,  конечно .")
    assert agreement["error_words"] and comma["error_words"]
    assert spaces["error_words"] == []
    [counted] = columns("Да  ,  конечно .", disabled_categories=[])
    assert counted["grammar_errors"] > 0


def test_a_rule_can_be_switched_off():
    assert columns(WRONG, disabled_rules=["MORFOLOGIK_RULE_RU_RU"])[0]["grammar_errors"] == 0
    assert columns(WRONG, disabled_categories=["TYPOS"])[0]["grammar_errors"] == 0


def test_brands_are_no_mistakes_in_any_case():
    text = "Рустор не отвечает, Ламоды нет в Русторе, Ситилинком доволен, Зюкин Пэй тоже."
    assert columns(text, words=["Зюкин Пэй"])[0]["error_words"] == []
    assert columns(text, brands=None)[0]["error_words"][:2] == ["Рустор", "Ламоды"]


def test_a_brand_is_no_mistake_with_its_neighbour():
    """To the dictionary «пуши» is a verb."""
    text = "Не вижу в пуши кода. Открою пуши потом."
    assert columns(text, brands=None)[0]["error_words"] == ["в пуши", "Открою пуши"]
    assert columns(text)[0]["error_words"] == []


def test_words_of_the_task_are_no_mistakes(tmp_path):
    text = "В Ювенте и у Брюмы ошибка, а работаит только касса."
    assert columns(text)[0]["error_words"] == ["Ювенте", "Брюмы", "работаит"]
    (tmp_path / "words.txt").write_text("# ours\nБрюма  # wallet\n", encoding="utf-8")
    [found] = columns(text, words=["Ювента"], words_file=str(tmp_path / "words.txt"))
    assert found["error_words"] == ["работаит"]


def test_a_known_phrase_is_known_side_by_side_only():
    known = KnownWords(["Зюкин Банк"])
    assert known.places("Я в Зюкин-Банке, а Зюкин против банка") == [(4, 15)]
    assert KnownWords(["", "--"]).places("Да -- нет") == []


def test_a_repeated_brand_is_still_a_repeated_word():
    text = "Закажу в Озон Озон завтра."
    assert columns(text)[0]["error_words"] == columns(text, brands=None)[0]["error_words"] == ["Озон Озон"]


def test_each_distinct_text_is_checked_once(monkeypatch):
    asked = []
    check = pylat_ru.LanguageToolRU.check
    monkeypatch.setattr(pylat_ru.LanguageToolRU, "check", lambda tool, text: asked.append(text) or check(tool, text))
    found = columns(WRONG, CLEAN, WRONG)
    assert asked == [WRONG, CLEAN] and found[0] == found[2]


def test_a_text_that_the_checker_stumbles_over_has_a_reason_and_the_others_are_checked(monkeypatch):
    check = pylat_ru.LanguageToolRU.check

    def stumble(tool, text):
        if text == CLEAN:
            raise RecursionError("too deep")
        return check(tool, text)

    monkeypatch.setattr(pylat_ru.LanguageToolRU, "check", stumble)
    first, broken, last = columns(WRONG, CLEAN, WRONG + " ")
    assert broken["grammar_errors"] is None and broken["error_words"] is None
    assert broken["grammar_error_reason"] == "pylat-ru failed: RecursionError: too deep"
    assert broken["latin_share"] == 0 and broken["refusal"] is False
    assert first["grammar_errors"] == last["grammar_errors"] == 2


@pytest.fixture(scope="module")
def strange():
    return dict(zip(STRANGE, columns(*STRANGE)))


@pytest.mark.parametrize("text", STRANGE, ids=ascii)
def test_strange_texts_are_scored(strange, text):
    found = strange[text]
    assert set(found) == {
        *("grammar_errors", "error_words", "russian_words", "foreign_letters"),
        *("latin_share", "latin_words", "mainly_latin", "refusal"),
    }
    if STRANGE[text] is not None:
        assert found["grammar_errors"] == STRANGE[text]


def test_20_000_characters():
    sentences = "Оплата не прошла, хотя денег на карте хватает.\nThe payment has failed, as it did yesterday.\n" * 220
    one_word = "а" * 20_000
    found, of_one_word = columns(sentences + "Превет.", one_word)
    assert len(sentences) > 19_900 and found["error_words"] == ["Превет"] and found["russian_words"] == 8 * 220 + 1
    assert of_one_word["error_words"] in ([], [one_word]) and of_one_word["russian_words"] == 1


@pytest.fixture(scope="module")
def pylat():
    with grammar.opened("pylat", None) as checker:
        yield checker


PIECES = st.sampled_from(["😀", "👨‍👩‍👧", "карта", "Ozon", "𝐀", "№", "\n", "مرحبا", "е\u0301"])


@settings(max_examples=30, deadline=None)
@given(before=st.lists(PIECES, max_size=5), after=st.lists(PIECES, max_size=5))
def test_a_misspelt_word_is_found_at_its_place_whatever_stands_around_it(pylat, before, after):
    text = " ".join([*before, "работаит", *after])
    assert "работаит" in [text[m.start : m.end] for m in pylat.mistakes(text)]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_any_text_is_checked_and_mistakes_lie_in_it(pylat, text):
    assert all(0 <= m.start <= m.end <= len(text) for m in pylat.mistakes(text))


def test_a_list_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "words.txt").write_bytes("Озон".encode("cp1251"))
    with pytest.raises(BadInput, match="not UTF-8"):
        language(words_file=str(tmp_path / "words.txt")).check()


# ----------------------------------------------------------------------------------------------------- scripts, summary


def test_scripts_by_hand():
    found = of_scripts("Ошибка E-1047 в Wi-Fi: 支付 失败, мир ok OK")
    assert found == {
        "foreign_letters": 4,
        "latin_share": pytest.approx(9 / (9 + 10 + 4)),
        "latin_words": ["e", "wi-fi", "ok"],
        "mainly_latin": False,
    }
    assert of_scripts("Оплата № 5 ™ ½ ₽ ℃") == {**of_scripts("Оплата"), "latin_words": []}  # signs are no letters


@pytest.mark.parametrize(
    "char, expected",
    [
        *(("я", "Cyrillic"), ("Ё", "Cyrillic"), ("ї", "Cyrillic"), ("ӣ", "Cyrillic"), ("a", "Latin"), ("é", "Latin")),
        *(("ß", "Latin"), ("ﬁ", "Latin"), ("Ｑ", "Latin"), ("𝗛", "Latin"), ("α", "foreign"), ("支", "foreign")),
        *(("م", "foreign"), ("א", "foreign"), ("ク", "foreign"), ("ǀ", "Latin"), ("5", None), ("№", None)),
        *(("😀", None), ("ʼ", None), ("\u0301", None), ("\ud83d", None), ("\0", None), ("µ", "foreign")),
    ],
    ids=ascii,
)
def test_scripts(char, expected):
    assert script(char) == expected


def test_mainly_latin_is_over_one_half():
    assert [of_scripts(text)["mainly_latin"] for text in ("ok да", "oks да", "", "😀 42", "支付")] == [0, 1, 0, 0, 0]
    assert of_scripts("")["latin_share"] is None and of_scripts("42")["latin_share"] is None


def test_latin_words_are_each_once():
    assert latin_words("Can’t can't 'Ozon' OZON.Card USB-кабель — cafe\u0301") == [
        "can’t",
        "can't",
        *"ozon card usb café".split(),
    ]


@given(st.text(st.characters()))
def test_scripts_of_any_text(text):
    found = of_scripts(text)
    assert 0 <= found["foreign_letters"] <= len(text)
    assert found["latin_share"] is None or 0 <= found["latin_share"] <= 1
    assert (found["latin_share"] is None) == (not any(script(c) for c in text))
    assert len(set(found["latin_words"])) == len(found["latin_words"])
    again = of_scripts(text + text)
    assert again["foreign_letters"] == 2 * found["foreign_letters"] and again["latin_share"] == found["latin_share"]


def test_summary_by_hand():
    texts = [WRONG, None, "Sorry, but I can't assist with that.", "支付 失败", "Открой Ozon, Card и Ozon."]
    metric = language()
    data = answered(texts)
    summary = metric.summarise(data, as_scores(metric.score(data)))
    latin = [0, 1, 0, 12 / (12 + 7)]
    assert summary == {
        "language/grammar_unchecked": 0,
        "language/grammar_errors_sum": 2,
        "language/grammar_errors_per_100_words": pytest.approx(100 * 2 / (6 + 2)),  # English words are not checked
        "language/grammar_errors_per_100_words_n": 4,
        "language/foreign_letters_sum": 4,
        "language/latin_share_mean": pytest.approx(sum(latin) / 4),
        "language/latin_share_mean_n": 4,
        "language/latin_words_unique": 9,  # sorry but i can't assist with that, ozon card
        "language/mainly_latin_rate": 0.5,
        "language/mainly_latin_rate_n": 4,
        "language/refusal_rate": 0.25,
        "language/refusal_rate_n": 4,
    }


def test_intervals_are_clustered_by_screenshot():
    summary = summarised(language(), answered([WRONG, CLEAN] * 5, repeats=2))
    for name in ("grammar_errors_per_100_words", "latin_share_mean", "mainly_latin_rate", "refusal_rate"):
        low, high = (summary[f"language/{name}_ci_{end}"] for end in ("low", "high"))
        if name != "grammar_errors_per_100_words" and summary[f"language/{name}"] == 0:
            assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 5)))  # in none of five screenshots is not never
        else:
            assert low == high == pytest.approx(summary[f"language/{name}"])  # all screenshots are alike


def test_answers_in_english_alone_have_no_errors_per_100_words():
    summary = summarised(language(), answered(["The paymant has faild."]))
    assert summary["language/mainly_latin_rate"] == 1 and "language/grammar_errors_per_100_words" not in summary


def test_nothing_scored_leaves_no_number():
    assert summarised(language(), answered([None])) == {}


def test_facts_tell_other_word_lists_apart(tmp_path):
    def hash_with(**more):
        metric = language(**more)
        metric.score(answered(["Да"]))
        return metric.facts()["known_words"]

    assert hash_with() == hash_with(words=["Озон"]) != hash_with(words=["Ладога"])  # Озон is in the list already
    assert language().facts() == {}


# -------------------------------------------------------------------------------------------------- the study's answers


@needs_recorded
def test_the_study_s_answers():
    """The study counted letters of other scripts, and a person found the refusals."""
    rows = recorded_rows()
    assert [of_scripts(r["candidate"])["foreign_letters"] for r in rows] == [int(r["foreign_letters"]) for r in rows]
    refused = Counter((r["model_name"], r["image"]) for r in rows if is_refusal(r["candidate"]))
    assert refused == {
        ("Qwen2-VL-2B-Instruct", "test_5"): 5,
        ("Qwen2-VL-2B-Instruct", "test_7"): 4,
        ("Qwen2-VL-2B-Instruct-GPTQ-Int4", "test_4"): 3,
        ("Qwen2-VL-2B-Instruct-AWQ", "test_7"): 3,
    }
    assert not any(is_refusal(r["reference"]) for r in rows)


@needs_recorded
def test_spelling_mistakes_that_the_study_listed():
    """By Yandex Speller: three in Russian, of which one is a right word in a wrong place."""
    listed = [(r["candidate"], ast.literal_eval(r["error_words"])) for r in recorded_rows()]
    russian = [(text, words) for text, words in listed if words and script(words[0][0]) == "Cyrillic"]
    found = columns(*(text for text, _ in russian))
    assert [set(words) <= set(x["error_words"]) for (_, words), x in zip(russian, found)].count(True) == 2
