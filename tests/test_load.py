"""The stage that measures latency under load, with engines that are slow in known ways."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import time
from pathlib import Path

import pytest
from scipy import stats

from vlm_eval import addresses, config
from vlm_eval.engines.base import Engine, Level, Refused, engine_of
from vlm_eval.generate import EngineDied, requests_of
from vlm_eval.load import arrivals, measure_load
from vlm_eval.progress import Reporter
from vlm_eval.rows import UnderLoad
from vlm_eval.store import RunFolder

from .helpers import FAULTY, composed, make_data


class Slow:
    """Serves `places` requests at a time, `seconds` each, in two tokens; the others wait."""

    def __init__(self, places, seconds, refuse=(), die_at=None):
        self.seconds, self.refuse, self.die_at = seconds, refuse, die_at
        self.places, self.started, self.stopped = places, 0, False
        self.under_way, self.most, self.asked = 0, 0, []

    def start(self):
        self.started += 1
        self.place = asyncio.Semaphore(self.places)
        return {"engine_start_s": 0.0}

    def prepare(self, requests):
        self.prepared = len(requests)

    async def stream(self, request):
        self.asked.append((request.item_id, request.repeat))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.die_at is not None and len(self.asked) > self.die_at:
                raise RuntimeError("the card is on fire")
            if request.item_id in self.refuse:
                raise Refused("too long")
            async with self.place:
                for _ in range(2):
                    await asyncio.sleep(self.seconds / 2)
                    yield 1
        finally:
            self.under_way -= 1

    def stop(self):
        self.stopped = True


class Told(Reporter):
    """Grants what it is told to grant, and keeps what it was asked."""

    def __init__(self, granted=()):
        super().__init__(io.StringIO(), answers=io.StringIO(json.dumps(dict(granted)) + "\n"))
        self.asks, self.said = [], []

    def ask(self, stage, **need):
        self.asks.append((stage, need))
        return super().ask(stage, **need)

    def __call__(self, stage, done=0, total=0, note=""):
        self.said.append((done, total, note))


class Loaded(Engine):
    def __init__(self, levels, slow):
        self._levels, self.slow = levels, slow

    def levels(self):
        return self._levels

    def streaming(self):
        return self.slow


def concurrency(value, requests=8):
    return Level("concurrency", float(value), requests)


@pytest.fixture
def stage(tmp_path):
    """stage(levels, slow) -> the folder's rows after the stage; the reporter and what it returned are stage.last."""
    data = make_data(tmp_path / "data", count=3)
    cfg = composed("task=vqa", f"task.data.root={data}", "task.repeats=2", "engine.latency_pass.items=0")
    task = config.build(cfg.task)
    items = {item.item_id: item for item in task.items()}
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")

    def run(levels, slow, granted=(), cards_held=0):
        engine, report = Loaded(levels, slow), Told(granted)
        engine.cards_held = cards_held
        run.last = report, measure_load(cfg, task, engine, items, folder, report)
        return folder.read("load")

    run.folder = folder
    return run


def ended(row: UnderLoad) -> float:
    return (row.sent_s if row.planned_s is None else row.planned_s) + row.latency_s


def most_at_once(rows) -> int:
    return max(sum(a.sent_s <= b.sent_s < ended(a) for a in rows) for b in rows)


def test_closed_loop_has_so_many_under_way_and_no_more(stage):
    slow = Slow(places=4, seconds=0.02)
    rows = stage([concurrency(1), concurrency(3, 12)], slow)
    one, three = rows[:8], rows[8:]
    assert [row.number for row in rows] == [*range(8), *range(12)]
    assert most_at_once(one) == 1 and most_at_once(three) == 3 and slow.most == 3
    for row in rows:
        assert 0 < row.ttft_s < row.latency_s and row.output_tokens == 2 and len(row.itl_s) == 1
        assert row.ttft_s + sum(row.itl_s) == pytest.approx(row.latency_s, abs=2e-3)
        assert row.error is None and row.planned_s is None and row.inputs
    # All items' first repeats, then their second ones, and again; before each level warm-up, which is no row.
    order = [(i, k) for k in (0, 1) for i in "abc"]
    assert [(row.item_id, row.repeat) for row in one] == (order * 2)[:8]
    assert len(slow.asked) == 1 + 8 + 3 + 12 and slow.stopped
    report, granted = stage.last
    assert report.asks == [("load", {"cards": 0, "gib": None})] and granted == {}
    assert report.said[-1] == (20, 20, "3 at once")
    assert stage.folder.provenance()["load"] == {"engine_start_s": 0.0}


def test_open_loop_arrivals_are_the_planned_ones_whatever_the_engine_does(stage):
    """A service of 0.05 s, one at a time, is 20 a second; at 60 a second the queue grows, and every wait counts."""
    rows = stage([Level("rate", 60.0, 40)], Slow(places=1, seconds=0.05))
    planned = arrivals(60.0, 40, seed=0)
    assert [row.planned_s for row in rows] == planned
    assert all(0 <= row.sent_s - row.planned_s < 0.05 for row in rows)  # nobody waited for an answer before asking
    assert rows[-1].sent_s < ended(rows[15])
    waits = [row.latency_s for row in rows]
    assert waits[0] < 0.1 and waits[-1] > 1.0
    assert all(b > a - 0.05 for a, b in zip(waits, waits[5:]))  # it grows
    # The first in, first out queue of these arrivals, reckoned by hand.
    free, expected = 0.0, []
    for at in planned:
        free = max(free, at) + 0.05
        expected.append(free - at)
    assert waits == pytest.approx(expected, rel=0.15, abs=0.1)


def test_an_arrival_that_this_process_sends_late_is_counted_from_its_plan(stage):
    class Blocking(Slow):
        async def stream(self, request):
            if len(self.asked) == 8 + 4:  # after the warm-up
                time.sleep(0.5)  # the whole event loop stands still
            async for tokens in super().stream(request):
                yield tokens

    rows = stage([Level("rate", 40.0, 20)], Blocking(places=50, seconds=0.002))
    late = [row for row in rows if row.sent_s - row.planned_s > 0.1]
    assert len(late) > 5
    for row in late:
        assert row.latency_s >= row.sent_s - row.planned_s and row.ttft_s >= row.sent_s - row.planned_s


def test_arrivals_are_poisson_and_the_seeds():
    times = arrivals(5.0, 4000, seed=1)
    gaps = [b - a for a, b in zip([0.0, *times], times)]
    assert times == sorted(times) and times == arrivals(5.0, 4000, seed=1) != arrivals(5.0, 4000, seed=2)
    assert stats.kstest(gaps, "expon", args=(0, 1 / 5.0)).pvalue > 0.01
    counts = [sum(n <= t < n + 1 for t in times) for n in range(700)]
    assert stats.tvar(counts) / stats.tmean(counts) == pytest.approx(1.0, abs=0.2)


def test_a_refused_request_is_a_row_with_its_reason(stage):
    rows = stage([concurrency(2, 6)], Slow(places=2, seconds=0.01, refuse=("b",)))
    assert len(rows) == 6
    for row in rows:
        assert (row.error, row.latency_s is None) == (("too long", True) if row.item_id == "b" else (None, False))


def test_what_is_measured_is_not_measured_again_and_half_a_level_is_made_whole(stage):
    levels = [concurrency(1), concurrency(2), Level("rate", 50.0, 8)]
    whole = stage(levels, Slow(2, 0.01))
    again = Slow(2, 0.01)
    assert stage(levels, again) == whole and again.started == 0 and stage.last[0].asks == []
    stage.folder.replace("load", [*whole[:12], *whole[16:]])  # level c2 lacks half of its rows
    again = Slow(2, 0.01)
    rows = stage(levels, again)
    assert len(again.asked) == 2 + 8 and again.started == 1
    by_level = {name: [row for row in rows if row.level_name == name] for name in ("c1", "c2", "r50")}
    assert by_level["c1"] == whole[:8] and by_level["r50"] == whole[16:]
    assert [row.number for row in by_level["c2"]] == list(range(8))
    assert not set(by_level["c2"]) & set(whole[8:16])
    # A changed input, a level more or fewer, another count of requests.
    changed = [dataclasses.replace(row, inputs="other") if row.number == 3 else row for row in rows]
    stage.folder.replace("load", changed)
    assert len(stage([concurrency(1)], again := Slow(2, 0.01))) == 8 and len(again.asked) == 1 + 8
    assert len(stage([concurrency(1, 9), concurrency(4)], Slow(2, 0.01))) == 9 + 8
    assert stage([], Slow(2, 0.01)) == []


def test_a_death_keeps_whole_levels(stage):
    slow = Slow(2, 0.01, die_at=1 + 8 + 2 + 3)
    with pytest.raises(EngineDied, match="the card is on fire"):
        stage([concurrency(1), concurrency(2)], slow)
    assert slow.stopped
    assert [row.level_name for row in stage.folder.read("load")] == ["c1"] * 8


def test_where_the_card_is_held_another_process_goes_on(stage, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slow = Slow(2, 0.01)
    assert stage([concurrency(1)], slow, cards_held=1) == [] and slow.started == 0
    assert stage.last[1] == {"process_ends": True} and stage.last[0].asks == []
    granted = {"cards": "1", "gib": None, "process_ends": True}
    assert len(stage([concurrency(1)], slow, granted)) == 8
    assert stage.last[1] == granted
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_without_levels_nothing_is_asked_or_written(stage):
    assert stage([], Slow(1, 0.0)) == [] and not (stage.folder.path / "load.jsonl").exists()


def test_load_changes_no_answers_address_and_load_format_does(tmp_path):
    data = make_data(tmp_path / "data", count=1)

    def address(*more):
        cfg = composed("task=vqa", f"task.data.root={data}", *more)
        task = config.build(cfg.task)
        items = {item.item_id: item for item in task.items()}
        requests = requests_of(cfg, task, items, range(1))
        return addresses.of_answers(cfg, engine_of(cfg, task), requests, items, range(1))

    plain = address()
    assert address("engine.load=[1,4]", "engine.rates=[0.5]", "engine.load_requests=7") == plain
    assert address("engine.load_format=pt") != plain


def test_levels_of_the_config():
    cfg = composed("engine.load=[1,256]", "engine.rates=[0.5]", "engine.load_requests=20")
    engine = engine_of(cfg, config.build(cfg.task))
    assert engine.levels() == [concurrency(1, 20), concurrency(256, 256), Level("rate", 0.5, 20)]
    cfg = composed()
    assert engine_of(cfg, config.build(cfg.task)).levels() == []


@pytest.mark.parametrize("sweep", [True, False])
def test_answers_load_and_scores_are_of_a_process_each_where_a_card_is_held(tmp_path, vlm_eval_cli, monkeypatch, sweep):
    data, log = make_data(tmp_path / "data"), tmp_path / "log"
    monkeypatch.setenv("FAULTY_ENGINE_LOG", str(log))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = [*FAULTY, "engine._target_=tests.loaded_engine.LoadedEngine", "metrics=[tech,load]", "tracking=none"]
    command += ["task=vqa", f"task.data.root={data}", "judge=none", "task.repeats=1"]
    if sweep:  # two that fit side by side; load has the card to itself all the same
        command += ["-m", "engine.mode=ok,one_bad", "engine.cards=1", "engine.gib=30", "hydra.launcher.cards=[80]"]
    ended = vlm_eval_cli(*command)
    assert ended.code == 0, ended.err
    lines = [line.split() for line in log.read_text().splitlines()]
    for mode in ("ok", "one_bad") if sweep else ("ok",):
        [answered] = [words[2] for words in lines if words[:2] == ["answers", mode]]
        [[*_, loaded, card]] = [words for words in lines if words[:2] == ["load", mode]]
        assert loaded != answered and card == ("0" if sweep else "none")
    order = [words[0] for words in lines if words[0] in ("start", "stop", "load", "unload")]
    for number, word in enumerate(order):
        assert word != "load" or order[number + 1] == "unload"  # nothing begins beside it
    for folder in [RunFolder(file.parent) for file in Path("multirun").glob("*/*/status.json")]:
        assert folder.status()["state"] == "ok" and len(folder.read("scores")) == 3
        assert len(folder.read("load")) == folder.summary()["load/c2/n"] == 6
        assert folder.provenance()["engine_restarts"] == []
