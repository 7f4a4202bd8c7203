"""The table of technical numbers, drawn: to be put beside the plots in print."""

from __future__ import annotations

import math
from typing import Optional, Sequence

from matplotlib.axes import Axes

from vlm_eval.report.data import Candidate, SweepData
from vlm_eval.report.plots.letters import LINE_CM, SMALL, drawable, width_cm
from vlm_eval.report.plots.style import FAINT, INK, MEDIUM, WIDTH_CM, Drawing, Look, new_figure
from vlm_eval.report.verdicts import Verdicts

COLUMNS = {  # name in summary.json -> whether it is a share
    "tech/weights_gib": False,
    "tech/gpu_peak_gib": False,
    "tech/host_peak_gib": False,
    "tech/latency_s_p50": False,
    "tech/latency_s_p95": False,
    "tech/output_tokens_per_s": False,
    "tech/length_chars_mean": False,
    "tech/failed_rate": True,
    "tech/truncated_rate": True,
}
HEAD_CM, EDGE_CM, NAMES_AT_CM = 1.3, 0.2, 0.75


def technical(data: SweepData, verdicts: Verdicts, look: Look) -> Optional[Drawing]:
    """A row a candidate, task below task; columns that no run has are left out."""
    columns = [name for name in COLUMNS if any(name in c.summary for c in data.candidates if c.ok)]
    if not columns:
        return None
    task_cm = LINE_CM + 0.35
    height = 1.0 + HEAD_CM + sum(task_cm + look.row_cm * len(look.labels) for _ in data.tasks)
    figure = new_figure(height)
    figure.set_layout_engine("none")  # the places of a table are not a matter of its letters' sizes
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH_CM), ylim=(height, 0))
    ax.set_axis_off()
    names_cm = NAMES_AT_CM + 0.2 + max(width_cm(line) for name in look.names.values() for line in name.split("\n"))
    step = (WIDTH_CM - EDGE_CM - names_cm) / len(columns)
    ends = {name: names_cm + step * (number + 1) for number, name in enumerate(columns)}
    digits = {name: _digits([c.summary[name] for c in data.candidates if c.ok and name in c.summary]) for name in ends}
    y = 1.0 + HEAD_CM
    for name, x in ends.items():
        _say(ax, x, y - 0.1, look.word(f"table {name}"), ha="right", va="bottom", color=FAINT)
    for task in data.tasks:
        ax.plot([EDGE_CM, WIDTH_CM - EDGE_CM], [y, y], color=INK, linewidth=0.8)
        _say(ax, EDGE_CM, y + task_cm / 2, drawable(look.text.task(task)), weight="bold", size=MEDIUM)
        y += task_cm
        runs = {c.label: c for c in data.of(task)}
        for label in look.labels:
            middle = y + look.row_cm / 2
            ax.plot([0.4], [middle], look.markers[label], color=look.colours[label], markersize=5.5)
            _say(ax, NAMES_AT_CM, middle, look.names[label])
            for name, x in ends.items():
                _say(ax, x, middle, **_cell(runs.get(label), name, digits[name], look), ha="right")
            y += look.row_cm
            ax.plot([EDGE_CM, WIDTH_CM - EDGE_CM], [y, y], color="#e6e9ee", linewidth=0.5)
    return look.drawing(figure, "technical")


def _digits(values: Sequence[float]) -> int:
    """Digits after the comma, the same in all of a column, so that its smallest number has three that count."""
    smallest = min((abs(value) for value in values if value), default=100.0)
    return max(0, min(4, 2 - math.floor(math.log10(smallest))))


def _cell(run: Optional[Candidate], name: str, digits: int, look: Look) -> dict[str, str]:
    if run is None or not run.ok or name not in run.summary:
        return {"words": look.word("no_data_cell"), "color": FAINT, "style": "italic"}
    if COLUMNS[name]:  # one answer of 200 is not 0 %
        return {"words": f"{look.text.number(100 * run.summary[name], 1)}\N{NO-BREAK SPACE}%"}
    return {"words": look.text.number(run.summary[name], digits)}


def _say(ax: Axes, x: float, y: float, words: str, **style) -> None:
    """At centimetres from the figure's left and upper edge."""
    ax.text(x, y, words, **{"va": "center", "size": SMALL, **style})
