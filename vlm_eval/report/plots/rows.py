"""Panels whose rows are the candidates, in the one order, with a dot and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlm_eval.report.data import Candidate, SweepData
from vlm_eval.report.plots.letters import SMALL, drawable
from vlm_eval.report.plots.style import FAINT, INK, Look, new_figure


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, of which there is none under 5 screenshots."""

    value: float
    low: Optional[float] = None
    high: Optional[float] = None

    @property
    def whiskers(self) -> Optional[list[list[float]]]:
        """Distances down and up, shape (2, 1)."""
        if self.low is None or self.high is None:
            return None
        return [[max(0.0, self.value - self.low)], [max(0.0, self.high - self.value)]]


@dataclass(frozen=True)
class Panel:
    title: str
    axis: str  # what the numbers are
    values: Mapping[str, Estimate]  # label -> number; a label that is not there has no data
    alike: object  # panels of the same kind share one scale
    reference: Optional[float] = None  # where a vertical line stands
    least: tuple[float, ...] = ()  # numbers that the axis has in any case


def finished(data: SweepData, task: str) -> list[Candidate]:
    """Runs of the task that ended well: the numbers of any other may be of a part of the items."""
    return [c for c in data.of(task) if c.ok]


def estimates(data: SweepData, task: str, name: str) -> dict[str, Estimate]:
    """label -> a number of summary.json with its interval, where the run has it."""
    return {
        c.label: Estimate(c.summary[name], c.summary.get(f"{name}_ci_low"), c.summary.get(f"{name}_ci_high"))
        for c in finished(data, task)
        if name in c.summary
    }


def side_by_side(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Panels of one kind, two beside each other."""
    return [list(panels[start : start + 2]) for start in range(0, len(panels), 2)]


def dot_figure(panels: Sequence[Sequence[Panel]], look: Look) -> Figure:
    """The panels as they are nested, row by row, with the candidates' names at the left."""
    figure, grid = row_grid(panels, look)
    for panel, ax in zip((p for line in panels for p in line), grid):
        if panel.reference is not None:
            ax.axvline(panel.reference, color=INK, linewidth=1, zorder=1)
        for label in look.labels:
            if label in panel.values:
                dot(ax, label, panel.values[label], look)
        ax.update_datalim([(number, 0) for number in panel.least])
        ax.set_title(drawable(panel.title))
        ax.set_xlabel(panel.axis)
        look.number_axis(ax.xaxis, 4 if len(panels[0]) > 2 else 5)
        mark_missing(ax, panel.values, look)
    return figure


def row_grid(panels: Sequence[Sequence[Panel]], look: Look) -> tuple[Figure, list[Axes]]:
    """A figure and an axes for each of the panels; alike ones share the scale of their numbers."""
    columns = max(len(line) for line in panels)
    figure = new_figure(1.0 + len(panels) * (1.8 + look.row_cm * len(look.labels)))
    grid, first = [], {}
    for row, line in enumerate(panels):
        for column, panel in enumerate(line):
            place = row * columns + column + 1
            ax = figure.add_subplot(len(panels), columns, place, sharex=first.get(panel.alike))
            first.setdefault(panel.alike, ax)
            as_rows(ax, look, names=column == 0)
            grid.append(ax)
    return figure, grid


def as_rows(ax: Axes, look: Look, names: bool) -> None:
    """Candidates from top to bottom."""
    ax.set_ylim(len(look.labels) - 0.5, -0.5)
    ax.set_yticks(range(len(look.labels)), [look.names[label] if names else "" for label in look.labels])
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def dot(ax: Axes, label: str, found: Estimate, look: Look, filled: bool = True) -> None:
    colour = look.colours[label]
    ax.errorbar(
        [found.value],
        [look.rows[label]],
        xerr=found.whiskers,
        fmt=look.markers[label],
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=4.5,
        elinewidth=1.4,
        label=label,
    )


def mark_missing(ax: Axes, there: Mapping[str, object], look: Look) -> None:
    """A candidate without numbers keeps its row, and the row says so."""
    for label in look.labels:
        if label not in there:
            say_in_row(ax, label, look.word("no_data"), look)


def say_in_row(ax: Axes, label: str, words: str, look: Look) -> None:
    ax.text(
        0.03,
        look.rows[label],
        words,
        transform=ax.get_yaxis_transform(),
        va="center",
        color=FAINT,
        size=SMALL,
        style="italic",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def without_interval(values: Sequence[Mapping[str, Estimate]]) -> bool:
    return any(found.whiskers is None for panel in values for found in panel.values())


def jitter(count: int) -> np.ndarray:
    """`count` heights within -0.5..0.5 that look random and are the same each time (golden ratio)."""
    return (np.arange(count) * 0.6180339887) % 1 - 0.5
