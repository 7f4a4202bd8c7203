"""The stages that need the engine: some requests timed alone, then all of them as one batch."""

from __future__ import annotations

import time
import traceback
from typing import Any, Sequence

from omegaconf import DictConfig

from vlm_eval import rows
from vlm_eval.engines.base import Engine, Request, seed_of
from vlm_eval.progress import Reporter
from vlm_eval.resources import ResourceWatch
from vlm_eval.rows import Item
from vlm_eval.store import RunFolder
from vlm_eval.tasks.base import Task


def generate(
    cfg: DictConfig, task: Task, engine: Engine, items: dict[str, Item], folder: RunFolder, report: Reporter
) -> None:
    """The latency pass and all answers, as far as they are not in the folder yet; the engine is gone afterwards."""
    repeats = engine.repeats(task.config.repeats)
    requests = requests_of(cfg, task, items, repeats)
    before, latencies = folder.read("answers"), folder.read("latency")
    kept = engine.keep(before, latencies)
    if len(kept) < len(before):
        folder.replace("answers", kept)
    have = {(a.item_id, a.repeat) for a in kept}
    unasked = [
        rows.Answer(i.item_id, k, i.cluster, None, error=i.error)
        for i in items.values()
        if i.error
        for k in repeats
        if (i.item_id, k) not in have
    ]
    folder.append("answers", unasked)
    todo = [r for r in requests if (r.item_id, r.repeat) not in have]
    timed = {(x.item_id, x.repeat) for x in latencies}
    alone = [r for r in engine.alone(requests) if (r.item_id, r.repeat) not in timed]
    if todo or alone:
        _with_engine(engine, requests, todo, alone, folder, report)
    answers = folder.read("answers")
    if all(a.text is None for a in answers):
        raise RuntimeError(f"not one of {len(answers)} requests was answered; the first: {answers[0].error}")


def _with_engine(
    engine: Engine,
    requests: Sequence[Request],
    todo: Sequence[Request],
    alone: Sequence[Request],
    folder: RunFolder,
    report: Reporter,
) -> None:
    done = len(requests) - len(todo)
    before, measured = folder.provenance().get("engine", {}), {}
    with ResourceWatch(lambda sample: folder.append("system", [sample])) as used:
        report("start engine")
        facts = engine.start()
        folder.provenance(engine={**before, **facts})
        report("start engine", note=facts["found"])
        try:
            _time_alone(engine, alone, folder, report)  # first: the batch then finds the engine warm
            batch = answer_all(engine, todo, folder, report, done) if todo else {}
            if len(todo) == len(requests):  # the rest of an interrupted batch says nothing about a batch
                measured = batch
        finally:
            _stop(engine)
    folder.provenance(engine={**before, **measured, **_peaks(used, before), **facts})


def _stop(engine: Engine) -> None:
    """An engine that died may fail at stopping too; that must not hide what it died of."""
    try:
        engine.stop()
    except Exception:
        traceback.print_exc()


def _peaks(used: ResourceWatch, before: dict[str, Any]) -> dict[str, Any]:
    """Peaks over all attempts at this run."""
    host = max(round(used.host_peak_gib, 4), before.get("host_peak_gib") or 0.0)
    gpu = None if used.gpu_peak_gib is None else max(used.gpu_peak_gib, before.get("gpu_peak_gib") or 0.0)
    return {"host_peak_gib": host, "gpu_peak_gib": gpu, "gpu_peak_of": used.gpu_peak_of}


def requests_of(cfg: DictConfig, task: Task, items: dict[str, Item], repeats: Sequence[int]) -> list[Request]:
    return [
        Request(
            item_id=item.item_id,
            repeat=repeat,
            cluster=item.cluster,
            image=str(task.image_path(item)),
            messages=task.messages(item),
            sampling=task.config.sampling,
            seed=seed_of(cfg.run.seed, item.item_id, repeat),
            question=item.question,
        )
        for item in items.values()
        if not item.error
        for repeat in repeats
    ]


def answer_all(engine: Engine, todo: list[Request], folder: RunFolder, report: Reporter, done: int) -> dict[str, Any]:
    """Append each answer when its request finishes; wall seconds and output tokens of this batch."""
    total, tokens, began = done + len(todo), 0, time.monotonic()
    for finished in engine.answer(todo):
        finished = [rows.failed_if_empty(answer) for answer in finished]
        folder.append("answers", finished)
        done += len(finished)
        tokens += sum(a.output_tokens or 0 for a in finished)
        report("generate", done, total, f"{tokens / (time.monotonic() - began):.0f} tokens/s")
    return {"generation_wall_s": round(time.monotonic() - began, 4), "generation_output_tokens": tokens}


def _time_alone(engine: Engine, alone: Sequence[Request], folder: RunFolder, report: Reporter) -> None:
    number = 0
    for timed in engine.time_alone(alone) if alone else ():
        folder.append("latency", timed)
        number += len(timed)
        report("latency", number, len(alone), "one at a time")
