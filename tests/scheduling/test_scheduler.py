"""Which run may use which card when: with cards of given sizes, and threads that stand for runs."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Optional

import pytest

from vlm_eval.devices import Card
from vlm_eval.errors import BadInput
from vlm_eval.scheduling.scheduler import Need, Place, Places, Stopped


def places(*sizes: float, **more) -> Places:
    return Places([Card(str(n), gib) for n, gib in enumerate(sizes)], on_cpu=False, **{"prefetch": 9, **more})


class Waiting:
    """A step in a thread of its own: what it gave, or that it waits."""

    def __init__(self, step, *arguments):
        self.result, self.error = None, None

        def run():
            try:
                self.result = step(*arguments)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self.thread.join(0.2)

    @property
    def waits(self) -> bool:
        self.thread.join(0.05)
        return self.thread.is_alive()

    def given(self):
        self.thread.join(5)
        assert not self.thread.is_alive() and self.error is None, self.error
        return self.result


def engine(place: Place, gib=None, cards=1) -> Waiting:
    return Waiting(place.enter, "start engine", Need(gib, cards))


def test_runs_that_fit_share_a_card_and_are_told_their_share():
    there = places(80)
    first, second, third = there.begin(), there.begin(), there.begin()
    assert engine(first, 30).given() == {"cards": "0", "gib": 30, "process_ends": True}
    assert engine(second, 30).given() == {"cards": "0", "gib": 30, "process_ends": True}
    waiting = engine(third, 30)
    assert waiting.waits
    first.end()
    assert waiting.given()["cards"] == "0"


def test_runs_spread_over_cards_and_the_emptiest_is_taken():
    there = places(80, 40)
    runs = [there.begin() for _ in range(3)]
    assert [engine(run, 20).given()["cards"] for run in runs] == ["0", "1", "0"]


def test_an_unknown_need_has_a_whole_card_and_no_share():
    there = places(80, 80)
    first, second, third = there.begin(), there.begin(), there.begin()
    assert engine(first).given() == {"cards": "0", "gib": None, "process_ends": True}
    assert first.whole_card
    assert engine(second, 10).given()["cards"] == "1"
    waiting = engine(third)
    assert waiting.waits
    second.end()
    assert waiting.given()["cards"] == "1"


def test_more_than_there_is_gets_a_card_alone():
    there = places(24)
    first, second = there.begin(), there.begin()
    assert engine(first, 10).given()["gib"] == 10
    waiting = engine(second, 30)  # its estimate may be too high: it is for the engine to say
    assert waiting.waits
    first.end()
    assert waiting.given()["gib"] is None


def test_tensor_parallel_takes_several_cards_at_once():
    there = places(80, 80, 80)
    one, two, three = there.begin(), there.begin(), there.begin()
    assert engine(one, 60).given()["cards"] == "0"
    assert engine(two, 50, cards=2).given() == {"cards": "1,2", "gib": None, "process_ends": True}
    waiting = engine(three, 40, cards=2)
    assert waiting.waits
    one.end()
    assert waiting.waits  # one card is not two
    two.end()
    assert waiting.given()["cards"] == "0,1"


def test_more_cards_than_there_are_is_said():
    run = places(80).begin()
    waiting = engine(run, 10, cards=2)
    waiting.thread.join(1)
    assert isinstance(waiting.error, BadInput) and "the engine asks for 2 cards, 1 are here" in str(waiting.error)


def test_engines_start_in_the_order_of_the_points():
    there = places(80)
    big, small, smaller = there.begin(), there.begin(), there.begin()
    assert engine(big, 60).given()
    second, third = engine(small, 30), engine(smaller, 10)
    assert second.waits and third.waits  # the third would fit, and the second would then wait for ever
    big.end()
    assert second.given() and third.given()


def test_no_more_processes_than_prefetch_wait_for_a_card():
    there = places(80, prefetch=1)
    first = there.begin()
    second = Waiting(there.begin)
    assert second.waits
    assert engine(first).given()
    waiting = second.given()
    third = Waiting(there.begin)
    assert third.waits
    waiting.end()  # it failed before it asked
    assert third.given()


def test_without_prefetch_one_run_ends_before_the_next_begins():
    there = places(80, prefetch=0)
    first = there.begin()
    second = Waiting(there.begin)
    assert engine(first, 1).given()["gib"] is None and second.waits  # with the card to itself
    assert first.enter("score") == {} and second.waits
    first.end()
    assert second.given()


def test_a_latency_pass_has_its_card_to_itself():
    there = places(80, 80)
    runs = [there.begin() for _ in range(3)]
    for run in runs:
        assert engine(run, 30).given()  # two on card 0, one on card 1
    timed = Waiting(runs[0].enter, "latency")
    assert timed.waits  # the third run starts its engine on the same card
    assert Waiting(runs[1].enter, "latency").given()["cards"] == "1"
    third = Waiting(runs[2].enter, "generate")
    assert timed.given() and third.waits  # it went to ask, and now waits for the other's turn
    assert Waiting(runs[0].enter, "generate").given()
    assert third.given()


def test_scoring_needs_no_card_and_frees_the_engine_s():
    there = places(80, scoring=1)
    first, second, third = there.begin(), there.begin(), there.begin()
    assert engine(first).given()
    waiting = engine(second)
    first.pause()  # its process has ended, and with it its hold of the card
    assert waiting.given()
    assert Waiting(first.enter, "score", Need(0.0, 0)).given() == {}
    second.pause()
    scored = Waiting(second.enter, "score", Need(0.0, 0))
    assert scored.waits  # one at a time
    third_engine = engine(third)
    assert third_engine.waits  # two are behind already: engines do not run away from the judge
    first.end()
    assert scored.given() == {} and third_engine.given()


def test_scoring_that_needs_a_card_claims_it():
    there = places(80)
    first, second = there.begin(), there.begin()
    assert engine(first, 70).given()
    first.pause()
    assert Waiting(first.enter, "score", Need(20, 1)).given()["cards"] == "0"
    waiting = engine(second, 70)
    assert waiting.waits
    first.end()
    assert waiting.given()


def test_of_a_card_in_use_the_share_is_what_is_free():
    there = Places([Card("0", 20, 80), Card("1", 79, 80)], on_cpu=False, prefetch=9)
    first, second, third = there.begin(), there.begin(), there.begin()
    assert engine(first, 15).given()["gib"] == 15
    assert engine(second).given() == {"cards": "1", "gib": None, "process_ends": True}
    first.end()
    assert engine(third).given() == {"cards": "0", "gib": 20, "process_ends": True} and third.whole_card


def test_a_lost_card_is_nobody_s_when_the_engine_on_it_has_died():
    def answers(name):
        time.sleep(0.3)  # as nvidia-smi does
        return name != "0"

    there = places(80, 80, answers=answers)
    first, second, third = there.begin(), there.begin(), there.begin()
    assert engine(first, 70).given()["cards"] == "0" and engine(second, 70).given()["cards"] == "1"
    waiting = engine(third, 70)
    assert waiting.waits
    first.engine_died()
    first.pause()
    assert waiting.waits  # the other card is taken
    second.engine_died()
    second.pause()
    assert waiting.given()["cards"] == "1"


def test_what_had_a_whole_card_needs_no_whole_one_to_be_scored_on():
    there = places(80, scoring=1)
    first, second = there.begin(), there.begin()
    assert engine(first).given()["gib"] is None
    first.pause()
    assert engine(second, 60).given()
    assert Waiting(first.enter, "score", Need(8)).given()["gib"] == 8


def test_scoring_that_wants_a_card_comes_before_the_next_engine_however_many_are_behind():
    there = places(80, scoring=1)
    first, second, third = (there.begin() for _ in range(3))
    assert engine(first).given()
    first.pause()
    assert engine(second).given()
    judged = Waiting(first.enter, "judge", Need(20, 1))
    next_engine = engine(third)
    assert judged.waits and next_engine.waits
    second.pause()
    assert judged.given()["cards"] == "0" and next_engine.waits  # it wants the whole card
    first.end()
    assert next_engine.given()


@pytest.mark.parametrize(
    "more, said",
    [
        ({"scoring": 0}, "hydra.launcher.scoring=0"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"prefetch": None}, "whole number"),
    ],
)
def test_what_would_wait_for_ever_is_bad_input(more, said):
    with pytest.raises(BadInput, match=said):
        places(80, **more)


def test_a_run_whose_estimate_was_too_low_is_tried_again_alone():
    there = places(80)
    first, second = there.begin(), there.begin()
    assert engine(first, 20).given() and engine(second, 20).given()
    second.pause()
    second.whole_card = True
    again = engine(second, 20)
    assert again.waits
    first.end()
    assert again.given() == {"cards": "0", "gib": None, "process_ends": True}


def test_on_a_cpu_one_engine_works_at_a_time_and_timing_waits_for_scoring():
    there = Places([], on_cpu=True, prefetch=1)
    first = there.begin()
    assert engine(first, cards=0).given() == {} and first.whole_card
    second = there.begin()
    waiting = engine(second, cards=0)
    assert waiting.waits
    assert Waiting(first.enter, "score").given() == {}
    assert waiting.given() == {}
    timed = Waiting(second.enter, "latency")
    assert timed.waits
    first.end()
    assert timed.given() == {}


def test_an_engine_without_a_card_runs_beside_one_with():
    there = places(80)
    first, second, third = there.begin(), there.begin(), there.begin()
    assert engine(first).given()["cards"] == "0"
    assert engine(second, cards=0).given() == {}
    waiting = engine(third, cards=0)  # an API's limits are shared
    assert waiting.waits
    second.end()
    assert waiting.given() == {}


def test_whoever_waits_is_told_that_the_sweep_ends():
    there = places(80)
    first, second = there.begin(), there.begin()
    assert engine(first).given()
    waiting = engine(second)
    assert waiting.waits
    there.stop()
    waiting.thread.join(5)
    assert isinstance(waiting.error, Stopped)


def test_no_card_is_bad_input():
    with pytest.raises(BadInput, match="CUDA_VISIBLE_DEVICES"):
        places()


@pytest.mark.parametrize("seed", range(5))
def test_any_number_of_runs_ends_and_no_card_is_over_its_memory(seed):
    """Runs of random needs on random cards: none waits for ever, timing is alone, memory is never over."""
    dice = random.Random(seed)
    sizes = [dice.choice((24, 40, 80)) for _ in range(dice.randint(1, 4))]
    there = places(*sizes, prefetch=dice.randint(1, 4), scoring=dice.randint(1, 2))
    watch, held, working, wrong = threading.Lock(), Counter(), Counter(), []

    def note(condition, *words):
        if not condition:
            wrong.append(words)

    def taken(told: dict) -> tuple[list[str], dict[str, float]]:
        """Names of the cards, and GiB of each."""
        names = told["cards"].split(",") if told else []
        return names, {n: sizes[int(n)] if told["gib"] is None else told["gib"] for n in names}

    def life(place: Place, need: Need, timed: bool, fails: bool, scored: list[Optional[Need]], pause: float):
        try:
            told = place.enter("start engine", need)
            names, share = taken(told)
            with watch:
                held.update(share)
                note(all(held[n] <= sizes[int(n)] + 1e-9 for n in names), "over", dict(held))
            if timed:
                place.enter("latency")
                with watch:
                    note(not any(working[n] for n in names), "not alone", names)
                    working.update(names)
                time.sleep(pause)
                with watch:
                    working.subtract(names)
                place.enter("generate")
            time.sleep(pause)
            with watch:
                held.subtract(share)
            place.pause()
            for stage, wanted in zip(("score", "judge"), [] if fails else scored):
                names, share = taken(place.enter(stage, wanted))
                with watch:
                    held.update(share)
                    note(all(held[n] <= sizes[int(n)] + 1e-9 for n in names), "over", dict(held))
                time.sleep(pause)
                with watch:
                    held.subtract(share)
        finally:
            place.end()

    threads = []
    for _ in range(40):
        need = Need(dice.choice((None, 5.0, 20.0, 35.0, 100.0)), dice.choice((0, 1, 1, 1, len(sizes))))
        arguments = (there.begin(), need, dice.random() < 0.5, dice.random() < 0.2)
        scored = [dice.choice((None, None, Need(8.0), Need(None))) for _ in range(2)]
        arguments += (scored, dice.random() / 100)
        threads.append(threading.Thread(target=life, args=arguments, daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == [] and +held == Counter()
