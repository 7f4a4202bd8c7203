"""Runs of one sweep side by side: who holds how much of which card, who works, and who works alone.

A run's process asks before each stage (vlm_eval.progress.Reporter.ask), its thread in the sweep's process enters the
stage here, and waits until it may. Memory of a card is claimed from the start of an engine to its end; a latency pass
has the card to itself. Engines start in the order of the points; runs behind them that want a card for their scores
come first, else each might wait for the other.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Sequence

from vlm_eval.devices import Card
from vlm_eval.errors import BadInput

ENGINE_STAGES = ("start engine", "latency", "generate", "load")  # those in which a run needs its claim
NO_CARD = Card("no card", 0.0)  # an engine that needs none, such as an API's: one at a time


class Stopped(BaseException):
    """The sweep ends; nothing is entered any more. No Exception, as KeyboardInterrupt is none: no run has failed."""


@dataclass(frozen=True)
class Need:
    """What an engine takes of a card, GiB; None: all of it, as one over several cards always has them."""

    gib: Optional[float] = None
    cards: int = 1


@dataclass
class Places:
    """The cards of one machine and the runs on them; on a CPU there are none, and one engine works at a time."""

    cards: Sequence[Card]
    on_cpu: bool
    # Runs whose process waits, prepared, for the next free card; 0: one run after another, with its card to itself.
    prefetch: int = 1
    scoring: int = 1  # runs that are scored and judged at once, beside the engines
    answers: Callable[[str], bool] = lambda name: True  # whether the card of this name is still there
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _claims: dict["Place", tuple[tuple[Card, float], ...]] = field(default_factory=dict)
    _working: dict["Place", frozenset[str]] = field(default_factory=dict)  # names of what they disturb
    _alone: dict[str, "Place"] = field(default_factory=dict)  # who has it to itself, or waits for that
    _ahead: list["Place"] = field(default_factory=list)  # no engine yet, in their order
    _behind: list["Place"] = field(default_factory=list)  # scored and judged, or waiting for it
    _want_to_score: set["Place"] = field(default_factory=set)  # behind, and waiting for a card
    _live: set["Place"] = field(default_factory=set)
    _stopped: bool = False

    def __post_init__(self) -> None:
        if not self.cards and not self.on_cpu:
            raise BadInput("no card to run on: CUDA_VISIBLE_DEVICES is empty or names none that is there")
        for name, number, least in (("hydra.launcher.scoring", self.scoring, 1), ("sweep.prefetch", self.prefetch, 0)):
            if type(number) is not int or number < least:
                raise BadInput(f"{name}={number}: a whole number, at least {least}")

    def begin(self) -> "Place":
        """A place for the next run, when there is room for one more process."""
        with self._changed:
            self._wait(lambda: not self._live if self.prefetch == 0 else len(self._ahead) < self.prefetch)
            place = Place(self, whole_card=self.on_cpu or self.prefetch == 0)
            self._ahead.append(place)
            self._live.add(place)
            return place

    def drop_lost(self, place: "Place") -> None:
        """Of the cards that it has: one that is gone would be the emptiest, and draw every run to it."""
        lost = [card for card, _ in self._claims.get(place, ()) if card in self.cards and not self.answers(card.name)]
        with self._changed:
            if left := [card for card in self.cards if card not in lost]:
                for card in lost:
                    print(f"vlm-eval: card {card.name} does not answer: no further run is put on it", file=sys.stderr)
                self.cards = left
                self._changed.notify_all()

    def stop(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # ------------------------------------------------------------------------------ what a Place does, under the lock

    def _enter(self, place: "Place", stage: str, need: Optional[Need]) -> dict[str, Any]:
        with self._changed:
            self._rest(place)
            if stage in ENGINE_STAGES:
                self._claim(place, need or Need())
            elif stage in ("score", "judge"):
                self._give_back(place)
                self._queue_behind(place)
                if need and need.cards:
                    self._claim(place, need)
            self._work(place, alone=stage in ("latency", "load"))
            if stage == "start engine" and self._is_whole(place):
                place.whole_card = True
            return place.grant()

    def _leave(self, place: "Place", for_good: bool) -> None:
        with self._changed:
            self._rest(place)
            self._give_back(place)
            if for_good:
                for queue in (self._ahead, self._behind):
                    if place in queue:
                        queue.remove(place)
                self._live.discard(place)
            self._changed.notify_all()

    def _claim(self, place: "Place", need: Need) -> None:
        if place in self._claims:
            return
        first = place in self._ahead  # in the order of the points; one that starts again has had its turn
        behind = place in self._behind
        need = Need(None, need.cards) if need.cards != 1 or place.whole_card and not behind else need
        found: list[tuple[Card, float]] = []

        def fits() -> bool:
            if need.cards > len(self.cards):
                raise BadInput(f"the engine asks for {need.cards} cards, {len(self.cards)} are here")
            found[:] = self._free_cards(need)
            my_turn = behind or len(self._behind) <= self.scoring and not (need.cards and self._want_to_score)
            return my_turn and (not first or self._ahead[0] is place) and len(found) == max(1, need.cards)

        if behind:
            self._want_to_score.add(place)
        try:
            self._wait(fits)
        finally:
            self._want_to_score.discard(place)
        self._claims[place] = tuple(found)
        if first:
            self._ahead.remove(place)
        self._changed.notify_all()

    def _free_cards(self, need: Need) -> list[tuple[Card, float]]:
        """The emptiest cards with enough left, and what is taken of each."""
        taken: Counter[str] = Counter()
        holders: Counter[str] = Counter()
        for claim in self._claims.values():
            for card, gib in claim:
                taken[card.name] += gib
                holders[card.name] += 1
        fitting = [
            (holders[card.name], taken[card.name], number, card)
            for number, card in enumerate(self.cards if need.cards else [NO_CARD])
            # One that asks for more than there is gets all of a card, alone: it may know better than its estimate.
            if (need.gib is None or need.gib > card.gib)
            and not holders[card.name]
            or need.gib is not None
            and taken[card.name] + need.gib <= card.gib
        ]
        chosen = [card for *_, card in sorted(fitting, key=lambda one: one[:3])[: max(1, need.cards)]]
        return [(card, card.gib if need.gib is None else min(need.gib, card.gib)) for card in chosen]

    def _is_whole(self, place: "Place") -> bool:
        return any(card is not NO_CARD and gib >= card.gib for card, gib in self._claims.get(place, ()))

    def _give_back(self, place: "Place") -> None:
        if self._claims.pop(place, None) is not None:
            self._changed.notify_all()

    def _queue_behind(self, place: "Place") -> None:
        if place in self._ahead:  # its answers were there already
            self._ahead.remove(place)
        if place not in self._behind:
            self._behind.append(place)
        self._changed.notify_all()
        self._wait(lambda: self._behind.index(place) < self.scoring)

    def _work(self, place: "Place", alone: bool) -> None:
        """Shared with others, or alone: then new ones wait until this one has had its turn."""
        on = frozenset(["host"] if self.on_cpu else [card.name for card, _ in self._claims.get(place, ())])
        if alone:
            self._wait(lambda: not any(name in self._alone for name in on))
            self._alone.update(dict.fromkeys(on, place))
            self._wait(lambda: not any(on & busy for busy in self._working.values()))
        else:
            self._wait(lambda: not any(name in self._alone for name in on))
        self._working[place] = on

    def _rest(self, place: "Place") -> None:
        self._working.pop(place, None)
        self._alone = {name: who for name, who in self._alone.items() if who is not place}
        self._changed.notify_all()

    def _wait(self, until: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._stopped or until())
        if self._stopped:
            raise Stopped


@dataclass(eq=False)
class Place:
    """One run's way through the stages."""

    _places: Places
    whole_card: bool = False  # after an estimate that was too low: this run is tried again with nobody beside it

    def enter(self, stage: str, need: Optional[Need] = None) -> dict[str, Any]:
        """Wait until the stage may begin; what the run's process is told: its cards and its share of them."""
        return self._places._enter(self, stage, need)

    def pause(self) -> None:
        """Its process has ended: all that it held is free; another process of the run may follow."""
        self._places._leave(self, for_good=False)

    def end(self) -> None:
        self._places._leave(self, for_good=True)

    def engine_died(self) -> None:
        """What it stood on may have gone with it; while it still holds that."""
        self._places.drop_lost(self)

    def grant(self) -> dict[str, Any]:
        claim = self._places._claims.get(self, ())
        if self._places.on_cpu or not claim or claim[0][0] is NO_CARD:
            return {}
        [card, share], *more = claim
        if more or card.is_free and self._places._is_whole(self):
            share = None
        return {"cards": ",".join(c.name for c, _ in claim), "gib": share, "process_ends": True}


class Anywhere:
    """The place of a run that has the machine to itself."""

    whole_card = True

    def enter(self, stage: str, need: Optional[Need] = None) -> dict[str, Any]:
        return {}

    def pause(self) -> None:
        """Nothing is held."""

    end = engine_died = pause


ANYWHERE = Anywhere()
