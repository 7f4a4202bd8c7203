"""Where the time of a first token goes when a request has a picture: each screenshot prepared on the CPU, and the
engine's first step with it, and with one that is in the engine's cache, and without one.

    python benchmarks/first_token.py [--functions 25] [OVERRIDE ...]

The functions that preparing spends its time in are listed after the table, by Python's profiler.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import os
import pstats
import statistics
import time
from typing import Any

from one_engine import started
from pairs import machine

from vlm_eval.engines.base import Request, first_of_each, with_images
from vlm_eval.engines.vllm_prompts import picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=25)
    parser.add_argument("overrides", nargs="*", help="e.g. quant=awq")
    chosen = parser.parse_args()
    cfg, task, items, engine = started(["task.repeats=1", "task.sampling.max_tokens=1", *chosen.overrides])
    from vlm_eval.generate import requests_of

    requests = first_of_each(requests_of(cfg, task, items, range(1)))
    import torch

    print(
        f"{machine()}; {torch.get_num_threads()} threads of torch, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"
    )
    print("| screenshot | tokens | prepared s | first step s | prepared again s | step again s | without one s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    measured(engine, requests[0], "to warm up")
    rows = [measured(engine, request, f"picture {number}") for number, request in enumerate(requests)]
    for request, row in zip(requests, rows):
        print(f"| {request.item_id} | {row[0]} | " + " | ".join(f"{seconds:.4f}" for seconds in row[1:]) + " |")
    medians = [statistics.median(column) for column in zip(*rows)]
    print(f"| median | {medians[0]:g} | " + " | ".join(f"{seconds:.4f}" for seconds in medians[1:]) + " |")

    profile = cProfile.Profile()
    for number, request in enumerate(requests):
        profile.runcall(engine._prompt, request, f"profiled {number}")
    pstats.Stats(profile).sort_stats("tottime").print_stats(chosen.functions)
    engine.stop()


def measured(engine: Any, request: Request, picture_id: str) -> tuple[float, ...]:
    """Tokens of the prompt, then seconds."""
    without = dataclasses.replace(
        request, messages=with_images(request.messages, lambda path: {"type": "text", "text": "Нет снимка."})
    )
    tokens, first = one(engine, request, picture_id)
    _, again = one(engine, request, picture_id)
    _, bare = one(engine, without, picture_id)
    return (tokens, *first, *again, bare[1])


def one(engine: Any, request: Request, picture_id: str) -> tuple[int, tuple[float, float]]:
    """Tokens of the prompt; seconds to prepare it, and from handing it over to the end of its one token."""
    picture(request.image)  # decoded before, as where latency is measured
    began = time.monotonic()
    prompt = engine._prompt(request, picture_id)
    prepared = time.monotonic()
    engine._enqueue(request, prompt)
    [output] = finished(engine.llm.llm_engine)
    ended = time.monotonic()
    return len(output.prompt_token_ids), (prepared - began, ended - prepared)


def finished(core: Any) -> list[Any]:
    found = []
    while core.has_unfinished_requests():
        found += [output for output in core.step() if output.finished]
    return found


if __name__ == "__main__":
    main()
