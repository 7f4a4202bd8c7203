"""The files of a run: what was appended is read back, and a crash at any byte loses at most the row it was writing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from vlm_eval import rows
from vlm_eval.store import KINDS, RunFolder, read_json, write_json

ANSWER = rows.Answer("a#Что?", 0, "a.png", "Да,\nтак и\u2028есть 🙂 \0", "stop", 10, 5, 7, None, 4, (56, 28))
ROWS = {
    "items": [
        rows.Item("a", "a.png", "images/a.png", "Что?", "Чат", ("20 588 ₽", "E-1047"), "iPhone", "00ff", 64, 48),
        rows.Item("b", "b.png", "images/b.png", error="no such image"),
    ],
    "answers": [ANSWER, rows.Answer("a#Что?", 1, "a.png", None, seed=8, error="refused")],
    "latency": [rows.Latency("a", 0.5, 0.125, 5, 10), rows.Latency("b", None, error="refused")],
    "load": [
        rows.UnderLoad("concurrency", 4.0, 0, "a", 0, 0.5, None, 1.25, 0.5, (0.25, 0.5), 3, inputs="00"),
        rows.UnderLoad("rate", 0.5, 1, "b", 2, 0.5, 0.25, error="refused"),
    ],
    "system": [rows.Sample(1.5, 50.0, 1.25), rows.Sample(2.5, 99.9, 2.0, (100.0, 3.0), (70.5, 0.25))],
    "scores": [
        rows.Score("a", 0, {"rouge1_f": 0.25, "length_chars": 3, "text": "ё"}, {"facts": "no facts"}),
        rows.Score("a", 1, {}, {"rouge": "no answer"}),
        rows.Score("b", 0, {"rouge1_f": None}),
    ],
    "judgements": [
        rows.Judgement("a", 0, "server", "ab", 0, True, 7.5, 9.0, "Лучше", "ok", 120, 0.001),
        rows.Judgement("a", 0, "server", "ba", 0, False, None, None, None, "error", error="429"),
    ],
}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def test_every_kind_of_row_is_tried_here():
    assert set(ROWS) == set(KINDS)


@pytest.mark.parametrize("kind", ROWS)
def test_rows_are_read_back_as_they_were_appended(run, kind):
    first, *others = ROWS[kind]
    run.append(kind, [first])
    run.append(kind, others)
    assert run.read(kind) == ROWS[kind]
    lines = (run.path / f"{kind}.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == len(ROWS[kind]) and all(line.endswith(b"\n") for line in lines)


def test_half_an_emoji_from_a_servers_json_is_kept(run):
    halved = rows.Answer("a", 0, "a.png", json.loads('"Не работает \\ud83d"'))
    run.append("answers", [halved])
    run.replace("latency", [rows.Latency("a", None, error="\ud83d")])
    run.set_status("failed", "judge", "\ud83d")
    assert run.read("answers") == [halved]
    assert run.read("latency")[0].error == run.status()["error"] == "\ud83d"


def test_what_was_never_written_is_empty(run):
    assert run.read("answers") == [] and run.status() == {} and run.summary() == {} and run.provenance() == {}
    run.append("answers", [])
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize("lost", [1, 2, 20, 60, "all of the row"])
def test_a_row_torn_by_a_crash_is_no_row_and_spoils_no_other(run, lost):
    whole = [ANSWER, rows.Answer("b", 0, "b.png", "Нет")]
    run.append("answers", whole)
    run.append("answers", [ROWS["answers"][1]])
    file = run.path / "answers.jsonl"
    content = file.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    file.write_bytes(content[: -(last if lost == "all of the row" else lost)])
    assert run.read("answers") == whole
    run.append("answers", [rows.Answer("c", 0, "c.png", "Да")])
    assert [a.item_id for a in run.read("answers")] == ["a#Что?", "b", "c"]
    assert all(json.loads(line) for line in file.read_bytes().splitlines())


def test_a_row_torn_inside_a_letter(run):
    run.append("answers", [ANSWER])
    with open(run.path / "answers.jsonl", "ab") as out:
        out.write('{"item_id": "b", "text": "Я'.encode()[:-1])
    assert run.read("answers") == [ANSWER]


def test_the_only_row_torn(run):
    (run.path / "answers.jsonl").write_text('{"item_id": "a"')
    assert run.read("answers") == []
    run.append("answers", [ANSWER])
    assert run.read("answers") == [ANSWER]


def test_rows_survive_the_process_that_wrote_them(run):
    program = (
        "import os, signal, sys\n"
        "from vlm_eval.rows import Answer\nfrom vlm_eval.store import RunFolder\n"
        "run = RunFolder(sys.argv[1])\n"
        "for k in range(3): run.append('answers', [Answer('a', k, 'a.png', 'Да')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, run.path]).returncode == -9
    assert [a.repeat for a in run.read("answers")] == [0, 1, 2]


def test_a_row_is_on_the_disk_when_append_returns(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    run.append("answers", [ANSWER])
    assert synced == [(run.path / "answers.jsonl").stat().st_size]


def test_a_score_is_flat_in_its_file(run):
    run.append("scores", ROWS["scores"])
    lines = [json.loads(line) for line in (run.path / "scores.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "item_id": "a",
        "repeat": 0,
        "rouge1_f": 0.25,
        "length_chars": 3,
        "text": "ё",
        "unscored": {"facts": "no facts"},
    }
    assert lines[2] == {"item_id": "b", "repeat": 0, "rouge1_f": None}


def test_columns_of_a_later_version_are_left_out(run):
    (run.path / "latency.jsonl").write_text('{"item_id": "a", "latency_s": 1.0, "watts": 3}\n')
    assert run.read("latency") == [rows.Latency("a", 1.0)]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_written(run, number):
    write_json(run.path / "summary.json", {"a": 1.0})
    run.append("scores", [ROWS["scores"][1]])
    with pytest.raises(ValueError):
        write_json(run.path / "summary.json", {"a": number})
    with pytest.raises(ValueError):
        run.append("scores", [rows.Score("a", 0, {"x": 1.0}), rows.Score("a", 1, {"x": number})])
    with pytest.raises(ValueError):
        run.replace("scores", [rows.Score("a", 0, {"x": 1.0}), rows.Score("a", 1, {"x": number})])
    assert run.summary() == {"a": 1.0}
    assert run.read("scores") == [ROWS["scores"][1]]


def test_replacing_rows_leaves_no_old_one(run):
    run.append("scores", ROWS["scores"])
    run.replace("scores", ROWS["scores"][:1])
    assert run.read("scores") == ROWS["scores"][:1]
    assert [p.name for p in run.path.iterdir()] == ["scores.jsonl"]


def test_json_is_written_whole_or_not_at_all(run, monkeypatch):
    file = run.path / "deep" / "status.json"
    write_json(file, {"state": "running", "words": "ёж"})
    assert read_json(file) == {"state": "running", "words": "ёж"} and "ёж" in file.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(file, {"state": "ok", "later": object()})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(file, {"state": "ok"})
    assert read_json(file) == {"state": "running", "words": "ёж"}


def test_status_keeps_when_it_began_and_where_it_is_tracked(run):
    run.set_status("running", "start", pid=17)
    began = run.status()["started"]
    assert run.status() == {
        "state": "running",
        "stage": "start",
        "error": None,
        "started": began,
        "ended": None,
        "mlflow_run_id": None,
        "pid": 17,
    }
    run.set_status("ok", mlflow_run_id="abc")
    run.set_status("failed", "judge", "no server")
    status = run.status()
    assert (status["state"], status["stage"], status["error"]) == ("failed", "judge", "no server")
    assert status["started"] == began and status["ended"] >= began and status["mlflow_run_id"] == "abc"
    assert "pid" not in status


def test_provenance_is_added_to(run):
    run.provenance(engine={"found": "x"})
    assert run.provenance(python="3.11") == {"engine": {"found": "x"}, "python": "3.11"}
    assert run.provenance() == {"engine": {"found": "x"}, "python": "3.11"}


def test_lines_that_are_no_rows_are_said_by_who_reads_and_taken_out_by_who_mends(run, capsys):
    run.append("answers", ROWS["answers"])
    file = run.path / "answers.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    broken = bytes(30) + first[30:] + b'{"item_id": "c"}\n' + second + b'["a"]\n' + b'{"item_id": "torn'
    file.write_bytes(broken)
    assert run.read("answers") == [ROWS["answers"][1]]
    assert "answers.jsonl: 3 of 4 lines are no rows; a resume makes them again" in capsys.readouterr().err
    [said] = run.mend()
    assert said.startswith("answers.jsonl: 3 of 4 lines are no rows")
    assert file.read_bytes() == second and run.mend() == []
    assert (run.path / "answers.jsonl.broken").read_bytes() == broken.rpartition(b"\n")[0] + b"\n"


def test_a_status_that_is_no_json_is_set_aside_and_said(run, capsys):
    run.set_status("ok")
    (run.path / "status.json").write_text('{"state": "o')
    assert run.status() == {}
    assert "status.json: not JSON" in capsys.readouterr().err
    assert (run.path / "status.json.broken").read_text() == '{"state": "o' and run.status() == {}


def test_a_status_finds_room_on_a_full_disk(run, monkeypatch):
    from vlm_eval import store

    def full(*_):
        raise OSError(28, "No space left on device")

    run.set_status("running", "start")
    monkeypatch.setattr(store, "write_json", full)
    run.set_status("failed", "generate", "no space")
    assert run.status()["state"] == "failed" and run.status()["error"] == "no space"


def test_a_run_has_one_start_over_its_processes_and_another_when_it_is_begun_again(tmp_path):
    run = RunFolder(tmp_path)
    run.set_status("running", "start", started="2026-01-01T00:00:00+00:00")
    run.set_status("running", "start")  # its second process
    run.set_status("failed", "score", "no memory")
    assert run.status()["started"] == "2026-01-01T00:00:00+00:00"
    run.set_status("running", "start")
    assert run.status()["started"] > "2026-01-01T00:00:00+00:00"


def test_a_status_of_before_says_nothing_of_what_came_since(tmp_path):
    run = RunFolder(tmp_path)
    assert run.status_since({}) == {}
    run.set_status("ok")
    before = run.status()
    assert run.status_since({}) == before and run.status_since(before) == {}
    run.set_status("running", "start")
    assert run.status_since(before) == run.status()
