"""The demo's quantisations as one sweep, over the same engines started in turn by a script (by_hand.py), on a CPU.

    python benchmarks/sweep.py [--pairs 3]

Both with a process a run, without the latency pass; the sweep also writes rows, scores, summary, comparison and report.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

from pairs import compare, machine
from processes import watched

DEMO = Path(__file__).resolve().parent.parent / "vlm_eval" / "demo"
QUANTS = ("bf16", "gptq8", "gptq4", "awq")
# As vlm_eval.engines.vllm sets it: with what vLLM does by itself the script would be several times slower.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_INT4_W4A8": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
ENGINE = '{"max_model_len": 4096, "max_num_seqs": 16, "enforce_eager": true, "dtype": "bfloat16", '
ENGINE += '"enable_chunked_prefill": false, "max_num_batched_tokens": 4096}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    prompt = DEMO.parent.parent / "conf" / "task" / "prompts" / "screen_annotation.ru.txt"
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:

        def timed(what: str, command: list[str]) -> float:
            seconds, gib = watched(command, folder, {**os.environ, **ENVIRONMENT})
            peaks[what] = max(peaks.get(what, 0.0), gib)
            return seconds

        def sweep() -> float:
            command = [sys.executable, "-m", "vlm_eval.cli", "-m", "model=demo", f"quant={','.join(QUANTS)}"]
            command += ["task.sampling.max_tokens=64", "engine.latency_pass.items=0", "judge=none", "metrics=tech"]
            return timed("sweep", [*command, "tracking=none"])

        def by_hand() -> float:
            command = [sys.executable, str(Path(__file__).with_name("by_hand.py"))]
            command += [str(DEMO / "models" / quant) for quant in QUANTS] + ["--engine", ENGINE]
            command += ["--images", *screens(), "--prompt", str(prompt)]
            return timed("by hand", command)

        print(machine())
        compare("demo sweep, wall s", sweep, by_hand, pairs, "wanted: at most 1.25")
    print("peak memory of all processes, GiB:", {what: round(gib, 2) for what, gib in peaks.items()})


def screens() -> list[str]:
    """The sweep's own: the folder has more."""
    with open(DEMO / "screen_annotation" / "items.csv", newline="") as file:
        return [str(DEMO / "screen_annotation" / "images" / row["image"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
