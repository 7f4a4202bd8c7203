"""What an answer claims to be on the screen: amounts, dates, times, numbers and codes, and names.

Names are quoted strings, Latin words with a capital letter or a domain's dot, and capitalised Russian words inside a
sentence; names that follow one another are one. What would be punished without being an invention is left out:
numbers that count or order (under 10 and without a unit; "1)" before a line), polite pronouns, common abbreviations.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Sequence

from vlm_eval.metrics.quantities import MONTHS, Number, Quantity, clean, quantities

QUOTED = re.compile(
    r"«([^«»\n]{1,200})»|[“„]([^“”„\n]{1,200})[“”]"
    r"|(?<![^\s(])\"(?=\S)([^\"\n]{1,200})(?<=\S)\"(?!\w)"
)
# A symbol is described in quotes, not read from the screen: the button with the symbol "plus".
OF_A_SYMBOL = re.compile(r"(?:символ|знак|значк|значок|иконк|пиктограмм|symbol|icon)\w*\W{1,3}$", re.I)
LIST_NUMBER = re.compile(r"^[^\w\n]{0,9}(\d{1,2}[.)])(?=\s)", re.M)
WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:[-'’&@][^\W\d_]+|\.[a-zA-Z]+)*(?!\w)")
BEFORE_A_SENTENCE = set(".!?…:;-–—•*#>|([«„“\"'")

NO_NAMES = re.compile(
    rf"вы|вас|вам|вами|ваш[а-яё]*|{'|'.join(MONTHS)}|понедельник[а-яё]*|вторник[а-яё]*|сред[аыуе]|четверг[а-яё]*"
    r"|пятниц[а-яё]*|суббот[а-яё]*|воскресень[а-яё]*|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|смс|sms|пин|pin|qr|id|ok|pdf|url|wi-fi|e-mail|email|push|online|faq|сбп|инн|бик|снилс|огрн|кпп|лк|пвз|ип|ооо|ао|рф"
    r"|фио|ндс|по|ос|пк|cvv|cvc|vpn|ios|android|(?:интернет|банк)[а-яё]*|sim|ip|не|ни|нет|да|russian|english|i(?:['’][a-z]+)?",
    re.I,
)


class Claim(NamedTuple):
    start: int
    text: str  # as it is written
    quantity: Optional[Quantity] = None  # None: a name


def claims(text: str, names: bool) -> list[Claim]:
    """In order; a claim made twice is there twice."""
    text = _without_quotes_around(clean(text))
    numbers = quantities(text)
    list_numbers = [match.span(1) for match in LIST_NUMBER.finditer(text)]
    starts = {start for start, _ in list_numbers}
    found = [
        Claim(q.start, " ".join(text[q.start : q.end].split()), q)
        for q in numbers
        if not _counts(q, text) and q.start not in starts
    ]
    return sorted(found + (_names(text, numbers, list_numbers) if names else []), key=lambda claim: claim.start)


def _without_quotes_around(text: str) -> str:
    """Small models put their whole answer in quotes, which makes it no label of the screen."""
    text = text.strip()
    around = re.fullmatch(r"\"([^\"]*)\"|«([^«»]*)»|“([^“”]*)”", text)
    return next(filter(None, around.groups()), "") if around else text


def _counts(quantity: Quantity, text: str) -> bool:
    small = any(r.unit is None and r.value in range(10) for r in quantity.readings if isinstance(r, Number))
    return small or text[quantity.start : quantity.end] == "24/7"


def _names(text: str, numbers: Sequence[Quantity], list_numbers: Sequence[tuple[int, int]]) -> list[Claim]:
    found, rest = [], list(text)
    for quote in QUOTED.finditer(text):
        phrase = next(filter(None, quote.groups()))
        is_label = any(map(str.isalpha, phrase)) and not re.search(r"[.!?…]\s", phrase)  # more is a letter to send
        if is_label and not OF_A_SYMBOL.search(text[max(0, quote.start() - 30) : quote.start()]):
            found.append(Claim(quote.start(), " ".join(phrase.split())))
        _blank(rest, quote.start(), quote.end(), phrase)
    for number in numbers:
        _blank(rest, number.start, number.end, text[number.start : number.end])
    for start, end in list_numbers:
        _blank(rest, start, end, ".")
    return found + _capitalised("".join(rest))


def _blank(text: list[str], start: int, end: int, phrase: str) -> None:
    """Digits are part of no name; what ended the sentence still does."""
    text[start:end] = "0" * (end - start - 1) + ("." if phrase[-1] in ".!?…" else "0")


def _capitalised(text: str) -> list[Claim]:
    russian = 4 * len(re.findall("[а-яё]", text, re.I)) > len(re.findall("[a-z]", text, re.I))
    found: list[tuple[int, int]] = []
    for word in WORD.finditer(text):
        goes_on = bool(found) and word.start() - found[-1][1] == 1 and text[found[-1][1]].isspace()
        if goes_on and (_is_name(word, text, russian) or (len(word[0]) == 1 and word[0].isupper())):
            found[-1] = (found[-1][0], word.end())  # Марии Сергеевне К.
        elif _is_name(word, text, russian):
            found.append(word.span())
    return [Claim(start, " ".join(text[start:end].split())) for start, end in found]


def _is_name(match: re.Match, text: str, russian: bool) -> bool:
    word = match[0]
    if len(word) < 2 or NO_NAMES.fullmatch(word) or NO_NAMES.fullmatch(word.partition("-")[0]):  # QR-код
        return False
    if word.isascii() and re.search("[.@]", word):
        return True
    if word.isascii() and russian:  # there even the first word of a sentence
        return not word.islower()
    return word[0].isupper() and not _starts_a_sentence(text, match.start())


def _starts_a_sentence(text: str, start: int) -> bool:
    before = start - 1
    while before >= 0 and text[before].isspace():
        if text[before] == "\n":
            return True
        before -= 1
    return before < 0 or text[before] in BEFORE_A_SENTENCE
