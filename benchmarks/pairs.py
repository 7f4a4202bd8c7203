"""Two ways of doing the same thing, in turn, in one go: a shared machine's drift hits both, so their ratio holds."""

from __future__ import annotations

import platform
import statistics
from typing import Callable


def compare(name: str, ours: Callable[[], float], other: Callable[[], float], runs: int, limit: str) -> float:
    """Run A B A B ... after one uncounted warm-up each; print medians and the median of the ratios ours/other."""
    ours(), other()
    pairs = [(ours(), other()) for _ in range(runs)]
    ratios = sorted(a / b for a, b in pairs)
    ratio = statistics.median(ratios)
    a, b = (statistics.median(column) for column in zip(*pairs))
    print(
        f"{name}: ours {a:.3g}, other {b:.3g}, ratio {ratio:.3f} (min {ratios[0]:.3f}, max {ratios[-1]:.3f}, "
        f"{runs} pairs); {limit}",
        flush=True,
    )
    return ratio


def machine() -> str:
    import os

    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
