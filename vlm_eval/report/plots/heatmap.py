"""The quality of every item and candidate: where all fail, and where one does."""

from __future__ import annotations

from statistics import fmean
from typing import Optional

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from vlm_eval.report.data import SweepData
from vlm_eval.report.plots.letters import LINE_CM, drawable, shortened, width_cm
from vlm_eval.report.plots.rows import finished
from vlm_eval.report.plots.style import FAINT, NO_DATA, WIDTH_CM, Drawing, Look, new_figure
from vlm_eval.report.verdicts import Verdicts, quality_of

MAX_NAMED = 30  # items; of more the rows are too low for names
ITEM_CM = 4.0  # of an item's name
HATCH = {"facecolor": NO_DATA, "edgecolor": "#8a94a3", "hatch": "////", "linewidth": 0}


def item_heatmap(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    """A panel a task; items from the lowest mean to the highest, and those without any value last."""
    tables = {task: _table(data, verdicts.quality, task, look) for task in data.tasks}
    tables = {task: (names, values) for task, (names, values) in tables.items() if np.isfinite(values).any()}
    if not tables:
        return None
    heights = [max(2.5, 0.42 * len(names)) if len(names) <= MAX_NAMED else 9.5 for names, _ in tables.values()]
    named = any(len(names) <= MAX_NAMED for names, _ in tables.values())
    heads, turned = _heads(look, (WIDTH_CM - 2.5 - named * ITEM_CM) / len(look.labels))
    head_cm = max(width_cm(line) for head in heads for line in head.split("\n")) if turned else 3 * LINE_CM
    figure = new_figure(1.2 + sum(heights) + len(heights) * (1.2 + head_cm))
    grid = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    everything = np.concatenate([values.ravel() for _, values in tables.values()])
    columns = np.arange(1, len(look.labels))
    for ax, (task, (names, values)) in zip(grid, tables.items()):
        ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, **HATCH, zorder=0))
        seaborn.heatmap(
            values,
            ax=ax,
            mask=np.isnan(values),
            vmin=np.nanmin(everything),
            vmax=np.nanmax(everything),
            cmap="cividis",
            rasterized=True,  # 2,000 items x 20 candidates as shapes would be megabytes
            xticklabels=False,
            yticklabels=False,
            cbar=False,
        )
        ax.vlines(columns, 0, len(names), color="white", linewidth=0.8)
        if len(names) <= MAX_NAMED:
            ax.hlines(np.arange(1, len(names)), 0, len(look.labels), color="white", linewidth=0.8)
        _axes(ax, names, heads, turned, drawable(look.text.task(task)), look)
    bar = figure.colorbar(grid[0].collections[0], ax=grid.tolist(), aspect=40, pad=0.02, shrink=0.7)
    bar.outline.set_visible(False)
    bar.set_label(look.text.metric(verdicts.quality))
    look.number_axis(bar.ax.yaxis)
    words = {"quality": look.text.metric(verdicts.quality)}
    holes = bool(np.isnan(everything).any())
    if holes:
        key = [Patch(label=look.word("no_data"), **HATCH)]
        grid[-1].legend(handles=key, loc="upper right", bbox_to_anchor=(1, 0), frameon=False, borderaxespad=0.3)
    return look.drawing(figure, "item_heatmap", {"item_heatmap_missing": holes}, **words)


def _table(data: SweepData, quality: Optional[str], task: str, look: Look) -> tuple[list[str], np.ndarray]:
    """Items' names and their values (items x candidates in the one order), nan where there is none."""
    runs = {c.label: c for c in finished(data, task)}
    rows: list[tuple[float, str, list[float]]] = []
    for item_id in data.items(task):
        row = []
        for label in look.labels:
            keys = runs[label].keys_of.get(item_id, []) if label in runs else []
            found = [v for key in keys if (v := quality_of(runs[label], key, quality)) is not None]
            row.append(fmean(found) if found else np.nan)
        there = [v for v in row if not np.isnan(v)]
        rows.append((fmean(there) if there else np.inf, item_id, row))
    rows.sort(key=lambda row: row[:2])
    return [name for _, name, _ in rows], np.array([row for *_, row in rows]).reshape(len(rows), len(look.labels))


def _heads(look: Look, cell_cm: float) -> tuple[list[str], bool]:
    """Candidates' names above the columns, and whether they are turned."""
    level = shortened(look.labels, cell_cm - 0.15, 3)
    words = (word for label in look.labels for word in drawable(label).split())
    if max(map(width_cm, words), default=0) < cell_cm - 0.15 and not any("…" in head for head in level):
        return level, False
    lines = max(1, min(3, int(cell_cm / LINE_CM)))
    return shortened(look.labels, 5.5 if lines == 1 else 4.5, lines), True


def _axes(ax: Axes, names: list[str], heads: list[str], turned: bool, task: str, look: Look) -> None:
    ax.set_xticks(np.arange(len(heads)) + 0.5, heads, rotation=90 if turned else 0, multialignment="left")
    ax.tick_params(axis="x", length=0, labeltop=True, labelbottom=False)
    ax.set_title(task)
    if len(names) <= MAX_NAMED:
        ax.set_yticks(np.arange(len(names)) + 0.5, shortened(names, ITEM_CM, 1), rotation=0)
        ax.tick_params(axis="y", length=0)
    else:
        ax.set_ylabel(look.word("items", count=len(names)), color=FAINT)
