"""How long answers are, and how long they take: all of them, not only the mean."""

from __future__ import annotations

from statistics import median
from typing import Optional

from matplotlib.axes import Axes

from vlm_eval.report.data import SweepData
from vlm_eval.report.plots.letters import drawable
from vlm_eval.report.plots.rows import Panel, finished, jitter, mark_missing, row_grid, side_by_side
from vlm_eval.report.plots.style import INK, Drawing, Look
from vlm_eval.report.verdicts import Verdicts

WIDE = 20  # times the median: from there on the scale is logarithmic
Values = dict[str, list[float]]  # label -> a number an answer


def answer_length(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    """Letters of every answer that is one."""
    lengths = {
        task: {c.label: [len(a.text) for a in c.answers.values() if a.text is not None] for c in finished(data, task)}
        for task in data.tasks
    }
    return _drawn("answer_length", lengths, look)


def latency(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    """Seconds of every answer that was timed alone."""
    seconds = {
        task: {c.label: [x.latency_s for x in c.latencies if x.latency_s is not None] for c in finished(data, task)}
        for task in data.tasks
    }
    return _drawn("latency", seconds, look)


def _drawn(name: str, values: dict[str, Values], look: Look) -> Optional[Drawing]:
    values = {task: {label: numbers for label, numbers in of.items() if numbers} for task, of in values.items()}
    values = {task: of for task, of in values.items() if of}
    if not values:
        return None
    panels = [Panel(look.text.task(task), look.word(f"{name}_axis"), {}, task) for task in values]
    figure, grid = row_grid(side_by_side(panels), look)
    for ax, panel, of in zip(grid, panels, values.values()):
        everything = [number for numbers in of.values() for number in numbers]
        wide = max(everything) > WIDE * median(everything) and min(everything) > 0
        if wide:  # one that ran into a timeout would leave the others a single line
            ax.set_xscale("log")
        _draw(ax, of, look)
        ax.set_title(drawable(panel.title))
        ax.set_xlabel(look.word("logarithmic", axis=panel.axis) if wide else panel.axis)
        look.number_axis(ax.xaxis)
        mark_missing(ax, of, look)
    return look.drawing(figure, name)


def _draw(ax: Axes, values: Values, look: Look) -> None:
    """A box from quartile to quartile with the median, and a point an answer."""
    for label, numbers in values.items():
        colour, row = look.colours[label], look.rows[label]
        ax.plot(
            numbers,
            row + 0.6 * jitter(len(numbers)),
            look.markers[label],
            color=colour,
            markersize=3,
            markeredgewidth=0,
            alpha=max(0.1, min(0.7, 40 / len(numbers))),
            rasterized=True,
            label=label,
        )
    ax.boxplot(
        list(values.values()),
        positions=[look.rows[label] for label in values],
        orientation="horizontal",
        widths=0.6,
        showfliers=False,  # they are points already
        manage_ticks=False,
        boxprops={"color": INK, "linewidth": 0.9},
        medianprops={"color": INK, "linewidth": 2},
        whiskerprops={"color": INK, "linewidth": 0.9},
        capprops={"color": INK, "linewidth": 0.9},
    )
