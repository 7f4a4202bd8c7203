"""Names beside their points instead of a legend: each where it covers least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from vlm_eval.report.plots.letters import SMALL
from vlm_eval.report.plots.style import FAINT, settle

DISTANCES = (7, 16, 28, 44, 64, 90, 130)  # points from the middle of the mark to the nearest edge of the name
DIRECTIONS = [math.radians(d) for d in (0, 45, 315, 180, 135, 225, 90, 270, 20, 340, 160, 200)]  # right first
LEADER = 12  # points: from a name further away a line leads to its mark
MARK = 5  # points: half a mark's size


@dataclass(frozen=True)
class Place:
    """A name and its point, in the axes' numbers; low and high are the ends of its whisker."""

    name: str
    x: float
    y: float
    low: Optional[float] = None
    high: Optional[float] = None


def place_labels(ax: Axes, places: Sequence[Place], path: np.ndarray) -> None:
    """Greedy: one name after the other, from the most crowded point on; `path` (points x 2, in the axes' numbers) is a
    line of level and upright pieces that the names had better not cover."""
    settle(ax.figure)
    scale = ax.figure.dpi / 72
    middles = ax.transData.transform([(p.x, p.y) for p in places])
    marks = np.array([_around(middle, middle, MARK * scale) for middle in middles])
    whiskers = [((p.x, p.low), (p.x, p.high)) for p in places if p.low is not None]
    whiskers = _boxes([_around(*ax.transData.transform(ends), scale) for ends in whiskers])
    line = _boxes([_around(*ax.transData.transform(ends), 2 * scale) for ends in zip(path[:-1], path[1:])])
    frame, taken = _boxes([ax.bbox.extents]), []
    distances = np.hypot(*(middles[:, None] - middles[None]).T)
    for number in np.argsort(-(1 / (1 + distances)).sum(axis=0), kind="stable"):
        text = ax.text(0, 0, places[number].name, size=SMALL, linespacing=1.0)
        size = text.get_window_extent(ax.figure.canvas.get_renderer())
        text.remove()
        options = [(_box(middles[number], d, a, size, scale), d) for d in DISTANCES for a in DIRECTIONS]

        def cost(option: tuple[np.ndarray, int], area: float = size.width * size.height) -> float:
            box, distance = option
            covered = 10 * _covered(box, _boxes(taken)) + 12 * _covered(box, marks)
            covered += 3 * _covered(box, line) + _covered(box, whiskers)
            return covered + 20 * (area - _covered(box, frame)) + 2 * distance * scale**2

        box, distance = min(options, key=cost)
        taken.append(box + np.array([-2, -2, 2, 2]) * scale)
        _write(ax, places[number], middles[number], box, distance, scale)


def _box(middle: np.ndarray, distance: float, angle: float, size: Bbox, scale: float) -> np.ndarray:
    """Left, bottom, right and top, in pixels, of a name of that size that begins at that distance in that direction."""
    right, up = math.cos(angle), math.sin(angle)
    x, y = middle + np.array([right, up]) * distance * scale
    # Beside the point it begins or ends there, above and below it is centred.
    left = x - size.width * (0 if right > 0.3 else 1 if right < -0.3 else 0.5)
    below = y - size.height * (0 if up > 0.3 else 1 if up < -0.3 else 0.5)
    return np.array([left, below, left + size.width, below + size.height])


def _around(start: np.ndarray, end: np.ndarray, half: float) -> np.ndarray:
    """The box of a level or upright line."""
    return np.concatenate([np.minimum(start, end) - half, np.maximum(start, end) + half])


def _boxes(boxes: Sequence[np.ndarray]) -> np.ndarray:
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """Square pixels that the box shares with the others (boxes x 4)."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.maximum(shared, 0), axis=1).sum())


def _write(ax: Axes, place: Place, middle: np.ndarray, box: np.ndarray, distance: float, scale: float) -> None:
    if distance > LEADER:  # to the point of the name's box that is nearest to the mark
        ends = np.array([middle, np.clip(middle, box[:2], box[2:])])
        xs, ys = ax.transData.inverted().transform(ends).T
        ax.plot(xs, ys, color=FAINT, linewidth=0.6, zorder=2, scalex=False, scaley=False)
    ax.annotate(
        place.name,
        (place.x, place.y),
        tuple((box[:2] - middle) / scale),
        textcoords="offset points",
        size=SMALL,
        linespacing=1.0,
        multialignment="right" if box[2] < middle[0] else "left",
        zorder=4,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
    )
