"""What all plots have in common: names, colours and marks of the candidates, letters, sizes, files."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Iterator, Mapping, Sequence

import matplotlib
import seaborn
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vlm_eval.report.plots.letters import FONT, LINE_CM, SMALL, shortened
from vlm_eval.report.texts import Texts

WIDTH_CM = 17.0  # as printed; every size in points holds at this width
CM = 1 / 2.54  # inches
DPI = 200
RASTER_DPI = 120  # of what is pixels in an SVG too: the page holds them all
MEDIUM, LARGE = 9, 11  # points
NAME_CM, NAME_LINES = 4.3, 3
INK, FAINT, NO_DATA = "#1a202c", "#5f6b7a", "#d9dde3"
# seaborn's colorblind palette without its grey (that is for what is missing) and its two colours too light for lines
COLOURS = [seaborn.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9)]
MARKERS = "osD^vPXp"  # as many more than colours that 56 candidates differ


@dataclass(frozen=True)
class Drawing:
    figure: Figure
    title: str
    caption: str


class Look:
    """How candidates and numbers look: the same in every plot, in the order of `labels`."""

    def __init__(self, labels: Sequence[str], text: Texts):
        self.labels, self.text = list(labels), text
        self.rows = {label: number for number, label in enumerate(self.labels)}
        self.colours = {label: COLOURS[number % len(COLOURS)] for label, number in self.rows.items()}
        self.markers = {label: MARKERS[number % len(MARKERS)] for label, number in self.rows.items()}

    @cached_property
    def names(self) -> dict[str, str]:
        """label -> as it is drawn, in lines."""
        return dict(zip(self.labels, shortened(self.labels, NAME_CM, NAME_LINES)))

    @property
    def row_cm(self) -> float:
        """Height of a candidate's row."""
        return LINE_CM * max(name.count("\n") + 1 for name in self.names.values()) + 0.2

    def word(self, name: str, **words: Any) -> str:
        return self.text.all["plots"][name].format(**words)

    def metric(self, name: str) -> str:
        """A number of summary.json beside its axis."""
        return self.text.all["plots"].get(name) or self.text.metric(name)

    def drawing(
        self, figure: Figure, name: str, more: Mapping[str, bool] = MappingProxyType({}), **words: Any
    ) -> Drawing:
        """The figure with its title above it; `more`: further sentences of the caption, and whether they are true."""
        title = self.word(f"{name}_title", **words)
        words_of = {"x": 0.01, "ha": "left", "size": LARGE, "weight": "bold"}
        if figure.get_layout_engine() is None:  # which would find the place
            words_of |= {"y": 1 - 0.2 * CM / figure.get_figheight(), "va": "top"}
        figure.suptitle("\n".join(textwrap.wrap(title, 75)), **words_of)
        captions = [f"{name}_caption", *(key for key, true in more.items() if true)]
        return Drawing(figure, title, " ".join(self.word(key, **words) for key in captions))

    def number(self, value: float) -> str:
        """As short as it is exact, for an axis."""
        short = f"{value:.10g}".replace("-", "−")
        return short.replace(".", ",") if self.text.language == "ru" else short

    def number_axis(self, axis: Axis, ticks: int = 5) -> None:
        """Ticks at round numbers, written as the language writes them."""
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 3) if ticks > 4 else (1,), numticks=ticks + 2))
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda value, _: self.number(value))


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib as the plots want it, and afterwards as it was."""
    sizes = {"font.size": SMALL, "axes.titlesize": MEDIUM, "axes.labelsize": SMALL, "legend.fontsize": SMALL}
    sizes |= {"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "figure.titlesize": LARGE}
    ours = {
        "font.family": FONT,
        "text.color": INK,
        "text.parse_math": False,  # a $ in a name is a $
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.linewidth": 0.5,
        "hatch.linewidth": 0.5,
        "svg.fonttype": "path",  # a page that is sent on looks the same where the font is not
    }
    with matplotlib.rc_context({**seaborn.axes_style("whitegrid"), **sizes, **ours}):
        yield


def new_figure(height_cm: float) -> Figure:
    """An empty figure as wide as a printed page; it belongs to nobody, so that there is nothing to close."""
    figure = Figure(figsize=(WIDTH_CM * CM, height_cm * CM), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1 * CM, h_pad=0.1 * CM, wspace=0.03, hspace=0.02)
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> None:
    """Lays the figure out, once: from here on its places stay as they are."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """STEM.png and STEM.svg; the same numbers give the same bytes."""
    settle(figure)
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(png, dpi=DPI)
    with matplotlib.rc_context({"svg.hashsalt": stem.name}):
        figure.savefig(svg, dpi=RASTER_DPI, metadata={"Date": None})
    return png, svg
