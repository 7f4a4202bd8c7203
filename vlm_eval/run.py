"""One run, in a process of its own: items -> answers -> scores -> judgements -> summary -> tracking.

    python -m vlm_eval.run RUN_DIR

reads RUN_DIR/.hydra/config.yaml and does what is not yet in the folder. Each stage reads rows and writes rows.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, rows
from vlm_eval.engines.base import Candidate, Engine, Request, seed_of
from vlm_eval.memory import PeakMemory
from vlm_eval.progress import Reporter
from vlm_eval.provenance import environment_facts, inputs_hash
from vlm_eval.rows import Item
from vlm_eval.store import RunFolder, write_json
from vlm_eval.tasks.base import Task


def run(cfg: DictConfig, folder: RunFolder, report: Reporter) -> None:
    """The stages, in order."""
    task: Task = config.build(cfg.task)
    items = read_items(cfg, task, folder, report)
    generate(cfg, task, items, folder, report)
    score(cfg, items, folder, report)
    judge(cfg, task, items, folder, report)
    track(cfg, task, folder, report)


def read_items(cfg: DictConfig, task: Task, folder: RunFolder, report: Reporter) -> dict[str, Item]:
    report("items")
    items = task.items()
    wanted = inputs_hash(cfg, task, items)
    if folder.provenance().get("inputs_sha256", wanted) != wanted:
        raise RuntimeError("the rows in this folder were made from another config, prompt or data; take another folder")
    folder.replace("items", items)
    folder.provenance(
        inputs_sha256=wanted,
        data_root=str(Path(task.config.data.root).resolve()),
        **environment_facts(),
        **task.facts(),
    )
    report("items", len(items), len(items), _bad(items))
    return {item.item_id: item for item in items}


def _bad(items: list[Item]) -> str:
    bad = sum(1 for item in items if item.error)
    return f"{bad} cannot be asked (task.on_bad_item=record)" if bad else ""


def generate(cfg: DictConfig, task: Task, items: dict[str, Item], folder: RunFolder, report: Reporter) -> None:
    """The latency pass and all answers, as far as they are not in the folder yet; the engine is gone afterwards."""
    candidate = Candidate(*config.model_and_quant(cfg), task.config.image, cfg.run.seed)
    engine: Engine = config.build(cfg.engine, candidate)
    requests = requests_of(cfg, task, items)
    have = {(a.item_id, a.repeat) for a in folder.read("answers")}
    unasked = [
        rows.Answer(i.item_id, k, i.cluster, None, error=i.error)
        for i in items.values()
        if i.error
        for k in range(task.config.repeats)
        if (i.item_id, k) not in have
    ]
    folder.append("answers", unasked)
    todo = [r for r in requests if (r.item_id, r.repeat) not in have]
    timed = {x.item_id for x in folder.read("latency")}
    alone = [r for r in _first_of_each(requests)[: engine.latency_items] if r.item_id not in timed]
    if not todo and not alone:
        return
    facts = folder.provenance().get("engine", {})
    with PeakMemory() as memory:
        report("start engine")
        facts |= engine.start()
        folder.provenance(engine=facts)
        report("start engine", note=facts["found"])
        try:
            _time_alone(engine, alone, folder, report)  # first: the batch then finds the engine warm
            measured = answer_all(engine, todo, folder, report, len(have) + len(unasked)) if todo else {}
            if len(todo) == len(requests):  # the rest of an interrupted batch says nothing about a batch
                facts |= measured
        finally:
            _stop(engine)
    folder.provenance(engine={**facts, **_peaks(memory, facts)})
    answers = folder.read("answers")
    if all(a.text is None for a in answers):
        raise RuntimeError(f"not one of {len(answers)} requests was answered; the first: {answers[0].error}")


def _stop(engine: Engine) -> None:
    """An engine that died may fail at stopping too; that must not hide what it died of."""
    try:
        engine.stop()
    except Exception:
        traceback.print_exc()


def _peaks(memory: PeakMemory, before: dict[str, Any]) -> dict[str, Any]:
    """Peaks over all attempts at this run."""
    host = max(round(memory.host_peak_gib, 4), before.get("host_peak_gib") or 0.0)
    gpu = None if memory.gpu_peak_gib is None else max(memory.gpu_peak_gib, before.get("gpu_peak_gib") or 0.0)
    return {"host_peak_gib": host, "gpu_peak_gib": gpu, "gpu_peak_of": memory.gpu_peak_of}


def requests_of(cfg: DictConfig, task: Task, items: dict[str, Item]) -> list[Request]:
    return [
        Request(
            item_id=item.item_id,
            repeat=repeat,
            cluster=item.cluster,
            image=str(task.image_path(item)),
            messages=task.messages(item),
            sampling=task.config.sampling,
            seed=seed_of(cfg.run.seed, item.item_id, repeat),
        )
        for item in items.values()
        if not item.error
        for repeat in range(task.config.repeats)
    ]


def _first_of_each(requests: list[Request]) -> list[Request]:
    return list({r.item_id: r for r in reversed(requests)}.values())[::-1]


def answer_all(engine: Engine, todo: list[Request], folder: RunFolder, report: Reporter, done: int) -> dict[str, Any]:
    """Append each answer when its request finishes; wall seconds and output tokens of this batch."""
    total, tokens, began = done + len(todo), 0, time.monotonic()
    for finished in engine.answer(todo):
        folder.append("answers", finished)
        done += len(finished)
        tokens += sum(a.output_tokens or 0 for a in finished)
        report("generate", done, total, f"{tokens / (time.monotonic() - began):.0f} tokens/s")
    return {"generation_wall_s": round(time.monotonic() - began, 4), "generation_output_tokens": tokens}


def _time_alone(engine, alone: list[Request], folder: RunFolder, report: Reporter) -> None:
    for number, timed in enumerate(engine.time_alone(alone) if alone else (), start=1):
        folder.append("latency", [timed])
        report("latency", number, len(alone), "one at a time")


def score(cfg: DictConfig, items: dict[str, Item], folder: RunFolder, report: Reporter) -> None:
    """All metrics over all answers: scores.jsonl, and summary.json without the judge's part."""
    from vlm_eval.metrics.base import Answered

    data = Answered(items, folder.read("answers"), folder.read("latency"), folder.provenance().get("engine", {}))
    values: dict[tuple[str, int], dict[str, Any]] = {(a.item_id, a.repeat): {} for a in data.answers}
    reasons: dict[tuple[str, int], dict[str, str]] = {key: {} for key in values}
    metrics = {}
    for number, name in enumerate(cfg.metrics, start=1):
        report("score", number, len(cfg.metrics), name)
        metrics[name] = config.build(cfg.metrics[name])
        for key, found in metrics[name].score(data).items():
            if isinstance(found, str):
                reasons[key][name] = found
            else:
                values[key].update(found)
    scores = [rows.Score(i, r, values[i, r], reasons[i, r]) for i, r in values]
    folder.replace("scores", scores)
    summary: dict[str, float] = {}
    for metric in metrics.values():
        summary |= metric.summarise(data, scores)
    write_json(folder.path / "summary.json", summary)


def judge(cfg: DictConfig, task: Task, items: dict[str, Item], folder: RunFolder, report: Reporter) -> None:
    """Judgements that are not in the folder yet, and their part of the summary."""
    from vlm_eval.judges.base import Judge, JudgeRequest
    from vlm_eval.judges.summary import summarise

    chosen: Judge = config.build(cfg.judge)
    folder.provenance(judge=chosen.facts())
    answers = folder.read("answers")
    report("judge")
    # A judgement that failed is asked for again; the new one takes the place of the old.
    before = folder.read("judgements")
    kept = [j for j in before if j.judge != chosen.name or j.status != "error"]
    if len(kept) < len(before):
        folder.replace("judgements", kept)
    have: dict[tuple[str, int], set] = {}
    for j in kept:
        if j.judge == chosen.name:
            have.setdefault((j.item_id, j.repeat), set()).add((j.order, j.judge_repeat))
    requests = [
        JudgeRequest(
            items[a.item_id], a, task.image_path(items[a.item_id]), frozenset(have.get((a.item_id, a.repeat), ()))
        )
        for a in answers
    ]
    done = sum(map(len, have.values()))
    calls = chosen.cost(len(answers))[0]
    for new in chosen.judge(requests):
        folder.append("judgements", new)
        done += len(new)
        report("judge", done, calls)
    found = summarise([j for j in folder.read("judgements") if j.judge == chosen.name], answers)
    write_json(folder.path / "summary.json", {**folder.summary(), **found})
    limit = OmegaConf.select(cfg, "judge.max_fail_rate")
    if limit is not None and found.get("judge/fail_rate", 0.0) > limit:
        raise RuntimeError(f"{found['judge/fail_rate']:.0%} of judgements failed, over judge.max_fail_rate={limit:.0%}")


def track(cfg: DictConfig, task: Task, folder: RunFolder, report: Reporter) -> None:
    """Tell the tracker. The files are complete before this; a tracker that fails is said, and loses nothing."""
    report("track")
    folder.set_status("ok")
    try:
        folder.set_status("ok", mlflow_run_id=config.build(cfg.tracking).log_run(cfg, folder))
    except Exception as error:  # whatever the server does, the results are in the files
        traceback.print_exc()
        folder.set_status("ok", tracking=f"not tracked: {type(error).__name__}: {' '.join(str(error).split())}"[:1000])


def main(run_dir: str) -> int:
    """The process: status.json says how it ended; stdout is the parent's pipe, all chatter goes to the log."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder, report = RunFolder(run_dir), Reporter(pipe)
    lock = open(folder.path / "run.log", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder.path}: another process works on this run", file=sys.stderr)
        return 3
    folder.set_status("running", "start")

    def interrupt(*_: object) -> None:
        # Said at once: stopping the engine may take longer than the parent waits.
        folder.set_status("interrupted", report.stage, "stopped by a signal")
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        cfg = config.load(folder.path)
        run(cfg, folder, report)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:  # whatever it was, its reason is kept
        traceback.print_exc()
        folder.set_status("failed", report.stage, f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000])
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    # Threads of torch and vLLM can hang in their exit handlers; everything is on the disk already.
    os._exit(code)
