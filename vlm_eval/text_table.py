"""A plain table for a terminal."""

from __future__ import annotations

from typing import Any, Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their cells; numbers to the right, words to the left."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    width = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right)).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * w for w in width), *map(line, cells[1:])])


def _is_number(cell: str) -> bool:
    return not cell or cell.rstrip("%").replace(".", "", 1).replace("-", "", 2).replace("e", "", 1).isdigit()
