"""Throughput against latency under load: what each level gives, and what it costs those who wait."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Optional

import numpy as np
from matplotlib.axes import Axes

from vlm_eval.report.data import SweepData
from vlm_eval.report.plots.direct_labels import Place, place_labels
from vlm_eval.report.plots.letters import drawable
from vlm_eval.report.plots.rows import Estimate, estimates
from vlm_eval.report.plots.style import Drawing, Look, new_figure
from vlm_eval.report.verdicts import Verdicts

LEVEL = re.compile(r"load/([cr])([^/]+)/output_tokens_per_s")
QUANTILES = ("p50", "p95")
WIDE = 20  # times the shortest: from there on the scale is logarithmic


@dataclass(frozen=True)
class Point:
    kind: str  # "c": so many under way at once; "r": so many arrive a second
    level: float
    throughput: float
    latency: Estimate


Curves = dict[str, list[Point]]  # label -> its levels, upwards; first those of "c"


def load(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    found = {task: {q: _curves(data, task, q) for q in QUANTILES} for task in data.tasks}
    found = {task: of for task, of in found.items() if of["p50"]}
    if not found:
        return None
    shown = [q for q in QUANTILES if any(of[q] for of in found.values())]
    figure = new_figure(1.0 + len(found) * min(16.0, 6.5 + 0.35 * len(look.labels)))
    grid = figure.subplots(len(found), len(shown), squeeze=False, sharey="row")
    for line, (task, of) in zip(grid, found.items()):
        line[0].set_title(drawable(look.text.task(task)))
        line[0].set_ylabel(look.metric("tech/output_tokens_per_s"))
        missing = [look.names[label].replace("\n", " ") for label in look.labels if label not in of["p50"]]
        said = textwrap.wrap(f"{look.word('no_data')}: {', '.join(missing)}", 100 // len(shown)) if missing else []
        times = [point.latency.value for curves in of.values() for points in curves.values() for point in points]
        wide = max(times) > WIDE * min(times) > 0
        for ax, q in zip(line, shown):
            if wide:
                ax.set_xscale("log")
            _draw(ax, of[q], look, _axis(q, wide, look), said if ax is line[0] else [])
    whole = look.drawing(figure, "load", {"load_no_p95": shown == ["p50"]})
    for line, of in zip(grid, found.values()):  # needs the places of all points, and so the whole layout
        place_labels(line[0], _places(of["p50"], look), np.empty((0, 2)))
        for nameless in [text for text in line[0].texts if not text.get_text()]:
            nameless.remove()
    return whole


def _curves(data: SweepData, task: str, quantile: str) -> Curves:
    names = {name: m for c in data.of(task) for name in c.summary if (m := LEVEL.fullmatch(name))}
    levels = sorted((m[1], float(m[2]), name) for name, m in names.items())
    curves: Curves = {}
    for kind, level, name in levels:
        throughput = estimates(data, task, name)
        for label, latency in estimates(data, task, f"{name.rpartition('/')[0]}/latency_s_{quantile}").items():
            if label in throughput:
                curves.setdefault(label, []).append(Point(kind, level, throughput[label].value, latency))
    return curves


def _draw(ax: Axes, curves: Curves, look: Look, axis: str, more: list[str]) -> None:
    for label in filter(curves.__contains__, look.labels):
        for kind in "cr":
            points = [point for point in curves[label] if point.kind == kind]
            xs, ys = [p.latency.value for p in points], [p.throughput for p in points]
            colour = look.colours[label]
            low, high = [p.latency.low for p in points], [p.latency.high for p in points]
            ax.hlines(ys, low, high, color=colour, linewidth=1, alpha=0.45)
            ax.plot(
                xs,
                ys,
                look.markers[label],
                color=colour,
                linestyle="-" if kind == "c" else (0, (4, 2)),
                linewidth=1,
                markerfacecolor=colour if kind == "c" else "white",
                markersize=5,
                label=label,
            )
    ax.margins(x=0.12, y=0.12)
    look.number_axis(ax.xaxis, 5)
    look.number_axis(ax.yaxis, 6)
    ax.set_xlabel("\n".join([*textwrap.wrap(axis, 45), *more]))


def _axis(quantile: str, wide: bool, look: Look) -> str:
    axis = look.word("load_axis", quantile=quantile)
    return look.word("logarithmic", axis=axis) if wide else axis


def _places(curves: Curves, look: Look) -> list[Place]:
    """Each candidate's name at its highest level, and the levels along the line of the first that has all of them."""
    first = max(filter(curves.__contains__, look.labels), key=lambda label: len(curves[label]))
    places = []
    for label, points in curves.items():
        for point in points:
            level = look.number(point.level) + ("/s" if point.kind == "r" else "")
            places.append(Place(level if label == first else "", point.latency.value, point.throughput))
        last = max(points, key=lambda point: (point.kind == "c", point.level))
        places.append(Place(look.names[label], last.latency.value, last.throughput))
    return places
