"""Ctrl-C and SIGTERM. Once: what runs is told to stop and what is known is written, within END_WITHIN_S. Twice, or when
that time is over: now."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

END_WITHIN_S = 9.5  # from the first signal to the exit
STOPPED = "stopped by a signal"  # what status.json says of a run that one ended
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_first: Optional[int] = None
_watchdog: Optional[threading.Timer] = None
_at_once: list[Callable[[], None]] = []  # what must be done even when there is no time


@contextmanager
def heard() -> Iterator[None]:
    """Around a command: the first signal raises KeyboardInterrupt or SystemExit(128 + number) where it works."""
    global _first, _watchdog
    before = {number: signal.signal(number, _hear) for number in HEARD}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _watchdog:
            _watchdog.cancel()
        _first = _watchdog = None


def interrupted() -> bool:
    """Whether a signal has come; what is long and can be made again is then left out."""
    return _first is not None


@contextmanager
def at_once(step: Callable[[], None]) -> Iterator[None]:
    """While this lasts, `step` is done before this process ends at once: a child must not outlive it."""
    _at_once.append(step)
    try:
        yield
    finally:
        _at_once.remove(step)


def _hear(number: int, _: Any) -> None:
    global _first, _watchdog
    if _first is not None:
        _end(number, "stopped at once by a second signal")
    _first = number
    # An exception can get lost: in a destructor, in a library that catches all. The exit must not.
    _watchdog = threading.Timer(END_WITHIN_S, _end, [number, f"not all was ended {END_WITHIN_S:g} s after the signal"])
    _watchdog.daemon = True
    _watchdog.start()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _end(number: int, why: str) -> None:
    try:
        for step in reversed(_at_once):
            step()
        os.write(2, f"vlm-eval: {why}; rows written so far are whole\n".encode())
    finally:
        os._exit(128 + number)
