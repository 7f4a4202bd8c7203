"""Does an answer refuse? By the phrases of assistants, Russian and English.

A refusal is an answer whose author will not or cannot do what was asked: help, answer, look at the screenshot. A
person in trouble says nearly the same ("я не могу оплатить", "I can't see my order"), and the answers scored here are
often written in that person's voice. So each phrase holds both, that one cannot and what one cannot, where the latter
is what only an assistant says. Having looked and found nothing ("can't find any information") is no refusal.
"""

from __future__ import annotations

import re

OPENING = 300  # characters: a refusal opens an answer; a disclaimer after much help is none

RU_CANNOT = (
    r"\bне (?:могу|смогу|можем|сможем|в состоянии|способ(?:ен|на|ны)|имею (?:возможности|права)|умею)"
    r"(?: [\w-]+){0,3}? "  # "не смогу больше ничем вам помочь"
)
RU_THIS = r"(?:на |с |к |об? )?(?:эт|ваш|тво|данн|так|подобн|указанн)\w*"
RU_IMAGE = r"(?:скриншот|изображени|картинк|ваш экран|экран ваш|сним(?:ок|к)\w* экрана)\w*"
RU_SEE = (
    r"(?:(?:у)?видеть|просм\w+|посмотреть|рассмотреть|открыть|прочитать|прочесть|обработать|(?:про)?анализировать|"
    r"распозна\w+|описать|понять)"
)
EN_CANNOT = (
    r"(?:\b(?:i|we|and|but) (?:can'?t|cannot|can not|could not|couldn'?t|(?:won'?t|will not)(?: be able to)?)|"
    r"\b(?:i am|i'm|we are|we're|and|but|am) (?:unable to|not able to|not capable of)|"
    r"\bi (?:do not|don't) have the ability to) (?:(?:really|currently|directly|actually|fully) )?"
)
EN_THIS = r"(?:that|this|these|those|your|the|such|any)"
EN_IMAGE = r"(?:image|picture|screenshot|photo|attachment)s?\b"

RUSSIAN = (
    # Help, an answer, the request are declined.
    RU_CANNOT + r"(?:помочь|помогать)(?: вам| тебе)?(?: с| в\b| по\b|[.,!?;]|$)",
    r"\b(?:помочь|ответить|запрос (?:я )?(?:выполнить|обработать))(?: (?:вам|тебе|с этим|в этом|на это))* (?:я )?"
    r"не (?:могу|смогу|можем|сможем|в состоянии)\b",
    RU_CANNOT + r"(?:рассказать|подсказать)(?: вам)?(?: об этом| про это|[.!])",
    RU_CANNOT + r"(?:оказать|оказывать) (?:вам )?(?:помощь|содействие)",
    RU_CANNOT + rf"(?:ответить|отвечать|дать ответ)(?: {RU_THIS}|(?: на вопрос)?[.!])",
    RU_CANNOT + rf"(?:выполнить|выполнять|обработать|принять) (?:{RU_THIS} )?(?:запрос|просьб|задани|инструкц)",
    RU_CANNOT + r"(?:обсуждать|комментировать|поддерживать) (?:эт|ваш|данн|так|подобн)\w+",
    RU_CANNOT + r"(?:предоставить|предоставлять|дать|давать|сообщить)(?: вам| тебе)? "
    r"(?:\w+(?:ые|ие|ый|ий|ую|юю|ой|ое) )?(?:информаци|ответ|помощ|совет|консультац|рекоменд)",
    RU_CANNOT
    + r"(?:поддерживать|поддержать|продолжать|продолжить|вести) (?:эт|так|данн)\w+ (?:разговор|диалог|бесед|тем)",
    r"\b(?:моих|наших) возможностей недостаточно",
    r"\bвынужден\w* (?:отказать вам|вам отказать|отклонить ваш|отказаться отвечать)",
    r"\bотказываюсь (?:отвечать|помогать|выполнять|обсуждать)",
    r"\b(?:противоречит|нарушает) (?:моим|мои|нашим|наши) (?:\w+ )?(?:правил|принцип|инструкц|политик)",
    # So is the task: to put oneself in the place of the person who made the screenshot.
    RU_CANNOT + r"(?:предсказ|предполож|предугад|сформулир|формулир|формализ|интерпретир|сгенерир|генерир)\w+",
    RU_CANNOT + r"(?:составить|написать|придумать|создать) (?:\w+ )?(?:обращени|текст|описани)",
    RU_CANNOT + r"(?:сказать|определить|установить|понять),? что (?:\w+ )?(?:изображено|показано|на)\b",
    # The image is not seen.
    RU_CANNOT + rf"{RU_SEE}(?: или \w+)?(?: \w+){{0,3}}? (?:{RU_IMAGE}|сообщени\w+ пользователя)",
    rf"\bне (?:вижу|получил[аи]?) (?:(?:ваш|прикрепл|прилож|предоставл|отправл|загруж)\w* )+{RU_IMAGE}",
    rf"\b{RU_IMAGE} не (?:было |был )?(?:предоставлен|приложен|прикреплен)",
    rf"\bнет (?:доступа|возможности \w+) (?:к )?(?:\w+ )?{RU_IMAGE}",
    # Language models by their own words; the last three are GigaChat's and YandexGPT's.
    r"\bкак (?:\w+ )?(?:языков\w+ модель|нейросеть|ии\b|искусственный интеллект|ассистент|помощник|чат-бот)[^.!?]{0,40}"
    r"\bя (?:\w+ )?не (?:могу|имею|способ|умею|облада|в состоянии)",
    r"\bязыковые модели не обладают собственным мнением",
    r"\bразговоры на (?:некоторые|чувствительные) темы",
    r"\bпоговорим (?:на другую тему|о чем-нибудь (?:еще|другом))",
)
ENGLISH = (
    # In the same order.
    EN_CANNOT + r"(?:assist|assisting|comply|help(?! but\b| (?:thinking|feeling|noticing)))\b(?! my| me\b)",
    EN_CANNOT + rf"(?:fulfil\w*|process|perform|do|answer|respond to) (?:{EN_THIS} )?"
    r"(?:request|question|prompt|query|task|that\b(?! \w)|this\b(?! \w))\b(?! for| on)",
    EN_CANNOT + r"answer(?:[.!]|$)",
    r"\bi (?:don't|do not) feel comfortable\b",
    EN_CANNOT + r"(?:provide|providing|give|offer) (?:you )?(?:with )?(?:(?:that|this|any|an?|the|such) )?"
    r"(?:information|details|assistance|answer|help|advice|response|support)\b",
    EN_CANNOT + r"(?:discuss|engage in|participate in|talk about) (?:that|this|such|any)",
    r"\bi (?:must|have to) (?:decline|refuse)\b",
    r"\b(?:against|violates?) (?:my|our) (?:\w+ )?(?:guidelines|polic|programming|principles|rules)",
    EN_CANNOT + r"(?:predict|guess|formulate|formali[sz]e|interpret) (?:how|what|that|this|an?|the|your|such) ",
    EN_CANNOT
    + r"(?:generate|create|produce|write) (?:(?:that|this|such|the|an?) )?(?:content|text|message|request|response)",
    EN_CANNOT + r"(?:see|view|access|read|open|tell|analy[sz]e|identify|describe|process|interpret|look at)"
    rf"(?: or \w+)?(?: \w+){{0,5}}? {EN_IMAGE}",
    r"\bas an? (?:\w+ )?(?:ai|language model|artificial intelligence)\b[^.!?]{0,60}"
    r"\b(?:can'?t|cannot|don'?t|do not|unable|not able)\b",
)
REFUSAL = re.compile("|".join(f"(?:{phrase})" for phrase in (*RUSSIAN, *ENGLISH)))
IN_PASSING = re.compile(r",? (?:к сожалению|увы|unfortunately),?(?= )")  # "не могу, к сожалению, помочь"


def is_refusal(text: str) -> bool:
    opening = " ".join(text[:OPENING].lower().replace("ё", "е").replace("’", "'").split())
    return bool(REFUSAL.search(IN_PASSING.sub("", opening)))
