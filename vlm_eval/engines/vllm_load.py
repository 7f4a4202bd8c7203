"""vLLM's async engine, as its server has it, for latency under load. Its core is a child of this process.

vllm is imported in start(), after the environment it reads at import is set.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AsyncIterator, Iterator, Mapping, Sequence

from vlm_eval import images
from vlm_eval.engines.base import Refused, Request, Streaming, with_images
from vlm_eval.engines.vllm_processor import load_without_copies
from vlm_eval.engines.vllm_prompts import Prompts
from vlm_eval.engines.vllm_refusals import refusals, said_in_one_line

ENVIRONMENT = {  # of the core's process
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # as the server's; a fork would inherit what the engine before left
    "VLLM_COMPUTE_NANS_IN_LOGITS": "0",  # a look at every logit, which nobody's server takes
}


class AsyncVllm(Streaming):
    """One checkpoint in `AsyncLLM`, with `arguments` of vLLM."""

    def __init__(self, arguments: Mapping[str, Any]):
        # Nothing is shared, and no picture is prepared twice anyway; the times are taken here, as a user's.
        alone = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}
        self.arguments = {**arguments, **alone, "disable_log_stats": True}
        self._llm: Any = None
        self._pictures: dict[str, Any] = {}
        self._counter = itertools.count()

    def start(self) -> dict[str, Any]:
        began = time.monotonic()
        with _environment(ENVIRONMENT):
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.utils.gc_utils import freeze_gc_heap
            from vllm.v1.engine.async_llm import AsyncLLM

            load_without_copies()
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self.arguments))
        self._prompts = Prompts(self._llm)
        freeze_gc_heap()  # as its server does: what stands until the end is not looked over while it answers
        return {
            "arguments": {k: v for k, v in self.arguments.items() if k != "model"},
            "engine_start_s": round(time.monotonic() - began, 3),
        }

    def prepare(self, requests: Sequence[Request]) -> None:
        """Decodes all pictures, once: they stay in memory as long as the engine."""
        for request in requests:
            if request.image not in self._pictures:
                self._pictures[request.image] = images.load(Path(request.image))

    async def stream(self, request: Request) -> AsyncIterator[int]:
        number = next(self._counter)
        # An identity that no request had before: its picture is prepared from scratch, as for somebody who comes anew.
        messages = with_images(
            request.messages,
            lambda path: {"type": "image_pil", "image_pil": self._pictures[path], "uuid": f"load {number}"},
        )
        reason = None
        try:
            prompt = await self._prompts.make_soon(messages)
            async for output in self._llm.generate(prompt, self._sampling(request), f"load-{number}"):
                reason = output.outputs[0].finish_reason
                yield len(output.outputs[0].token_ids)
        except refusals() as error:
            raise Refused(said_in_one_line(error)) from error
        if reason not in ("stop", "length"):
            raise Refused(f"vLLM ended it with {reason}")

    def stop(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None
            gc.unfreeze()

    def _sampling(self, request: Request) -> Any:
        """Without a seed of its own, which no user sends and for which vLLM samples each row by itself."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_tokens,
            output_kind=RequestOutputKind.DELTA,
        )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
