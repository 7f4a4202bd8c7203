"""chrF and BLEU, against the sacrebleu command, nltk, torchmetrics, and the papers' formulas."""

from __future__ import annotations

import math
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.metrics.bleu import Bleu, BleuConfig
from vlm_eval.metrics.chrf import Chrf, ChrfConfig

from .data import answered, needs_recorded, recorded_rows, summarised

REQUEST = "Здравствуйте! Оплата 20 588 ₽ не прошла: ошибка E-1047, пишет «попробуйте ещё раз»."
METRICS = {"chrf": lambda: Chrf(ChrfConfig()), "bleu": lambda: Bleu(BleuConfig())}
PAIRS = [
    (REQUEST, REQUEST),
    ("Оплата не прошла, ошибка E-1047.", REQUEST),
    ("Здравствуйте! Пишет «попробуйте ещё раз», помогите.", REQUEST),
    ("Помогите, пожалуйста", REQUEST),
    ("Да", "Да, прошла"),
    ("ещё раз", "Еще раз"),
    ("Скидка 5 %, итого 1 200 ₽… 10:30", "Скидка 5%, итого 1 200 ₽ … в 10:30"),
    ("Ничего общего", "xyz"),
]
all_pairs = pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
both = pytest.mark.parametrize("name", METRICS)


def scored(name, answer, reference):
    [found] = METRICS[name]().score(answered([answer], [reference])).values()
    return found if isinstance(found, str) else found[name]


def by_command(name, pairs, folder, *more):
    """Scores of the sacrebleu command, 0..1, with its default settings but for the tokenizer."""
    for file, lines in (("answers", (a for a, _ in pairs)), ("references", (r for _, r in pairs))):
        (folder / file).write_text("".join(line.replace("\n", " ") + "\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "answers", "-m", name, "-tok", "intl", "-w", "10"]
    done = subprocess.run(
        [*command, "--score-only", "--force", *more], cwd=folder, capture_output=True, text=True, check=True
    )
    return [float(line) / 100 for line in done.stdout.split()]


def recorded_pairs():
    return list(dict.fromkeys((row["candidate"], row["reference"]) for row in recorded_rows()))


def check_against_command(name, pairs, folder):
    expected = by_command(name, pairs, folder, "--sentence-level")
    data = answered([a for a, _ in pairs], [r for _, r in pairs])
    found = [columns[name] for columns in METRICS[name]().score(data).values()]
    assert found == pytest.approx(expected, abs=1e-9)
    assert summarised(METRICS[name](), data)[f"{name}/mean"] == pytest.approx(sum(expected) / len(expected))


@both
def test_the_numbers_are_those_of_the_sacrebleu_command(name, tmp_path):
    check_against_command(name, PAIRS, tmp_path)


@needs_recorded
@both
def test_the_recorded_answers_score_as_by_the_sacrebleu_command(name, tmp_path):
    check_against_command(name, recorded_pairs(), tmp_path)


@both
def test_the_signature_is_the_commands(name, tmp_path):
    by_command(name, [("да", "да")], tmp_path)
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        "references",
        "-i",
        "answers",
        "-m",
        name,
        "-tok",
        "intl",
        "-f",
        "text",
    ]
    line = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    # The command's signature is of its corpus mode, where BLEU's effective order is off.
    signature = METRICS[name]().facts()["signature"]
    assert "version:" in signature and "case:mixed" in signature
    assert (signature.replace("eff:yes", "eff:no") if name == "bleu" else signature) in line


# ----------------------------------------------------------------------------------------------------------------- chrF


def chrf_by_the_paper(answer, reference, orders=6, beta=2):
    """chrF as in Popović 2015: precision and recall averaged over the orders that both texts have."""
    answer, reference = "".join(answer.split()), "".join(reference.split())
    precisions, recalls = [], []
    for n in range(1, min(orders, len(answer), len(reference)) + 1):
        a, r = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (answer, reference))
        precisions.append((a & r).total() / a.total())
        recalls.append((a & r).total() / r.total())
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * p * r / (beta**2 * p + r) if p + r else 0.0


@all_pairs
def test_chrf_is_the_papers(pair):
    assert scored("chrf", *pair) == pytest.approx(chrf_by_the_paper(*pair), abs=1e-9)


@needs_recorded
def test_chrf_of_the_recorded_answers():
    """nltk and torchmetrics average F over the orders instead of precision and recall, torchmetrics with spaces at the
    ends of words: nearly the same."""
    from nltk.translate.chrf_score import sentence_chrf
    from torchmetrics.functional.text import chrf_score

    for number, (answer, reference) in enumerate(recorded_pairs()):
        found = scored("chrf", answer, reference)
        assert found == pytest.approx(chrf_by_the_paper(answer, reference), abs=1e-9)
        assert found == pytest.approx(sentence_chrf(reference, answer, beta=2), abs=1e-4)
        if number < 40:  # it takes 50 ms a pair
            assert found == pytest.approx(float(chrf_score([answer], [[reference]], n_word_order=0)), abs=2e-3)


def test_chrf_sees_endings_as_nearly_right_and_digits_as_wrong():
    assert scored("chrf", "оплаты картой", "оплата картой") > 0.5 > scored("chrf", "возврат наличными", "оплата картой")
    assert scored("chrf", "код 1048", "код 1047") < 1 and scored("chrf", "ещё", "еще") < 1


# ----------------------------------------------------------------------------------------------------------------- BLEU


def international_words(text):
    """mteval-v14's international tokenisation: symbols apart, punctuation too unless digits are around it."""
    kinds = [unicodedata.category(letter)[0] for letter in text]

    def apart(place):
        around = kinds[max(place - 1, 0) : place] + kinds[place + 1 : place + 2]
        return kinds[place] == "S" or kinds[place] == "P" and any(kind != "N" for kind in around)

    return "".join(f" {letter} " if apart(place) else letter for place, letter in enumerate(text)).split()


def bleu_by_nltk(answer, reference):
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    # method3 is the smoothing that sacrebleu calls exp.
    a, r = international_words(answer), international_words(reference)
    return sentence_bleu([r], a, smoothing_function=SmoothingFunction().method3, auto_reweigh=len(a) < 4)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if len(pair[0].split()) >= 4])
def test_bleu_is_nltks(pair):
    assert scored("bleu", *pair) == pytest.approx(bleu_by_nltk(*pair), abs=1e-9)


@needs_recorded
def test_bleu_of_the_recorded_answers_is_nltks():
    for pair in recorded_pairs():
        assert scored("bleu", *pair) == pytest.approx(bleu_by_nltk(*pair), abs=1e-9)


def test_bleu_by_hand():
    """4 of 5 words, 2 of 4 pairs, 1 of 3 triples; no four of 2 in a row, which smoothing halves; one word too short."""
    found = scored("bleu", "карта не была принята сегодня", "карта не принята сегодня банком вчера")
    precisions = [4 / 5, 2 / 4, 1 / (2 * 3), 1 / (4 * 2)]
    assert found == pytest.approx(math.exp(1 - 6 / 5) * math.prod(precisions) ** 0.25)


def test_guillemets_and_dashes_are_not_part_of_words():
    assert scored("bleu", "Оплатить", "«Оплатить»") > 0  # 0 with sacrebleu's default tokenizer
    assert scored("bleu", "кнопка « Оплатить » — внизу", "кнопка «Оплатить» — внизу") == 1


def test_bleu_of_the_run_is_not_the_mean_of_its_answers(tmp_path):
    data = answered([a for a, _ in PAIRS] + [None, "лишнее"], [r for _, r in PAIRS] + ["нет ответа", None])
    summary = summarised(METRICS["bleu"](), data)
    [expected] = by_command("bleu", PAIRS, tmp_path)
    assert summary["bleu/corpus"] == pytest.approx(expected, abs=1e-9)
    assert abs(summary["bleu/corpus"] - summary["bleu/mean"]) > 0.01
    assert summary["bleu/mean_n"] == len(PAIRS)


def test_bleu_of_a_run_without_a_common_4_gram_is_smoothed_as_by_the_command(tmp_path):
    pairs = [("карта не была принята сегодня", "карта не принята сегодня банком"), ("да, оплата", "нет, оплата")]
    summary = summarised(METRICS["bleu"](), answered([a for a, _ in pairs], [r for _, r in pairs]))
    [expected] = by_command("bleu", pairs, tmp_path)
    assert summary["bleu/corpus"] == pytest.approx(expected, abs=1e-9) and expected > 0


# -------------------------------------------------------------------------------------------------------------- both

STRANGE = {
    "one word": "Нет",
    "punctuation": "...?!",
    "emoji": "😀🙏🏽👨‍👩‍👧",
    "long": "Оплата не прошла, ошибка 504. " * 667,
    "right to left": "لم يتم الدفع \u202e",
    "NUL": "Опл\0ата\0",
    "lone surrogate": "\ud83d",
    "lines": "Раз.\nДва.\r\n\nТри.\u2028Четыре",
}


@both
@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_texts_score_1_against_themselves_and_less_against_others(name, text):
    assert scored(name, text, text) == pytest.approx(1)
    assert 0 <= scored(name, text, REQUEST) < 1 and 0 <= scored(name, REQUEST, text) < 1


@both
@given(st.text(), st.text(min_size=1))
@settings(max_examples=200, deadline=None)
def test_nothing_scores_more_than_the_reference_itself(name, answer, reference):
    if not reference.strip():
        assert scored(name, answer, reference) == "the reference is blank"
    else:
        assert 0 <= scored(name, answer, reference) <= scored(name, reference, reference) + 1e-9
        assert scored(name, reference, reference) == pytest.approx(1)


@both
def test_an_empty_answer_scores_0_and_a_missing_one_is_not_scored(name):
    assert scored(name, "", REQUEST) == scored(name, " \n", REQUEST) == 0
    assert scored(name, None, REQUEST) == "no answer"
    assert scored(name, REQUEST, None) == scored(name, REQUEST, "") == "no reference"
    assert scored(name, REQUEST, " \n") == "the reference is blank"


@both
def test_nothing_scored_leaves_no_number(name):
    assert summarised(METRICS[name](), answered([None, "да"], ["да", None])) == {}


@both
def test_the_mean_has_an_interval_by_screenshot(name):
    summary = summarised(METRICS[name](), answered(["да", "да", "да", "да", "xyz"], ["да"] * 5))
    assert summary[f"{name}/mean"] == pytest.approx(0.8) and summary[f"{name}/mean_n"] == 5
    assert summary[f"{name}/mean_ci_low"] < 0.8 < summary[f"{name}/mean_ci_high"]
