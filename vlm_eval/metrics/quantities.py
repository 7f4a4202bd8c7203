"""Amounts, dates, times, numbers and codes in Russian text (and their English forms), and when two are the same.

A thing that can be read in two ways has two readings: "19.11" is a date and a number; "1,234" is 1.234 and 1234 (beside
a currency only 1234, before "млн" only 1.234); a bare "4471" is a number and a card's tail. A sign is not read: the
screen's "−2 450 ₽" is the answer's "списали 2 450 ₽". Not read: numerals in words, "22.33" as a time.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Callable, Optional, Union


@dataclass(frozen=True)
class Number:
    value: Decimal
    unit: Optional[str] = None  # a key of UNITS


@dataclass(frozen=True)
class Date:
    """Day and month, or a year alone, or all three."""

    day: Optional[int]
    month: Optional[int]
    year: Optional[int] = None


@dataclass(frozen=True)
class Time:
    hour: int
    minute: int
    second: Optional[int] = None


@dataclass(frozen=True)
class Code:
    """Letters and digits without what stands between them, Cyrillic look-alikes as Latin capitals; of a Russian phone
    number the last ten digits, of a masked card the four that are shown."""

    key: str


Reading = Union[Number, Date, Time, Code]


@dataclass(frozen=True)
class Quantity:
    start: int = field(compare=False)  # in clean(text)
    end: int = field(compare=False)
    readings: tuple[Reading, ...]


UNITS = {
    "₽": r"₽|(?:руб\.?|рубл[а-яё]+|р\.?|rub|rubles?|rur)(?!\w)",
    "$": r"\$|(?:долл\.?|доллар[а-яё]*|usd|dollars?)(?!\w)",
    "€": r"€|(?:евро|eur|euros?)(?!\w)",
    "£": r"£|gbp(?!\w)",
    "¥": r"¥|(?:юан[а-яё]+|cny)(?!\w)",
    "₸": r"₸|(?:тенге|kzt)(?!\w)",
    "%": r"%|(?:процент[а-яё]*|percent)(?!\w)",
    "kopeck": r"(?:коп\.?|копе[а-яё]+)(?!\w)",
    "second": r"(?:сек\.?|секунд[а-яё]*|seconds?)(?!\w)",
    "minute": r"(?:мин\.?|минут[а-яё]*|min|minutes?)(?!\w)",
    "hour": r"(?:ч\.?|час|час(?:а|у|ов|ом|ам|ах|ами)|hours?)(?!\w)",
    "day": r"(?:дн\.?|день|дн(?:я|ю|е|ем|ём|ей|и|ям|ях|ями)|сут(?:ки|ок|кам|ках)|days?)(?!\w)",
    "week": r"(?:нед\.?|недел[а-яё]+|weeks?)(?!\w)",
    "month": r"(?:мес\.?|месяц[а-яё]*|months?)(?!\w)",
    "year": r"(?:год[а-яё]{0,3}|лет|years?)(?!\w)",
}
CURRENCIES = "₽$€£¥₸"
SCALES = {
    1_000: r"(?:тыс(?:яч[а-яё]*)?|thousand)(?!\w)\.?",
    1_000_000: r"(?:млн|миллион[а-яё]*|million)(?!\w)\.?",
    1_000_000_000: r"(?:млрд|миллиард[а-яё]*|billion)(?!\w)\.?",
}
MONTHS = (
    r"янв(?:ар[а-яё]+)?|jan(?:uary)?",
    r"фев(?:р(?:ал[а-яё]+)?)?|feb(?:ruary)?",
    r"мар(?:т[а-яё]*)?|mar(?:ch)?",
    r"апр(?:ел[а-яё]+)?|apr(?:il)?",
    r"ма[йяею]|may",
    r"июн[а-яё]*|june?",
    r"июл[а-яё]*|july?",
    r"авг(?:уст[а-яё]*)?|aug(?:ust)?",
    r"сен(?:т(?:ябр[а-яё]+)?)?|sept?(?:ember)?",
    r"окт(?:ябр[а-яё]+)?|oct(?:ober)?",
    r"ноя(?:б(?:р[а-яё]+)?)?|nov(?:ember)?",
    r"дек(?:абр[а-яё]+)?|dec(?:ember)?",
)

# As in Е-1047, typed on a Russian keyboard.
LOOK_ALIKES = str.maketrans("АВЕЁКМНОРСТУХ", "ABEEKMHOPCTYX")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
BOLD = re.compile(r"\*\*(?=[^\s*])([^*\n]{1,200})\*\*")  # Markdown, which models write unasked

S = r"[^\S\r\n]"  # a space of any width, on the same line
HYPHEN = "[-\u2010\u2011\u2013]"  # hyphens and the en dash, which models put in codes
YEAR = r"(?:19|20)\d\d"
MONTH = rf"(?:{'|'.join(MONTHS)})(?!\w)\.?"
OF_YEAR = rf"(?:{S}?(?:год[а-яё]{{0,3}}|г)(?!\w)\.?)?"
NUMBER = (
    rf"(?:\d{{1,3}}(?:{S}\d{{3}})+(?!\d)(?:[.,]\d+(?![.,]?\d))?"  # 20 588,00
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![.,]?\d)"  # 20,588.00
    r"|\d{1,3}(?:\.\d{3})+(?:,\d+)?(?![.,]?\d)"  # 20.588,00
    r"|(?<!\d[.,])\d+[.,]\d+(?![.,]?\d)"  # 20588,00, but nothing of 1,2,3
    r"|\d+)"
)
UNIT = f"(?:{'|'.join(UNITS.values())})"
SCALE = f"(?:{'|'.join(SCALES.values())})"


def clean(text: str) -> str:
    """The text whose positions a Quantity gives: NFC, without invisible characters and the asterisks of bold type."""
    return BOLD.sub(r" \1 ", INVISIBLE.sub("", unicodedata.normalize("NFC", text)))


def quantities(text: str) -> tuple[Quantity, ...]:
    """All of a clean text, in order, none inside another. Linear in the text's length."""
    found, position = [], 0
    while start := START.search(text, position):
        position = start.end()
        for form, read in FORMS:
            match = form.match(text, start.start())
            if match and (readings := read(match)):
                found.append(Quantity(match.start(), match.end(), readings))
                position = match.end()
                break
    return tuple(found)


def says(there: Quantity, wanted: Quantity) -> bool:
    """Whether `there` is `wanted`, perhaps with less said: a year may be missing on either side, not contradict, and so
    may a unit, but for whole numbers under 100."""
    return any(_says(x, y) for x in there.readings for y in wanted.readings)


def _says(there: Reading, wanted: Reading) -> bool:
    if type(there) is not type(wanted):
        return False
    if isinstance(wanted, Number):
        # A bare 12 may count anything; a bare 20588 is hardly anything but the sum.
        unit_may_be_left_out = wanted.value >= 100 or wanted.value % 1
        same_unit = there.unit == wanted.unit or (None in (there.unit, wanted.unit) and unit_may_be_left_out)
        return bool(there.value == wanted.value and same_unit)
    if isinstance(wanted, Time):
        seconds = (there.second, wanted.second)
        return (there.hour, there.minute) == (wanted.hour, wanted.minute) and (
            None in seconds or seconds[0] == seconds[1]
        )
    if isinstance(wanted, Date):
        if wanted.day is None:
            return there.year == wanted.year
        same_day = (there.day, there.month) == (wanted.day, wanted.month)
        return same_day and (None in (there.year, wanted.year) or there.year == wanted.year)
    return there == wanted


# ------------------------------------------------------------------------------- what a match of each form is read as


def _dates(*parts: tuple[str, str, Optional[str]]) -> tuple[Date, ...]:
    """Those of the (day, month, year) that are in the calendar."""
    found = []
    for day, month, year in parts:
        full = None if year is None else int(year) + 2000 if len(year) == 2 else int(year)
        try:
            datetime.date(full or 2024, int(month), int(day))  # a leap year
        except ValueError:
            continue
        found.append(Date(int(day), int(month), full))
    return tuple(found)


def _dotted_date(match: re.Match) -> tuple[Date, ...]:
    first, dot, second, year = match.groups()
    american = [(second, first, year)] if dot == "/" else []
    return _dates((first, second, year), *american)


def _date_in_words(match: re.Match) -> tuple[Date, ...]:
    month = next(n for n, names in enumerate(MONTHS, 1) if re.match(rf"(?:{names})(?!\w)", match["month"], re.I))
    return _dates((match["day"], str(month), match["year"]))


def _time(match: re.Match) -> tuple[Time, ...]:
    hour = int(match[1])
    if match[4]:
        hour = hour % 12 + (12 if match[4][0] in "pP" else 0)
    return (Time(hour, int(match[2]), int(match[3]) if match[3] else None),)


def _code(text: str) -> Code:
    return Code("".join(filter(str.isalnum, text.upper())).translate(LOOK_ALIKES))


def _phone(match: re.Match) -> tuple[Code, ...]:
    return (Code("".join(filter(str.isdigit, match[0]))[-10:]),)


def _year(match: re.Match) -> tuple[Reading, ...]:
    return (Date(None, None, int(match[1])), Number(Decimal(match[1])))


def _letters_and_digits(match: re.Match) -> tuple[Code, ...]:
    text = match[0]
    digits = re.findall(r"\d+", text)
    letters = re.search(r"[^\W\d]", text)
    if not digits or not (letters or re.search(HYPHEN, text)) or (not letters and "." in text):
        return ()
    if re.fullmatch(rf"[1-9]\d*{HYPHEN}\d+", text) and Decimal(digits[0]) < Decimal(digits[1]):
        return ()  # 10-15 is a range: two numbers
    return (_code(text),)


def _measured(match: re.Match) -> tuple[Number, ...]:
    """A number with a unit or a scale."""
    scale = _key(SCALES, match["scale"])
    unit = match["sign"].upper() if match["sign"] else _key(UNITS, match["unit"])
    unit = {"RUB": "₽", "USD": "$", "EUR": "€"}.get(unit, unit)
    if not unit and not scale:
        return ()
    values = _values(match["number"])
    if len(values) == 2 and (scale or unit in CURRENCIES):  # no sum has three decimals; "1,234 млн" is one of few
        values = values[:1] if scale else values[1:]
    values = [value * (scale or 1) for value in values]
    if unit == "kopeck":
        unit, values = "₽", [value / 100 for value in values]
    elif match["kopecks"]:
        values = [value + Decimal(match["kopecks"]) / 100 for value in values]
    return tuple(Number(value, unit) for value in values)


def _bare(match: re.Match) -> tuple[Reading, ...]:
    text = match["number"]
    if day_and_month := re.fullmatch(r"(\d{1,2})\.(\d\d)", text):
        return (*_dates((*day_and_month.groups(), None)), *map(Number, _values(text)))
    if re.search("[.,]", text):
        return tuple(map(Number, _values(text)))
    if text[0] == "0" and len(text) > 1:
        return (_code(text),)
    return (*map(Number, _values(text)), _code(text))


def _values(text: str) -> list[Decimal]:
    """One value; or with a decimal mark and without, where a single dot or comma before three digits may be either."""
    packed = re.sub(r"\s", "", text)
    whole = Decimal(re.sub("[.,]", "", packed))
    marks = re.findall("[.,]", packed)
    if not marks or (len(marks) > 1 and len(set(marks)) == 1):
        return [whole]
    head, _, tail = packed.rpartition(marks[-1])
    decimal = Decimal(re.sub("[.,]", "", head) + "." + tail)
    return [decimal, whole] if re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", text) else [decimal]


def _key(table: dict, text: Optional[str]):
    return text and next(key for key, form in table.items() if re.fullmatch(form, text, re.I))


MEASURE = (
    rf"(?:(?P<sign>[{CURRENCIES}]|(?:rub|usd|eur)\b){S}?)?(?P<number>{NUMBER})(?:{S}{{0,2}}(?P<scale>{SCALE}))?"
    rf"(?:{S}{{0,2}}(?P<unit>{UNIT})(?:{S}?(?P<kopecks>\d\d?){S}?{UNITS['kopeck']})?|(?!\w))"
)
# What may stand at the start of a quantity, then the forms in the order in which they are tried there. Every repetition
# is bounded or cannot be split in two ways: the texts come from models, which may repeat one character 20,000 times.
START = re.compile(r"(?<!\w)(?:[^\W_]|[•∙●·*]|[+₽$€£¥₸](?=[^\S\r\n]?\d))")
FORMS: tuple[tuple[re.Pattern, Callable[[re.Match], tuple[Reading, ...]]], ...] = tuple(
    (re.compile(form, re.I), read)
    for form, read in (
        (r"(\d{4})-(\d\d)-(\d\d)(?!\w)", lambda m: _dates((m[3], m[2], m[1]))),
        (rf"(\d{{1,2}})([./])(\d{{1,2}})\2({YEAR}|\d\d)(?!\w|[.,/]\d)", _dotted_date),
        (rf"(\d{{1,2}})(-)(\d{{1,2}})-({YEAR})(?!\w|-)", _dotted_date),
        (
            rf"(?P<day>\d{{1,2}})(?:-?(?:го|ое|е)|st|nd|rd|th)?(?:{S}of)?{S}{{0,2}}(?P<month>{MONTH})"
            rf"(?:,?{S}{{0,2}}(?P<year>{YEAR})(?!\d|[.,:]\d){OF_YEAR})?",
            _date_in_words,
        ),
        (
            rf"(?P<month>(?=[a-z]){MONTH}){S}(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?!\w|[.:]\d)"
            rf"(?:,?{S}(?P<year>{YEAR})(?!\w))?",
            _date_in_words,
        ),
        (rf"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?(?!\d|:\d)(?:{S}?([ap])\.?m\b\.?)?", _time),
        (rf"({YEAR}){S}{{0,2}}(?:год[а-яё]{{0,3}}|г)(?!\w)\.?", _year),
        (rf"(?:\+?7|8)(?:{S}|[-(]){{0,2}}\d{{3}}(?:{S}|[-)]){{0,2}}\d{{3}}(?:(?:{S}|-)?\d\d){{2}}(?!\w|-\d)", _phone),
        (rf"\d{{3}}\)?(?:{S}|-)?\d{{3}}-\d\d-\d\d(?!\w|-\d)", _phone),
        (rf"\+\d(?:(?:{S}|[-()]){{0,2}}\d){{8,13}}(?!\w)", lambda m: (_code(m[0]),)),
        (rf"\d{{4}}(?:(?:{S}|-)\d{{4}}){{3}}(?!\w)", lambda m: (_code(m[0]), Code(m[0][-4:]))),
        (rf"(?:(?:[•∙●·*xх]{{2,12}}+{S}?){{1,4}}+|\*)(\d{{4}})(?!\w|{S}?{UNIT})", lambda m: (Code(m[1]),)),
        (r"24/7(?!\w)", lambda m: (Code(m[0]),)),
        (MEASURE, _measured),
        (r"(?<!\d\.)(?!\d{1,3}(?:\.\d{3})+(?![.\d]))\d+(?:\.\d+){2,12}(?!\w|\.\d)", lambda m: (Code(m[0]),)),
        (rf"(?P<number>\d+)(?={HYPHEN}?(?-i:[а-яё]+)(?!\w))", _bare),  # 3-й, 15-минутный, 519гр
        (
            rf"(?=[^\W_](?:\w|[.]|{HYPHEN}){{0,60}}\d|\d)[^\W_]{{1,60}}"
            rf"(?:(?:{HYPHEN}|_|(?<=[a-z\d])\.(?=[a-z\d]))[^\W_]{{1,60}}){{0,12}}(?!\w)",
            _letters_and_digits,
        ),
        (MEASURE, _bare),
    )
)
