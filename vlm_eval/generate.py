"""The stages that need the engine: some requests timed alone, then all of them as one batch."""

from __future__ import annotations

import dataclasses
import time
import traceback
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Optional, Sequence

from omegaconf import DictConfig

from vlm_eval import addresses, rows
from vlm_eval.engines.base import Engine, Request, Streaming, seed_of
from vlm_eval.progress import Reporter
from vlm_eval.resources import ResourceWatch, energy_j, peaks_of
from vlm_eval.rows import Item
from vlm_eval.store import RunFolder, now
from vlm_eval.tasks.base import Task


class EngineDied(RuntimeError):
    """The engine raised while it was at work; the cause says what. Another process may have better luck."""


def generate(
    cfg: DictConfig, task: Task, engine: Engine, items: dict[str, Item], folder: RunFolder, report: Reporter
) -> Mapping[str, Any]:
    """The latency pass and all answers, as far as they are not in the folder yet; the engine is gone afterwards.

    Returns what was granted for the engine: `process_ends` where only the end of this process frees its card."""
    repeats = engine.repeats(task.config.repeats)
    requests = requests_of(cfg, task, items, repeats)
    wanted = addresses.of_answers(cfg, engine, requests, items, repeats)
    kept, times = _keep(engine, items, wanted, folder)
    have = {(a.item_id, a.repeat) for a in kept}
    unasked = [
        rows.Answer(i.item_id, k, i.cluster, None, error=i.error, inputs=wanted[i.item_id, k])
        for i in items.values()
        if i.error
        for k in repeats
        if (i.item_id, k) not in have
    ]
    folder.append("answers", unasked)
    todo = [r for r in requests if (r.item_id, r.repeat) not in have]
    timed = {(x.item_id, x.repeat) for x in times}
    alone = [r for r in engine.alone(requests) if (r.item_id, r.repeat) not in timed]
    granted: Mapping[str, Any] = {}
    if todo or alone or "found" not in folder.provenance().get("engine", {}):  # a lost provenance.json: looked up again
        granted = _with_engine(engine, requests, todo, alone, wanted, folder, report)
    answers = folder.read("answers")
    if "generation_wall_s" not in (known := folder.provenance().get("engine", {})):  # died after its last answer
        folder.provenance(engine={**peaks_of(folder.read("system")), **_throughput(answers), **known})
    if all(a.text is None for a in answers):
        raise RuntimeError(f"not one of {len(answers)} requests was answered; the first: {answers[0].error}")
    return granted


def _keep(
    engine: Engine, items: Mapping[str, Item], wanted: Mapping[addresses.Key, str], folder: RunFolder
) -> tuple[list[rows.Answer], list[rows.Latency]]:
    """What an earlier attempt left that still follows from what is asked now; all else leaves the folder."""

    def stays(row: Any) -> bool:
        return row.inputs == wanted.get((row.item_id, row.repeat), "gone")

    before, latencies = folder.read("answers"), folder.read("latency")
    kept = [
        dataclasses.replace(a, cluster=items[a.item_id].cluster)  # whose file may have another name now
        for a in filter(stays, engine.keep(before, latencies))
    ]
    if kept != before:
        folder.replace("answers", kept)
    timed = list(filter(stays, latencies))
    if timed != latencies:
        folder.replace("latency", timed)
    return kept, timed


def _with_engine(
    engine: Engine,
    requests: Sequence[Request],
    todo: Sequence[Request],
    alone: Sequence[Request],
    wanted: Mapping[addresses.Key, str],
    folder: RunFolder,
    report: Reporter,
) -> Mapping[str, Any]:
    done = len(requests) - len(todo)
    before = folder.provenance().get("engine", {})
    engine.answers = len(requests)
    granted = report.ask("start engine", **engine.need(todo))
    engine.share_gib = granted.get("gib")
    shared = engine.share_gib is not None
    with ResourceWatch(lambda sample: folder.append("system", [sample])) as used:
        report("start engine")
        facts = engine.start()
        folder.provenance(engine={**before, **facts})
        report("start engine", note=facts["found"])
        try:
            spent = _time_alone(engine, alone, wanted, folder, report)
            facts |= _energy("alone", before, spent)
            if todo:
                report.ask("generate")
                with at_work():
                    engine.warm_up(todo)
                began = _energy_of(engine, shared)
                answer_all(engine, todo, wanted, folder, report, done)
                facts |= _energy("batch", before, _spent(began, _energy_of(engine, shared), len(todo)))
            facts |= engine.peaks()
        finally:
            stop(engine)
    measured = _throughput(folder.read("answers"))
    folder.provenance(engine={**before, **measured, **_peaks(used, before, shared), **facts})
    return granted


@contextmanager
def at_work() -> Iterator[None]:
    """Around what an engine does: whatever it raises is its death."""
    try:
        yield
    except Exception as error:
        raise EngineDied(str(error)) from error


def _alive(from_engine: Iterator[Any]) -> Iterator[Any]:
    """The same; what the engine raises, and not what we do with its answers, is its death."""
    with at_work():
        yield from from_engine


def stop(engine: Engine | Streaming) -> None:
    """An engine that died may fail at stopping too; that must not hide what it died of."""
    try:
        engine.stop()
    except Exception:
        traceback.print_exc()


def _peaks(used: ResourceWatch, before: dict[str, Any], shared: bool) -> dict[str, Any]:
    """Peaks over all attempts at this run."""
    host = max(round(used.host_peak_gib, 4), before.get("host_peak_gib") or 0.0)
    known = used.gpu_peak_gib is not None and not (shared and used.gpu_peak_of == "card")  # whose would it be?
    gpu = max(used.gpu_peak_gib, before.get("gpu_peak_gib") or 0.0) if known else None
    return {"host_peak_gib": host, "gpu_peak_gib": gpu, "gpu_peak_of": used.gpu_peak_of}


Spent = tuple[float, int]  # joules, and for how many answers


def _energy_of(engine: Engine, shared: bool) -> Optional[float]:
    """Of the cards that are this engine's alone: what others on them take is no matter of this run's."""
    return energy_j(engine.cards_held) if engine.cards_held and not shared else None


def _spent(before: Optional[float], after: Optional[float], answers: int) -> Spent:
    return (0.0, 0) if before is None or after is None or answers < 1 else (after - before, answers)


def _energy(stage: str, before: Mapping[str, Any], spent: Spent) -> dict[str, Any]:
    """Of all attempts at this run; nothing where it was never measured."""
    names = (f"{stage}_energy_j", f"{stage}_energy_answers")
    joules, answers = ((before.get(name) or 0) + new for name, new in zip(names, spent))  # None: it was replayed
    return dict(zip(names, (round(joules, 3), answers))) if answers else {}


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


def answer_all(
    engine: Engine,
    todo: list[Request],
    wanted: Mapping[addresses.Key, str],
    folder: RunFolder,
    report: Reporter,
    done: int,
) -> None:
    """Append each answer when its request finishes, with the seconds since this batch began."""
    total, tokens, began, batch = done + len(todo), 0, time.monotonic(), now()
    for finished in _alive(engine.answer(todo)):
        passed = time.monotonic() - began
        stamp = {"batch": batch, "finished_s": round(passed, 4)}
        finished = [rows.failed_if_empty(answer) for answer in finished]
        folder.append(
            "answers", [dataclasses.replace(a, inputs=wanted[a.item_id, a.repeat], **stamp) for a in finished]
        )
        done += len(finished)
        tokens += sum(a.output_tokens or 0 for a in finished)
        report("generate", done, total, f"{tokens / passed:.0f} tokens/s")


def _throughput(answers: Sequence[rows.Answer]) -> dict[str, Any]:
    """Wall seconds from each batch's start to its last answer, and output tokens, over all attempts at the run: what an
    attempt that died had begun and not finished counts as nothing. One batch is what an uninterrupted run has."""
    last: dict[str, float] = {}
    for answer in answers:
        if answer.batch is not None:
            last[answer.batch] = max(last.get(answer.batch, 0.0), answer.finished_s)
    tokens = sum(a.output_tokens or 0 for a in answers if a.batch is not None)
    wall = round(sum(last.values()), 4)
    return {"generation_wall_s": wall, "generation_output_tokens": tokens, "generation_batches": len(last)}


def _time_alone(
    engine: Engine,
    alone: Sequence[Request],
    wanted: Mapping[addresses.Key, str],
    folder: RunFolder,
    report: Reporter,
) -> Spent:
    """The energy is that from the first's end to the last's: what an engine does to warm up comes before."""
    if alone:
        report.ask("latency")
    number, first, last = 0, None, None
    for timed in _alive(engine.time_alone(alone)) if alone else ():
        last = _energy_of(engine, shared=False)
        first = last if number == 0 else first
        folder.append("latency", [dataclasses.replace(x, inputs=wanted[x.item_id, x.repeat]) for x in timed])
        number += len(timed)
        report("latency", number, len(alone), "one at a time")
    return _spent(first, last, number - 1)
