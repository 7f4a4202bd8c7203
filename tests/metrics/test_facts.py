"""Facts found, missed and invented."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import vlm_eval
from vlm_eval.metrics import claims
from vlm_eval.metrics.facts import Facts, FactsConfig, found_facts
from vlm_eval.tasks.dataset import DataConfig, ImageConfig, LayoutConfig, read_items

from .data import answered, needs_recorded, recorded_rows, summarised

REPO = Path(__file__).parents[2]
DEMO = Path(vlm_eval.__file__).parent / "demo"
SCREEN = (
    "18:43 | Платёж не выполнен | 20 588 ₽ | Получатель | Мария Сергеевна К. | Дебетовая •• 4471 | 30.12.2022, 18:42"
    " | Комиссия 1,5 % | Код ошибки | E-1047 | Магазин Ozon | Деньги вернём за 3 дня | 14 | 47 товаров"
    " | Повторить платёж"
)


def scored(answer, facts=(), screen_text=None, question=None, reference=None):
    [found] = (
        Facts(FactsConfig())
        .score(answered([answer], [reference], facts=[tuple(facts)], screen_text=[screen_text], question=[question]))
        .values()
    )
    return found


def claimed(text, names=True):
    return [claim.text for claim in claims.claims(text, names)]


def inventions(answer, screen_text=SCREEN, **more):
    return scored(answer, screen_text=screen_text, **more)["facts_inventions"]


# --------------------------------------------------------------------------------------------------------- found_facts

FOUND = [
    ("20 588 ₽", "Не прошла оплата на 20588 руб."),
    ("20 588 ₽", "сумма 20 588,00"),
    ("1.5 тыс. руб.", "Списали 1500 рублей"),
    ("30.12.2022", "было 30 декабря"),
    ("30.12.2022, 18:42", "30 декабря 2022 года в 18:42"),
    ("E-1047", "ошибка Е-1047."),
    ("код E-1047", "код ошибки: E-1047"),
    ("•• 4471", "с карты, которая кончается на 4471,"),
    ("+7 911 123-45-67", "на номер 89111234567"),
    ("12 %", "под 12% годовых"),
    ("5 рабочих дней", "придут за 5 рабочих дней"),
    ("2 попытки", "осталось 2 последние попытки"),
    ("10 числа", "каждый месяц 10-го числа"),
    ("от 2 до 6 фото", "прикрепите от 2 до 6 фото"),
    ("Платёж не выполнен", "написано: «ПЛАТЕЖ НЕ ВЫПОЛНЕН»"),
    ("Платёж не выполнен", "мой платёж не был выполнен"),
    ("Платёж не прошёл", "мои платежи не прошли"),
    ("Карта заблокирована", "вы заблокировали мою карту"),
    ("Недостаточно средств", "на карте не достаточно средств"),
    ("Неверный код", "пишет, что код неверен"),
    ("Система быстрых платежей", "через Систему быстрых платежей"),
    ("Превышен суточный лимит", "суточные лимиты превышены"),
    ("Ошибка на сервере", "много ошибок на серверах"),
    ("Не применилась скидка или промокод", "не была применена скидка или промокод"),
    ("«Неверный логин или пароль»", 'пишет "неверный логин или пароль"'),
    ("Мария Сергеевна К.", "перевод Марии Сергеевне К."),
    ("Ozon", "заказ на Озоне"),
    ("Ozon.Card", "карта Ozon Card"),
    ("Интернет-банк", "в интернет-банке"),
    ("Ещё раз", "попробуйте еще раз"),
    ("Ошибка. Попробуйте позже", "Вышла ошибка. Прошу попробовать позже"),
    ("😀", "ответ 😀"),
]
NOT_FOUND = [
    ("20 588 ₽", "2 058 ₽"),
    ("20 588 ₽", "120 588 ₽"),
    ("588 ₽", "20 588 ₽"),
    ("588", "20588"),
    ("20 588 ₽", "20 588 $"),
    ("30.12.2022", "3.12.2022"),
    ("30.12", "3.12"),
    ("30.12.2022", "30.12.2021"),
    ("22:33", "22:34"),
    ("E-1047", "E-1074"),
    ("•• 4471", "4 471 ₽"),
    ("3 дня", "3 часа"),
    ("3 дня", "через 5 дней, 3 раза"),
    ("2 попытки", "2 раза за 3 попытки"),
    ("5 рабочих дней", "5 календарных дней"),
    ("Платёж выполнен", "Платёж не выполнен"),
    ("Платёж не выполнен", "Платёж выполнен"),
    ("Платёж не выполнен", "Платёж не найден, перевод выполнен"),
    ("Недостаточно средств", "Недостаточно данных. Средства списаны"),
    ("Карта заблокирована", "Карта у меня с собой, но почему-то вчера вечером вдруг оказалась заблокирована"),
    ("Оплатить", "не прошла оплата"),
    ("Ozon", "Ozонатор"),
    ("чат", "часть"),
    ("3 дня", "3"),
    ("Карта", "картон"),
    ("😀", "ответ 🙏"),
]


@pytest.mark.parametrize("fact, text", FOUND)
def test_a_fact_is_found(fact, text):
    assert found_facts(text, [fact]) == [True]


@pytest.mark.parametrize("fact, text", NOT_FOUND)
def test_a_fact_is_not_found(fact, text):
    assert found_facts(text, [fact]) == [False]


def test_each_fact_has_its_own_verdict_in_order():
    assert found_facts("Оплата 20 588 ₽, код E-1047", ["E-1047", "30.12.2022", "20 588 ₽"]) == [True, False, True]
    assert found_facts("", ["E-1047"]) == [False] and found_facts("E-1047", []) == []


# -------------------------------------------------------------------------------------------------------------- claims

# fmt: off
CLAIMED = {
    "Здравствуйте, Иван! Ваш платёж 20 588,00 руб. Прошу ждать.": ["Иван", "20 588,00 руб."],
    "1. Откройте «Историю».\n2) Нажмите «Повторить».\n10. Подождите.\n\n**11.** Всё.": ["Историю", "Повторить"],
    "Попробуйте 1-2 раза, есть 3 способа, на экране 2 кнопки.": [],
    "Подождите 5–10 минут": ["10 минут"],
    "Осталось 12 попыток": ["12"],
    "Поддержка работает 24/7": [],
    "Скажите Вашему банку, что Вы введёте СМС-код и QR-код в Интернет-банке": [],
    "В Понедельник, 5 Мая, в Декабре": ["5 Мая"],
    "Кнопка с символом «плюс», значок \"лупы\"": [],
    "Карта Visa •• 4471 банка «Ладожский берег», ООО «Ряпушка»": ["Visa", "•• 4471", "Ладожский берег", "Ряпушка"],
    "Перевод Марии Сергеевне К. и Олегу Л. не дошёл": ["Марии Сергеевне К", "Олегу Л"],
    "Сайт ozon.ru, почта help@ozon.ru. Ozon молчит, а ozon нет": ["ozon.ru", "help@ozon.ru", "Ozon"],
    "Причина: Скидка не применена — Деньги вернут (Да)": [],
    '"Здравствуйте, кнопка "Оплатить" не работает"': ["Оплатить"],
    '"Как я могу помочь вам?': [],
    '"Не могу оплатить на Ozon?"': ["Ozon"],
    "«Не могу войти»": [],
    '""': [],
    "Шаги\nПлатежи\nЧат": [],
    "по Wi-Fi и на E-mail": [],
    '"Войти" и "Выйти"': ["Войти", "Выйти"],
    "Образец: «Заказ отменён. Прошу вернуть деньги. Иван.»": [],
    "«20 588 ₽» и «Пополнить на 3 075 ₽»": ["20 588 ₽", "Пополнить на 3 075 ₽", "3 075 ₽"],
    "Hello, my Ozon Card is frozen since October 23. I paid $20. Thank you": ["Ozon Card", "October 23", "$20"],
    "Позвоните 8 800 555-35-35": ["8 800 555-35-35"],
    "Нажмите кнопку.\nПлатежи\n• История\n— Чат": [],
    "": [],
}
# fmt: on


@pytest.mark.parametrize("text", CLAIMED)
def test_what_an_answer_claims(text):
    assert claimed(text) == CLAIMED[text]


def test_without_names_only_numbers_are_claims():
    assert claimed("Иван, «Ozon» просит 20 588 ₽ за E-1047", names=False) == ["20 588 ₽", "E-1047"]


# ----------------------------------------------------------------------------------------------- recall and precision


def test_columns_by_hand():
    found = scored(
        "Здравствуйте, Иван! Платёж на 20588 рублей от 31.12.2022 не прошёл, ошибка E-1047.",
        facts=["20 588 ₽", "30.12.2022", "E-1047", "Платёж не выполнен"],
        screen_text=SCREEN,
    )
    assert found == {
        "facts_recall": 0.5,
        "facts_precision": 0.5,
        "facts_hits": ["20 588 ₽", "E-1047"],
        "facts_misses": ["30.12.2022", "Платёж не выполнен"],
        "facts_claims": 4,
        "facts_inventions": ["Иван", "31.12.2022"],
        "facts_checked_against": "screen_text",
        "facts_not_scored": None,
    }


@pytest.mark.parametrize(
    "answer",
    [
        "Платёж на 20 588,00 руб. с карты 4471 от 30 декабря в 18:42, код Е-1047",
        "30 декабря 2022 года я платил Марии Сергеевне К. через Озон: «платеж не выполнен»",
        "Комиссия 1.5%, деньги вернут через 3 дня",
        "Нажмите кнопку «Повторить платёж» на 20 588 ₽",
        "Нажмите «Повторить платёж 20588 рублей»",
        "В 2022 году",
    ],
)
def test_what_is_on_the_screen_is_no_invention(answer):
    assert inventions(answer) == [] and scored(answer, screen_text=SCREEN)["facts_claims"] > 0


INVENTED = [
    ("списали 20 589 ₽", "20 589 ₽"),
    ("списали 2 058 ₽", "2 058 ₽"),
    ("списали 20 588 $", "20 588 $"),
    ("с карты •• 4417", "•• 4417"),
    ("30.12.2023", "30.12.2023"),
    ("в 18:24", "18:24"),
    ("вернут за 14 дней", "14 дней"),
    ("комиссия 47 ₽", "47 ₽"),
    ("ошибка E-1074", "E-1074"),
    ("комиссия 15 %", "15 %"),
    ("вернут за 3 часа", "3 часа"),
    ("позвоните 8 800 555-35-35", "8 800 555-35-35"),
    ("нажмите «Оплатить снова»", "Оплатить снова"),
    ("в приложении Wildberries", "Wildberries"),
    ("перевод Петру Ивановичу", "Петру Ивановичу"),
    ("зайдите на ozon.ru", "ozon.ru"),
    ("нажмите «Отменить 20 588 ₽»", "Отменить 20 588 ₽"),
]


@pytest.mark.parametrize("answer, invented", INVENTED)
def test_what_is_not_on_the_screen_is_an_invention_as_it_is_written(answer, invented):
    assert inventions(f"Здравствуйте! {answer}, помогите.") == [invented]


def test_a_year_that_is_not_on_the_screen_is_an_invention():
    assert inventions("до 15 июля 2024 года", "Доставка 15 июля") == ["15 июля 2024 года"]
    assert inventions("до 15 июля 2024 года", "Доставка 15 июля | © 2024") == []
    assert inventions("до 15 июля", "15.07.2024") == []
    assert found_facts("до 15 июля 2024 года", ["15 июля"]) == [True]


def test_an_invention_counts_once_however_it_is_repeated():
    found = scored("Списали 99 ₽, да, 99 рублей, 99,00 руб. и 20 588 ₽", screen_text=SCREEN)
    assert found["facts_claims"] == 2 and found["facts_precision"] == 0.5 and len(found["facts_inventions"]) == 1


def test_the_question_and_the_facts_are_on_the_screen_too_but_the_reference_is_not():
    answer = "Оплата 777 ₽ в 10:10"
    assert inventions(answer) == ["777 ₽", "10:10"]
    assert inventions(answer, question="Почему не прошли 777 ₽?") == ["10:10"]
    assert inventions(answer, facts=["10:10"]) == ["777 ₽"]
    assert inventions(answer, reference=answer) == ["777 ₽", "10:10"]


def test_without_screen_text_numbers_alone_are_judged():
    answer = "Платёж 20 588 ₽ в Wildberries не выполнен, списали 99 ₽"
    found = scored(answer, facts=["Платёж не выполнен", "20 588 ₽"])
    assert found["facts_inventions"] == ["99 ₽"]
    assert found["facts_checked_against"] == "facts, numbers only" and found["facts_precision"] == 0.5


def test_what_cannot_be_scored_has_a_reason_and_no_number():
    assert scored(None, facts=["1 ₽"]) == "no answer"
    assert scored("Да, 5 ₽", question="5 ₽?", reference="5 ₽") == "the item has neither facts nor screen_text"
    no_facts = scored("20 588 ₽", screen_text=SCREEN)
    assert no_facts["facts_recall"] is None and no_facts["facts_precision"] == 1
    assert no_facts["facts_not_scored"] == "recall: the item has no facts"
    no_claims = scored("Не знаю.", facts=["20 588 ₽"], screen_text=SCREEN)
    assert no_claims["facts_recall"] == 0 and no_claims["facts_precision"] is None
    assert no_claims["facts_not_scored"] == "precision: no claims in the answer"


def test_the_summary_by_hand():
    answers = ["20 588 ₽ и E-1047", "20 588 ₽, 99 ₽", "Не знаю.", None, "1 ₽"]
    facts = [("20 588 ₽", "E-1047")] * 4 + [()]
    summary = summarised(Facts(FactsConfig()), answered(answers, facts=facts))
    assert summary == {
        "facts/recall_mean": pytest.approx((1 + 0.5 + 0) / 3),
        "facts/recall_mean_n": 3,
        "facts/precision_mean": pytest.approx((1 + 0.5) / 2),
        "facts/precision_mean_n": 2,
        "facts/invented_rate": pytest.approx(1 / 3),
        "facts/invented_rate_n": 3,
        "facts/no_claims_rate": pytest.approx(1 / 3),
        "facts/no_claims_rate_n": 3,
    }


def test_nothing_scored_leaves_no_number():
    assert summarised(Facts(FactsConfig()), answered(["20 588 ₽", None])) == {}


def test_the_mean_has_an_interval_from_five_screenshots_on():
    summary = summarised(Facts(FactsConfig()), answered(["1 ₽", "2 ₽", "1 ₽", "1 ₽", "1 ₽"], facts=[("1 ₽",)] * 5))
    assert summary["facts/recall_mean_ci_low"] < 0.8 < summary["facts/recall_mean_ci_high"]
    assert summary["facts/precision_mean_ci_low"] < 0.8 < summary["facts/precision_mean_ci_high"]


def test_what_the_numbers_depend_on():
    assert re.fullmatch(r"pymorphy3-dicts-ru [\d.]+", Facts(FactsConfig()).facts()["words"])


# --------------------------------------------------------------------------------------------------------- any text

FACTS = st.sampled_from([fact for fact, _ in FOUND + NOT_FOUND])


@given(st.lists(FACTS, min_size=1, max_size=6))
def test_an_answer_that_quotes_all_facts_has_recall_1(facts):
    found = scored("Здравствуйте! Вот что: " + "; ".join(facts) + ". Помогите", facts=facts)
    assert found["facts_recall"] == 1 and found["facts_misses"] == []


STRANGE = {
    "empty": "",
    "spaces": " \n\t ",
    "one word": "Нет",
    "punctuation": "...?!",
    "emoji": "😀🙏🏽👨‍👩‍👧 5️⃣",
    "right to left": "لم يتم الدفع \u202e20 588 ₽ ٣٤",
    "NUL": "Опл\0ата\0 20\0588",
    "lone surrogate": "\ud83d 20 588 ₽",
    "fractions": "1-½ ², 5-²",
    "Tangut": "𗀀 5 ₽ 𗀀а",
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_texts_are_scored_and_do_not_crash(text):
    for answer, screen in ((text, SCREEN), (SCREEN, text or "x"), (text, text or "x")):
        found = scored(answer, facts=["20 588 ₽", "Платёж не выполнен"], screen_text=screen)
        assert 0 <= found["facts_recall"] <= 1 and 0 <= (found["facts_precision"] or 0) <= 1
        assert (found["facts_precision"] is None) == (found["facts_claims"] == 0)
    assert inventions(text, screen_text=text or "x") == []


@given(st.text(max_size=200) | st.text("0123456789 .,:-–/•*₽р%«»\"'xEИванOzon\n", max_size=80))
@example('"')
@example("«»")
@example("AA.A¹")
@example("«0A»")
def test_any_text_says_itself_and_claims_nothing_beyond_itself(text):
    assert found_facts(text, [text]) == [True]
    if text.strip():
        assert inventions(text, screen_text=text) == []


LONG = {
    "words": "Оплата не прошла, ошибка 504. " * 667,
    "numbers": " ".join(f"{n} ₽" for n in range(3000)),
    "one word": "я" * 20_000,
    "one number": "1" * 20_000,
    "quotes": '"' * 20_000,
    "guillemets": "«" * 20_000,
    "names": "Иван " * 4000,
    "capitals": "ИванИванович" * 1600,
    "addresses": "a@b.c" * 4000,
    "dots": "." * 20_000,
    "spaces": " " * 20_000,
    "lines": "1.\n" * 6000,
    "not": "не " * 6000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_answer_is_scored_at_once(text):
    started = time.perf_counter()
    found = scored(text, facts=["20 588 ₽", "Платёж не выполнен"], screen_text=SCREEN * 5)
    assert time.perf_counter() - started < 10 and isinstance(found, dict)  # 0.5 s on two slow cores


# ------------------------------------------------------------------------------------------------------- the demo data


def demo_items(task):
    layout = OmegaConf.load(REPO / "conf" / "task" / "data" / "items.yaml").layouts["items"]
    data = DataConfig(str(DEMO / task), {"items": LayoutConfig(layout.table, layout.images, dict(layout.columns))})
    return read_items(data, ImageConfig(), needs_question=False, on_bad_item="fail")


DEMO_ITEMS = [pytest.param(item, id=item.item_id) for task in ("screen_annotation", "vqa") for item in demo_items(task)]


@pytest.mark.parametrize("item", DEMO_ITEMS)
def test_a_demo_reference_has_all_facts_and_invents_nothing(item):
    found = scored(item.reference, item.facts, item.screen_text, item.question)
    assert found["facts_checked_against"] == "screen_text"
    assert found["facts_misses"] == [] and found["facts_inventions"] == []
    assert found["facts_recall"] == 1 and found["facts_precision"] in (1, None)


@pytest.mark.parametrize("item", DEMO_ITEMS)
def test_a_demo_reference_with_other_digits_invents_them_all(item):
    """No screenshot happens to have two quantities that differ by such a shift."""
    numbers = claimed(shifted(item.reference), names=False)
    found = scored(shifted(item.reference), item.facts, item.screen_text)
    assert set(numbers) <= set(found["facts_inventions"])
    assert all(not re.search(r"\d{2}", fact) for fact in found["facts_hits"])


def shifted(text):
    return re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), text)


def test_screen_text_is_optional(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(next((DEMO / "vqa" / "images").glob("*.png")).read_bytes())
    (tmp_path / "items.csv").write_text('image,facts\na.png,"[""1 ₽""]"\n', encoding="utf-8")
    layout = LayoutConfig("items.csv", "images", {"image": "image", "facts": "facts", "screen_text": "screen_text"})
    [item] = read_items(DataConfig(str(tmp_path), {"items": layout}), ImageConfig(), False, "fail")
    assert item.screen_text is None and item.facts == ("1 ₽",)


# ------------------------------------------------------------------------------------------- the study's real answers


@needs_recorded
def test_recorded_answers_against_themselves_and_with_other_digits():
    checked = 0
    for text in {row["candidate"] for row in recorded_rows()}:
        if not text.strip():
            continue
        written = claimed(text)
        assert found_facts(text, written) == [True] * len(written)
        assert inventions(text, screen_text=text) == []
        numbers = claimed(shifted(text), names=False)
        assert not any(found_facts(text, numbers))
        checked += len(numbers)
    assert checked > 100
