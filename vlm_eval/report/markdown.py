"""report.md: the headline and the table of runs, for a pull request or a wiki."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Sequence

from vlm_eval.comparison import HEADLINES
from vlm_eval.report.data import Candidate, SweepData
from vlm_eval.report.texts import Texts
from vlm_eval.report.verdicts import Verdicts


def write_markdown(
    data: SweepData, verdicts: Verdicts, notes: Sequence[str], plots: Sequence[Any], out: Path, text: Texts
) -> Path:
    say = text.all["page"]
    lines = [f"# {say['title']}: {_plain(data.sweep['sweep_id'])}", ""]
    for line in verdicts.recommendations:
        lines += [f"**{_plain(line)}**", ""]
    lines += [f"- {_plain(line)}" for line in verdicts.sentences] + [""]
    if notes:
        lines += [f"## {say['notes']}", "", *(f"- {_plain(note)}" for note in notes), ""]
    names = [name for name in HEADLINES if any(name in c.summary for c in data.candidates)]
    head = [say["candidate"], say["task"], say["state"], *(text.metric(name) for name in names)]
    lines += [f"## {say['runs']}", "", _row(head), _row(["---"] * 3 + ["---:"] * len(names))]
    lines += [_row(_cells(c, names, text)) for c in data.candidates]
    lines += ["", say["interval"], ""]
    if plots:
        lines += [f"## {say['plots']}", ""]
        for plot in plots:
            lines += [f"![{_plain(plot.title)}]({plot.png.relative_to(out).as_posix()})", "", _plain(plot.caption), ""]
    lines += [f"{say['command']}:", "", *(f"    {line}" for line in data.sweep["command"].splitlines()), ""]
    file = out / "report.md"
    file.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
    return file


def _cells(c: Candidate, names: Sequence[str], text: Texts) -> list[str]:
    state = c.run.state + (f": {c.run.error}" if c.run.error else "")
    return [_plain(c.label), text.task(c.task), _plain(state), *(_number(c, name, text) for name in names)]


def _number(c: Candidate, name: str, text: Texts) -> str:
    return " ".join(filter(None, text.with_interval(c.summary, name))) if name in c.summary else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """One line whose letters Markdown and HTML leave alone."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))
