"""Means and ratios of summary.json with their 95 % intervals, a panel a task and metric."""

from __future__ import annotations

from typing import Optional

from vlm_eval.report.data import SweepData
from vlm_eval.report.plots.rows import Estimate, Panel, dot_figure, estimates, side_by_side, without_interval
from vlm_eval.report.plots.style import Drawing, Look
from vlm_eval.report.verdicts import Verdicts

REFERENCE_LINES = {"judge/match_ratio": 1.0, "judge/position_bias": 0.0}
LEAST = {
    "judge/position_bias": (-0.5, 0.5),
    "judge/flip_rate": (0.0, 0.1),
}  # of zeros alone, rounding would be the scale


def match_ratio(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("match_ratio", ["judge/match_ratio"], data, look)


def facts(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("facts", ["facts/recall_mean", "facts/precision_mean", "facts/invented_rate"], data, look)


def rouge(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("rouge", ["rouge/rouge1_f_mean", "rouge/rouge2_f_mean", "rouge/rougeL_f_mean"], data, look)


def bleurt(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("bleurt", ["bleurt/mean"], data, look)


def perplexity(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("perplexity", ["perplexity/corpus"], data, look)


def judge_order(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    """Only where a judge saw answers in both orders."""
    return _drawn("judge_order", ["judge/position_bias", "judge/flip_rate"], data, look)


def _drawn(name: str, metrics: list[str], data: SweepData, look: Look) -> Optional[Drawing]:
    """Metrics side by side and tasks below each other; of a single metric the tasks side by side."""
    found = {task: {metric: estimates(data, task, metric) for metric in metrics} for task in data.tasks}
    metrics = [metric for metric in metrics if any(found[task][metric] for task in data.tasks)]
    tasks = [task for task in data.tasks if any(found[task][metric] for metric in metrics)]
    if not tasks:
        return None
    panels = [
        [_panel(metric, task, found[task][metric], look, named=metric == metrics[0]) for metric in metrics]
        for task in tasks
    ]
    if len(metrics) == 1:
        panels = side_by_side([panel for [panel] in panels])
    no_whiskers = without_interval([panel.values for line in panels for panel in line])
    return look.drawing(dot_figure(panels, look), name, {"no_interval": no_whiskers})


def _panel(metric: str, task: str, values: dict[str, Estimate], look: Look, named: bool) -> Panel:
    # Perplexity of short answers is many times that of long ones: on one scale one task would be a single column.
    alike = (metric, task) if metric == "perplexity/corpus" else metric
    title = look.text.task(task) if named else ""  # once above a row of panels
    return Panel(title, look.metric(metric), values, alike, REFERENCE_LINES.get(metric), LEAST.get(metric, ()))
