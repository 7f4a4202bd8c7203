"""Tables: those of data sets, read with every cell as text (CSV, JSON lines, XLSX or Parquet), and cells of ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Collection, Optional

from vlm_eval.errors import BadInput

TABLES = (".csv", ".jsonl", ".xlsx", ".parquet")
# What makes a spreadsheet program take a cell of a CSV for a formula; the wide ones are those of Japanese keyboards.
FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@＝＋－＠]")
NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")


def read_table(path: Path, only: Optional[Collection[str]] = None) -> list[dict[str, str]]:
    """All rows, a dict each, with all columns or `only` those that are there; an empty cell is "". BadInput names the
    file and what is wrong with it."""
    import pandas as pd  # here, so that --help and config errors do not pay for it

    readers = {
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig"),
        ".jsonl": lambda: pd.DataFrame(_json_lines(path), dtype=object),  # pandas' own makes 404 beside null a 404.0
        ".xlsx": lambda: pd.read_excel(path, dtype=str, keep_default_na=False),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix.lower() not in readers:
        raise BadInput(f"{path}: a table ends in {', '.join(TABLES)}")
    if not path.is_file():
        raise BadInput(f"{path}: no such table")
    try:
        frame = readers[path.suffix.lower()]()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise BadInput(f"{path}: the table is empty") from error
    except Exception as error:  # each reader has its own: ParserError, ValueError, BadZipFile, ArrowInvalid
        said = str(error).splitlines() or [type(error).__name__]
        raise BadInput(f"{path}: cannot be read: {said[0]}") from error
    if frame.empty:
        raise BadInput(f"{path}: the table has no rows")
    frame.columns = [str(name).strip() for name in frame.columns]
    if only is not None and not any(name in only for name in frame.columns):
        raise BadInput(f"{path}: has none of the columns {', '.join(only)}; it has {', '.join(frame.columns)}")
    if only is not None:  # the others may be most of the table, e.g. a judge's rationales
        frame = frame[[name for name in frame.columns if name in only]]
    return [{k: _text(v) for k, v in row.items()} for row in frame.to_dict("records")]


def neutral(text: str) -> str:
    """Text of data, models and judges for a cell of a workbook or a CSV: an apostrophe before what some program would
    take for a formula, at the latest when a workbook is saved as CSV and opened again. A number stays as it is."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def _json_lines(path: Path) -> list[dict[str, object]]:
    rows = []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            rows += [row] if row is not None else []
    return rows


def _text(value: object) -> str:
    """A cell as text; lists (JSON lines, Parquet) as JSON, missing values as ""."""
    if isinstance(value, str):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None or value != value else str(value)
