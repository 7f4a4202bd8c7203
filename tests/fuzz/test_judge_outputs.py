"""No reply of a judge crashes its reader, and none is taken for a verdict that is not one."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, seed, settings

from tests.fuzz.judge_outputs import ACCEPTED_WRAPPINGS, SCHEMA, SCORES, check, outputs, verdicts, words
from vlm_eval.judges.llm import MOST_CHARS, parse
from vlm_eval.judges.scale import score_of

A_ROUND = 20_000  # different outputs at the least
DRAWN = 2200  # times a dozen
VERDICT = '{"rationale": "x", "score_a": 7, "score_b": 2}'
QUOTED = '```json\n{"rationale": "so the answer says", "score_a": 10, "score_b": 1}\n```'


def fuzz(number: int) -> None:
    """One round; what it saw must be of both kinds, or it has shown nothing."""
    seen, different = Counter(), set()

    @seed(number)
    @settings(
        max_examples=DRAWN,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(outputs)
    def one(texts: list[str]) -> None:
        for text in texts:
            seen[check(text) is not None] += 1
            different.add(hash(text))

    one()
    assert min(seen[True], seen[False]) > A_ROUND / 100, seen
    assert len(different) >= A_ROUND, len(different)


def test_twenty_thousand_outputs():
    fuzz(0)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(1, 51))  # fifty rounds: a million; hypothesis remembers each within a round
def test_a_million_outputs(number):
    fuzz(number)


@settings(max_examples=1000, deadline=None)
@given(verdicts)
def test_a_right_verdict_is_accepted_in_every_wrapping(thing):
    text = json.dumps(thing)
    right = all(type(thing[name]) is int and thing[name] <= 10 for name in SCORES)
    if not right or "\\ud83d" in text:
        return
    for wrapping in ACCEPTED_WRAPPINGS:
        read = parse(wrapping.replace("{}", text), SCHEMA)
        assert read.model_dump() == {name: thing[name] for name in ("rationale", *SCORES)}


REFUSED = {
    "a quoted one in a fence, its own bare": f"The answer says {QUOTED}, which is no argument. {VERDICT}",
    "its own bare, then a fence": f"I say {VERDICT}, not {QUOTED}",
    "two fences": f"{QUOTED}\n```json\n{VERDICT}\n```",
    "a fence in thoughts that were cut off": f"<think>Perhaps {QUOTED}",
    "thoughts in the middle, cut off": f"Well. <think>Perhaps {QUOTED}",
    "not a number of JSON's": '{"rationale": "x", "score_a": 7, "score_b": 2, "sure": NaN}',
    "a name twice": '{"rationale": "x", "score_a": 7, "score_b": 2, "score_a": 3}',
    "a list": f"[{VERDICT}]",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refused(text):
    with pytest.raises(ValueError):
        parse(text, SCHEMA)


@pytest.mark.parametrize("text", ["```{", "```{}", "} ", "```", "<think>", "[", '{"a":', "\\", "```json\n{}\n``` "])
def test_the_longest_replies_take_no_time(text):
    began = time.monotonic()
    with pytest.raises(ValueError):
        parse(text * (MOST_CHARS // len(text)), SCHEMA)
    assert time.monotonic() - began < 1


@example("1_0")
@example("７")
@example("1e1")
@example("nan")
@settings(max_examples=3000, deadline=None)
@given(words)
def test_a_cell_is_a_score_or_says_why_not(cell):
    try:
        value = score_of(cell)
    except ValueError:
        return
    plain = cell.strip().replace(",", ".")
    assert plain.isascii() and set(plain) <= set("0123456789.+-eE") and 1 <= value <= 10 and float(plain) == value
