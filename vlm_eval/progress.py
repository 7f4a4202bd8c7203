"""Progress: the run's process reports lines of JSON, the parent shows one line a stage."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from typing import Any, Optional, Sequence, TextIO

SHOW_EVERY_S = 0.2
_drawing = threading.Lock()  # runs side by side share one terminal


class Reporter:
    """In the run's process: says which stage it is in and how far, to the pipe the parent reads; and asks the parent,
    which answers on another, before a stage for which others may have to make room."""

    def __init__(self, out: Optional[TextIO], answers: Optional[TextIO] = None):
        self.out, self.answers, self.stage = out, answers, None

    def ask(self, stage: str, **need: Any) -> dict[str, Any]:
        """Wait until the stage may begin; what the parent grants for it (vlm_eval.scheduling): {} where it has nothing
        to say, or where there is no parent. From then on this process sees the cards it was granted, and no other."""
        self.stage = stage
        if self.out is None or self.answers is None:
            return {}
        print(json.dumps({"stage": stage, "asks": need}), file=self.out, flush=True)
        if not (answer := self.answers.readline()):
            raise EOFError("the sweep's process is gone")
        granted = json.loads(answer)
        if granted.get("cards"):
            os.environ["CUDA_VISIBLE_DEVICES"] = granted["cards"]
        return granted

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        self.stage = stage
        if self.out is not None:
            line = json.dumps({"stage": stage, "done": done, "total": total, "note": note}, ensure_ascii=False)
            print(line, file=self.out, flush=True)

    def ask_for_one_card(self, stage: str, gib: Sequence[Optional[float]]) -> None:
        """ask() for what takes so much of a GPU each, one after the other; None: all of it."""
        largest = None if None in gib else max(gib, default=0.0)
        self.ask(stage, cards=0 if largest == 0.0 else 1, gib=largest)

    def handed_over(self) -> None:
        """The last word of a process whose run another one goes on with."""
        print(json.dumps({"stage": self.stage, "handed_over": True}), file=self.out, flush=True)

    def failed(self, error: str, engine_died: bool) -> None:
        """The last word, for a parent that may find no status.json: the disk may be full."""
        if self.out is not None:
            message = {"stage": self.stage or "start", "error": error, "engine_died": engine_died}
            print(json.dumps(message, ensure_ascii=False), file=self.out, flush=True)


class Display:
    """In the parent: one line a stage with counts and rate, redrawn on a terminal, once per stage elsewhere."""

    def __init__(self, label: str):
        self.label, self.out, self.live = label, sys.stderr, sys.stderr.isatty()
        self.stage: Optional[str] = None
        self.text, self.began, self.shown = "", 0.0, 0.0

    def show(self, message: dict[str, Any]) -> None:
        if message["stage"] != self.stage:
            self.end()
            self.stage, self.began = message["stage"], time.monotonic()
        self.text = self._line(message)
        if self.live and time.monotonic() - self.shown > SHOW_EVERY_S:
            self._draw()

    def _line(self, message: dict[str, Any]) -> str:
        seconds = time.monotonic() - self.began
        done, total = message["done"], message["total"]
        count = f" {done}/{total}" if total else ""
        rate = f", {done / seconds:.1f}/s" if done and seconds > 0.05 else ""
        note = f", {message['note']}" if message["note"] else ""
        return f"{self.label}  {message['stage']}{count}{rate}{note}"

    def _draw(self, end: str = "") -> None:
        # A line that wraps could not be redrawn: \r goes back to its last row only.
        width = shutil.get_terminal_size().columns - 1
        with _drawing:
            self.out.write(f"\r\x1b[K{self.text[:width]}{end}" if self.live else f"{self.text}{end}")
            self.out.flush()
        self.shown = time.monotonic()

    def end(self) -> None:
        """Leave the finished stage's line standing, with its time."""
        if self.stage is not None:
            self.text += f", {time.monotonic() - self.began:.1f} s"
            self._draw("\n")
            self.stage = None


class Shown(Reporter):
    """A reporter whose stage is in this very process: it goes to the display."""

    def __init__(self, display: Display):
        super().__init__(None)
        self.display = display

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        self.display.show({"stage": stage, "done": done, "total": total, "note": note})
