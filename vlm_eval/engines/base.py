"""What an engine is: it turns requests into answers, as they finish, and times some of them alone."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, AsyncIterator, Callable, Iterator, Mapping, Optional, Protocol, Sequence

from omegaconf import DictConfig

from vlm_eval import config
from vlm_eval.config import ModelConfig, QuantConfig
from vlm_eval.rows import Answer, Item, Latency
from vlm_eval.tasks.base import SamplingConfig, Task
from vlm_eval.tasks.dataset import ImageConfig


@dataclass(frozen=True)
class Request:
    """One repeat of one item, as chat messages (the image part is {"type": "image", "path": ...})."""

    item_id: str
    repeat: int
    cluster: str
    image: str  # path of the screenshot in `messages`
    messages: Sequence[dict[str, Any]]
    sampling: SamplingConfig
    seed: int
    question: Optional[str] = None


@dataclass(frozen=True)
class Candidate:
    """What is under test, as every engine gets it."""

    model: ModelConfig
    quant: QuantConfig
    image: ImageConfig
    seed: int


@dataclass(frozen=True)
class Level:
    """One experiment under load."""

    kind: str  # "concurrency": so many requests under way at once; "rate": so many arrive a second
    value: float
    requests: int  # that are measured

    def __str__(self) -> str:
        return f"{self.value:g} at once" if self.kind == "concurrency" else f"{self.value:g} a second"


class Refused(Exception):
    """The engine did not answer this request, and goes on; the reason is one line."""


class Streaming(Protocol):
    """An engine that answers many requests at once, token by token, in the caller's event loop."""

    def start(self) -> dict[str, Any]:
        """Load; facts for provenance.json. Called in the event loop, which may wait for it."""

    def prepare(self, requests: Sequence[Request]) -> None:
        """What is no part of a request's time, such as decoding pictures."""

    def stream(self, request: Request) -> AsyncIterator[int]:
        """How many tokens each arrival brings. Raises Refused; anything else is the engine's death."""

    def stop(self) -> None:
        """Give all memory back."""


class Engine(Protocol):
    """Built from its config and the candidate (cheaply: nothing is loaded before start()).

    A module may also have `environment(config) -> dict`: variables that must stand before the run's process starts;
    `restarts(config) -> int`: how often a run whose engine died is started again; `imports_ahead() -> Sequence[str]`:
    modules that a sweep imports once for all its runs; and `candidates(config, task) -> list[str]`: what
    `engine.candidate=all` stands for in a sweep.
    """

    placed: str = "alone"  # set before check(): "alone" on this machine, "shared" cards of it, or "elsewhere"
    answers: int = 0  # that the run has in all; set before need()
    share_gib: Optional[float] = None  # of its card, set before start(); None: all, as its config says
    # Set by start():
    cards_held: int = 0  # the first visible ones; after stop(), too: only the end of the process frees them

    def need(self, todo: Sequence[Request]) -> Mapping[str, Any]:
        """What it takes of a machine's cards: how many `cards`, and of each `gib`, None where that is not known."""
        return {"cards": 0}

    def inputs(self) -> Mapping[str, str]:
        """Hashes of the files that the answers follow from, where the config does not tell their content."""
        return {}

    def repeats(self, asked: int) -> Sequence[int]:
        """Which repeats of every item there will be; `asked` is task.repeats."""
        return range(asked)

    def alone(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Those of the requests that are timed alone."""
        return ()

    def keep(self, answers: Sequence[Answer], latencies: Sequence[Latency]) -> Sequence[Answer]:
        """Of an earlier attempt at this run, the answers that stay; the others are asked for again."""
        return answers

    def cost(self, task: Task, items: Sequence[Item]) -> Optional[float]:
        """USD that one answer to each item takes at most; None when unknown."""
        return 0.0

    def check(self, task: Task, items: Sequence[Item]) -> Optional[float]:
        """Before anything starts: BadInput for what cannot work; GiB of memory it would take, None when unknown."""

    def start(self) -> dict[str, Any]:
        """Load, and check what was loaded: facts for provenance.json, `found` a line for people.

        Raises with the numbers if what was loaded is not what `quant` says. What it says of wall time and peaks
        (None: not known) wins over what this process measures: a replay's own are not the model's."""

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        """All requests as one batch; yields answers when their requests finish, in that order."""

    def time_alone(self, requests: Sequence[Request]) -> Iterator[list[Latency]]:
        """The requests chosen by alone(), one at a time, after a warm-up."""
        return iter(())

    def warm_up(self, requests: Sequence[Request]) -> None:
        """What an engine does at its first answers and at no later ones, before the batch's clock starts; less after
        time_alone()."""

    def peaks(self) -> dict[str, Any]:
        """Before it stops: what only the engine knows of the memory it took."""
        return {}

    def stop(self) -> None:
        """Give all memory back."""

    def levels(self) -> Sequence[Level]:
        """Of load that are to be measured when all is answered and this engine is stopped."""
        return ()

    def streaming(self) -> Streaming:
        """The engine that they are measured with: the same model, in production's way."""
        raise NotImplementedError


def module_of(cfg: DictConfig) -> ModuleType:
    """The module of the engine that a run's config names, for what it says before there is an engine."""
    return importlib.import_module(cfg.engine._target_.rpartition(".")[0])


def engine_of(cfg: DictConfig, task: Task) -> Engine:
    """The engine that a run's config names, not started."""
    candidate = Candidate(*config.model_and_quant(cfg), task.config.image, cfg.run.seed)
    return config.build(cfg.engine, candidate)


def seed_of(base: int, item_id: str, repeat: int) -> int:
    """A request's own seed, from the base seed, the item and the repeat: the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{base}:{item_id}:{repeat}".encode()).digest()[:4], "big") >> 1


def first_of_each(requests: Sequence[Request]) -> list[Request]:
    """One request an item, its first."""
    return list({r.item_id: r for r in reversed(requests)}.values())[::-1]


def with_images(messages: Sequence[dict[str, Any]], encode: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose image parts are replaced by what `encode(path)` gives, as an engine's API wants them."""

    def part(p: dict[str, Any]) -> dict[str, Any]:
        return encode(p["path"]) if p["type"] == "image" else p

    return [
        {**m, "content": m["content"] if isinstance(m["content"], str) else [part(p) for p in m["content"]]}
        for m in messages
    ]
