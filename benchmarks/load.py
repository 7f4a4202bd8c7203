"""Latency under load as this project measures it, over `vllm bench latency` or `vllm bench serve` of the same shape.

    python benchmarks/load.py [--model FOLDER] [--at-once 1 4] [--requests 60] [--input 128] [--output 32] [--pairs 3]
        [--against latency|serve]

Prompts of random tokens, answers of a fixed length. Ours and the other's in turn, each with a fresh engine for all
levels. `latency` is a batch from its first request to its last, one engine a level; `serve` is a server with its
client, and HTTP between them.
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
from typing import Any, AsyncIterator, Mapping

from pairs import compare_all, machine

from vlm_eval import paths
from vlm_eval.devices import find_device

ON_CPU = find_device().kind == "cpu"
PORT = 18765
WANTED = "wanted: 0.95 to 1.05"
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
if ON_CPU:
    ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    ENVIRONMENT |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # its core in the benchmark's process, as ours for a batch
# `vllm bench` is this; the command itself fails where the package is called vllm-cpu. Its random tokens go up to
# 10,000, whatever the model knows.
BENCH = """
import sys, numpy
from vllm.utils.argparse_utils import FlexibleArgumentParser
import vllm.benchmarks.{0} as bench
drawn, vocabulary = numpy.random.randint, int(sys.argv.pop(1))
numpy.random.randint = lambda high, *a, **k: drawn(min(high, vocabulary) if high == 10000 else high, *a, **k)
parser = FlexibleArgumentParser()
bench.add_cli_args(parser)
bench.main(parser.parse_args())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(paths.demo("models/bf16")))
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--against", choices=("latency", "serve"), default="latency")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        print(json.dumps(asyncio.run(measure(asked))), flush=True)
        os._exit(0)
    print(f"{machine()}; {asked.input} + {asked.output} tokens", flush=True)
    other = {"latency": bench_latency, "serve": bench_serve}[asked.against]
    compare_all(partial(ours, asked), partial(other, asked), asked.pairs, WANTED)


def whole(at_once: int) -> str:
    return f"{at_once} at once, p50 s"


def first(at_once: int) -> str:
    return f"{at_once} at once, first token p50 s"


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


def ours(asked: argparse.Namespace) -> dict[str, float]:
    out = run([sys.executable, __file__, *sys.argv[1:], "--here"], stdout=subprocess.PIPE).stdout
    return json.loads(out.strip().splitlines()[-1])


async def measure(asked: argparse.Namespace) -> dict[str, float]:
    """By the stage's own code; only what a request is differs: tokens in the place of a chat with a picture."""
    from vlm_eval.engines.base import Level
    from vlm_eval.engines.vllm_load import AsyncVllm
    from vlm_eval.load import measured
    from vlm_eval.rows import UnderLoad
    from vlm_eval.statistics.quantiles import quantile

    class OfTokens(AsyncVllm):
        async def stream(self, request: Any) -> AsyncIterator[int]:
            from vllm import SamplingParams
            from vllm.sampling_params import RequestOutputKind

            params = SamplingParams(
                max_tokens=asked.output, ignore_eos=True, temperature=1.0, output_kind=RequestOutputKind.DELTA
            )
            prompt = {"prompt_token_ids": request.tokens}
            async for output in self._llm.generate(prompt, params, f"load-{next(self._counter)}"):
                yield len(output.outputs[0].token_ids)

    engine, luck, known = OfTokens(arguments(asked)), random.Random(0), vocabulary(asked)
    engine.start()
    requests = [
        SimpleNamespace(tokens=[luck.randrange(min(known, 10_000)) for _ in range(asked.input)])
        for _ in range(asked.requests)
    ]
    found = {}
    for at_once in asked.at_once:
        level = Level("concurrency", float(at_once), asked.requests)
        plan = [UnderLoad(level.kind, level.value, n, str(n), 0, 0.0) for n in range(level.requests)]
        await measured(engine, level, requests, plan)  # as the other's warm-up: everything once
        rows = await measured(engine, level, requests, plan)
        found[whole(at_once)] = quantile([row.latency_s for row in rows], 0.5)
        found[first(at_once)] = quantile([row.ttft_s for row in rows], 0.5)
    engine.stop()
    return found


def bench_latency(asked: argparse.Namespace) -> dict[str, float]:
    found = {}
    for at_once in asked.at_once:
        with tempfile.TemporaryDirectory() as folder:
            file, times = Path(folder) / "found.json", str(-(-asked.requests // at_once))
            bench = [sys.executable, "-c", BENCH.format("latency"), str(vocabulary(asked)), *flags(arguments(asked))]
            bench += ["--input-len", str(asked.input), "--output-len", str(asked.output), "--batch-size", str(at_once)]
            run([*bench, "--num-iters-warmup", times, "--num-iters", times, "--output-json", str(file)])
            found[whole(at_once)] = json.loads(file.read_text())["percentiles"]["50"]
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
        return {name: value for at_once in asked.at_once for name, value in served(asked, at_once).items()}
    finally:
        server.terminate()
        server.wait(60)


def served(asked: argparse.Namespace, at_once: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        bench = [sys.executable, "-c", BENCH.format("serve"), str(vocabulary(asked)), "--model", asked.model]
        bench += ["--port", str(PORT), "--dataset-name", "random", "--ignore-eos", "--temperature", "1.0"]
        bench += ["--random-input-len", str(asked.input), "--random-output-len", str(asked.output)]
        bench += ["--num-prompts", str(asked.requests), "--max-concurrency", str(at_once)]
        bench += ["--num-warmups", str(asked.requests), "--percentile-metrics", "ttft,itl,e2el"]
        run([*bench, "--save-result", "--result-dir", folder, "--result-filename", "found.json"])
        found = json.loads((Path(folder) / "found.json").read_text())
        return {whole(at_once): found["median_e2el_ms"] / 1000, first(at_once): found["median_ttft_ms"] / 1000}


def wait_for(address: str, server: subprocess.Popen) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the server did not start")


def run(command: list[str], **more: Any) -> subprocess.CompletedProcess:
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **more}
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, text=True, **streams)
    if done.returncode:
        raise RuntimeError(f"{command[:3]}: {done.stderr[-2000:]}")
    return done


if __name__ == "__main__":
    main()
