"""Every way that a judge's server can go wrong, over HTTP on the loopback: each ends in a row that says so."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from vlm_eval.judges import transport

from .server import case_of, fair, judge_for, judged, request, verdict

TIMEOUT_S = 3.0


def message(**more):
    return 200, {"role": "assistant", "content": None, **more}


def says(text):
    return lambda body: message(content=text)


def on_the_wire(head, body=""):
    return lambda request: (None, "\r\n".join([*head, "", body]).encode())


def cut(body):
    """Half of a good reply, where the whole was announced."""
    data = json.dumps({"choices": [{"message": {"role": "assistant", "content": fair(body)}}]}).encode()
    return None, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data[
        :60
    ]


def hang(body):
    time.sleep(TIMEOUT_S + 1)
    return 200, fair(body)


def scores(a, b=5):
    return says(verdict(a, b))


def page(body):
    return 200, b"<!DOCTYPE html><html><body>Sign in to the gateway</body></html>", {"Content-Type": "text/html"}


def filtered(body):
    choice = {"index": 0, "message": {"role": "assistant", "content": fair(body)}, "finish_reason": "content_filter"}
    return 200, json.dumps({"id": "1", "object": "chat.completion", "created": 1, "choices": [choice]}).encode()


def policy(body):
    error = {"message": "blocked by our safety system", "type": "invalid_request_error"}
    return 400, json.dumps({"error": {**error, "code": "content_policy_violation"}}).encode()


def half(body):
    return 200, b'{"id": "1", "object": "chat.completion", "choices": [{"mess'


# What the server does each time -> the rows' status, a part of their reason.
WRONG = {
    # the connection
    "hangs": (hang, "error", "imeout"),
    "cut in the middle": (cut, "error", "nnection|incomplete"),
    "closed without a reply": (lambda body: (None, b""), "error", "nnection|isconnect"),
    "no HTTP": (on_the_wire(["SSH-2.0-OpenSSH_9.6"]), "error", "nnection"),
    # HTTP
    "401": (lambda body: (401, "who are you?"), "error", "who are you"),
    "404": (lambda body: (404, "no such model"), "error", "no such model"),
    "429": (lambda body: (429, "slow down"), "error", r"slow down.*\(after 2 attempts\)"),
    "500": (lambda body: (500, "the disk is on fire"), "error", r"the disk is on fire.*\(after 2 attempts\)"),
    "503": (lambda body: (503, "loading"), "error", r"loading.*\(after 2 attempts\)"),
    "a page of HTML": (page, "error", "<!DOCTYPE html>"),
    "half a protocol": (half, "error", "Unterminated"),
    "no body": (lambda body: (200, b""), "error", "Expecting value"),
    "another protocol": (lambda body: (200, b'{"answer": "fine"}'), "error", "choices"),
    "no choices": (lambda body: (200, b'{"id": "1", "object": "chat.completion", "choices": []}'), "error", "choices"),
    "null": (lambda body: (200, b"null"), "error", "Received: None"),
    "content of a wrong type": (says(7), "error", "Invalid response"),
    # the model will not
    "refusal": (lambda body: message(refusal="не могу"), "refused", "не могу"),
    "content filter": (filtered, "refused", "content filter"),
    "content policy": (policy, "refused", "safety"),
    "refusal in words": (says("Извините, я не могу оценивать такие ответы."), "invalid", "JSON"),
    # what it says
    "nothing": (says(""), "invalid", "empty"),
    "null content": (says(None), "invalid", "empty"),
    "white space": (says(" \n\t"), "invalid", "empty"),
    "only thoughts": (says("<think>9 и 3</think>"), "invalid", "empty"),
    "thoughts without an end": (says("<think>A лучше, " + verdict(9, 3)), "invalid", "JSON"),
    "prose": (says("Ответ A лучше, 9 против 3."), "invalid", "JSON"),
    "prose before": (says("Вот оценка: " + verdict(9, 3)), "invalid", "JSON"),
    "prose after": (says(verdict(9, 3) + " Надеюсь, помог."), "invalid", "JSON"),
    "half a verdict": (says('{"rationale": "x", "score_a": 5, "score_'), "invalid", "JSON"),
    "two verdicts": (says(verdict(9, 3) + "\n" + verdict(3, 9)), "invalid", "JSON"),
    "a list": (says("[]"), "invalid", "object"),
    "a list of a verdict": (says(f"[{verdict(9, 3)}]"), "invalid", "object"),
    "10 MB of prose": (says("ошибка " * 800_000), "invalid", "characters"),
    "10 MB of rationale": (says(verdict(9, 3).replace("ошибку", "x" * 10_000_000)), "invalid", "characters"),
    "deep JSON": (says("[" * 20_000), "invalid", "JSON"),
    "half a letter": (says("\ud83d"), "invalid", "JSON"),
    "keys in another language": (says('{"обоснование": "x", "оценка_a": 9, "оценка_b": 3}'), "invalid", "score_a"),
    "keys of another case": (says('{"Rationale": "x", "Score_A": 9, "Score_B": 3}'), "invalid", "score_a"),
    "a key twice": (says(verdict(9, 3)[:-1] + ', "score_a": 2}'), "invalid", "score_a: more than once"),
    "no score": (says('{"rationale": "x", "score_a": 5}'), "invalid", "score_b"),
    "no rationale": (says('{"score_a": 5, "score_b": 5}'), "invalid", "rationale"),
    # scores
    "11": (scores(11), "invalid", "score_a"),
    "0": (scores(0), "invalid", "score_a"),
    "-9": (scores(-9), "invalid", "score_a"),
    "35 of 40": (scores(35, 20), "invalid", "score_a.*score_b"),
    "7.5": (scores(5, 7.5), "invalid", "score_b"),
    "9 as text": (scores("9"), "invalid", "score_a"),
    "9/10": (scores("9/10"), "invalid", "score_a"),
    "true": (scores(True), "invalid", "score_a"),
    "null as a score": (scores(None), "invalid", "score_a"),
    "a list as a score": (scores([9]), "invalid", "score_a"),
    "NaN": (scores(float("nan")), "invalid", "score_a|JSON"),
    "1e400": (says('{"rationale": "x", "score_a": 1e400, "score_b": 3}'), "invalid", "score_a|JSON"),
}
RIGHT = {
    "plain": lambda text: text,
    "a fence": lambda text: f"```json\n{text}\n```",
    "a fence without a name": lambda text: f"```\n{text}\n```\n",
    "a fence after prose": lambda text: f"Вот моя оценка:\n```json\n{text}\n```",
    "thoughts first": lambda text: f"<think>A лучше? {{да}}</think>\n{text}",
    "rationale last": lambda text: json.dumps(dict(reversed(json.loads(text).items()))),
    "a rationale in another language": lambda text: text.replace("A назвал ошибку.", "答案A更好 🙂"),
    "a further key": lambda text: text[:-1] + ', "winner": "A"}',
}


def judge_of(server, **changes):
    return judge_for(server, **{"retries": 1, "timeout_s": TIMEOUT_S, "cache": None, **changes})


def no_scores(row):
    return row.status != "ok" and row.candidate_score is None and row.reference_score is None and bool(row.error)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_a_row_with_its_reason(server, image, name):
    does, status, reason = WRONG[name]
    server.script = lambda number, body: does(body)
    [row] = judged(judge_of(server, order="random"), request(image))
    assert no_scores(row) and re.fullmatch(status, row.status) and re.search(reason, row.error), row
    assert len(row.error) < 600 and "Traceback" not in row.error and len(row.rationale or "") <= 2000
    assert len(server.bodies) <= 2
    if row.status == "invalid":
        said = re.sub("<think>.*</think>", "", does(server.bodies[0])[1]["content"] or "").replace("\ud83d", "?")
        assert row.rationale == (said[:2000] or None)  # what it said instead
        assert row.tokens == 240  # it and the attempt to mend it were paid for all the same
        assert sum(len(m["content"]) for m in server.bodies[-1]["messages"] if m["role"] == "assistant") <= 4000


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_taken(server, image, name):
    server.script = lambda number, body: (200, fair(body, RIGHT[name]))
    found = judged(judge_of(server), request(image))
    assert [(r.status, r.candidate_score, r.reference_score, r.tokens) for r in found] == [("ok", 9, 3, 120)] * 2


def test_empty_lines_that_keep_the_connection_alive_are_no_reply(server, image):
    def script(number, body):
        data = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": fair(body)}}]})
        return 200, b"\n" * 20 + data.encode()

    server.script = script
    assert [r.status for r in judged(judge_of(server), request(image))] == ["ok"] * 2


def test_cut_off_says_so(server, image):
    server.script = lambda number, body: (200, '{"rationale": "длинно')
    server.extra = {"finish_reason": "length"}
    assert "max_tokens=1024" in judged(judge_for(server), request(image))[0].error


def test_nobody_listens(server, image):
    server.http.shutdown()
    server.http.server_close()
    found = judged(judge_for(server, retries=0), request(image))
    assert [r.status for r in found] == ["error", "error"] and "onnection" in found[0].error


# ------------------------------------------------------------------------------------------------------ another attempt


@pytest.mark.parametrize("name", ["429", "500", "503", "hangs", "cut in the middle", "closed without a reply"])
def test_a_passing_failure_is_tried_again(server, image, name):
    server.script = lambda number, body: WRONG[name][0](body) if number == 1 else (200, fair(body))
    [row] = judged(judge_of(server, order="random"), request(image))
    assert (row.status, row.candidate_score, len(server.bodies)) == ("ok", 9, 2)


@pytest.mark.parametrize("name", ["401", "404"])
def test_a_wrong_request_is_not_repeated(server, image, name):
    server.script = lambda number, body: WRONG[name][0](body)
    judged(judge_of(server, order="random", retries=5), request(image))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_really_waited_for(server, image, status, form):
    def script(number, body):
        if number > 1:
            return 200, fair(body)
        # A date has whole seconds, this one 2 to 3 of them ahead.
        until = datetime.now(timezone.utc) + timedelta(seconds=3)
        return status, "busy", {"Retry-After": "2" if form == "seconds" else format_datetime(until, usegmt=True)}

    server.script = script
    [row] = judged(judge_of(server, order="random"), request(image))
    first, second = server.times
    assert row.status == "ok" and 1.9 <= second - first <= 3 * 1.5 + 2


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("7", 7, 10.5),
        ("0.5", 4, 6),
        ("99999", 60, 90),
        ("inf", 4, 6),
        ("nan", 4, 6),
        ("-5", 4, 6),
        ("soon", 4, 6),
        ("", 4, 6),
        ("Mon, 23 Nov 2020 17:52:55 GMT", 4, 6),  # over
        ("Mon, 99 Nov 2020 17:52:55 GMT", 4, 6),
        ("Fri, 01 Jan 2999 00:00:00 GMT", 60, 90),
        ("Fri, 01 Jan 2999 00:00:00 -0000", 60, 90),
        ("9" * 400, 60, 90),
    ],
)
def test_retry_after_within_limits(monkeypatch, said, least, most):
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 1.0)
    error = Exception()
    error.litellm_response_headers = {"retry-after": said}
    assert least <= transport._wait_s(error, attempt=2) <= most


# ---------------------------------------------------------------------------------------------------- all of it at once


@pytest.mark.parametrize("retries", [0, 2])
def test_a_server_that_does_something_else_each_time(server, image, retries):
    """30 items, both orders: a row for each, ok where the reply was right and only there."""
    drawn, lock, last = random.Random(retries), threading.Lock(), {}

    def script(number, body):
        case, _ = case_of(body)
        with lock:
            right = drawn.random() < 0.4
            name = drawn.choice(list(RIGHT if right else WRONG))
        last[case["question"], case["answer_a"]] = right, name
        return (200, fair(body, RIGHT[name])) if right else WRONG[name][0](body)

    server.script = script
    asked = [request(image, question=f"{n}?", item_id=f"s{n:02}") for n in range(30)]
    found = judged(judge_of(server, retries=retries), *asked)
    assert [(r.item_id, r.order) for r in found] == [(x.item.item_id, o) for x in asked for o in ("ab", "ba")]
    replied = {x.item.item_id: x for x in asked}
    for row in found:
        item, answer = replied[row.item_id].item, replied[row.item_id].answer
        right, name = last[item.question, answer.text if row.order == "ab" else item.reference]
        assert (row.status == "ok") == right, (name, row)
        assert (row.candidate_score, row.reference_score) == (9, 3) if right else no_scores(row), (name, row)
    assert {"ok", "invalid"} <= {row.status for row in found} <= {"ok", "invalid", "error", "refused"}
