"""The three workbooks, opened again with openpyxl and with LibreOffice."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from openpyxl import load_workbook

from tests.report.sweep import make_sweep
from vlm_eval.report.write import write_report
from vlm_eval.rows import Judgement, Latency
from vlm_eval.store import RunFolder

BOOKS = ("summary_test_stats", "auto_metrics_stats", "judgement_scores")
LONG = "я" * 40_000
TEXTS = {"item/0": "=1+1", "item/1": "<b>жирно</b>\x07", "item/2": LONG, "item/3": "half \ud83d", "item/4": "007"}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = make_sweep(
        tmp_path_factory.mktemp("books") / "s", quants=("gptq4", "awq", "bf16"), failed=["awq"], texts=TEXTS
    )
    run = RunFolder(folder / "demo-bf16-vqa")
    first, *others = run.read("judgements")
    refused = Judgement(first.item_id, 0, "stern", "ab", 0, True, None, None, None, "refused", error="не буду")
    run.replace("judgements", [refused, *others])
    return write_report(folder, language="en")


def table(sheet) -> list[dict]:
    head, *rows = sheet.iter_rows()
    return [{name.value: cell for name, cell in zip(head, row, strict=True)} for row in rows]


@pytest.mark.parametrize("name_of_book", BOOKS)
def test_every_answer_is_a_row_and_a_failed_run_is_one_with_its_reason(report, name_of_book):
    sheet = load_workbook(report / f"{name_of_book}.xlsx")["answers"]
    rows = table(sheet)
    assert sheet.freeze_panes == "D2" and sheet.auto_filter.ref.startswith("A1:")
    assert [row["model"].value for row in rows] == ["demo gptq4"] * 6 + ["demo awq"] + ["demo bf16"] * 6
    assert rows[6]["error"].value == "out of <memory>" and rows[6]["answer"].value is None
    [linked, name] = re.fullmatch(r'=HYPERLINK\("(.+)","(.+)"\)', rows[0]["screenshot"].value).groups()
    assert name == "images/0.png" and (report / linked).is_file()
    shown = table(load_workbook(report / f"{name_of_book}.xlsx", data_only=True)["answers"])
    assert shown[0]["screenshot"].value == "images/0.png"


def test_texts_are_as_they_were(report):
    rows = table(load_workbook(report / "summary_test_stats.xlsx")["answers"])
    said = [row["answer"] for row in rows[:6]]
    assert said[0].value == "'=1+1" and said[0].data_type == "s"  # a formula's beginning, see tests/test_formulas.py
    assert said[1].value == "<b>жирно</b>\N{REPLACEMENT CHARACTER}"
    assert said[2].value == LONG[:32_000] + " [… 8000]"
    assert said[3].value == "half ?"
    assert said[4].value == "007" and said[4].data_type == "s"
    assert rows[2]["length, characters"].value == 40_000 and rows[2]["length, characters"].number_format == "#,##0"


def test_texts_that_would_break_a_workbook(tmp_path):
    """XlsxWriter's own markup, Excel's escapes, letters of two units: Excel counts those twice."""
    texts = {"item/0": "<r>жирно & <b></r>", "item/1": "_x0041_", "item/2": "😀" * 20_000, "item/3": " a\n b "}
    out = write_report(make_sweep(tmp_path / "s", texts=texts), language="en")
    rows = table(load_workbook(out / "summary_test_stats.xlsx")["answers"])
    markup, escape, emoji, spaces = (row["answer"] for row in rows[:4])
    assert markup.value == texts["item/0"] and markup.data_type == "s"
    assert escape.value in (texts["item/1"], "_x005F_x0041_")  # openpyxl leaves Excel's escape of the escape
    assert emoji.value == "😀" * 16_000 + " [… 4000]"
    assert spaces.value == texts["item/3"]


def test_judgements_stand_by_judge_and_order_and_a_refusal_is_no_zero(report):
    rows = table(load_workbook(report / "judgement_scores.xlsx")["answers"])
    first, of_bf16 = rows[0], rows[7]
    assert [first[f"stern {order} candidate_score"].value for order in ("ab", "ba")] == [4, 4]
    assert first["match ratio"].value == pytest.approx(0.4) and first["match ratio"].number_format == "0.000"
    assert first["stern ba rationale"].value == "потому что ba <b>gptq4</b>"
    assert of_bf16["stern ab candidate_score"].value is None
    assert of_bf16["stern ab status"].value == "refused: не буду"
    assert of_bf16["candidate's score"].value == 9  # of the other order alone


@pytest.mark.parametrize(
    "name, number", list(zip(BOOKS, ("tech/weights_gib", "facts/recall_mean", "judge/match_ratio")))
)
def test_means_are_those_of_the_summary(report, name, number):
    rows = table(load_workbook(report / f"{name}.xlsx")["means"])
    assert [row["state"].value for row in rows] == ["ok", "failed", "ok"]
    for row, quant in zip(rows, ("gptq4", "awq", "bf16"), strict=True):
        summary = RunFolder(report.parent / f"demo-{quant}-vqa").summary()
        names = [n for n in row if "/" in n]
        assert number in names
        assert {n: row[n].value for n in names if row[n].value is not None} == pytest.approx(
            {n: v for n, v in summary.items() if n in names}
        )
    if number != "tech/weights_gib":
        names = list(rows[0])
        assert names[names.index(number) + 1 :][:3] == [f"{number}_ci_low", f"{number}_ci_high", f"{number}_n"]
        assert rows[0][f"{number}_n"].number_format == "#,##0"


def test_a_sweep_without_a_judge_has_empty_judgements(tmp_path):
    out = write_report(make_sweep(tmp_path / "s", judged=False))
    rows = table(load_workbook(out / "judgement_scores.xlsx")["ответы"])
    assert len(rows) == 12 and all(row["оценка ответа"].value is None for row in rows)


@pytest.mark.needs("soffice")
@pytest.mark.parametrize("name", BOOKS)
def test_libreoffice_reads_them(report, tmp_path, name):
    command = [shutil.which("soffice") or "libreoffice", f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"]
    command += ["--headless", "--convert-to", "pdf", "--outdir", str(tmp_path), str(report / f"{name}.xlsx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    pdf = tmp_path / f"{name}.pdf"
    assert pdf.is_file() and pdf.stat().st_size > 5_000, done.stderr
    assert pdf.read_bytes().startswith(b"%PDF")


def test_a_run_that_failed_late_keeps_its_answers_each_with_the_state(tmp_path):
    folder = make_sweep(tmp_path / "s", items=5)
    run = RunFolder(folder / "demo-gptq4-vqa")
    run.set_status("failed", "judge", "no money")
    again = [dataclasses.replace(a, repeat=1, text=None, error="timeout") for a in run.read("answers")]
    run.append("answers", again)
    run.append("latency", [Latency("item/0", None, error="gone"), Latency("item/1", 0.25, 0.125)])
    [first, *others] = run.read("judgements")
    run.replace("judgements", [dataclasses.replace(first, cost_usd=0.000125), *others])
    out = write_report(folder, language="en")
    rows = table(load_workbook(out / "summary_test_stats.xlsx")["answers"])
    mine = [row for row in rows if row["model"].value == "demo gptq4"]
    assert len(mine) == 10 and {row["state"].value for row in mine} == {"failed"}
    assert [row["error"].value for row in mine if row["repeat"].value == 1] == ["timeout"] * 5
    timed = {row["item"].value: row for row in mine if row["repeat"].value == 0}
    assert timed["item/0"]["not timed"].value == "gone" and timed["item/0"]["latency, s"].value is None
    assert timed["item/1"]["latency, s"].value == 0.25 and timed["item/1"]["time to first token, s"].value == 0.125


@pytest.mark.needs("soffice")
def test_screenshots_are_links_to_libreoffice(report, tmp_path):
    command = [shutil.which("soffice") or "libreoffice", f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"]
    command += ["--headless", "--convert-to", "html", "--outdir", str(tmp_path), str(report / f"{BOOKS[0]}.xlsx")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert 'href="screenshots/0001-0.jpg"' in (tmp_path / f"{BOOKS[0]}.html").read_text()
