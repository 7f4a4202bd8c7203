"""Forest plot: each candidate's difference to the baseline on the answers both have."""

from __future__ import annotations

from typing import Optional

from matplotlib.axes import Axes

from vlm_eval.report.data import SweepData
from vlm_eval.report.plots.letters import SMALL, drawable
from vlm_eval.report.plots.rows import Estimate, Panel, dot, mark_missing, row_grid, say_in_row, side_by_side
from vlm_eval.report.plots.style import FAINT, INK, NO_DATA, Drawing, Look
from vlm_eval.report.verdicts import Verdicts
from vlm_eval.sweep_statistics import Pair

SHOWN, EQUIVALENT = "★", "≈"


def paired(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    """None where no candidate could be compared."""
    runs = {c.run.folder: c for c in data.candidates}
    pairs: dict[str, dict[str, Pair]] = {}  # task -> label -> pair
    for pair in verdicts.pairs:
        run = runs[pair.point.run.folder]
        pairs.setdefault(run.task, {})[run.label] = pair
    pairs = {task: of for task, of in pairs.items() if any(pair.found for pair in of.values())}
    if not pairs:
        return None
    quality = look.text.metric(verdicts.quality)
    axis = look.word("difference", quality=quality)
    panels = [Panel(look.text.task(task), axis, {}, "difference") for task in pairs]
    figure, grid = row_grid(side_by_side(panels), look)
    for ax, panel, of in zip(grid, panels, pairs.values()):
        _draw(ax, of, verdicts.limits.margin, look)
        against = {runs[pair.baseline.run.folder].label for pair in of.values() if pair.baseline}
        for label in against - set(of):
            say_in_row(ax, label, look.word("baseline"), look)
        mark_missing(ax, {**{label: 0 for label in against}, **{k: v for k, v in of.items() if v.found}}, look)
        ax.set_title(drawable(panel.title))
        ax.set_xlabel(axis)
        look.number_axis(ax.xaxis)
    margin = look.text.number(verdicts.limits.margin, 3).rstrip("0")
    words = {"quality": quality, "baseline": drawable(verdicts.baseline), "margin": margin}
    few = any(pair.found and pair.found.low is None for of in pairs.values() for pair in of.values())
    return look.drawing(figure, "paired", {"no_interval": few}, **words)


def _draw(ax: Axes, pairs: dict[str, Pair], margin: float, look: Look) -> None:
    ax.axvspan(-margin, margin, color=NO_DATA, alpha=0.35, linewidth=0, zorder=0)
    for side in (-margin, margin):
        ax.axvline(side, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.axvline(0, color=INK, linewidth=1, zorder=1)
    ax.text(1.02, 1.0, look.word("p_holm"), transform=ax.transAxes, color=FAINT, size=SMALL, va="bottom")
    for label, pair in pairs.items():
        if pair.found is None:
            continue
        found = pair.found
        shown = found.shown in ("higher", "lower")
        dot(ax, label, Estimate(found.difference, found.low, found.high), look, filled=shown)
        p = "–" if found.p_holm is None else _p(found.p_holm, look)
        marks = (SHOWN if shown else "") + (EQUIVALENT if found.equivalent else "")
        ax.text(
            1.02,
            look.rows[label],
            f"{p} {marks}".rstrip(),
            transform=ax.get_yaxis_transform(),
            va="center",
            size=SMALL,
            weight="bold" if shown else "normal",
        )


def _p(value: float, look: Look) -> str:
    return f"< {look.text.number(0.001, 3)}" if value < 0.001 else look.text.number(value, 3)
