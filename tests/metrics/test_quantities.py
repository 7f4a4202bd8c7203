"""Amounts, dates, numbers and codes: read in every usual form, and never taken for another."""

from __future__ import annotations

import datetime
import time
from decimal import Decimal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vlm_eval.metrics.quantities import Code, Date, Number, Time, clean, quantities, says


def read(text):
    """(as written, readings) of all that is in the text."""
    text = clean(text)
    return [(text[q.start : q.end], q.readings) for q in quantities(text)]


def same(there: str, wanted: str) -> bool:
    [one], [other] = quantities(clean(there)), quantities(clean(wanted))
    return says(one, other)


def rubles(value):
    return Number(Decimal(value), "₽")


# fmt: off
AMOUNTS = {
    "20588": [
        "20 588 ₽", "20588 ₽", "20588₽", "20\u00a0588\u00a0₽", "20\u2009588\u202f₽", "20 588 руб.", "20588руб.",
        "20588 руб", "20 588 р.", "20588р", "20 588 рублей", "20 588 рубля", "20 588 РУБЛЯМИ", "20 588 RUB",
        "RUB 20,588", "₽20588", "20,588 rubles", "20.588 ₽", "20 588,00 ₽", "20.588,00 руб.", "20,588.00 ₽",
        "20588.00 р.", "20588,0 рублей", "20 588 руб. 00 коп.", "20,588 тыс. руб.", "20.588 тысяч рублей",
        "0,020588 млн ₽",
        "**20 588** ₽", "**20 588 ₽**", "−20 588 ₽", "-20 588 ₽", "+20 588 ₽", "20\u200b 588 ₽",
    ],
    "9845.20": [
        "9 845,20 ₽", "9845.2 руб", "9.845,20 ₽", "9,845.20 ₽", "9 845 рублей 20 копеек", "9845 р. 20 коп.",
    ],
    "1500": ["1.5 тыс. руб.", "1,5 тыс.руб.", "1,5 тысячи рублей", "1 500 ₽", "1500 рублей", "1,500.00 ₽"],
    "2300000": ["2,3 млн ₽", "2.3 миллиона рублей", "2 300 000 ₽", "2.300.000 ₽", "2,300,000 rubles", "2300 тыс. руб."],
    "0.5": ["50 копеек", "0,50 ₽", "50 коп."],
}
OTHER_AMOUNTS = [
    "2 058 ₽", "588 ₽", "20 ₽", "205 880 ₽", "20 588,50 ₽", "2 0588 ₽", "20 589 ₽", "20,588 млн ₽", "120 588 ₽",
]
# fmt: on


@pytest.mark.parametrize("value, text", [(value, text) for value, texts in AMOUNTS.items() for text in texts])
def test_an_amount_in_every_form(value, text):
    for around in ("{}", "Оплатил {} вчера", "({}),", "— {}: не прошло", "карта •• 4471\n{}\n30.12.2022", "«{}»!"):
        assert (rubles(value),) in [readings for _, readings in read(around.format(text))], around


@pytest.mark.parametrize("text", OTHER_AMOUNTS)
def test_another_amount_is_not_it(text):
    [wanted] = quantities("20 588 ₽")
    assert not any(says(found, wanted) for found in quantities(text))


@pytest.mark.parametrize("other", ["20 588 $", "$20 588", "20 588 €", "20 588 долларов", "20 588 %", "20 588 дней"])
def test_a_unit_may_be_left_out_but_not_contradicted(other):
    assert not same("20 588 ₽", other) and not same(other, "20 588 ₽")
    assert same(other, "20588") and same("20588", other)


def test_a_small_whole_number_counts_anything():
    assert not same("3 дня", "3") and not same("12", "12 %") and not same("99", "99 ₽")
    assert same("12", "12") and same("100", "100 ₽") and same("1,5", "1,5 %") and same("0,18 ₽", "0.18")


UNITS = [
    ("15 минут", "15 мин.", "15 часов"),
    ("3 дня", "3 дней", "3 недели"),
    ("12 %", "12 процентов", "12 ₽"),
    ("24 часа", "24 ч", "24 минуты"),
    ("2 месяца", "2 мес.", "2 года"),
    ("1,5 %", "1.5%", "15 %"),
    ("5 лет", "5 years", "5 дней"),
]


@pytest.mark.parametrize("one, same_one, another", UNITS)
def test_units_of_time_and_percent(one, same_one, another):
    assert same(one, same_one) and same(same_one, one) and not same(one, another)


# fmt: off
DATES = {
    (30, 12, 2022): [
        "30.12.2022", "30.12.22", "2022-12-30", "30/12/2022", "30-12-2022", "12/30/2022", "30 декабря 2022",
        "30 декабря 2022 года", "30 декабря 2022 г.", "30 декабря 2022г.", "30\u00a0декабря, 2022", "30 дек. 2022",
        "30 ДЕКАБРЯ 2022", "30-го декабря 2022", "December 30, 2022", "30 December 2022", "30th of December 2022",
        "Dec 30, 2022",
    ],
    (30, 12, None): ["30 декабря", "30 дек", "30 дек.", "30-го декабря", "December 30", "30.12"],
    (5, 5, None): ["5 мая", "05.05", "5-е мая", "May 5", "5th of May"],
    (9, 3, 2024): ["9 марта 2024", "09.03.2024", "9.3.2024", "9 мар 2024"],
    (29, 2, 2024): ["29.02.2024", "29 февраля 2024 года", "29 фев. 2024"],
}
# fmt: on


@pytest.mark.parametrize("date, text", [(date, text) for date, texts in DATES.items() for text in texts])
def test_a_date_in_every_form(date, text):
    for around in ("{}", "до {} включительно", "({}),", "Заказ от {}.", "{}, 18:42", "1 284 ₽\n{}\n"):
        assert Date(*date) in [r for _, readings in read(around.format(text)) for r in readings], around


@pytest.mark.parametrize(
    "text",
    ["3.12", "3 декабря", "30.11.2022", "13.12.2022", "30 января", "30.1.2022", "2022-12-03", "30 дек 2023", "20:12"],
)
def test_another_date_is_not_it(text):
    assert not same(text, "30.12.2022")


def test_a_year_may_be_left_out_but_not_contradicted():
    assert same("30 декабря", "30.12.2022") and same("30.12.2022", "30 декабря")
    assert not same("30.12.2021", "30.12.2022")
    assert same("30.12.2022", "2022 год") and not same("2022 год", "30.12.2022") and not same("30.12.2022", "2023 год")


@pytest.mark.parametrize("text", ["30.02.2024", "45.12.2022", "00.00.0000", "12.13.2022", "192.168.0.1", "1.2.3"])
def test_what_is_not_in_the_calendar_is_a_code(text):
    assert read(f"Версия {text}.") == [(text, (Code(text),))]


def test_a_short_date_is_a_number_too():
    assert read("19.11")[0][1] == (Date(19, 11), Number(Decimal("19.11")))
    assert read("19.11 ₽")[0][1] == (rubles("19.11"),)
    assert read("30.02")[0][1] == (Number(Decimal("30.02")),)
    assert read("45.12")[0][1] == (Number(Decimal("45.12")),)


def test_times():
    assert (
        same("22:33", "22:33:07")
        and same("7:05", "07:05")
        and same("10:33 PM", "22:33")
        and same("12:05 a.m.", "00:05")
    )
    assert not same("22:33", "22:34") and not same("22:33:07", "22:33:08") and not same("10:33", "22:33")
    assert read("с 02:00 до 06:30") == [("02:00", (Time(2, 0),)), ("06:30", (Time(6, 30),))]


SAME_CODES = [
    ("E-1047", "Е-1047"),  # the second is Cyrillic
    ("E-1047", "e-1047"),
    ("E-1047", "E\u20111047"),
    ("E-1047", "E–1047"),
    ("E-1047", "E1047"),
    ("ATM-31", "АТМ-31"),
    ("48213-0771", "48213–0771"),
    ("731-604", "731604"),
    ("731-604", "731 604"),
    ("•• 4471", "4471"),
    ("•• 4471", "*4471"),
    ("•• 4471", "**** **** **** 4471"),
    ("•• 4471", "2200 7712 3456 4471"),
    ("•••• 4471", "xx4471"),
    ("+7 911 123-45-67", "8 (911) 123-45-67"),
    ("+7 911 123-45-67", "89111234567"),
    ("+7 911 123-45-67", "911 123-45-67"),
    ("+7 911 123-45-67", "+7(911)1234567"),
    ("8 800 000-41-07", "88000004107"),
    ("n.morozova84", "N.Morozova84"),
]
OTHER_CODES = [
    ("E-1047", "E-1074"),
    ("E-1047", "E-104"),
    ("E-1047", "E-10471"),
    ("E-1047", "F-1047"),
    ("E-1047", "1047"),
    ("•• 4471", "4 471 ₽"),
    ("•• 4471", "4471 руб."),
    ("•• 4471", "•• 4417"),
    ("48213-0771", "48213-0772"),
    ("+7 911 123-45-67", "+7 911 123-45-76"),
    ("8306", "18306"),
]


@pytest.mark.parametrize("one, other", SAME_CODES)
def test_the_same_code(one, other):
    assert same(one, other) and same(other, one)


@pytest.mark.parametrize("one, other", OTHER_CODES)
def test_another_code(one, other):
    assert not same(one, other) and not same(other, one)


# fmt: off
AS_WRITTEN = {
    "10-15 минут": ["10", "15 минут"],
    "2–3 дня": ["2", "3 дня"],
    "10-20 000 ₽": ["10", "20 000 ₽"],
    "40 000–50 000 ₽": ["40 000", "50 000 ₽"],
    "от 2 до 6 фото": ["2", "6"],
    "1,2,3": ["1", "2", "3"],
    "3-й этаж, 15-минутный": ["3", "15"],
    "519гр": ["519"],
    "20 588, 30.12.2022 и 100 ₽": ["20 588", "30.12.2022", "100 ₽"],
    "карта 4471 588 ₽": ["4471", "588 ₽"],
    "в 20:32 100 ₽": ["20:32", "100 ₽"],
    "30.12.2022 20 588 ₽": ["30.12.2022", "20 588 ₽"],
    "20 588 ₽ 15 минут": ["20 588 ₽", "15 минут"],
    "12\n345 ₽": ["12", "345 ₽"],  # two lines of a screen
    "1 | 2 | 3": ["1", "2", "3"],
    "24/7": ["24/7"],
    "5 марок и 3 маяка": ["5", "3"],
    "№ 318, VESNA15": ["318", "VESNA15"],
    "интернет-банк, Wi-Fi, по-русски": [],
    "т.е. ничего. Да": [],
    "": [],
}
# fmt: on


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_where_one_ends_and_the_next_begins(text):
    assert [written for written, _ in read(text)] == AS_WRITTEN[text]


@pytest.mark.parametrize(
    "text, values", [("1,234", "1.234 1234"), ("1.234", "1.234 1234"), ("0,588", "0.588"), ("12,5", "12.5")]
)
def test_a_mark_before_three_digits_is_read_both_ways_where_nothing_tells(text, values):
    assert read(text)[0][1] == tuple(Number(Decimal(value)) for value in values.split())


@pytest.mark.parametrize("text, value", [("1,234.56", "1234.56"), ("1.234,56", "1234.56"), ("1.234.567", "1234567")])
def test_two_marks_tell(text, value):
    assert read(text)[0][1][0] == Number(Decimal(value))


# ---------------------------------------------------------------------------- any value in any form is itself, and only

CENTS = st.integers(1, 10**11)


@st.composite
def written_amounts(draw, cents):
    """Rubles as people, screens and models write them."""
    whole, rest = divmod(cents, 100)
    group = draw(st.sampled_from(["", " ", "\u00a0", "\u202f", ".", ","]))
    digits = f"{whole:,}".replace(",", group)
    mark = "," if group == "." else "." if group == "," else draw(st.sampled_from([",", "."]))
    unit = draw(st.sampled_from(["₽", " ₽", " руб.", "руб", " р.", " рублей", " рубля", "\u00a0RUB"]))
    if rest and draw(st.booleans()):
        return f"{digits} рублей {rest:02} коп."
    return digits + (f"{mark}{rest:02}" if rest or draw(st.booleans()) else "") + unit


@given(st.data(), CENTS)
def test_any_amount_is_found_in_any_form(data, cents):
    one, other = data.draw(written_amounts(cents)), data.draw(written_amounts(cents))
    assert read(f"Сумма {one}, не прошла")[0][1] == (rubles(Decimal(cents) / 100),)
    assert same(one, other)


@given(st.data(), CENTS)
def test_no_amount_is_another(data, cents):
    near = [cents * 10, cents // 10, cents * 100, cents + 1, cents % 10**5, cents + 10**7, int(str(cents)[::-1])]
    other = data.draw(st.sampled_from(near) | CENTS)
    assume(other != cents)
    assert not same(data.draw(written_amounts(cents)), data.draw(written_amounts(other)))


FORMATS = [
    lambda d: f"{d:%d.%m.%Y}",
    lambda d: f"{d:%Y-%m-%d}",
    lambda d: f"{d:%d.%m.%y}",
    lambda d: f"{d.day}.{d.month}.{d.year}",
    lambda d: f"{d.day} {GENITIVE[d.month - 1]} {d.year}",
    lambda d: f"{d.day} {GENITIVE[d.month - 1]} {d.year} года",
    lambda d: f"{d.day} {GENITIVE[d.month - 1][:3]}. {d.year} г.",
    lambda d: f"{d:%B} {d.day}, {d.year}",
]
GENITIVE = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
DAYS = st.dates(datetime.date(2000, 1, 1), datetime.date(2068, 12, 31))


@given(DAYS, DAYS, st.sampled_from(FORMATS), st.sampled_from(FORMATS))
@example(datetime.date(2022, 12, 30), datetime.date(2022, 12, 3), FORMATS[0], FORMATS[0])
@example(datetime.date(2022, 12, 3), datetime.date(2022, 3, 12), FORMATS[0], FORMATS[1])
def test_any_date_is_itself_in_any_form_and_no_other(one, other, form, other_form):
    assert read(f"до {form(one)}, включительно")[0][1] == (Date(one.day, one.month, one.year),)
    assert same(form(one), other_form(one))
    assert same(form(one), other_form(other)) == (one == other)


@given(st.dates(datetime.date(2024, 1, 1), datetime.date(2024, 12, 31)), st.integers(0, 11))
def test_a_day_and_month_without_a_year(date, month):
    text = f"{date.day} {GENITIVE[month]}"
    assert same(f"{date:%d.%m}", text) == same(text, f"{date:%d.%m.%Y}") == (month + 1 == date.month)


LETTERS = st.text("ABCDEFGHKMNXZ", min_size=1, max_size=5)


@given(LETTERS, st.from_regex(r"\d{2,6}", fullmatch=True).filter(str.isascii), LETTERS, st.integers(0, 10**6))
def test_any_code_is_itself_and_no_other(letters, digits, other_letters, other_digits):
    one, other = f"{letters}-{digits}", f"{other_letters}-{other_digits}"
    assert same(one, one.lower()) and same(f"{letters}{digits}", one)
    assert same(one, other) == (one.upper() == other)


@given(st.text(max_size=300) | st.text("0123456789 .,:-–/•*₽р%+xE\n", max_size=80))
@example("5-²")
@example("1-½ ₽")
@example("٣٤ ₽")
@example("\ud83d 5\ud83d")
@example("Опл\0ата 5\0 ₽")
@example("\u202e20 588 ₽\u202c")
def test_any_text_can_be_read(text):
    cleaned = clean(text)
    last = 0
    for quantity in quantities(cleaned):
        assert last <= quantity.start < quantity.end <= len(cleaned) and quantity.readings
        assert says(quantity, quantity)
        last = quantity.end


# Runs that would cost a regular expression hours if it could split them in two ways.
RUNS = [
    "1",
    "1 ",
    "111 ",
    "1 111 ",
    "1,111,",
    "1.",
    "1-",
    "a1-",
    "a-",
    "•",
    "*",
    "**a ",
    "x",
    "8 911 ",
    "+1",
    "₽",
    "12.12.",
    "1 мая ",
    " ",
]


@pytest.mark.parametrize("run", RUNS)
def test_a_long_text_is_read_at_once(run):
    started = time.perf_counter()
    for text in ((run * 20_000)[:20_000], (run * 20_000)[:20_000] + "x", (run * 20_000)[:20_000] + "₽ 5"):
        quantities(clean(text))
    assert time.perf_counter() - started < 10  # 0.3 s on two slow cores
