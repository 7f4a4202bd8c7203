"""Read a table of a data set: CSV, JSON lines, XLSX or Parquet, every cell as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Collection, Optional

from vlm_eval.errors import BadInput

TABLES = (".csv", ".jsonl", ".xlsx", ".parquet")


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
        raise BadInput(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if frame.empty:
        raise BadInput(f"{path}: the table has no rows")
    frame.columns = [str(name).strip() for name in frame.columns]
    if only is not None and not any(name in only for name in frame.columns):
        raise BadInput(f"{path}: has none of the columns {', '.join(only)}; it has {', '.join(frame.columns)}")
    if only is not None:  # the others may be most of the table, e.g. a judge's rationales
        frame = frame[[name for name in frame.columns if name in only]]
    return [{k: _text(v) for k, v in row.items()} for row in frame.to_dict("records")]


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
