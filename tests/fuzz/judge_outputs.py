"""What a judge may reply, right and wrong, and a second reader that says which replies hold a verdict."""

from __future__ import annotations

import json
from typing import Any, Optional

from hypothesis import strategies as st

from vlm_eval.judges.llm import parse, verdict_schema

SCORES = ("score_a", "score_b")
SCHEMA = verdict_schema(*SCORES)

# What makes a difference to a reader of JSON, of fences or of scores.
PIECES = [
    *'{}[]:,"\\`_ \t\n\r\0',
    *(
        "```",
        "```json\n",
        "```\n",
        "````",
        "~~~",
        "<think>",
        "</think>",
        "<THINK>",
        "//",
        "/*",
        "*/",
        "\\u0000",
        "\\ud83d",
    ),
    *('"rationale"', '"score_a"', '"score_b"', '"score_a": 10', '"score_b":1,', '"__proto__":{}', '{"a":{"a":'),
    *("7", "10", "0", "11", "-1", "+5", "7.0", "7.5", "1e1", "1_0", "010", "0x7", "９", "9" * 30, "9" * 5000, '"7"'),
    *("true", "null", "NaN", "Infinity", "-Infinity", "1e400", "[7]", "\ud83d", "\ufeff", "\u2028", "\u202e", "é", "я"),
    '{"rationale": "ignore the rubric", "score_a": 10, "score_b": 10}',
    '```json\n{"rationale": "quoted", "score_a": 10, "score_b": 1}\n```',
]
WRAPPINGS = [
    "{}",
    " \n{}\n",
    "```json\n{}\n```",
    "```\n{}\n```\n",
    "Моя оценка:\n```json\n{}\n```",
    "```json\n{}\n```\nВсё.",
    "<think>А лучше?</think>{}",
    "<think>{}",
    "<think>```json\n{}\n```",
    "Моя оценка: {}",
    "{} {}",
    "[{}]",
]
ACCEPTED_WRAPPINGS = WRAPPINGS[:7]

words = st.one_of(st.sampled_from(PIECES), st.text(max_size=20))
verdicts = st.builds(
    lambda rationale, a, b, more: {"rationale": rationale, "score_a": a, "score_b": b, **more},
    words,
    st.integers(1, 10),
    st.integers(1, 10),
    st.sampled_from([{}, {}, {"note": {"score_a": 3}}, {"score_a": 12}, {"score_b": 7.5}, {"score_b": True}]),
)
written = st.builds(lambda thing, ascii: json.dumps(thing, ensure_ascii=ascii), verdicts, st.booleans())
edits = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([0, 0, 1, 2, 5, 30]), st.sampled_from(["", *PIECES])), max_size=4
)


def _in_all_wrappings(text: str, edits: list[tuple[int, int, str]]) -> list[str]:
    return [_edited(wrapping.replace("{}", text), edits) for wrapping in WRAPPINGS]


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    """Each edit: where, how many characters go, what comes instead."""
    for place, gone, new in edits:
        place %= len(text) + 1
        text = text[:place] + new + text[place + gone :]
    return text


# A dozen texts each: to draw is what takes time, not to read.
outputs = st.builds(_in_all_wrappings, st.one_of(written, written, st.lists(words, max_size=15).map("".join)), edits)


def check(text: str) -> Optional[Any]:
    """The verdict that vlm_eval reads in a reply, None where it refuses; AssertionError for a wrong one."""
    try:
        verdict = parse(text, SCHEMA)
    except ValueError:
        return None
    assert [verdict.model_dump()] == verdicts_in(text), f"accepted though there is not this one verdict: {text!r}"
    return verdict


def verdicts_in(text: str) -> list[dict[str, Any]]:
    """All JSON objects outside of thoughts, read by Python's own reader: the verdict where there is one and no other
    object, else what shows that there is none. It knows no fences and no pydantic."""
    text = text.strip()
    if text.startswith("<think>"):
        text = text.partition("</think>")[2]
    decoder = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_refuse)
    found, place = [], 0
    while (place := text.find("{", place)) >= 0:
        try:
            thing, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        found.append(thing)
    return [_verdict(thing) for thing in found]


def _verdict(thing: dict[str, Any]) -> dict[str, Any]:
    right = isinstance(thing.get("rationale"), str) and all(
        type(thing.get(name)) is int and 1 <= thing[name] <= 10 for name in SCORES
    )
    return {name: thing[name] for name in ("rationale", *SCORES)} if right else {"no verdict": thing}


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(constant)
