"""Quality against what it costs, with the candidates that no other beats in both."""

from __future__ import annotations

import textwrap
from typing import Mapping, Optional

import numpy as np
from matplotlib.axes import Axes

from vlm_eval.report.data import SweepData
from vlm_eval.report.plots.direct_labels import Place, place_labels
from vlm_eval.report.plots.letters import SMALL, drawable
from vlm_eval.report.plots.rows import Estimate, estimates, without_interval
from vlm_eval.report.plots.style import FAINT, Drawing, Look, new_figure
from vlm_eval.report.verdicts import Verdicts

LATENCY = ("tech/latency_s_p50",)
MEMORY = ("tech/weights_gib", "tech/gpu_peak_gib", "tech/host_peak_gib")  # the first that any run has

Points = dict[str, tuple[float, Estimate]]  # label -> cost, quality


def quality_latency(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("quality_latency", LATENCY, data, verdicts, look)


def quality_memory(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    return _drawn("quality_memory", MEMORY, data, verdicts, look)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Labels of (cost, quality) points than which no other is at least as cheap and as good and one of both more,
    from the cheapest on."""

    def dominated(cost: float, quality: float) -> bool:
        return any((c <= cost and q >= quality) and (c, q) != (cost, quality) for c, q in points.values())

    kept = [label for label, point in points.items() if not dominated(*point)]
    return sorted(kept, key=lambda label: points[label])


def _drawn(name: str, costs: tuple[str, ...], data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    if verdicts.quality is None:
        return None
    found: dict[str, Points] = {}
    cost = next((c for c in costs if any(estimates(data, task, c) for task in data.tasks)), None)
    for task in data.tasks:
        quality = estimates(data, task, verdicts.quality)
        spent = estimates(data, task, cost) if cost else {}
        both = {
            label: (spent[label].value, quality[label]) for label in look.labels if label in spent and label in quality
        }
        found |= {task: both} if both else {}
    if not found:
        return None
    figure = new_figure(1.0 + len(found) * min(16.0, 6.5 + 0.35 * len(look.labels)))
    grid = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for ax, (task, points) in zip(grid, found.items()):
        _draw(ax, points, look)
        ax.set_title(drawable(look.text.task(task)))
        if ax is grid[0]:
            ax.set_title(look.word("better"), loc="right", size=SMALL, color=FAINT)
        ax.set_ylabel(look.text.metric(verdicts.quality))
        missing = [look.names[label].replace("\n", " ") for label in look.labels if label not in points]
        said = textwrap.wrap(f"{look.word('no_data')}: {', '.join(missing)}", 100) if missing else []
        ax.set_xlabel("\n".join([look.metric(cost), *said]))
    few = without_interval([{label: e for label, (_, e) in points.items()} for points in found.values()])
    words = {"quality": look.text.metric(verdicts.quality), "cost": look.metric(cost)}
    whole = look.drawing(figure, name, {"no_interval": few}, **words)
    for ax, points in zip(grid, found.values()):  # needs the places of all points, and so the whole layout
        places = [Place(look.names[label], x, e.value, e.low, e.high) for label, (x, e) in points.items()]
        best = np.array([[points[label][0], points[label][1].value] for label in _front(points)])
        corners = np.column_stack([best[1:, 0], best[:-1, 1]])  # right first, then up
        place_labels(ax, places, np.insert(best, range(1, len(best)), corners, axis=0))
    return whole


def _front(points: Points) -> list[str]:
    return front({label: (x, found.value) for label, (x, found) in points.items()})


def _draw(ax: Axes, points: Points, look: Look) -> None:
    best = _front(points)
    ax.step(
        [points[label][0] for label in best],
        [points[label][1].value for label in best],
        where="post",
        color=FAINT,
        linewidth=1,
        linestyle=(0, (4, 2)),
        zorder=1,
        label="front",
    )
    for label, (x, found) in points.items():
        colour = look.colours[label]
        ax.errorbar([x], [found.value], yerr=found.whiskers, fmt="none", ecolor=colour, elinewidth=1, alpha=0.45)
        ax.plot(
            [x],
            [found.value],
            look.markers[label],
            color=colour,
            markerfacecolor=colour if label in best else "white",
            markersize=7,
            zorder=5,  # a name may cover another's whisker, never its mark
            label=label,
        )
    ax.margins(x=0.12, y=0.12)
    look.number_axis(ax.xaxis, 8)
    look.number_axis(ax.yaxis, 6)
