"""Content addresses: a row stays where all that it follows from is what it was, wherever the files lie and whatever
they are called; a changed input is work again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Mapping, Sequence

from omegaconf import DictConfig

from vlm_eval.engines.base import Engine, Request
from vlm_eval.provenance import inputs
from vlm_eval.rows import Answer, Item

Key = tuple[str, int]  # (item_id, repeat)

OF_ANSWERS = ("model.", "quant.", "engine.", "task.image.")
# Names and places, whose content engine.inputs() tells, and what changes no answer.
NOT_OF_ANSWERS = (
    *("model.name", "model.path", "model.checkpoints", "model.revision", "quant.name", "engine.path"),
    *("model.parameters", "model.linear_parameters", "model.kv_bytes_per_token", "task.image.pixel_limit"),
    *("engine.latency_pass", "engine.image_cache_gib", "engine.usd_per_million"),
)
# Whole names: engine.load_format is another matter.
OF_LOAD = ("engine.load", "engine.load_requests", "engine.rates")


def of_answers(
    cfg: DictConfig, engine: Engine, requests: Sequence[Request], items: Mapping[str, Item], repeats: Sequence[int]
) -> dict[Key, str]:
    """Of each request: checkpoint, quantisation, the engine's arguments, prompt, bytes of the image, sampling, seed. Of
    each item that cannot be asked: why."""
    flat = inputs(cfg)
    kept = (k for k in flat if k.startswith(OF_ANSWERS) and not k.startswith(NOT_OF_ANSWERS) and k not in OF_LOAD)
    of_run = {k: flat[k] for k in kept}
    common = _hash([of_run, dict(engine.inputs())])
    found = {
        (request.item_id, request.repeat): _hash(
            [
                common,
                _with_image(request.messages, items[request.item_id].image_sha256),
                dataclasses.asdict(request.sampling),
                request.seed,
            ]
        )
        for request in requests
    }
    return found | {(i.item_id, k): _hash(["not asked", i.error]) for i in items.values() if i.error for k in repeats}


def of_judge(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Of a judge: its config, its model, its prompt."""
    return _hash([dict(config), dict(facts)])


def of_judged(item: Item, answer: Answer) -> str:
    """Of what any judge is shown of one answer. A judgement's address is `of_judge`-`of_judged`."""
    shown = [item.question, item.reference, item.no_reference, item.facts, item.screen_text, item.image_sha256]
    return _hash([shown, answer.text, answer.error])


def of_scores(metrics: Any, engine: Mapping[str, Any], rows_sha256: str) -> str:
    """Of all scores of a run: the metrics' config, what the engine measured, and the files of rows."""
    return _hash([metrics, dict(engine), rows_sha256])


def _with_image(messages: Sequence[Mapping[str, Any]], sha256: str | None) -> list[Any]:
    """The messages with the image's content in the place of its path."""

    def part(p: Any) -> Any:
        return {"type": "image", "sha256": sha256} if isinstance(p, Mapping) and p.get("type") == "image" else p

    return [
        {**m, "content": m["content"] if isinstance(m["content"], str) else [part(p) for p in m["content"]]}
        for m in messages
    ]


def _hash(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[:32]
