"""A model behind an API, asked through LiteLLM in the way that judges are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence
from urllib.parse import urlsplit

from vlm_eval.engines.base import Candidate, Engine, Request, first_of_each, with_images
from vlm_eval.errors import BadInput
from vlm_eval.judges.budget import Budget
from vlm_eval.judges.transport import Reply, Transport, TransportConfig, data_url, load_litellm
from vlm_eval.rows import Answer, Item, Latency
from vlm_eval.tasks.base import SamplingConfig, Task

ASKED_AGAIN = ("error", "over_budget")  # finish reasons of what is no answer of the model's
# What this process takes, and how long for all, says nothing about a model that is elsewhere.
NOT_THE_MODELS = (
    *("generation_wall_s", "generation_output_tokens", "generation_batches"),
    *("host_peak_gib", "gpu_peak_gib", "gpu_peak_of"),
)


@dataclass
class LatencyPassConfig:
    items: int = 0
    warmup: int = 1


@dataclass
class LitellmEngineConfig:
    """Keys that TransportConfig has too mean the same."""

    _target_: str = "???"
    api_base: Optional[str] = None
    api_key_env: Optional[str] = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout_s: float = 120.0
    retries: int = 5
    max_fail_rate: float = 0.1  # the run fails when a larger share of answers could not be had
    cache: Optional[str] = None
    budget_usd: Optional[float] = None
    usd_per_million_in: Optional[float] = None
    usd_per_million_out: Optional[float] = None
    latency_pass: LatencyPassConfig = field(default_factory=LatencyPassConfig)


class LitellmEngine(Engine):
    """A failed answer says by its finish_reason whose it is: content_filter the model's, error and over_budget not."""

    def __init__(self, config: LitellmEngineConfig, candidate: Candidate):
        self.config, self.candidate = config, candidate
        self.budget = Budget(config.budget_usd)
        self._kept = 0  # answers of an earlier attempt

    def keep(self, answers: Sequence[Answer], latencies: Sequence[Latency]) -> Sequence[Answer]:
        self.budget.spent = sum(x.cost_usd or 0.0 for x in (*answers, *latencies))
        kept = [a for a in answers if a.finish_reason not in ASKED_AGAIN]
        self._kept = len(kept)
        return kept

    def cost(self, task: Task, items: Sequence[Item]) -> Optional[float]:
        transport = self._transport(task.config.sampling)
        price = transport.price()
        return None if price is None else sum(transport.at_most(task.messages(item), price) for item in items)

    def check(self, task: Task, items: Sequence[Item]) -> Optional[float]:
        model, quant, image = self.candidate.model, self.candidate.quant, self.candidate.image
        if not model.litellm:
            raise BadInput("model.litellm: no value given; engine=litellm needs it, e.g. openai/gpt-4o-2024-11-20")
        if quant.method is not None or quant.bits is not None:
            raise BadInput(f"quant={quant.name}: nothing tells what an API has loaded; engine=litellm takes quant=none")
        for key in ("min_pixels", "max_pixels"):
            if getattr(image, key) is not None:
                raise BadInput(f"task.image.{key}: an API makes pictures smaller as it likes; leave it null")
        transport = self._transport(task.config.sampling)
        transport.check()
        if not transport.sees_images():
            raise BadInput(f"model.litellm={model.litellm}: sees no images, says LiteLLM")
        return 0.0

    def alone(self, requests: Sequence[Request]) -> Sequence[Request]:
        return first_of_each(requests)[: self.config.latency_pass.items]

    def start(self) -> dict[str, Any]:
        name, base = self.candidate.model.litellm, self.config.api_base
        host = urlsplit(base).netloc if base else None
        left_out = ", ".join(self._not_taken())
        return {
            **dict.fromkeys(NOT_THE_MODELS),
            "litellm_model": name,
            "api_host": host,
            "not_taken": left_out or None,
            "found": f"{name} at {host or 'its provider'}" + (f", which takes no {left_out}" if left_out else ""),
        }

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        transport, takes_seed = self._transport(requests[0].sampling), "seed" not in self._not_taken()
        missing = []
        for request, reply in transport.each(requests, lambda request: (request, ask(transport, request))):
            answer = answer_of(request, reply, takes_seed)
            missing += [answer.error] if answer.finish_reason in ASKED_AGAIN else []
            yield [answer]
        share = len(missing) / (self._kept + len(requests))
        if share > self.config.max_fail_rate:
            raise RuntimeError(
                f"{share:.0%} of answers could not be had, over engine.max_fail_rate={self.config.max_fail_rate:.0%}; "
                f"going on in this folder asks for them again; the last: {missing[-1]}"
            )

    def time_alone(self, requests: Sequence[Request]) -> Iterator[list[Latency]]:
        # Neither a reply from the disk nor the pauses of a second attempt are the model's time.
        transport = self._transport(requests[0].sampling, cache=None, retries=0)
        load_litellm()
        for request in requests[: self.config.latency_pass.warmup]:
            ask(transport, request)
        for request in requests:
            began = time.monotonic()
            reply = ask(transport, request)
            seconds = time.monotonic() - began
            answer = answer_of(request, reply, takes_seed=True)
            done = None if answer.error else seconds
            more = {"repeat": request.repeat, "cost_usd": reply.cost_usd}
            yield [Latency(request.item_id, done, None, reply.output_tokens, len(reply.text), answer.error, **more)]

    def _transport(self, sampling: SamplingConfig, **changes: Any) -> Transport:
        shared = {f.name: getattr(self.config, f.name) for f in fields(TransportConfig) if hasattr(self.config, f.name)}
        asked = {"model": self.candidate.model.litellm, "temperature": sampling.temperature}
        config = TransportConfig(**{**shared, **asked, "max_tokens": sampling.max_tokens, **changes})
        transport = Transport(config, "engine", "model.litellm")
        transport.budget = self.budget  # one for all
        return transport

    def _not_taken(self) -> list[str]:
        """Sampling parameters that LiteLLM leaves out for this model, because its provider would refuse them."""
        litellm = load_litellm()
        name, provider, *_ = litellm.get_llm_provider(self.candidate.model.litellm, api_base=self.config.api_base)

        def sent(parameters: Mapping[str, Any]) -> dict[str, Any]:  # under the provider's own names
            who = {"model": name, "custom_llm_provider": provider}
            return litellm.get_optional_params(**who, drop_params=True, **parameters)

        some = {"temperature": 0.5, "top_p": 0.5, "seed": 7, "max_tokens": 7}
        return [p for p in some if sent({k: v for k, v in some.items() if k != p}) == sent(some)]


def ask(transport: Transport, request: Request) -> Reply:
    try:
        messages = with_images(request.messages, image_part)
    except (OSError, ValueError) as error:  # a ValueError is images.BadImage
        return Reply("error", error=f"screenshot: {error}")
    more: Mapping[str, Any] = {"seed": request.seed}
    if request.sampling.top_p != 1:  # 1 is what it is everywhere, and some providers take one of it and temperature
        more = {**more, "top_p": request.sampling.top_p}
    return transport.ask(messages, more=more)


def image_part(path: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(Path(path))}}


def answer_of(request: Request, reply: Reply, takes_seed: bool) -> Answer:
    text, error = (reply.text, None) if reply.status == "ok" else (None, reply.error)
    reason = {"ok": "length" if reply.cut_off else "stop", "refused": "content_filter"}.get(reply.status, reply.status)
    if reply.cut_off and not reply.text.strip():
        limit = f"task.sampling.max_tokens={request.sampling.max_tokens}"
        text, error = None, f"cut off at {limit} before the first word; models that think need more"
    return Answer(
        item_id=request.item_id,
        repeat=request.repeat,
        cluster=request.cluster,
        text=text,
        finish_reason=reason,
        prompt_tokens=reply.prompt_tokens,
        output_tokens=reply.output_tokens,
        seed=request.seed if takes_seed else None,
        error=error,
        cost_usd=reply.cost_usd,
    )
