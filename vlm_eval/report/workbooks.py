"""The study's three workbooks, each with a row an answer and a sheet of means a run, with their intervals.

summary_test_stats.xlsx: what was answered and how fast; auto_metrics_stats.xlsx: what the metrics say of each answer;
judgement_scores.xlsx: what the judges say, in each order.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from vlm_eval.report.data import Candidate, Key, SweepData
from vlm_eval.report.screenshots import Shown, place
from vlm_eval.report.texts import Texts
from vlm_eval.tables import neutral
from vlm_eval.tasks.remote_images import shown_name

CELL_CHARS = 32_000  # Excel's own limit is 32,767, an emoji counts twice
LITERAL_CHARS = 200  # of a formula's text; Excel's own limit is 255, quotes count twice
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what a workbook's XML cannot hold
KEY_WIDTHS = {"task": 18, "candidate": 22, "item": 22, "repeat": 8, "screenshot": 24, "device": 11}
KEY_WIDTHS |= {"state": 10, "question": 30}
Row = dict[str, Any]


def write_workbooks(data: SweepData, files: Mapping[Shown, str], out: Path, text: Texts) -> list[Path]:
    """The three workbooks in `out`, where the screenshots' links hold."""
    kinds: dict[str, tuple[Callable[[Candidate, Key], Row], Callable[[str], bool]]] = {
        "summary_test_stats": (_technical, lambda name: name.startswith("tech/")),
        "auto_metrics_stats": (_metrics, lambda name: not name.startswith(("tech/", "judge"))),
        "judgement_scores": (_judged, lambda name: name.startswith("judge")),
    }
    return [
        _write(out / f"{name}.xlsx", data, files, text, columns, of_kind) for name, (columns, of_kind) in kinds.items()
    ]


def _technical(c: Candidate, key: Key) -> Row:
    answer, timed = c.answers[key], c.timed.get(key)
    return {
        "answer": answer.text,
        "error": answer.error,
        "length_chars": None if answer.text is None else len(answer.text),
        "output_tokens": answer.output_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "visual_tokens": answer.visual_tokens,
        "finish_reason": answer.finish_reason,
        "latency_s": timed and timed.latency_s,
        "ttft_s": timed and timed.ttft_s,
        "latency_error": timed and timed.error,
    }


def _metrics(c: Candidate, key: Key) -> Row:
    score = c.scores.get(key)
    row: Row = {"answer": c.answers[key].text, "error": c.answers[key].error, "reference": c.items[key[0]].reference}
    if score:
        row |= {name: value for name, value in score.values.items() if name != "length_chars"}
        row["unscored"] = "; ".join(f"{metric}: {why}" for metric, why in score.unscored.items()) or None
    return row


def _judged(c: Candidate, key: Key) -> Row:
    """The mean over orders first, as the match ratio takes it, then each judgement by itself."""
    match = c.matches.get(key)
    row: Row = {"answer": c.answers[key].text, "error": c.answers[key].error, "reference": c.items[key[0]].reference}
    row |= {"candidate_score": match and match[1], "reference_score": match and match[2]}
    row["match_ratio"] = match[1] / match[2] if match and match[2] else None
    for j in c.judgements_of.get(key, []):
        name = f"{j.judge} {j.order}" + (f" {j.judge_repeat}" if j.judge_repeat else "")
        row |= {f"{name} candidate_score": j.candidate_score, f"{name} reference_score": j.reference_score}
        row |= {f"{name} status": j.status if j.error is None else f"{j.status}: {j.error}"}
        row |= {f"{name} rationale": j.rationale}
    return row


def _write(
    file: Path,
    data: SweepData,
    files: Mapping[Shown, str],
    text: Texts,
    columns_of: Callable[[Candidate, Key], Row],
    of_kind: Callable[[str], bool],
) -> Path:
    import xlsxwriter

    plain = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    book = xlsxwriter.Workbook(file, {"constant_memory": True, **plain})
    try:
        _write_means(_Sheet(book, text.all["workbooks"]["means"], text), data, of_kind, text)
        _write_answers(_Sheet(book, text.all["workbooks"]["answers"], text), data, files, columns_of, text)
    finally:
        book.close()
    return file


def _write_means(sheet: _Sheet, data: SweepData, of_kind: Callable[[str], bool], text: Texts) -> None:
    """A row a run, failed ones too: each number of its summary with the interval and n beside it."""
    names = sorted({name for c in data.candidates for name in c.summary if of_kind(name)}, key=_with_its_interval)
    widths = {"candidate": 22, "task": 18, "state": 10, "error": 30} | {name: 14 for name in names}
    sheet.head(widths, frozen=2)
    for c in data.candidates:
        row = {"candidate": c.label, "task": text.task(c.task), "state": c.run.state, "error": c.run.error}
        sheet.row(row | {name: c.summary.get(name) for name in names})
    sheet.finish()


def _with_its_interval(name: str) -> tuple[str, int]:
    """Sorts a number before its interval and that before its n."""
    for place_, end in enumerate(("_ci_low", "_ci_high", "_n"), start=1):
        if name.endswith(end):
            return name.removesuffix(end), place_
    return name, 0


def _write_answers(
    sheet: _Sheet,
    data: SweepData,
    files: Mapping[Shown, str],
    columns_of: Callable[[Candidate, Key], Row],
    text: Texts,
) -> None:
    """A row an answer; a run without answers is a row with its error."""
    names: dict[str, None] = {"error": None}
    for c in data.candidates:
        for key in c.answers:
            names |= dict.fromkeys(columns_of(c, key))
    texts = ("answer", "reference", "rationale", "error")
    sheet.head(KEY_WIDTHS | {name: 50 if name.rpartition(" ")[2] in texts else 13 for name in names}, frozen=3)
    for c in data.candidates:
        about = {"task": text.task(c.task), "candidate": c.label, "state": c.run.state}
        if not c.answers:
            sheet.row(about | {"error": c.run.error or c.run.state})
        for key in sorted(c.answers):  # by item and repeat, as of every candidate
            item = c.items[key[0]]
            asked = {"item": item.item_id, "repeat": key[1], "screenshot": shown_name(item), "device": item.device}
            row = about | asked | {"question": item.question} | columns_of(c, key)
            sheet.row(row, {"screenshot": place(files, c.data_root, item.image)})
    sheet.finish()


class _Sheet:
    """One sheet, written row by row."""

    def __init__(self, book: Any, name: str, text: Texts):
        self.sheet, self.text = book.add_worksheet(name), text
        top = {"valign": "top", "text_wrap": True}
        self.formats = {
            "head": book.add_format({"bold": True, "text_wrap": True, "bottom": 1, "valign": "top"}),
            "text": book.add_format(top),
            "link": book.add_format({**top, "font_color": "blue", "underline": 1}),
            "count": book.add_format({**top, "num_format": "#,##0"}),
            "number": book.add_format({**top, "num_format": "0.000"}),
            "usd": book.add_format({**top, "num_format": "0.000000"}),  # an answer costs less than a thousandth
        }
        self.names: list[str] = []
        self.rows = 0

    def head(self, widths: Mapping[str, int], frozen: int) -> None:
        """Columns by name, with their widths in characters; the first `frozen` of them stay in sight."""
        self.names = list(widths)
        for number, (name, width) in enumerate(widths.items()):
            self.sheet.set_column(number, number, width)
            self.sheet.write_string(0, number, _cell(self.text.all["columns"].get(name, name)), self.formats["head"])
        self.sheet.freeze_panes(1, frozen)

    def row(self, values: Row, links: Optional[Mapping[str, Optional[str]]] = None) -> None:
        self.rows += 1
        for number, name in enumerate(self.names):
            value, link = values.get(name), (links or {}).get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self._text(number, _cell(value), link)
            else:
                kind = "count" if isinstance(value, int) or name.endswith("_n") else "number"
                kind = "usd" if "usd" in name else kind
                self.sheet.write_number(self.rows, number, value, self.formats[kind])

    def _text(self, number: int, value: str, link: Optional[str]) -> None:
        if link and len(value) <= LITERAL_CHARS:
            # A formula and no hyperlink of XlsxWriter's: those have the other slashes, and at most 65,530 a sheet.
            name = value.replace('"', '""')
            self.sheet.write_formula(self.rows, number, f'=HYPERLINK("{link}","{name}")', self.formats["link"], value)
        elif value.startswith("<r>") and value.endswith("</r>"):
            # XlsxWriter would take it for markup of its own and write it into the sheet's XML as it is.
            whole = self.formats["text"]
            self.sheet.write_rich_string(self.rows, number, whole, value[0], value[1:], whole)
        else:
            self.sheet.write_string(self.rows, number, value, self.formats["text"])

    def finish(self) -> None:
        self.sheet.autofilter(0, 0, self.rows, max(len(self.names) - 1, 0))


def _cell(value: Any) -> str:
    """Text that a workbook can hold: no formula, no control characters, no half letters, not too long."""
    text = neutral("; ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.encode("utf-8", "replace").decode())
    kept = text.encode("utf-16-le")[: 2 * CELL_CHARS].decode("utf-16-le", "ignore")
    return text if kept == text else f"{kept} [… {len(text) - len(kept)}]"
