"""Judgements and answers to bring together."""

from __future__ import annotations

from vlm_eval.rows import Answer, Judgement


def row(item, order, candidate, reference, repeat=0, status="ok", judge="j", judge_repeat=0):
    return Judgement(item, repeat, judge, order, judge_repeat, True, candidate, reference, "because", status)


def failed(item, order, status, repeat=0):
    return row(item, order, None, None, repeat, status)


def answers(items, repeats=1, text="text"):
    """One screenshot an item: item "a" is of "shot a"."""
    return [Answer(item, repeat, f"shot {item}", text) for item in items for repeat in range(repeats)]
