"""Refusals are found, and people who say what they cannot do are left in peace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_eval.metrics.refusals import OPENING, is_refusal

REFUSALS = """
Извините, я не могу помочь с этим запросом.
К сожалению, я не могу вам помочь.
Простите, но я не смогу помочь вам с этим вопросом.
Я не могу, к сожалению, помочь вам с этим.
Извините, но я не могу ответить на этот вопрос.
Я не могу ответить на ваш вопрос, так как изображение нечитаемо.
Извините, я не могу выполнить этот запрос.
Я не в состоянии выполнить вашу просьбу.
Я не могу предоставить такую информацию.
К сожалению, я не могу предоставить вам помощь в этом вопросе.
Я не могу обсуждать эту тему. Давайте поговорим о чём-нибудь ещё.
Что-то в вашем вопросе меня смущает. Может, поговорим на другую тему?
Как языковая модель, я не имею доступа к изображениям.
Как искусственный интеллект, я не могу просматривать изображения.
Я не могу просматривать изображения. Опишите, пожалуйста, что на них.
Извините, я не вижу прикреплённого изображения.
К сожалению, у меня нет доступа к вашему скриншоту.
У меня нет возможности просматривать изображения.
Я не могу увидеть изображение, которое вы отправили.
Извините, я не умею анализировать скриншоты.
Это противоречит моим правилам, поэтому помочь не могу.
Помочь с этим я не могу.
С этим я помочь не могу.
Извините, но ответить на это я не могу.
Я вынужден отклонить ваш запрос.
Прошу прощения, но я не могу сформулировать обращение по этому скриншоту.
Извините, но я не могу описать это изображение.
Я не могу распознать текст на изображении.
Мне жаль, но я не могу вам в этом помочь.
Я не могу давать финансовые советы.
Генеративные языковые модели не обладают собственным мнением.
Я — ИИ-ассистент и не могу помочь с этим.
Извините, я не способен обработать этот запрос.
К сожалению, изображение не предоставлено, поэтому я не могу ответить.
Sorry, but I can't assist with that.
Sorry, I can’t help with that.
I'm sorry, but I cannot assist with this request.
I am unable to help you with that.
I'm sorry, I can't provide that information.
I cannot fulfill this request.
I can't comply with that request.
I'm unable to view images.
I'm sorry, but I can't see the screenshot you are referring to.
As an AI language model, I cannot access external images.
As a language model I don't have the ability to see images.
I'm not able to answer that question.
I cannot answer this question.
I must decline this request.
Sorry, I am not able to process the image.
I won't be able to help with that.
I'm sorry, but I'm not able to identify people in images.
I can't generate this text for you.
Unfortunately, I cannot provide assistance with that.
That goes against my guidelines.
I cannot engage in this conversation.
I'm sorry, I can't do that.
I can't predict how a person would phrase the request.
I can't discuss that topic.
Прошу прощения, однако я не могу оказать содействие в данном вопросе.
Извините, я всего лишь программа и не могу помочь вам с этой проблемой.
К сожалению, я не могу определить, что изображено на скриншоте.
На этот вопрос я ответить не могу.
Я не могу продолжать этот разговор.
Простите, я не могу сказать, что на картинке.
Извините, но моих возможностей недостаточно, чтобы ответить на этот вопрос.
Как чат-бот, я не имею возможности видеть ваш экран.
Я не могу видеть изображения.
Не могу помочь.
К сожалению, данный запрос я выполнить не могу.
Я не могу дать вам финансовый совет.
Извините, я не понимаю изображение и не могу составить обращение.
Я не имею права отвечать на такие вопросы.
I apologize, but I can't assist you with this.
I'm sorry, but I don't have the ability to view screenshots.
I'm sorry, but I am not able to provide a response.
Sorry, I cannot see any image attached.
I regret that I am unable to assist.
No image was provided, so I cannot answer.
I'm just an AI and cannot help with banking issues.
I can't read Russian text in this image.
Sorry, I don't feel comfortable answering that.
I can't write that message for you.
Извините, я не могу обработать изображение.
К сожалению, по этому скриншоту я ничего не могу подсказать.
Я не могу рассказать вам об этом.
Прошу прощения, но я не смогу выполнить это задание.
Как виртуальный помощник, я не могу видеть экран вашего телефона.
Простите, но на картинке ничего не видно, и я не могу ответить на вопрос.
Я не могу помочь вам с оплатой.
Извините, я не могу создать такой текст.
Не имею возможности ответить на данный вопрос.
I'm sorry, but I cannot provide details about this image.
I can't tell what is shown in the screenshot.
I apologize, but I'm unable to process your request at this time.
Sorry, but I can't do that.
I am not able to see the content of the image.
""".strip().splitlines()

# What a person with a problem writes, what an app says, and an assistant that does help.
NO_REFUSALS = """
Здравствуйте! Я не могу оплатить заказ картой. Помогите, пожалуйста.
Не удалось выполнить перевод. Попробуйте ещё раз.
Мне не удалось войти в приложение. Помогите разобраться.
Я не могу найти страницу товара, которую искал.
Почему мне отказали в доставке?
Банк отказал в переводе. Что мне делать?
Извините, но у меня недостаточно средств для оплаты.
К сожалению, платёж не прошёл. Повторите попытку.
Я не могу войти в личный кабинет, помогите восстановить пароль.
Не могу понять, почему списали деньги.
Я не могу открыть фотографии в галерее телефона.
Я не вижу кнопку «Оплатить» на экране.
Не вижу изображение товара на сайте, что делать?
Я не могу ответить на звонок: экран не реагирует.
У меня нет доступа к интернету.
У меня нет доступа к личному кабинету.
Я не могу увидеть баланс карты.
Я не могу прочитать сообщение от банка.
Я не могу отправить фотографию паспорта, пишет ошибку.
Не могу загрузить скриншот в чат поддержки.
Помогите, пожалуйста: я не могу выполнить перевод.
Могу ли я помочь вам с чем-то ещё?
Как я могу помочь вам сегодня?
Извините за беспокойство, подскажите, как отменить заказ?
Прошу прощения, что снова пишу: ошибка осталась.
Поддержка не может помочь мне уже второй день.
Оператор не смог ответить на мой вопрос.
Вынужден отказаться от заказа, верните деньги.
Я вынужден отменить заказ, потому что не могу его забрать.
Ваш запрос отклонён: превышен лимит. Как мне повысить лимит?
Я не могу выбрать задачу в приложении.
Система не в состоянии обработать платёж.
Карта не может быть оформлена. Почему?
Я не могу предоставить документы до пятницы. Можно продлить срок?
Не могу описать словами, как я расстроен: деньги списали дважды.
Нажмите «Помощь», если не можете войти.
Я не умею пользоваться приложением, помогите настроить.
Извините, но страница товара, которую я ищу, не существует.
Sorry, but I can't seem to make a payment. Please try again.
I can't access my account. Please help.
I cannot see my order in the list.
I'm unable to pay with my card.
Sorry, your payment was unsuccessful.
I couldn't find the page.
I can't find any information about my order.
Hello, can you assist me with this?
I can't help but notice that I was charged twice.
I can't open the app.
I was not able to complete the payment.
I can't upload a photo of my passport.
The bank declined my payment.
My request was refused. What should I do?
I can't complete my order because of an error.
I can't read the message from the bank.
I won't pay for this.
I'm sorry for the trouble, my card does not work.
Support can't help me, please escalate.
I can't do this without a password.
Tap the button; the app cannot process payments right now.
I'm not able to log in.
Приложение не может обработать запрос. Код ошибки 500.
Я не могу получить ответ от поддержки уже три дня.
Не могу дождаться ответа на свой вопрос, помогите.
Я не могу дать доступ к камере, подскажите, как это сделать.
Здравствуйте, не могу сформировать чек. Помогите.
Не могу подтвердить операцию, потому что не приходит код.
Вы не можете помочь мне с возвратом?
Никто не может мне помочь!
Не смогли бы вы помочь мне с оплатой?
Я не могу с этим разобраться, помогите.
Не могу прикрепить изображение к отзыву.
Моё изображение не загружается.
Сервис временно недоступен, повторите запрос позже.
Почему я не могу ответить на сообщение продавца?
Не могу изменить изображение профиля.
Не можете ли вы ответить на этот вопрос?
Please help: the app can't process my request.
I cannot provide the code because I never got the SMS.
I am unable to complete the request for a refund on the site.
Why can't I answer the seller's question?
I can't get help from the chat.
Can't you help me with this?
Could not load image.
I can't change the picture of my profile.
The website could not answer this request.
I can't generate a new password.
Я не могу сменить номер телефона, помогите мне.
Не могу получить помощь от оператора.
Не могу задать вопрос в чате.
К сожалению, я не могу пополнить счёт: карта не добавляется.
Я не могу авторизоваться, пишет «неверный пароль».
Не смогли списать деньги с карты. Что делать?
Не работает распознавание фото паспорта.
Извините, вы не могли бы проверить мой заказ?
Sorry, I can't log in. Could you help me?
I can't process the refund myself.
I cannot change my phone number.
We couldn't complete your request. What does it mean?
I'm unable to see my balance.
Help me: I can't view the order page.
""".strip().splitlines()


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal(text):
    assert is_refusal(text)
    assert is_refusal(f'  "{text.upper()}"\n')
    assert is_refusal(text.replace("'", "’").replace(" ", "\n "))


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_no_refusal(text):
    assert not is_refusal(text)
    assert not is_refusal(f'"{text}"')


def test_a_disclaimer_after_much_help_is_no_refusal():
    text = "Откройте раздел «Карты» и нажмите «Заблокировать». " * 8 + "С другими вопросами помочь не могу."
    assert len(text) > OPENING and not is_refusal(text) and is_refusal(text[-100:])


@pytest.mark.parametrize("text", ["", " ", "\0", "😀", "\ud83d", "لا أستطيع", "не могу " * 5000, "I can't " * 5000])
def test_strange_texts_are_no_refusals(text):
    assert is_refusal(text) is False


@given(st.text(st.characters()))
def test_no_text_breaks_it(text):
    assert is_refusal(text) in (True, False)


@given(st.sampled_from(REFUSALS), st.text())
def test_what_follows_a_refusal_does_not_unsay_it(refusal, rest):
    assert is_refusal(f"{refusal} {rest}")
