"""Where a batch's time goes: between the engine's steps, in those before which requests came in, in the others; with
the watch for NaN as a run has it, with vLLM's own, and without one, in turn on one engine.

    python benchmarks/batch_steps.py [--rounds 5] [OVERRIDE ...]

Every batch begins with empty caches, but for its pictures, which stay decoded. `between` is what the engine's thread
does beside stepping: it waits for prompts, hands them over and reads answers. Where steps overlap (on a GPU), a step's
time is that of the work it waits for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, Sequence

from one_engine import forget_prepared, started
from pairs import machine

from vlm_eval.engines.base import Request
from vlm_eval.engines.vllm_nan import count, count_without_waiting
from vlm_eval.generate import requests_of

COLUMNS = ("the batch s", "tokens/s", "between s", "steps", "with requests s", "other steps s", "median ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="e.g. quant=awq engine.prefix_cache=true")
    chosen = parser.parse_args()
    cfg, task, items, engine = started(chosen.overrides)
    requests = requests_of(cfg, task, items, range(cfg.task.repeats))
    engine.warm_up(requests)
    ways = {"as a run has it": count_without_waiting, "vLLM's own": _vllms_own, "no watch": None}
    rows: dict[str, list[Sequence[float]]] = {name: [] for name in ways}
    for number in range(chosen.rounds + 1):
        turn = number % len(ways)  # who comes first is slower
        for name, way in [*ways.items()][turn:] + [*ways.items()][:turn]:
            engine.llm.collective_rpc(count, args=(way is not None,))
            if way is not None:
                engine.llm.collective_rpc(way)
            row = batch(engine, requests)
            rows[name] += [row] if number else []  # the first is to warm up
    print(f"{machine()}; {engine._facts['found']}; {len(requests)} answers, median of {chosen.rounds} (least, most)")
    print(f"| watch for NaN | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}")
    for name, found in rows.items():
        medians = [statistics.median(column) for column in zip(*found)]
        first = sorted(row[0] for row in found)
        print(
            f"| {name} | {medians[0]:.3f} ({first[0]:.3f}, {first[-1]:.3f}) | {medians[1]:.0f} | {medians[2]:.3f} | "
            f"{medians[3]:.0f} | {medians[4]:.3f} | {medians[5]:.3f} | {1000 * medians[6]:.2f} |"
        )
    engine.stop()


def _vllms_own(worker: Any) -> None:
    """In a worker: the class's again, where it has one."""
    vars(worker.model_runner).pop("_get_nans_in_logits", None)


def batch(engine: Any, requests: Sequence[Request]) -> Sequence[float]:
    """One row of the table."""
    forget_prepared(engine.llm)
    steps, core, enqueue, came_in = [], engine.llm.llm_engine, engine._enqueue, []
    step = core.step

    def timed() -> Any:
        began = time.monotonic()
        outputs = step()
        steps.append((time.monotonic() - began, bool(came_in)))
        came_in.clear()
        return outputs

    def noted(*args: Any) -> str:
        came_in.append(True)
        return enqueue(*args)

    core.step, engine._enqueue = timed, noted
    try:
        began = time.monotonic()
        tokens = sum(answer.output_tokens or 0 for some in engine.answer(requests) for answer in some)
        passed = time.monotonic() - began
    finally:
        core.step, engine._enqueue = step, enqueue
    with_requests, others = [s for s, came in steps if came], [s for s, came in steps if not came]
    between = passed - sum(with_requests) - sum(others)
    return passed, tokens / passed, between, len(steps), sum(with_requests), sum(others), statistics.median(others)


if __name__ == "__main__":
    main()
