"""Whatever bytes a table is made of: rows of text, or one line that names the file."""

from __future__ import annotations

import csv
import io
import json
from zipfile import ZipFile

import pandas
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vlm_eval.errors import BadInput
from vlm_eval.tables import TABLES, read_table

PIECES = [
    *(b",", b'"', b"\n", b"\r", b"\r\n", b"\0", b";", b"\t", b" ", b"#", b"'", b"\\", b"{", b"}", b"[", b"]", b":"),
    *(
        b"item_id",
        b"image",
        b"a.png",
        "я".encode(),
        "я".encode("cp1251"),
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ),
    *(
        b"NaN",
        b"null",
        b"true",
        b"1e400",
        b"9" * 40,
        b"9" * 5000,
        b"[" * 2000,
        b'{"a":' * 2000,
        b'{"a": 1}\n',
        b'"\\ud800"',
    ),
    *(b"PK\3\4", b"PAR1", b"\1\2"),
]
contents = st.one_of(st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join), st.binary(max_size=200))
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("suffix", TABLES)
@quick
@given(contents)
@example(b"PK\3\4" + b"\0" * 100)
@example(b"PAR1" + b"\xff" * 100 + b"PAR1")
def test_any_bytes(tmp_path, suffix, content):
    rows_or_one_line(tmp_path / f"t{suffix}", content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A right table of each kind that is no text, as bytes; the workbook's parts not compressed, so as to be hit."""
    folder = tmp_path_factory.mktemp("tables")
    frame = pandas.DataFrame({"item_id": ["a", "b"], "image": ["a.png", None], "n": [1, 2.5]})
    frame.to_parquet(folder / "t.parquet")
    frame.to_excel(folder / "deflated.xlsx")
    with ZipFile(folder / "deflated.xlsx") as packed, ZipFile(folder / "t.xlsx", "w") as stored:
        for name in packed.namelist():
            stored.writestr(name, packed.read(name))
    return {suffix: (folder / f"t{suffix}").read_bytes() for suffix in (".xlsx", ".parquet")}


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
@quick
@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=5))
def test_a_damaged_table(tmp_path, whole, suffix, damage):
    content = whole[suffix]
    for where, gone, new in damage:
        place = int(where * len(content))
        content = content[:place] + new + content[place + gone :]
    rows_or_one_line(tmp_path / f"t{suffix}", content)


def rows_or_one_line(file, content: bytes) -> None:
    file.write_bytes(content)
    try:
        rows = read_table(file)
    except BadInput as error:
        assert str(error).startswith(f"{file}: ") and "\n" not in str(error)
        return
    assert rows and len({tuple(row) for row in rows}) == 1  # every row has the same columns
    assert all(isinstance(name, str) and isinstance(cell, str) for row in rows for name, cell in row.items())


@quick
@given(st.lists(st.lists(cells.filter(lambda cell: cell.strip()), min_size=2, max_size=2), min_size=1, max_size=5))
def test_a_csv_gives_its_cells_as_they_are(tmp_path, rows):
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["one", "two"], *rows])
    (tmp_path / "t.csv").write_bytes(out.getvalue().encode())
    assert [list(row.values()) for row in read_table(tmp_path / "t.csv")] == rows


@quick
@given(st.lists(st.fixed_dictionaries({"one": cells, "two": cells}), min_size=1, max_size=5))
def test_json_lines_give_their_cells_as_they_are(tmp_path, rows):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_table(tmp_path / "t.jsonl") == rows
