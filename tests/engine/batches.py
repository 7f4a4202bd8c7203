"""Run in a fresh process by test_batch.py: batches of the demo's items, answered by one engine; what came of each, and
with how many requests each step of the engine began."""

import dataclasses
import json
import os
import signal
import threading
import time

from omegaconf import OmegaConf

from tests.helpers import composed
from vlm_eval import config
from vlm_eval.engines import vllm
from vlm_eval.engines.base import engine_of
from vlm_eval.engines.vllm_prompts import Prompts
from vlm_eval.generate import requests_of

SAMPLING = ("task.sampling.max_tokens=8", "task.repeats=2", "engine.max_num_seqs=8", "engine.max_model_len=2048")


def main() -> None:
    cfg = composed("quant=bf16", *SAMPLING)
    os.environ.update(vllm.environment(OmegaConf.to_object(cfg.engine)))
    task = config.build(cfg.task)
    items = {item.item_id: item for item in task.items()}
    engine = engine_of(cfg, task)
    engine.start()
    requests = requests_of(cfg, task, items, range(cfg.task.repeats))
    # Its text alone is short enough, with its picture it is too long.
    words = {"type": "text", "text": "слово " * 950}
    messages = [{**m, "content": [*m["content"], words]} if m["role"] == "user" else m for m in requests[0].messages]
    too_long = dataclasses.replace(requests[0], item_id="too long", messages=messages)
    # What rounding cannot change, where prompts are computed in other pieces.
    greedy = [dataclasses.replace(r, sampling=dataclasses.replace(r.sampling, temperature=0.0)) for r in requests]
    found = {
        "too long": answered(engine, [too_long, *requests[:2]]),
        "warm-up": [[row.error for row in engine.warm_up(requests)] for _ in range(2)],
        "at once": answered(engine, requests),
        "slowly prepared": answered(engine, requests, prepare_s=0.1),
        "without a prefix cache": answered(engine, greedy),
        "another template": templated(engine.llm, "Только {{ messages[0].content }}."),
    }
    engine.stop()
    cfg.engine.prefix_cache = True
    cfg.engine.extra = {"block_size": 32}  # so small that what stands before the picture fills some
    engine = engine_of(cfg, task)
    engine.start()
    found["alone before it"] = alone(engine, greedy)  # as in a run
    found["warm-up after it"] = [row.error for row in engine.warm_up(greedy)]
    found["warm-up on a card"] = [on_a_card(engine, engine.warm_up, greedy) for _ in range(2)]
    found["warm-up of one too long"] = on_a_card(engine, engine.warm_up_together, [too_long, *greedy])
    found["prefix cache"] = answered(engine, greedy)
    found["first"] = f"{requests[0].item_id} {requests[0].repeat}"
    found["lost"] = lost(engine, greedy[:1])
    engine.stop()
    print(json.dumps(found))


def answered(engine, requests, prepare_s=0.0) -> dict:
    steps, prepared, core = [], [], engine.llm.llm_engine
    step, prompt = core.step, engine._prompt

    def counted():
        steps.append((core.get_num_unfinished_requests(), len(prepared)))
        return step()

    def slowed(request):
        time.sleep(prepare_s)
        prepared.append(threading.current_thread() is threading.main_thread())
        return prompt(request)

    core.step, engine._prompt = counted, slowed
    try:
        answers = [answer for some in engine.answer(requests) for answer in some]
    finally:
        core.step, engine._prompt = step, prompt
    return {
        "texts": {f"{a.item_id} {a.repeat}": a.text for a in answers},
        "errors": [a.error for a in answers if a.error],
        "began_with": [unfinished for unfinished, _ in steps],
        "prepared_by_then": [number for _, number in steps],
        "in_the_main_thread": sum(prepared),
        "cached_tokens": {f"{a.item_id} {a.repeat}": a.cached_tokens for a in answers},
        "threads_left": sum(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()),
    }


def on_a_card(engine, warm_up, requests) -> list[tuple[int, list[int]]]:
    """Of each step: requests under way as it began, and the tokens of those that it finished."""
    steps, core = [], engine.llm.llm_engine
    step = core.step

    def noted():
        under_way, outputs = core.get_num_unfinished_requests(), step()
        steps.append((under_way, [len(o.outputs[0].token_ids) for o in outputs if o.finished]))
        return outputs

    core.step, engine.cards_held = noted, 1
    try:
        assert not warm_up(requests)
    finally:
        core.step, engine.cards_held = step, 0
    return steps


def alone(engine, requests) -> list[int]:
    """Tokens of each prompt that were not computed when it was timed alone."""
    cached, read = [], engine._wrong_with

    def noted(output):
        cached.append(output.num_cached_tokens)
        return read(output)

    engine._wrong_with = noted
    assert all(row.latency_s for rows in engine.time_alone(requests) for row in rows)
    del engine._wrong_with
    return cached


def lost(engine, requests) -> str:
    """What is said when vLLM has no more what it was given to answer alone."""
    engine.llm.llm_engine.has_unfinished_requests = lambda: False
    signal.alarm(60)  # ends this process, if it is waited for
    try:
        list(engine.time_alone(requests))
    except RuntimeError as error:
        return str(error)
    finally:
        signal.alarm(0)


def templated(llm, template) -> str:
    """What engine.extra.chat_template makes of a message."""
    llm.chat_template = template
    prompt = Prompts(llm).make([{"role": "user", "content": "это"}])
    return llm.get_tokenizer().decode(prompt["prompt_token_ids"])


if __name__ == "__main__":
    main()
