"""Text as words and quantities, and whether it says a phrase.

Two words are the same if one of their dictionary forms is (pymorphy3; Snowball stems part "Систему" and "Система",
"лимит" and "лимиты", "ошибок" and "ошибка"), ё as е, an Озон as an Ozon, "применилась" as "применена".
"""

from __future__ import annotations

import functools
import re
from typing import Sequence, Union

from vlm_eval.metrics.quantities import Quantity, clean, quantities, says
from vlm_eval.metrics.russian import words

Word = frozenset  # of a word's dictionary forms; several where it is ambiguous: "стали"
Token = Union[Word, Quantity]

SENTENCE_END = re.compile(r"(?<!\b\w)[.!?…](?=\s|$)")  # not after an initial
REFLEXIVE = re.compile("(?<=[тч]ь)ся$|(?<=ти)сь$")
SOUNDS = "a b v g d e zh z i y k l m n o p r s t u f h c ch sh sch - y - e yu ya".replace("-", "").split(" ")
TO_LATIN = str.maketrans(dict(zip("абвгдежзийклмнопрстуфхцчшщъыьэюя", SOUNDS, strict=True)))


@functools.lru_cache(maxsize=4096)  # the same facts and screens are held against many answers
def sentences(text: str) -> tuple[tuple[Token, ...], ...]:
    """The sentences that are not empty, as tokens."""
    text = clean(text)
    found: list[list[Token]] = [[]]
    end = 0
    for quantity in (*quantities(text), None):
        between = text[end : quantity.start if quantity else len(text)]
        for number, part in enumerate(SENTENCE_END.split(between)):
            if number:
                found.append([])
            found[-1] += _words(part)
        if quantity:
            found[-1].append(quantity)
            end = quantity.end
    return tuple(map(tuple, filter(None, found)))


def tokens(text: str) -> tuple[Token, ...]:
    return tuple(token for sentence in sentences(text) for token in sentence)


def is_said(wanted: Sequence[Token], text: str, across_sentences: bool = False) -> bool:
    """Words alone may stand in any order in a sentence of the text, among at most as many others: "Карта заблокирована"
    is in "заблокировали мою карту". With a quantity the parts must follow one another, at most a word between two."""
    find = _in_order if any(isinstance(token, Quantity) for token in wanted) else _close_together
    return any(find(wanted, sentence) for sentence in ([tokens(text)] if across_sentences else sentences(text)))


def _close_together(wanted: Sequence[Token], sentence: Sequence[Token]) -> bool:
    seen_at: list[int] = [-(10**9)] * len(wanted)
    for at, token in enumerate(sentence):
        here = [number for number, word in enumerate(wanted) if _same(token, word)]
        for number in here:
            seen_at[number] = at
        if here and at - min(seen_at) < 2 * len(wanted):
            return True
    return False


def _in_order(wanted: Sequence[Token], sentence: Sequence[Token]) -> bool:
    def follow(at: int) -> bool:
        for token in wanted:
            if at < len(sentence) and not _same(sentence[at], token) and isinstance(sentence[at], Word):
                at += 1
            if at >= len(sentence) or not _same(sentence[at], token):
                return False
            at += 1
        return True

    return any(follow(start) for start in range(len(sentence)))


def _same(there: Token, wanted: Token) -> bool:
    if isinstance(there, Word) and isinstance(wanted, Word):
        return not there.isdisjoint(wanted)
    return isinstance(there, Quantity) and isinstance(wanted, Quantity) and says(there, wanted)


def _words(text: str) -> list[Word]:
    """ "не" becomes part of the next word, so that "не выполнен" does not say "выполнен"; forms of быть are left out,
    so that "не был выполнен" says "не выполнен"."""
    found, negated = [], False
    for word in words(text):
        forms = _forms(word)
        if word in ("не", "ни"):
            negated = True
        elif "byt" not in forms:
            found.append(Word("ne" + form for form in forms) if negated and not word.isascii() else forms)
            negated = False
    return found


@functools.lru_cache(maxsize=1 << 16)
def _forms(word: str) -> Word:
    russian = re.fullmatch("[а-я]+", word)  # of other letters the dictionary knows nothing, and some make it fail
    lemmas = {parse.normal_form for parse in _dictionary().parse(word)} if russian else {word}
    return Word(REFLEXIVE.sub("", lemma.replace("ё", "е")).translate(TO_LATIN) for lemma in lemmas)


@functools.cache
def _dictionary():
    import pymorphy3

    return pymorphy3.MorphAnalyzer(lang="ru")
