"""The report's plots: each as PNG and SVG in OUT/plots, in the order of PLOTS.

seaborn and matplotlib are imported by the modules that draw, when the first plot is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vlm_eval.report.data import SweepData
from vlm_eval.report.texts import Texts
from vlm_eval.report.verdicts import Verdicts

PLOTS = {  # name of the files and of the texts -> module here; its function of that name draws
    "technical": "technical",
    "match_ratio": "intervals",
    "paired": "paired",
    "facts": "intervals",
    "rouge": "intervals",
    "bleurt": "intervals",
    "perplexity": "intervals",
    "quality_latency": "tradeoff",
    "quality_memory": "tradeoff",
    "item_heatmap": "heatmap",
    "answer_length": "distributions",
    "latency": "distributions",
    "load": "load",
    "judge_order": "intervals",
}


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    caption: str  # one or two sentences: what one sees, and what the interval is
    png: Path
    svg: Path


def write_plots(data: SweepData, verdicts: Verdicts, out: Path, text: Texts) -> list[Plot]:
    """Draws what the runs have numbers for into `out`/plots; a plot without any number is left out."""
    from vlm_eval.report.plots.style import Look, save, styled

    folder, look, plots = out / "plots", Look(data.labels, text), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLOTS:  # of an earlier report: a plot that is not drawn now would still lie there
        (folder / f"{name}.png").unlink(missing_ok=True)
        (folder / f"{name}.svg").unlink(missing_ok=True)
    with styled():
        for name, module in PLOTS.items():
            draw = getattr(import_module(f"{__name__}.{module}"), name)
            drawing = draw(data, verdicts, look)
            if drawing is not None:
                png, svg = save(drawing.figure, folder / name)
                plots.append(Plot(name, drawing.title, drawing.caption, png, svg))
    return plots
