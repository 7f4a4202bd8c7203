"""Latency under load as this project measures it, over `vllm bench latency` or `vllm bench serve` of the same shape.

    python benchmarks/load.py [--model FOLDER] [--at-once 1 4] [--rates 2] [--requests 60] [--input 128] [--output 32]
        [--pairs 3] [--against latency|serve|serve-in-process]

Prompts of random tokens, answers of a fixed length; so many at once, or so many a second (Poisson). Ours and the
other's in turn, each with a fresh engine for all levels. `latency` is a batch from its first request to its last, one
engine a level, without rates; `serve` is a server with its client, and HTTP between them; `serve-in-process` the same
client without the server and HTTP, as ours has none: the engine is in its process, one a level.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, AsyncIterator, Mapping, Optional

from pairs import compare_all, machine

from vlm_eval import paths
from vlm_eval.devices import find_device
from vlm_eval.engines.base import Level

ON_CPU = find_device().kind == "cpu"
PORT = 18765
WANTED = "wanted: 0.95 to 1.05"
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
if ON_CPU:
    ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    ENVIRONMENT |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # its core in the benchmark's process, as ours for a batch
VLLM_BENCH = (sys.executable, str(Path(__file__).with_name("vllm_bench.py")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(paths.demo("models/bf16")))
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="requests a second")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--against", choices=("latency", "serve", "serve-in-process"), default="latency")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        print(json.dumps(asyncio.run(measure(asked))), flush=True)
        os._exit(0)
    if asked.against == "latency" and asked.rates:
        parser.error("vllm bench latency knows no rates")
    print(f"{machine()}; {asked.input} + {asked.output} tokens", flush=True)
    other = {"latency": bench_latency, "serve": bench_serve, "serve-in-process": bench_serve_in_process}[asked.against]
    compare_all(partial(ours, asked), partial(other, asked), asked.pairs, WANTED)


def levels(asked: argparse.Namespace) -> list[Level]:
    found = [("concurrency", float(at_once)) for at_once in asked.at_once] + [("rate", rate) for rate in asked.rates]
    return [Level(kind, value, asked.requests) for kind, value in found]


def named(
    level: Level, whole: float, first: Optional[float] = None, between: Optional[float] = None
) -> dict[str, float]:
    """A level's medians, in seconds, by what they are called here; those that were measured."""
    found = {"p50 s": whole, "first token p50 s": first, "between tokens p50 s": between}
    return {f"{level}, {what}": value for what, value in found.items() if value is not None}


def arguments(asked: argparse.Namespace) -> dict[str, Any]:
    common = {"model": asked.model, "max_model_len": 4096, "max_num_seqs": max(64, *asked.at_once)}
    common |= {"enable_prefix_caching": False, "load_format": os.environ.get("LOAD_FORMAT", "auto")}
    if ON_CPU:
        common |= {"enforce_eager": True}
    return common


def flags(engine: Mapping[str, Any]) -> list[str]:
    """Arguments of vLLM as its commands take them."""
    said = []
    for key, value in engine.items():
        option = f"--{key.replace('_', '-')}"
        said += [option if value else f"--no-{option[2:]}"] if isinstance(value, bool) else [option, str(value)]
    return said


def vocabulary(asked: argparse.Namespace) -> int:
    config = json.loads((Path(asked.model) / "config.json").read_text())
    return config.get("text_config", config)["vocab_size"]


def prompts(asked: argparse.Namespace) -> list[Any]:
    """As the other sends them: tokens, or the very texts."""
    if asked.against == "latency":
        luck, known = random.Random(0), min(vocabulary(asked), 10_000)
        return [
            {"prompt_token_ids": [luck.randrange(known) for _ in range(asked.input)]} for _ in range(asked.requests)
        ]
    from vllm.benchmarks.datasets import RandomDataset
    from vllm.tokenizers import get_tokenizer

    drawn = RandomDataset(random_seed=0).sample(
        get_tokenizer(asked.model), asked.requests, input_len=asked.input, output_len=asked.output
    )
    return [request.prompt for request in drawn]


def ours(asked: argparse.Namespace) -> dict[str, float]:
    out = run([sys.executable, __file__, *sys.argv[1:], "--here"], stdout=subprocess.PIPE)
    return json.loads(out.strip().splitlines()[-1])


async def measure(asked: argparse.Namespace) -> dict[str, float]:
    """By the stage's own code; only what a request is differs: random tokens in the place of a chat with a picture."""
    from vllm_bench import of_length

    from vlm_eval.engines.vllm_load import AsyncVllm
    from vlm_eval.load import measured, planned
    from vlm_eval.statistics.quantiles import quantile

    class OfTokens(AsyncVllm):
        async def stream(self, request: Any) -> AsyncIterator[int]:
            async for output in self._llm.generate(
                request.prompt, of_length(asked.output), f"load-{next(self._counter)}"
            ):
                yield len(output.outputs[0].token_ids)

    engine = OfTokens(arguments(asked))
    engine.start()
    requests = [SimpleNamespace(item_id=str(n), repeat=0, prompt=p) for n, p in enumerate(prompts(asked))]
    unknown = {(request.item_id, request.repeat): None for request in requests}  # what they follow from
    found = {}
    for level in levels(asked):
        plan = planned(level, requests, unknown, seed=0)
        await measured(engine, level, requests, plan)  # as the other's warm-up: everything once
        rows = await measured(engine, level, requests, plan)
        columns = [row.latency_s for row in rows], [row.ttft_s for row in rows], [s for row in rows for s in row.itl_s]
        found |= named(level, *(quantile(column, 0.5) for column in columns))
    engine.stop()
    return found


def bench_latency(asked: argparse.Namespace) -> dict[str, float]:
    found = {}
    for level in levels(asked):
        with tempfile.TemporaryDirectory() as folder:
            file, times = Path(folder) / "found.json", str(-(-asked.requests // int(level.value)))
            bench = [*VLLM_BENCH, "latency", str(vocabulary(asked)), *flags(arguments(asked)), "--batch-size"]
            bench += [f"{level.value:g}", "--input-len", str(asked.input), "--output-len", str(asked.output)]
            run([*bench, "--num-iters-warmup", times, "--num-iters", times, "--output-json", str(file)])
            found |= named(level, json.loads(file.read_text())["percentiles"]["50"])
    return found


def bench_serve(asked: argparse.Namespace) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(PORT), *flags(arguments(asked))],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{PORT}/health", server)
        return served(asked, "--temperature", "1.0")
    finally:
        server.terminate()
        server.wait(60)


def bench_serve_in_process(asked: argparse.Namespace) -> dict[str, float]:
    return served(asked, "--backend", "in-process", ENGINE=json.dumps(arguments(asked)))


def served(asked: argparse.Namespace, *options: str, **variables: str) -> dict[str, float]:
    found = {}
    for level in levels(asked):
        with tempfile.TemporaryDirectory() as folder:
            bench = [*VLLM_BENCH, "serve", str(vocabulary(asked)), "--model", asked.model, *options]
            bench += ["--port", str(PORT), "--dataset-name", "random", "--ignore-eos"]
            bench += ["--random-input-len", str(asked.input), "--random-output-len", str(asked.output)]
            bench += ["--max-concurrency" if level.kind == "concurrency" else "--request-rate", f"{level.value:g}"]
            bench += ["--num-prompts", str(asked.requests), "--num-warmups", str(asked.requests)]
            bench += ["--percentile-metrics", "ttft,itl,e2el", "--save-result", "--result-dir", folder]
            run([*bench, "--result-filename", "found.json"], **variables)
            measured = json.loads((Path(folder) / "found.json").read_text())
        if measured["completed"] != asked.requests:
            raise RuntimeError(f"vllm bench serve: {measured['completed']} of {asked.requests} requests were answered")
        found |= named(level, *(measured[f"median_{what}_ms"] / 1000 for what in ("e2el", "ttft", "itl")))
    return found


def wait_for(address: str, server: subprocess.Popen) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the server did not start")


def run(command: list[str], stdout: int = subprocess.DEVNULL, cwd: Optional[Path] = None, **variables: str) -> str:
    """What it printed on `stdout`, where that is a pipe; `variables` of the environment are its alone."""
    environment = os.environ | ENVIRONMENT | variables
    done = subprocess.run(command, env=environment, text=True, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"{command[:3]}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
