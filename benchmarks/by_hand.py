"""What a sweep does, by a script as one writes it by hand: each engine started in turn, the same answers, no scoring.

    python benchmarks/by_hand.py CHECKPOINT ... --images FILE ... --prompt FILE [--repeats 5] [--max-tokens 64]
        [--engine '{"max_model_len": 8192}']

A line of JSON for each engine, and one with the sum. A process an engine: that alone frees a GPU for the next.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--prompt", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--engine", type=json.loads, default={})
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        print(json.dumps(answer(asked.checkpoints[0], asked)), flush=True)
        return
    began = time.monotonic()
    for checkpoint in asked.checkpoints:
        started = time.monotonic()
        options = [word for word in sys.argv[1:] if word not in asked.checkpoints]
        command = [sys.executable, __file__, checkpoint, *options, "--here"]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(out.strip().splitlines()[-1])
        print(
            json.dumps({"checkpoint": checkpoint, "wall_s": round(time.monotonic() - started, 2), **found}), flush=True
        )
    print(json.dumps({"engines": len(asked.checkpoints), "wall_s": round(time.monotonic() - began, 2)}))


def answer(checkpoint: str, asked: argparse.Namespace) -> dict[str, float]:
    began = time.monotonic()
    from PIL import Image
    from vllm import LLM, SamplingParams

    imported = time.monotonic()
    llm = LLM(model=checkpoint, limit_mm_per_prompt={"image": 1}, enable_prefix_caching=False, seed=0, **asked.engine)
    started = time.monotonic()
    system = asked.prompt.read_text()
    pictures = [Image.open(file).convert("RGB") for file in asked.images]
    chats = [
        [
            {"role": "system", "content": system},
            {"role": "user", "content": [{"type": "image_pil", "image_pil": picture}]},
        ]
        for picture in pictures
        for _ in range(asked.repeats)
    ]
    sampling = [SamplingParams(temperature=0.1, max_tokens=asked.max_tokens, seed=n) for n in range(len(chats))]
    outputs = llm.chat(chats, sampling, use_tqdm=False)
    return {
        "import_s": round(imported - began, 2),
        "start_s": round(started - imported, 2),
        "generate_s": round(time.monotonic() - started, 2),
        "answers": len(outputs),
        "tokens": sum(len(o.outputs[0].token_ids) for o in outputs),
    }


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    import os

    os._exit(0)  # as a run's process ends: threads of vLLM may hang in their exit handlers
