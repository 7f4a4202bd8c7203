"""People as judges: the workbook they get, what is read back from it, and how far a judge agrees with them."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook
from PIL import Image

from vlm_eval import config, rating_workbook
from vlm_eval.errors import BadInput
from vlm_eval.judges.agreement_with_people import named_agreement, side_by_side
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.people import key_of
from vlm_eval.rating_workbook import Text, read_texts, write
from vlm_eval.rows import Answer, Item, Judgement
from vlm_eval.store import RunFolder, write_json
from vlm_eval.tables import neutral

from ..helpers import composed

MODELS = ("Qwen2-VL-7B-AWQ", "Qwen2-VL-2B")
ITEMS = {
    i: Item(i, f"{i}.png", f"images/{i}.png", f"Что на {i}?", f"Эталон {i}", image_sha256=f"sha-{i}") for i in "abcdef"
}


def text_of(model: str, item: str, repeat: int) -> str:
    return "Не знаю" if repeat == 2 else f"Ответ {item} {repeat} {MODELS.index(model)}"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two runs over six items with three repeats, the third of the same words in both; one answer failed; a third run
    that did not end."""
    root = tmp_path_factory.mktemp("people")
    folder, data = root / "sweep", root / "data"
    (data / "images").mkdir(parents=True)
    for number, item in enumerate(ITEMS.values()):
        Image.new("RGB", (300, 1500), (40 * number, 0, 0)).save(data / item.image)
    for model in MODELS:
        run = run_of(folder, model)
        run.path.mkdir(parents=True)
        run.append("items", ITEMS.values())
        answers = [Answer(i, k, f"{i}.png", text_of(model, i, k)) for i in ITEMS for k in range(3)]
        answers[0] = Answer("a", 0, "a.png", None, error="oom") if model == MODELS[1] else answers[0]
        run.append("answers", answers)
        run.provenance(data_root=str(data))
        run.set_status("ok")
    RunFolder(folder / "third").set_status("failed", "generate", "killed")
    points = [{"folder": name, "overrides": []} for name in (*MODELS, "third")]
    write_json(folder / "sweep.json", {"points": points, "cwd": str(root)})
    return folder


def run_of(sweep: Path, model: str) -> RunFolder:
    return RunFolder(sweep / model)


@pytest.fixture(scope="module")
def workbook(sweep):
    """All of it, for people to fill in."""
    assert export(sweep, sweep.parent / "ratings.xlsx") == 0
    return sweep.parent / "ratings.xlsx"


def sheet_of(file: Path) -> list[dict]:
    """The rows of the first sheet."""
    head, *rows = load_workbook(file).worksheets[0].values
    return [dict(zip(head, row)) for row in rows]


def fill(file: Path, out: Path, **columns) -> Path:
    """Fill in columns; each value is a function of the row's number and its answer."""
    book = load_workbook(file)
    sheet = book.worksheets[0]
    head = [cell.value for cell in sheet[1]]
    for number, row in enumerate(sheet.iter_rows(min_row=2)):
        for name, value in columns.items():
            row[head.index(name)].value = value(number, row[head.index("answer")].value)
    book.save(out)
    return out


def export(sweep: Path, out: Path, *more: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["export_for_rating", str(sweep), "--out", str(out), *more])
        return rating_workbook.main()


def judge_of(*files: Path):
    paths = [str(f) for f in files]
    return config.build(composed("judge=people", f"judge.path=[{','.join(paths)}]").judge)


def judged(judge, run: RunFolder) -> dict[tuple, Judgement]:
    judge.check()
    requests = [JudgeRequest(ITEMS[a.item_id], a, Path("x")) for a in run.read("answers")]
    return {(j.item_id, j.repeat, j.judge): j for new in judge.judge(requests) for j in new}


# --------------------------------------------------------------------------------------------------------- the workbook


def test_every_text_once_with_its_screenshot_and_nothing_of_whose_it_is(sweep, tmp_path, capsys):
    out = tmp_path / "ratings.xlsx"
    assert export(sweep, out) == 0
    rows = sheet_of(out)
    # Per item two own answers of either run, "Не знаю" of both as one, the reference; less the one that failed.
    assert len(rows) == 6 * (4 + 1 + 1) - 1
    assert "35 texts about 6 screenshots" in capsys.readouterr().out
    texts = {text_of(m, i, k) for m in MODELS for i in ITEMS for k in range(3)} - {text_of(MODELS[1], "a", 0)}
    assert {row["answer"] for row in rows} == texts | {item.reference for item in ITEMS.values()}
    assert {row["question"] for row in rows} == {item.question for item in ITEMS.values()}
    assert len({row["row"] for row in rows}) == len(rows)
    assert not any(row["score"] or row["comment"] or row["rater"] for row in rows)
    with ZipFile(out) as parts:
        everything = "".join(
            parts.read(n).decode("utf-8", "replace") for n in parts.namelist() if not n.endswith("jpeg")
        )
    for word in (*MODELS, "sha-a", "a.png", "reference", "candidate", str(sweep.parent)):
        assert word not in everything


def test_a_person_can_see_each_screenshot_small_and_large(workbook):
    ratings, large, how = load_workbook(workbook).worksheets
    assert len(ratings._images) == 35 and len(large._images) == 6
    assert max(i.height for i in ratings._images) <= 240 and max(i.height for i in large._images) == 1400
    assert ratings["B2"].hyperlink.location or ratings["B2"].hyperlink.target
    rows = [image.anchor._from.row for image in large._images]
    assert all(lower - upper > 1400 * 0.75 / 15 for upper, lower in zip(rows, rows[1:]))  # none covers another
    assert "от 1 до 10" in "".join(str(cell) for row in how.values for cell in row)
    [check] = ratings.data_validations.dataValidation
    assert (check.type, check.formula1, check.formula2) == ("whole", "1", "10") and str(check.sqref) == "F2:F36"
    assert workbook.stat().st_size < 2**20


def test_the_order_is_random_and_the_seeds_alone(sweep):
    def order(seed):
        return [text.text for text in read_texts(sweep, None, seed)]

    assert order(0) == order(0) and sorted(order(0)) == sorted(order(1)) and order(0) != order(1)
    by_run = [text_of(m, i, k) for m in MODELS for i in ITEMS for k in range(3)]
    assert order(0) != [t for t in by_run if t in order(0)]
    # The reference is nowhere in particular among the texts about its item.
    places = set()
    for seed in range(12):
        texts = [t for t in read_texts(sweep, None, seed) if t.question == "Что на b?"]
        places.add([t.text for t in texts].index("Эталон b"))
    assert len(places) > 3


def test_a_sample_is_the_same_for_every_run_and_spread_over_screenshots(sweep):
    texts = {t.text for t in read_texts(sweep, 6, seed=3)}
    taken = {m: {(i, k) for i in ITEMS for k in range(3) if text_of(m, i, k) in texts and k < 2} for m in MODELS}
    # One a screenshot in either run; where it is not the common third repeat it is the same one.
    same = {
        i: {k for j, k in taken[MODELS[0]] if j == i} == {k for j, k in taken[MODELS[1]] if j == i} for i in "bcdef"
    }
    assert all(same.values())
    own = [t for t in texts if not t.startswith("Эталон")]
    assert {t for t in texts if t.startswith("Эталон")} == {f"Эталон {i}" for i in ITEMS}
    assert 6 <= len(own) <= 12
    assert len(read_texts(sweep, 1, seed=3)) <= 2 * 2
    assert {t.text for t in read_texts(sweep, 6, seed=4)} != texts


def test_what_cannot_be_exported(sweep, tmp_path, capsys):
    sweep, whole = shutil.copytree(sweep, tmp_path / "sweep"), sweep
    data = shutil.copytree(whole.parent / "data", tmp_path / "data")
    for model in MODELS:
        run_of(sweep, model).provenance(data_root=str(data))

    def said(*arguments, out=tmp_path / "o.xlsx", folder=sweep):
        assert export(folder, out, *arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("export_for_rating: ") and err.count("\n") == 1
        return err

    assert "no sweep.json here" in said(folder=tmp_path)
    assert "ends in .xlsx" in said(out=tmp_path / "o.csv")
    assert "--per-run=0: at least 1" in said("--per-run", "0")
    assert "no such file" in said("--instructions", "nowhere.txt")
    (tmp_path / "filled.xlsx").write_bytes(b"precious")
    assert "is there already and may hold ratings" in said(out=tmp_path / "filled.xlsx")
    assert (tmp_path / "filled.xlsx").read_bytes() == b"precious"
    next((data / "images").iterdir()).unlink()
    assert "no such image" in said()
    for model in MODELS:
        run_of(sweep, model).set_status("failed", "judge", "x")
    assert "no run that ended ok has an answer" in said()


ODD = [
    "=1+1",
    "-5 %",
    "@x",
    "нуль \x00 и \x0b",
    "😀 эмодзи",
    "עברית",
    "a" * 40_000,
    "две\nстроки",
    " край ",
    "\ud83d",
    "_x0041_",
]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=st.lists(st.text(min_size=1, max_size=60), max_size=4))
def test_any_text_comes_through_and_finds_its_answer_again(tmp_path_factory, more):
    folder = tmp_path_factory.mktemp("odd")
    image = folder / "i.png"
    Image.new("RGB", (4, 4)).save(image)
    item = Item("i", "i.png", "i.png", image_sha256="s")
    words = [text for text in {*ODD, *more} if text.strip()]
    write([Text(key_of(item, text), image, "", text) for text in words], folder / "w.xlsx", "people.ru.txt")
    shown = sheet_of(folder / "w.xlsx")
    for row, text in zip(shown, words):
        plain = text.isprintable() and "_x" not in text and len(text) < 30_000
        assert row["answer"] == neutral(text) or not plain
        assert row["answer"] and len(row["answer"]) < 32_768
    fill(folder / "w.xlsx", folder / "f.xlsx", score=lambda number, _: 1 + number % 10)
    judge = judge_of(folder / "f.xlsx")
    requests = [JudgeRequest(item, Answer("i", n, "i.png", text), image) for n, text in enumerate(words)]
    found = [j for new in judge.judge(requests) for j in new]
    assert [j.candidate_score for j in found] == [1 + n % 10 for n in range(len(words))]


# ------------------------------------------------------------------------------------------------------------ read back


def score(number, answer):
    return 9 if answer.startswith("Эталон") else 2 if answer == "Не знаю" else 6 + int(answer[-1])


def test_scores_find_their_answers_and_references(sweep, workbook, tmp_path):
    filled = fill(workbook, tmp_path / "f.xlsx", score=score, comment=lambda n, answer: f"о {answer}")
    found = judged(judge_of(filled), run_of(sweep, MODELS[1]))
    assert len(found) == 18
    assert {(j.candidate_score, j.reference_score) for (_, k, _), j in found.items() if k == 2} == {(2, 9)}
    ok = found["b", 1, "people"]
    assert (ok.candidate_score, ok.reference_score, ok.status, ok.order) == (7, 9, "ok", "shuffled")
    assert (ok.rationale, ok.saw_image, ok.cost_usd, ok.error) == (f"о {text_of(MODELS[1], 'b', 1)}", True, 0, None)
    failed = found["a", 0, "people"]
    assert (failed.status, failed.error, failed.candidate_score) == ("not_asked", "no answer", None)


def test_a_workbook_saved_as_csv(sweep, workbook, tmp_path):
    rows = [{**row, "score": score(0, row["answer"])} for row in sheet_of(workbook)]
    with open(tmp_path / "f.csv", "w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = judged(judge_of(tmp_path / "f.csv"), run_of(sweep, MODELS[0]))
    assert {j.status for j in found.values()} == {"ok"} and found["c", 0, "people"].candidate_score == 6


@pytest.mark.parametrize(
    "cell, status, candidate, error",
    [
        (7, "ok", 7, None),
        ("7,5", "ok", 7.5, None),
        (11, "invalid", None, "the answer's score: 11 is not within 1 to 10"),
        (0, "invalid", None, "the answer's score: 0 is not within 1 to 10"),
        ("хорошо", "invalid", None, "the answer's score: 'хорошо' is not a number"),
        (None, "not_asked", None, "not rated"),
    ],
)
def test_what_an_answers_cell_comes_to(sweep, workbook, tmp_path, cell, status, candidate, error):
    wanted = text_of(MODELS[0], "a", 0)
    filled = fill(workbook, tmp_path / "f.xlsx", score=lambda n, answer: cell if answer == wanted else 5)
    row = judged(judge_of(filled), run_of(sweep, MODELS[0]))["a", 0, "people"]
    assert (row.status, row.candidate_score, row.error) == (status, candidate, error)
    assert (row.reference_score is None) == (status != "ok")


@pytest.mark.parametrize(
    "cell, status, error",
    [
        (12, "invalid", "the reference's score: 12 is not within 1 to 10"),
        (None, "not_asked", "its reference is not rated"),
    ],
)
def test_what_a_references_cell_comes_to(sweep, workbook, tmp_path, cell, status, error):
    filled = fill(workbook, tmp_path / "f.xlsx", score=lambda n, answer: cell if answer == "Эталон a" else 5)
    found = judged(judge_of(filled), run_of(sweep, MODELS[0]))
    assert {(j.status, j.error, j.candidate_score) for (i, *_), j in found.items() if i == "a"} == {
        (status, error, None)
    }
    assert {j.status for (i, *_), j in found.items() if i != "a"} == {"ok"}


def test_answers_outside_the_sample_are_not_asked(sweep, tmp_path):
    export(sweep, tmp_path / "r.xlsx", "--per-run", "2")
    found = judged(judge_of(fill(tmp_path / "r.xlsx", tmp_path / "f.xlsx", score=score)), run_of(sweep, MODELS[0]))
    statuses = [(j.status, j.error) for j in found.values()]
    assert statuses.count(("ok", None)) >= 2
    assert statuses.count(("not_asked", "not in the workbook")) == 18 - statuses.count(("ok", None))


def test_an_item_without_reference_is_held_against_ten(workbook, tmp_path):
    alone = Item("a", "a.png", "images/a.png", "Что на a?", image_sha256="sha-a")
    filled = fill(workbook, tmp_path / "f.xlsx", score=score)
    answer = Answer("a", 0, "a.png", text_of(MODELS[0], "a", 0))
    [[row]] = judge_of(filled).judge([JudgeRequest(alone, answer, Path("x"))])
    assert (row.candidate_score, row.reference_score, row.status, row.order) == (6, None, "ok", "single")


def test_raters_by_column_and_by_file(sweep, workbook, tmp_path):
    def one_name(name):
        return lambda number, answer: name if number == 4 else None  # written once

    ann = fill(workbook, tmp_path / "1.xlsx", score=score, rater=one_name("Анна"))
    assert list(judge_of(ann).names) == ["people.Анна"]
    bob = fill(workbook, tmp_path / "bob.xlsx", score=lambda n, answer: 5)
    both = judge_of(ann, bob)
    found = judged(both, run_of(sweep, MODELS[0]))
    assert list(both.names) == ["people.Анна", "people.bob"]
    assert found["b", 0, "people.Анна"].candidate_score == 6 and found["b", 0, "people.bob"].candidate_score == 5
    assert both.facts()["judge_raters"] == "people.Анна, people.bob"


@pytest.mark.parametrize(
    "files, said",
    [
        ({"f.csv": "row,answer\nr1,x\n"}, "no column 'score'; give a workbook that scripts/export_for_rating wrote"),
        ({"f.csv": "row,score\nr1,\n"}, "nobody has scored anything there"),
        ({"f.csv": "row,score\nr1,5\nr1,6\n"}, "r1 has two scores by the same rater; name raters in column rater"),
        ({"f.csv": "id,mark\nr1,5\n"}, "has none of the columns row, score, comment, rater"),
        ({}, "no such table"),
    ],
)
def test_a_file_that_is_no_filled_workbook(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput) as refused:
        judge_of(tmp_path / "f.csv").check()
    assert said in str(refused.value)


# ------------------------------------------------------------------------------------------------------------ agreement


def rows_of(judge, scores, order="ab"):
    more = {"judge_repeat": 0, "saw_image": True, "reference_score": 9, "rationale": None, "status": "ok"}
    return [Judgement(f"i{n}", 0, judge, order, candidate_score=s, **more) for n, s in enumerate(scores)]


def test_agreement_by_hand():
    answers = [Answer(f"i{n}", 0, f"c{n}", "t") for n in range(6)]
    judge = rows_of("m", (9, 7, 5, 3, 8, None)) + rows_of("m", (9, 5, 5, 3, 8, 2), "ba")  # 9 6 5 3 8, and 2
    judge = [j for j in judge if j.candidate_score is not None]
    people = rows_of("people.a", (8, 6, 6, 2, 7), "shuffled") + rows_of("people.b", (10, 6, 4, 2, 9), "shuffled")
    pairs = side_by_side(judge, people, answers)
    assert pairs == [("c0", 9, 9), ("c1", 6, 6), ("c2", 5, 5), ("c3", 3, 2), ("c4", 8, 8)]
    found = named_agreement(pairs)
    assert found["people_difference_mean"] == pytest.approx(0.2) and found["people_difference_mean_n"] == 5
    # Deviations -0.2 four times and 0.8: squares sum to 0.8; t of 4 degrees of freedom.
    half = 2.7764451 * (5 / 4 * 0.8) ** 0.5 / 5
    assert found["people_difference_mean_ci_low"] == pytest.approx(0.2 - half)
    # x - 6.2: 2.8 -0.2 -1.2 -3.2 1.8; y - 6: 3 0 -1 -4 2.
    assert found["people_correlation"] == pytest.approx(26 / (22.8 * 30) ** 0.5)
    assert found["people_rank_correlation"] == pytest.approx(1)
    assert found["people_alpha_n"] == found["people_correlation_n"] == 5
    assert 0.9 < found["people_alpha"] < 1


def test_agreement_is_perfect_only_with_oneself_and_undefined_without_spread():
    pairs = [(f"c{n}", float(s), float(s)) for n, s in enumerate((1, 4, 7, 10, 3))]
    same = named_agreement(pairs)
    assert same["people_alpha"] == pytest.approx(1) and same["people_correlation"] == pytest.approx(1)
    assert same["people_difference_mean"] == 0
    upside_down = named_agreement([(c, 11 - j, p) for c, j, p in pairs])
    assert upside_down["people_correlation"] == pytest.approx(-1) and upside_down["people_alpha"] < 0
    flat = named_agreement([(c, 5.0, p) for c, _, p in pairs])
    assert "people_correlation" not in flat and "people_difference_mean" in flat
    assert named_agreement([]) == {}


def test_only_ok_judgements_count():
    answers = [Answer("i0", 0, "c", "t")]
    [row] = rows_of("m", (5,))
    assert side_by_side([replace(row, status="invalid")], [row], answers) == []
