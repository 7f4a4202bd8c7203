"""Batched generation through the project over the same prompts through bare `vllm.LLM.chat`, on one engine in turn.

    python benchmarks/throughput.py [--answers 100] [--pairs 7]

Ours includes turning items into messages, and each answer written and synced when it finishes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pairs import compare, machine

from vlm_eval import addresses, config, paths, resolvers
from vlm_eval.engines import vllm as engine_module
from vlm_eval.engines.base import Candidate, Request, with_images
from vlm_eval.generate import answer_all, requests_of
from vlm_eval.progress import Reporter
from vlm_eval.store import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("overrides", nargs="*", help="e.g. quant=awq")
    chosen = parser.parse_args()
    resolvers.register_resolvers()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        composed = compose("config", [f"task.repeats={chosen.answers // 10}", *chosen.overrides])
    cfg = config.validate(composed)
    # Before torch is imported, as vlm_eval.launch does for a run's process.
    os.environ.update(engine_module.environment(OmegaConf.to_object(cfg.engine)))

    task = config.build(cfg.task)
    items = {item.item_id: item for item in task.items()}
    engine = config.build(cfg.engine, Candidate(*config.model_and_quant(cfg), task.config.image, cfg.run.seed))
    print(machine(), "|", engine.start()["found"])
    from vllm import SamplingParams

    def bare() -> float:
        requests: list[Request] = requests_of(cfg, task, items, range(task.config.repeats))
        began = time.monotonic()
        chats = [
            with_images(r.messages, lambda p: {"type": "image_pil", "image_pil": engine_module.picture(p)})
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
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            requests = requests_of(cfg, task, items, range(task.config.repeats))
            wanted = addresses.of_answers(cfg, engine, requests, items, range(task.config.repeats))
            answer_all(engine, requests, wanted, RunFolder(Path(folder)), Reporter(None), 0)
            passed = time.monotonic() - began
            return sum(a.output_tokens for a in RunFolder(Path(folder)).read("answers")) / passed

    compare(f"{chosen.answers} answers, tokens/s", ours, bare, chosen.pairs, "wanted: at least 0.95")
    engine.stop()


if __name__ == "__main__":
    main()
