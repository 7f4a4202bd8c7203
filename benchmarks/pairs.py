"""Two ways of doing the same thing, in turn, in one go: a shared machine's drift hits both, so their ratio holds."""

from __future__ import annotations

import platform
import statistics
from typing import Callable, Mapping


def compare(name: str, ours: Callable[[], float], other: Callable[[], float], runs: int, limit: str) -> float:
    """Run A B A B ... after one uncounted warm-up each; print medians and the median of the ratios ours/other."""
    ours(), other()
    return compare_all(lambda: {name: ours()}, lambda: {name: other()}, runs, limit)[name]


def compare_all(
    ours: Callable[[], Mapping[str, float]], other: Callable[[], Mapping[str, float]], runs: int, limit: str
) -> dict[str, float]:
    """The same of things that measure several figures at once, by their names, without a warm-up."""
    pairs = [(ours(), other()) for _ in range(runs)]
    found = {}
    for name in pairs[0][1]:
        ratios = sorted(a[name] / b[name] for a, b in pairs)
        found[name] = statistics.median(ratios)
        a, b = (statistics.median(one[name] for one in column) for column in zip(*pairs))
        print(
            f"{name}: ours {a:.3g}, other {b:.3g}, ratio {found[name]:.3f} (min {ratios[0]:.3f}, max {ratios[-1]:.3f}, "
            f"{runs} pairs); {limit}",
            flush=True,
        )
    return found


def machine() -> str:
    import os

    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
