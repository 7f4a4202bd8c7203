"""NaN among the logits of each request, which vLLM counts and tells its statistics alone."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from typing import Any, Iterator, Mapping

# Else NaN becomes a token like any other, and nobody knows.
ENVIRONMENT = {"VLLM_COMPUTE_NANS_IN_LOGITS": "1"}


class NanCounter:
    """Listens to what an engine's core hands on."""

    def __init__(self, llm: Any):
        self._llm = llm
        self._found: Counter[str] = Counter()  # by the request's id
        llm.collective_rpc(count_without_waiting)
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
        """Nothing is counted: production looks at no logits."""
        self._llm.collective_rpc(count, args=(False,))
        yield  # what raises here is the engine's end, which nothing that is asked of it may hide
        self._llm.collective_rpc(count, args=(True,))


def outer_id(internal: str) -> str:
    """The request's id as its output carries it: inside, vLLM adds random digits."""
    return internal.split("-")[0]


def count(worker: Any, counting: bool) -> None:
    """In a worker: what stands in the module goes before what is read from the environment."""
    from vllm import envs

    if counting:
        vars(envs).pop("VLLM_COMPUTE_NANS_IN_LOGITS", None)
    else:
        envs.VLLM_COMPUTE_NANS_IN_LOGITS = False


def count_without_waiting(worker: Any) -> None:
    """In a worker: vLLM 0.24 reads the counts of a step before it prepares the next one, which so begins only when the
    GPU has ended this one. Later releases do as here wherever steps overlap."""
    runner = worker.model_runner
    if hasattr(runner, "_get_nans_in_logits"):  # vLLM's second model runner has none, and never waits
        runner._get_nans_in_logits = functools.partial(_counts, runner)


def _counts(runner: Any, logits: Any) -> Mapping[str, int]:
    import torch

    rows = dict(runner.input_batch.req_id_to_index)  # as it is now: it changes with the next step
    return Counts(rows, None if logits is None else logits.isnan().sum(dim=-1, dtype=torch.int32))


class Counts(Mapping):
    """NaN of each request by its id, on their way from the GPU until somebody reads them: vLLM does after the tokens,
    which were computed later."""

    def __init__(self, rows: Mapping[str, int], counts: Any):
        """`counts`: one for each row of the logits, a tensor; None: of a step that had no logits."""
        self._rows, self._arrived = rows, None
        self._counts = None if counts is None else counts.to("cpu", non_blocking=True)
        if counts is not None and counts.is_cuda:
            import torch

            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @functools.cached_property
    def _known(self) -> dict[str, int]:
        if self._arrived is not None:
            self._arrived.synchronize()
        counts = [] if self._counts is None else self._counts.tolist()
        return {request: counts[row] if row < len(counts) else 0 for request, row in self._rows.items()}

    def __getitem__(self, request: str) -> int:
        return self._known[request]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> Any:
        """To another process it goes as what it holds."""
        return dict, (self._known,)
