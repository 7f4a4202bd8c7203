"""index.html: one page that opens from the disk and asks nobody for anything.

A small sweep is in it whole. Over INLINE_BYTES the screenshots stay in files beside it, and so do the answers, in parts
that the page loads when one of their items is opened.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from statistics import fmean
from typing import Any, Optional, Sequence

from vlm_eval.comparison import HEADLINES
from vlm_eval.report.data import Candidate, SweepData
from vlm_eval.report.screenshots import Shown, place
from vlm_eval.report.texts import Texts
from vlm_eval.report.verdicts import Verdicts, quality_of
from vlm_eval.rows import Item, Judgement
from vlm_eval.statistics.by_answer import FULL_MARKS

HERE = Path(__file__).parent
INLINE_BYTES = 7_000_000  # of screenshots and answers
ITEMS_A_PART = 100


def write_page(
    data: SweepData,
    verdicts: Verdicts,
    notes: Sequence[str],
    plots: Sequence[Any],
    files: dict[Shown, str],
    out: Path,
    text: Texts,
) -> Path:
    """The page in `out`; `plots` have title, caption and svg."""
    from jinja2 import Environment, FileSystemLoader

    entries = [
        _entry(data, task, item, files, verdicts.quality) for task in data.tasks for item in data.items(task).values()
    ]
    parts = [[e.pop("more") for e in entries[i : i + ITEMS_A_PART]] for i in range(0, len(entries), ITEMS_A_PART)]
    texts = [_json(part) for part in parts]
    pictures = sorted({e["image"] for e in entries if e["image"]})
    size = sum(len(t.encode()) for t in texts) + sum((out / p).stat().st_size * 4 // 3 for p in pictures)
    inline = size <= INLINE_BYTES
    if not inline:
        (out / "answers").mkdir(exist_ok=True)
        for number, part in enumerate(texts):
            (out / "answers" / f"{number}.js").write_text(f"window.vlmEvalPart({number}, {part});\n", encoding="utf-8")
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("page.html").render(
        language=text.language,
        say=text.all["page"],
        data=data,
        verdicts=verdicts,
        notes=notes,
        plots=[(p.title, p.caption, _data_uri(p.svg, "image/svg+xml")) for p in plots],
        rows=_json(_runs(data, text)),
        columns=_json(_columns(data, text)),
        entries=_json(entries),
        items_a_part=ITEMS_A_PART,
        parts=texts if inline else [],
        pictures=_json({p: _data_uri(out / p, "image/jpeg") for p in pictures} if inline else {}),
        labels=_json(data.labels),
        words=_json(text.all["page"]),
        tasks=_json({task: text.task(task) for task in data.tasks}),
        tabulator=(HERE / "static" / "tabulator.min.js").read_text(encoding="utf-8"),
        tabulator_css=(HERE / "static" / "tabulator_simple.min.css").read_text(encoding="utf-8"),
        css=(HERE / "static" / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "static" / "page.js").read_text(encoding="utf-8"),
    )
    (out / "index.html").write_text(html, encoding="utf-8", errors="backslashreplace")
    return out / "index.html"


def _columns(data: SweepData, text: Texts) -> list[dict[str, Any]]:
    shown = [name for name in HEADLINES if any(name in c.summary for c in data.candidates)]
    return [{"name": name, "title": text.metric(name)} for name in shown]


def _runs(data: SweepData, text: Texts) -> list[dict[str, Any]]:
    """A row a run, ok or not: each of its numbers with its words, which are those of report.md."""
    rows = []
    for c in data.candidates:
        # [value to sort by, its words, its interval's words or None]
        numbers = {n: [c.summary[n], *text.with_interval(c.summary, n)] for n in HEADLINES if n in c.summary}
        rows.append(
            {"candidate": c.label, "task": text.task(c.task), "state": c.run.state, "error": c.run.error, **numbers}
        )
    return rows


def _entry(data: SweepData, task: str, item: Item, files: dict[Shown, str], quality: Optional[str]) -> dict[str, Any]:
    """What the list needs of one item; "more" is what opening it shows."""
    answers, scores, errors = [], {}, bool(item.error)
    image = None
    for c in data.of(task):
        if item.item_id not in c.items:
            continue
        image = image or place(files, c.data_root, c.items[item.item_id].image)
        mine = c.keys_of.get(item.item_id, [])
        values = [v for key in mine if (v := quality_of(c, key, quality)) is not None]
        if values:
            scores[c.label] = fmean(values)
        for key in mine:
            answers.append(_answer(c, key))
            errors = errors or c.answers[key].error is not None or any(j["error"] for j in answers[-1]["judgements"])
    return {
        "item": item.item_id,
        "task": task,
        "device": item.device or "",
        "question": item.question or "",
        "image": image,
        "errors": errors,
        "lowest": min(scores.values()) if scores else None,
        "spread": max(scores.values()) - min(scores.values()) if scores else None,
        "more": {"reference": item.reference, "facts": list(item.facts), "error": item.error, "answers": answers},
    }


def _answer(c: Candidate, key: tuple[str, int]) -> dict[str, Any]:
    answer = c.answers[key]
    return {
        "candidate": c.label,
        "repeat": answer.repeat,
        "text": answer.text,
        "error": answer.error,
        "found": c.score(key, "facts_hits") or [],
        "missed": c.score(key, "facts_misses") or [],
        "invented": c.score(key, "facts_inventions") or [],
        "judgements": [_judgement(j) for j in c.judgements_of.get(key, [])],
    }


def _judgement(j: Judgement) -> dict[str, Any]:
    return {
        "judge": j.judge,
        "order": j.order,
        "repeat": j.judge_repeat,
        "score": j.candidate_score,
        "reference": FULL_MARKS if j.order == "single" else j.reference_score,
        "rationale": j.rationale,
        "status": j.status,
        "error": None if j.status == "ok" else j.error or j.status,
    }


def _json(thing: Any) -> str:
    """JSON that can stand in a script element: no answer can end it or begin a comment."""
    text = json.dumps(thing, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter, escape in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(letter, escape)
    # Half an emoji, as a server's JSON may hold, cannot be UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _data_uri(file: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
