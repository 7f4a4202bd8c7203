"""Judges the demo's references by local models, one after another in this process; prints a line of JSON for each.
An eleventh item, "long", fits no context.

usage: judge_locally.py DATA_FOLDER OVERRIDES_OF_THE_FIRST [OVERRIDES_OF_THE_SECOND ...]    (a word of overrides each)
"""

from __future__ import annotations

import csv
import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil

from tests.helpers import composed
from vlm_eval import config, rows
from vlm_eval.judges import local
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.rows import Answer, Item


def main(data: Path, *judges: str) -> None:
    with open(data / "items.csv", encoding="utf-8") as file:
        items = [Item(r["item_id"], r["item_id"], r["image"], reference=r["reference"]) for r in csv.DictReader(file)]
    requests = [
        JudgeRequest(
            item, Answer(item.item_id, 0, item.item_id, f"«{item.reference[:40]}»"), data / "images" / item.image
        )
        for item in items
    ]
    too_long = replace(requests[0].item, item_id="long")
    requests.append(replace(requests[0], item=too_long, answer=Answer("long", 0, "long", "оплата " * 20_000)))
    for overrides in judges:
        judge = config.build(composed("judge=local", "metrics=tech", *overrides.split()).judge)
        judge.check()
        under_way, began = watch_the_engine(), time.monotonic()
        found = [row for new in judge.judge(requests) for row in new]
        out = {
            "rows": [rows.to_dict(row) for row in found],
            "most_under_way": max(under_way),
            "facts": judge.facts(),
            "children": [child.name() for child in psutil.Process().children(recursive=True)],
            "engine_threads": [thread.name for thread in threading.enumerate() if thread.name == local.PROVIDER],
            "distributed": sys.modules["torch"].distributed.is_initialized(),
            "seconds": time.monotonic() - began,
        }
        print(json.dumps(out), flush=True)


def watch_the_engine() -> list[int]:
    """How many requests the next engine has under way at each of its steps."""
    seen: list[int] = [0]
    load = local.load

    def watched(*arguments):
        llm = load(*arguments)
        step = llm.llm_engine.step

        def counted():
            seen.append(llm.llm_engine.get_num_unfinished_requests())
            return step()

        llm.llm_engine.step = counted
        local.load = load
        return llm

    local.load = watched
    return seen


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
