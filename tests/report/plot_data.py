"""A sweep in memory, with every number that a plot can show."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Sequence

from omegaconf import OmegaConf

from vlm_eval.comparison import Run
from vlm_eval.gate import Limits
from vlm_eval.judges.summary import summarise
from vlm_eval.points import Point
from vlm_eval.report.data import Candidate, SweepData
from vlm_eval.report.verdicts import QUALITIES, Verdicts
from vlm_eval.rows import Answer, Item, Judgement, Latency, Score
from vlm_eval.statistics.intervals import named_mean
from vlm_eval.sweep_statistics import against_baseline

LABELS = tuple(f"Qwen2-VL-{size}B {quant}" for size in (7, 2) for quant in ("bf16", "gptq8", "gptq4", "awq"))
TASKS = ("screen_annotation", "vqa")
MEANS = {  # name in summary.json -> column of a score
    "facts/recall_mean": "facts_recall",
    "facts/precision_mean": "facts_precision",
    "facts/invented_rate": "invents",
    "rouge/rouge1_f_mean": "rouge1_f",
    "rouge/rouge2_f_mean": "rouge2_f",
    "rouge/rougeL_f_mean": "rougeL_f",
    "bleurt/mean": "bleurt",
}


def plot_data(
    labels: Sequence[str] = LABELS, tasks: Sequence[str] = TASKS, items: int = 12, failed: Sequence[str] = ()
) -> tuple[SweepData, Verdicts]:
    """Each candidate worse, faster and smaller than the one before it; the first is the baseline."""
    runs = [
        _failed(label, task, items) if label in failed else _candidate(label, number, task, items)
        for task in tasks
        for number, label in enumerate(labels)
    ]
    data = SweepData(Path(), {}, runs)
    points = [Point(c.run, c.matches) for c in runs]
    quality = next((name for name in QUALITIES if any(name in c.summary for c in runs)), None)
    wanted = {"quant": labels[0]}
    pairs = against_baseline(points, wanted, 0.05)
    return data, Verdicts(quality, f"quant={labels[0]}", Limits(0.05), pairs)


def _candidate(label: str, number: int, task: str, count: int) -> Candidate:
    # Of a seed of numbers alone: a candidate's luck does not change with its name.
    luck, good = random.Random(f"{task} {number}"), max(2.0, 8.8 - 0.5 * number)
    items, answers, scores, judgements, latencies = _items(count), {}, {}, [], []
    for item in items.values():
        key, hard = (item.item_id, 0), random.Random(item.item_id).random()
        length = 1 + int(luck.lognormvariate(3 if task == "vqa" else 5, 0.4))
        answers[key] = Answer(item.item_id, 0, item.cluster, "я" * length, "stop", 9, length // 3)
        value = min(1.0, max(0.0, luck.gauss(good / 10 - 0.3 * hard, 0.1)))
        columns = {column: value for column in MEANS.values()} | {"invents": float(luck.random() < 0.2)}
        scores[key] = Score(item.item_id, 0, columns)
        for order, favour in (("ab", 0.4), ("ba", 0.0)):
            score = min(10.0, max(1.0, round(luck.gauss(good - 3 * hard + favour, 1.0))))
            judgements.append(Judgement(item.item_id, 0, "stern", order, 0, True, score, 9.0, "потому что", "ok"))
        latencies.append(Latency(item.item_id, luck.lognormvariate(-0.1 * number, 0.3)))
    summary = summarise(judgements, list(answers.values()))
    for name, column in MEANS.items():
        summary |= named_mean(name, [(answers[key].cluster, s.values[column]) for key, s in scores.items()])
    summary |= {"perplexity/corpus": 30.0 + number}
    if count >= 5:
        summary |= {"perplexity/corpus_ci_low": 25.0, "perplexity/corpus_ci_high": 40.0 + number}
    seconds = sorted(x.latency_s for x in latencies)
    summary |= {"tech/latency_s_p50": seconds[count // 2], "tech/latency_s_p95": seconds[-1]}
    summary |= {"tech/weights_gib": 16.3 / (number + 1), "tech/gpu_peak_gib": 21.5, "tech/host_peak_gib": 4.21}
    summary |= {"tech/output_tokens_per_s": 1234.0, "tech/length_chars_mean": 165.7}
    summary |= {"tech/failed_rate": 0.004, "tech/truncated_rate": 0.0}
    for level in (1, 4, 16, 64):
        name, seconds = f"load/c{level}", (0.4 + 0.05 * level) * (1 - 0.08 * number)
        summary |= {f"{name}/output_tokens_per_s": (60.0 + 8 * number) * level**0.6}
        for quantile, value in (("p50", seconds), ("p95", 1.5 * seconds)):
            summary |= {f"{name}/latency_s_{quantile}": value}
            summary |= {f"{name}/latency_s_{quantile}_ci_low": 0.9 * value}
            summary |= {f"{name}/latency_s_{quantile}_ci_high": 1.2 * value}
    run = _run(label, number, task, "ok", summary)
    return Candidate(run, label, task, "m", label, items, answers, latencies, scores, {"stern": judgements}, Path(), {})


def _failed(label: str, task: str, count: int) -> Candidate:
    run = _run(label, 99, task, "failed", {"rouge/rouge1_f_mean": 0.99})
    return Candidate(run, label, task, "m", label, _items(count), {}, [], {}, {}, Path(), {})


def _run(label: str, number: int, task: str, state: str, summary: dict[str, float]) -> Run:
    cfg = OmegaConf.create({"model": "m", "quant": label, "task": task})
    return Run(f"{task}-{number}-{label}", state, None, {}, summary, {}, {}, cfg)


def _items(count: int) -> dict[str, Item]:
    return {f"item/{n}": Item(f"item/{n}", f"{n}.png", f"images/{n}.png") for n in range(count)}
