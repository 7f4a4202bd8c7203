"""The stage between answers and scores that measures latency under load: many requests under way at once.

Closed loop: so many users, each of whom asks again when answered. Open loop: requests arrive at a rate, whatever the
engine does. Each level is one experiment: measured whole, written when it is done, made again whole where it was cut.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import random
import time
from typing import Any, Callable, Mapping, Optional, Sequence

from omegaconf import DictConfig

from vlm_eval import addresses
from vlm_eval.engines.base import Engine, Level, Refused, Request, Streaming
from vlm_eval.generate import at_work, requests_of, stop
from vlm_eval.progress import Reporter
from vlm_eval.rows import Item, UnderLoad
from vlm_eval.store import RunFolder
from vlm_eval.tasks.base import Task

WARM_UP = 8  # requests before a level that are not counted, at most
TELL_EVERY_S = 0.5


def measure_load(
    cfg: DictConfig, task: Task, engine: Engine, items: dict[str, Item], folder: RunFolder, report: Reporter
) -> Mapping[str, Any]:
    """All levels that are not in the folder yet. Returns what was granted for them: `process_ends` where another
    process of the run has to go on."""
    levels, before = engine.levels(), folder.read("load")
    if not levels and not before:
        return {}
    repeats = engine.repeats(task.config.repeats)
    requests = requests_of(cfg, task, items, repeats)
    wanted = addresses.of_answers(cfg, engine, requests, items, repeats)
    plans = {level: planned(level, requests, wanted, cfg.run.seed) for level in levels}
    kept = [row for level, plan in plans.items() for row in _whole(before, level, plan)]
    if kept != before:
        folder.replace("load", kept)
    done = {(row.kind, row.level) for row in kept}
    todo = {level: plan for level, plan in plans.items() if (level.kind, level.value) not in done}
    if not todo:
        return {}
    if engine.cards_held and report.answers is not None:  # a run by itself: nobody granted it a card
        return {"process_ends": True}
    granted = report.ask("load", **{**engine.need(()), "gib": None})
    engine.share_gib = granted.get("gib")
    asyncio.run(_measure(engine.streaming(), todo, {(r.item_id, r.repeat): r for r in requests}, folder, report))
    return granted


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Seconds, from the level's beginning on, at which a Poisson process of that rate has its first arrivals."""
    luck = random.Random(f"{seed}:{rate:g}")
    return [round(at, 6) for at in itertools.accumulate(luck.expovariate(rate) for _ in range(count))]


def planned(
    level: Level, requests: Sequence[Request], wanted: Mapping[addresses.Key, str], seed: int
) -> list[UnderLoad]:
    """A level's rows as far as they are known before: all items' first repeats, then their second ones, and from the
    beginning again."""
    drawn = itertools.islice(itertools.cycle(sorted(requests, key=lambda r: r.repeat)), level.requests)
    planned = arrivals(level.value, level.requests, seed) if level.kind == "rate" else itertools.repeat(None)
    return [
        UnderLoad(
            level.kind,
            level.value,
            number,
            r.item_id,
            r.repeat,
            sent_s=0.0,
            planned_s=at,
            inputs=wanted[r.item_id, r.repeat],
        )
        for number, (r, at) in enumerate(zip(drawn, planned))
    ]


def _whole(before: Sequence[UnderLoad], level: Level, plan: Sequence[UnderLoad]) -> list[UnderLoad]:
    """The level's rows, where all of them are there and follow from what is asked now; else none."""
    mine = [row for row in before if (row.kind, row.level) == (level.kind, level.value)]
    found = sorted(((r.number, r.item_id, r.repeat, r.planned_s, r.inputs) for r in mine), key=lambda key: key[0])
    return mine if found == [(r.number, r.item_id, r.repeat, r.planned_s, r.inputs) for r in plan] else []


async def _measure(
    engine: Streaming,
    todo: Mapping[Level, Sequence[UnderLoad]],
    requests: Mapping[addresses.Key, Request],
    folder: RunFolder,
    report: Reporter,
) -> None:
    report("load", note="engine starts")
    total, done = sum(map(len, todo.values())), 0
    try:
        with at_work():
            facts = engine.start()
        folder.provenance(load=facts)
        for level, plan in todo.items():
            asked = [requests[row.item_id, row.repeat] for row in plan]
            engine.prepare(asked)
            with at_work():
                rows = await measured(engine, level, asked, plan, _teller(level, report, done, total))
            # In one go: to sync each row to the disk as it comes would hold up the others, and half a level is measured
            # again anyway.
            folder.append("load", rows)
            done += len(rows)
    finally:
        stop(engine)


def _teller(level: Level, report: Reporter, before: int, total: int) -> Callable[[int], None]:
    told = 0.0

    def tell(done: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > TELL_EVERY_S or done == level.requests:
            told = now
            report("load", before + done, total, str(level))

    return tell


async def measured(
    engine: Streaming,
    level: Level,
    requests: Sequence[Request],
    plan: Sequence[UnderLoad],
    tell: Callable[[int], None] = lambda done: None,
) -> list[UnderLoad]:
    """One level: warmed up, then each request of it as the plan has it; rows in the order of their numbers."""
    warm = min(WARM_UP, math.ceil(level.value))
    await asyncio.gather(*(_timed(engine, request, row, 0.0) for request, row in list(zip(requests, plan))[:warm]))
    rows: list[UnderLoad] = []
    began = time.monotonic()
    waiting = iter(zip(requests, plan))

    async def user() -> None:
        for request, row in waiting:  # all users take from the one queue
            rows.append(await _timed(engine, request, row, began))
            tell(len(rows))

    async def arrival(request: Request, row: UnderLoad) -> None:
        await asyncio.sleep(began + row.planned_s - time.monotonic())
        rows.append(await _timed(engine, request, row, began, planned_s=row.planned_s))
        tell(len(rows))

    if level.kind == "concurrency":
        await asyncio.gather(*(user() for _ in range(int(level.value))))
    else:
        await asyncio.gather(*(arrival(request, row) for request, row in waiting))
    return sorted(rows, key=lambda row: row.number)


async def _timed(
    engine: Streaming, request: Request, row: UnderLoad, began: float, planned_s: Optional[float] = None
) -> UnderLoad:
    """The row with its times.

    In the open loop the clock starts when the request was to arrive, were this process late to send it: to leave out
    what a user waits while the measuring itself is held up is the "coordinated omission" (G. Tene), which makes the
    tail of a slow engine look short. In the closed loop there is no plan, and it starts when it is handed over."""
    handed = time.monotonic() - began
    since = handed if planned_s is None else planned_s
    came, tokens = [], 0
    try:
        async for new in engine.stream(request):
            if new:
                came.append(time.monotonic() - began)
                tokens += new
    except Refused as error:
        return dataclasses.replace(row, sent_s=round(handed, 6), error=str(error))
    ended = time.monotonic() - began
    if not came:
        return dataclasses.replace(row, sent_s=round(handed, 6), error="the answer is empty")
    return dataclasses.replace(
        row,
        sent_s=round(handed, 6),
        latency_s=round(ended - since, 6),
        ttft_s=round(came[0] - since, 6),
        itl_s=tuple(round(b - a, 6) for a, b in itertools.pairwise(came)),
        output_tokens=tokens,
    )
