"""The parts of a report, one after the other."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Optional

from vlm_eval.comparison import in_several_goes
from vlm_eval.gate import Limits
from vlm_eval.report.data import SweepData, read_sweep
from vlm_eval.report.markdown import write_markdown
from vlm_eval.report.page import write_page
from vlm_eval.report.plots import write_plots
from vlm_eval.report.screenshots import write_screenshots
from vlm_eval.report.texts import Texts
from vlm_eval.report.verdicts import decide
from vlm_eval.report.workbooks import write_workbooks
from vlm_eval.store import read_json, write_json

DEFAULT_MARGIN = 0.05
OPTIONS = "options.json"  # what the report in a sweep's folder was made with
PARTS = ("answers", "plots", "screenshots")  # folders that hold files of this report alone


def write_report(
    folder: Path,
    out: Optional[Path] = None,
    language: Optional[str] = None,
    baseline: Optional[str] = None,
    margin: Optional[float] = None,
    max_latency_p95: Optional[float] = None,
    max_gib: Optional[float] = None,
) -> Path:
    """Everything into `out`; the folder it is in. BadInput for a folder that is no sweep."""
    given = {"language": language, "baseline": baseline, "margin": margin}
    given |= {"max_latency_p95": max_latency_p95, "max_gib": max_gib}
    data, text = read_sweep(folder), Texts(language or "ru")
    margin = margin or data.sweep.get("statistics", {}).get("margin") or DEFAULT_MARGIN
    verdicts = decide(data, baseline, Limits(margin, max_latency_p95=max_latency_p95, max_gib=max_gib), text)
    out = out or folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:  # a report of fewer plots or items leaves nothing of the one before
        shutil.rmtree(out / part, ignore_errors=True)
    files, missing = write_screenshots(data, out)
    notes = [*_failed(data, text), *verdicts.notes, *different_data(data, text), *map(text.reason, data.notes)]
    notes += _in_several_goes(data, text)
    notes += [text("screenshot_missing", count=len(missing), name=missing[0])] if missing else []
    plots = write_plots(data, verdicts, out, text)
    write_workbooks(data, files, out, text)
    write_markdown(data, verdicts, notes, plots, out, text)
    write_page(data, verdicts, notes, plots, files, out, text)
    write_json(out / OPTIONS, {name: value for name, value in given.items() if value is not None})
    return out


def remake_report(folder: Path) -> Path:
    """The report in a sweep's folder again, as a person had it made."""
    return write_report(folder, **read_json(folder / "report" / OPTIONS))


def _failed(data: SweepData, text: Texts) -> list[str]:
    """Runs that did not end well, and how many answers the others lack."""
    said = []
    for c in data.candidates:
        name = f"{c.label}, {text.task(c.task)}"
        lacking = sum(answer.text is None for answer in c.answers.values())
        if not c.ok:
            said.append(text("failed_run", run=name, state=c.run.state, error=c.run.error or "–"))
        elif lacking:
            said.append(f"{name}: {text('failed_answers', count=lacking, total=len(c.answers))}")
    return said


def _in_several_goes(data: SweepData, text: Texts) -> list[str]:
    """Runs whose tokens/s must not be read as one batch's."""
    runs = [f"{c.label}, {text.task(c.task)}" for c in data.candidates if in_several_goes(c.summary)]
    return [text("several_goes", runs="; ".join(runs))] if runs else []


def different_data(data: SweepData, text: Texts) -> list[str]:
    """A sentence a task whose runs were not asked the same: another picture or question, or none at all."""
    said = []
    for task in data.tasks:
        asked = [c for c in data.of(task) if c.items]
        things = defaultdict(set)
        for c in asked:
            for item in c.items.values():
                things[item.item_id].add((item.image_sha256, item.question))
        apart = [name for name, found in things.items() if len(found) > 1 or any(name not in c.items for c in asked)]
        if apart:
            said.append(text("different_data", task=text.task(task), count=len(apart)))
    return said
