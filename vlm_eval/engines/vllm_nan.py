"""NaN among the logits of each request, which vLLM counts and tells its statistics alone."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any, Iterator

# Else NaN becomes a token like any other, and nobody knows.
ENVIRONMENT = {"VLLM_COMPUTE_NANS_IN_LOGITS": "1"}


class NanCounter:
    """Listens to what an engine's core hands on."""

    def __init__(self, llm: Any):
        self._llm = llm
        self._found: Counter[str] = Counter()  # by the request's id
        core = llm.llm_engine.engine_core
        get_output = core.get_output

        def counted() -> Any:
            outputs = get_output()
            for one in outputs.outputs:
                if one.num_nans_in_logits:
                    self._found[outer_id(one.request_id)] += one.num_nans_in_logits
            return outputs

        core.get_output = counted

    def take(self, request_id: str) -> int:
        """Of a finished request."""
        return self._found.pop(request_id, 0)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is counted: that waits for the GPU at every token, and production does without."""
        self._llm.collective_rpc(_count, args=(False,))
        yield  # what raises here is the engine's end, which nothing that is asked of it may hide
        self._llm.collective_rpc(_count, args=(True,))


def outer_id(internal: str) -> str:
    """The request's id as its output carries it: inside, vLLM adds random digits."""
    return internal.split("-")[0]


def _count(worker: Any, counting: bool) -> None:
    """In a worker: what stands in the module goes before what is read from the environment."""
    from vllm import envs

    if counting:
        vars(envs).pop("VLLM_COMPUTE_NANS_IN_LOGITS", None)
    else:
        envs.VLLM_COMPUTE_NANS_IN_LOGITS = False
