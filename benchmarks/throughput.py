"""Batched generation through the project over the same prompts through bare `vllm.LLM.chat`, on one engine in turn.

    python benchmarks/throughput.py [--answers 100 | --large] [--pairs 7] [OVERRIDE ...]

Ours includes turning items into messages, and each answer written and synced when it finishes. --large: one answer to
each of forty screenshots of twice the size, seen with few tokens, decoded and prepared anew, as in a large set.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import tempfile
import time
from pathlib import Path

from one_engine import forget_prepared, started
from pairs import compare, machine
from PIL import Image

from vlm_eval import addresses, paths
from vlm_eval.engines import vllm_prompts
from vlm_eval.engines.base import Request, with_images
from vlm_eval.generate import answer_all, requests_of
from vlm_eval.progress import Reporter
from vlm_eval.store import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("overrides", nargs="*", help="e.g. quant=awq")
    chosen = parser.parse_args()
    asked = [f"task.repeats={chosen.answers // 10}"]
    if chosen.large:
        data = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, data)
        asked = ["task.repeats=1", f"task.data.root={enlarged(Path(data))}", "task.image.max_pixels=100352"]
        asked += ["task.sampling.max_tokens=64", "engine.image_cache_gib=0"]
    cfg, task, items, engine = started([*asked, *chosen.overrides])
    print(machine(), "|", engine._facts["found"])
    from vllm import SamplingParams

    def forget() -> None:
        # What bare `chat` has handed over once, it takes for handed over, whatever ours has put there since.
        forget_prepared(engine.llm)
        if chosen.large:
            vllm_prompts.forget_pictures()

    def bare() -> float:
        forget()
        requests: list[Request] = requests_of(cfg, task, items, range(task.config.repeats))
        began = time.monotonic()
        chats = [
            with_images(r.messages, lambda p: {"type": "image_pil", "image_pil": vllm_prompts.picture(p)})
            for r in requests
        ]
        params = [
            SamplingParams(
                temperature=r.sampling.temperature,
                top_p=r.sampling.top_p,
                max_tokens=r.sampling.max_tokens,
                seed=r.seed,
            )
            for r in requests
        ]
        outputs = engine.llm.chat(chats, params, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in outputs) / (time.monotonic() - began)

    def ours() -> float:
        forget()
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            requests = requests_of(cfg, task, items, range(task.config.repeats))
            wanted = addresses.of_answers(cfg, engine, requests, items, range(task.config.repeats))
            answer_all(engine, requests, wanted, RunFolder(Path(folder)), Reporter(None), 0)
            passed = time.monotonic() - began
            return sum(a.output_tokens for a in RunFolder(Path(folder)).read("answers")) / passed

    answers = len(items) * cfg.task.repeats
    compare(f"{answers} answers, tokens/s", ours, bare, chosen.pairs, "wanted: at least 0.95")
    engine.stop()


def enlarged(folder: Path) -> Path:
    """The demo's forty screenshots and their table, made here."""
    demo = Path(paths.demo("screen_annotation"))
    (folder / "images").mkdir()
    shutil.copy(demo / "items_full.csv", folder / "items.csv")
    for file in (demo / "images").iterdir():
        with Image.open(file) as image:
            image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC).save(
                folder / "images" / file.name
            )
    return folder


if __name__ == "__main__":
    main()
