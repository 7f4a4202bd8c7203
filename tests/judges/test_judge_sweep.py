"""vlm-eval-judge: a sweep that ended long ago is judged, by a real server, into its folders and its MLflow runs."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from openpyxl import load_workbook
from PIL import Image

from vlm_eval import judge_sweep
from vlm_eval.rating_workbook import read_texts, write
from vlm_eval.store import RunFolder, read_json, write_json
from vlm_eval.tracking.client import client_of

from ..helpers import FAULTY, REPO, VLM_EVAL, Ended, make_data
from .server import case_of, verdict

ITEMS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep of two runs without a judge, 6 items each, made where it stays; tests get copies."""
    root = tmp_path_factory.mktemp("made")
    make_data(root / "data", ITEMS)
    fixed = ("task=vqa", "task.data.root=data", "metrics=tech", "judge=none", "hydra.sweep.dir=old")
    command = [VLM_EVAL, "-m", *FAULTY, "quant=awq,bf16", *fixed]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def sweep(made, tmp_path, monkeypatch):
    """A copy of it; the person stands somewhere else."""
    shutil.copytree(made, tmp_path / "then", symlinks=True)
    sweep = read_json(tmp_path / "then" / "old" / "sweep.json")
    write_json(tmp_path / "then" / "old" / "sweep.json", {**sweep, "cwd": str(tmp_path / "then")})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    return tmp_path / "then" / "old"


@pytest.fixture
def judge(sweep, server, monkeypatch, capfd):
    """`judge("judge.x=y", "--main") -> (code, out, err)`: vlm-eval-judge with judge=server on the loopback."""

    def run(*more, name="server", folder=sweep):
        ours = ("judge.model=openai/NAME", f"judge.api_base={server.url}", "judge.api_key_env=JUDGE_TEST_KEY")
        arguments = [str(folder), f"judge={name}", *(ours if name == "server" else ()), *more]
        return command(monkeypatch, capfd, *arguments)

    return run


def command(monkeypatch, capfd, *arguments) -> Ended:
    capfd.readouterr()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)}
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["vlm-eval-judge", *map(str, arguments)])
        try:
            code = judge_sweep.main()
        except SystemExit as ended:
            code = ended.code
        finally:
            GlobalHydra.instance().clear()
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Ended(code, *capfd.readouterr())


def runs(sweep: Path) -> list[RunFolder]:
    return [RunFolder(sweep / point["folder"]) for point in read_json(sweep / "sweep.json")["points"]]


def by_item(body, swap=lambda text: text):
    """7 for the candidate about items a to c, 4 else, wherever it stands; 8 for the reference."""
    case, _ = case_of(body)
    own = {
        k: (7 if case[k][-1] in "abc" else 4) if case[k].startswith("Ответ") else 8 for k in ("answer_a", "answer_b")
    }
    return verdict(own["answer_a"], own["answer_b"])


def mlflow_run(sweep: Path, run: RunFolder):
    client = client_of(f"sqlite:///{sweep.parent}/mlruns/mlflow.db")
    return client, client.get_run(run.status()["mlflow_run_id"])


# ----------------------------------------------------------------------------------------------------------- main judge


def test_a_sweep_without_a_judge_gets_one(sweep, judge, server):
    server.script = lambda number, body: (200, by_item(body))
    before = {run.path: (run.status(), (run.path / ".hydra" / "config.yaml").read_text()) for run in runs(sweep)}
    ended = judge()
    assert ended.code == 0, ended.err
    assert len(server.bodies) == 2 * ITEMS  # both runs say the same: the second's verdicts come from the cache
    for run in runs(sweep):
        assert {(j.judge, j.status) for j in run.read("judgements")} == {("server", "ok")}
        assert all(j.saw_image for j in run.read("judgements"))
        summary = run.summary()
        assert summary["judge/match_ratio"] == pytest.approx((3 * 7 + 3 * 4) / (6 * 8))
        assert summary["judge/match_ratio_n"] == ITEMS and "tech/length_chars_mean" in summary
        provenance = run.provenance()
        assert provenance["judges"]["server"]["main"] is True
        assert provenance["judges"]["server"]["config"]["model"] == "openai/NAME"
        assert provenance["judge"]["judge_model"] == "openai/NAME"
        # The run ended when it ended, and was made from what it was made from.
        assert (run.status(), (run.path / ".hydra" / "config.yaml").read_text()) == before[run.path]
        client, tracked = mlflow_run(sweep, run)
        assert tracked.data.metrics["judge/match_ratio"] == pytest.approx(summary["judge/match_ratio"])
        assert tracked.data.tags["vlm_eval.judges"] == "server (main)"
        assert tracked.data.params["judge._target_"].endswith("NoJudge")  # params say what the run was
        assert "judgements.jsonl" in {a.path for a in client.list_artifacts(tracked.info.run_id)}
    with open(sweep / "comparison.csv", encoding="utf-8", newline="") as table:
        assert [float(row["judge/match_ratio"]) for row in csv.DictReader(table)] == pytest.approx([33 / 48] * 2)
    assert "match ratio" in ended.out and "0.688" in ended.out and "2 of 2 runs ok" in ended.out
    assert not any(Path().iterdir())  # nothing is left where the person stands


def test_a_further_judge_and_a_new_main_judge(sweep, judge, server):
    server.script = lambda number, body: (200, by_item(body))
    judge("judge.usd_per_million_in=1", "judge.usd_per_million_out=1")
    server.script = lambda number, body: (200, verdict(5, 5))
    assert judge("judge.name=second", "judge.cache=null").code == 0
    run = runs(sweep)[0]
    both = run.summary()
    assert both["judge/match_ratio"] == pytest.approx(33 / 48) and both["judge.second/match_ratio"] == 1
    assert both["judge/cost_usd"] > 0 and "judge.second/cost_usd" not in both
    assert mlflow_run(sweep, run)[1].data.tags["vlm_eval.judges"] == "server (main), second"
    asked = len(server.bodies)
    assert judge("judge.name=second", "judge.cache=null", "--main").code == 0
    assert len(server.bodies) == asked  # all is judged already
    after = run.summary()
    assert after["judge/match_ratio"] == 1 and after["judge.server/match_ratio"] == pytest.approx(33 / 48)
    assert "judge/cost_usd" not in after and "judge.second/match_ratio" not in after
    assert [name for name, entry in run.provenance()["judges"].items() if entry["main"]] == ["second"]
    metrics = mlflow_run(sweep, run)[1].data.metrics
    assert metrics["judge/match_ratio"] == 1 and metrics["judge.server/match_ratio"] == pytest.approx(33 / 48)
    assert math.isnan(metrics["judge/cost_usd"])  # the old main judge's does not stand beside the new one's numbers


def test_one_name_is_one_judge(sweep, judge, server):
    server.script = lambda number, body: (200, by_item(body))
    judge()
    asked = len(server.bodies)
    other = judge("judge.temperature=0.5")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "server has judged this run with another judge.temperature" in other.err and "judge.name=NAME" in other.err
    assert judge("judge.retries=0", "judge.concurrency=1").code == 0  # only how it is asked
    entry = {"main": True, "names": ["member", "other"], "config": {}, "facts": {}}
    run = runs(sweep)[0]
    run.append("judgements", [dataclasses.replace(run.read("judgements")[0], judge="member")])
    run.provenance(judges={"panel": entry})
    taken = judge("judge.name=member")
    assert taken.code == 2 and "panel has judged this run under the name member" in taken.err
    assert len(server.bodies) == asked


def test_a_judge_that_only_failed_gives_way(sweep, judge, server):
    """Under the same name with other parameters, and as the main judge to one of another name."""
    server.script = lambda number, body: (200, "prose, no verdict")
    ended = judge("judge.image=never")
    assert ended.code == 1 and ended.err.count("12 of 12 judgements failed: invalid: Invalid JSON") == 2
    assert "server: 0 of 2 runs judged" in ended.out
    server.script = lambda number, body: (200, by_item(body))
    ended = judge("judge.name=second")
    assert ended.code == 0, ended.err
    run = runs(sweep)[0]
    assert [name for name, entry in run.provenance()["judges"].items() if entry["main"]] == ["second"]
    assert run.summary()["judge/match_ratio"] == pytest.approx(33 / 48)
    ended = judge()  # the failed one again, with another judge.image
    assert ended.code == 0, ended.err
    assert {j.status for j in run.read("judgements") if j.judge == "server"} == {"ok"}
    assert run.summary()["judge.server/match_ratio"] == pytest.approx(33 / 48)
    assert "judged by server" in ended.out and "further" in ended.out and "server: 2 of 2 runs judged" in ended.out
    assert ended.out.count("0.688") == 4  # the main judge's in the closing table, the further one's below it


def test_only_what_failed_is_asked_again(sweep, judge, server):
    def script(number, body):
        case, _ = case_of(body)
        bad = "Ответ b" in (case["answer_a"], case["answer_b"])
        return (400, "broken") if bad else (200, by_item(body))

    server.script = script
    ended = judge("judge.retries=0")
    assert ended.code == 1
    assert ended.err.count("17%, over judge.max_fail_rate=10%: 2 of 12 judgements failed: error: ") == 2
    run = runs(sweep)[0]
    assert run.summary()["judge/fail_rate"] == pytest.approx(1 / 6) and run.status()["state"] == "ok"
    asked = len(server.bodies)
    server.script = lambda number, body: (200, by_item(body))
    assert judge("judge.retries=0").code == 0
    assert len(server.bodies) - asked == 2  # one answer in both orders, and for the other run from the cache
    assert run.summary()["judge/fail_rate"] == 0 and run.summary()["judge/match_ratio_n"] == ITEMS
    assert len(run.read("judgements")) == 2 * ITEMS


def test_what_was_judged_before_ctrl_c_is_kept(sweep, judge, server):
    ended_at = threading.Event()

    def script(number, body):
        if number == 5:  # and no sixth is sent before all has ended
            os.kill(os.getpid(), signal.SIGINT)
            ended_at.wait(60)
        return 200, by_item(body)

    server.script = script
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started pytest may ignore it
    try:
        ended = judge("judge.concurrency=1", "judge.cache=null")
    finally:
        signal.signal(signal.SIGINT, handler)
        ended_at.set()
    assert ended.code == 130 and "what is judged is kept" in ended.err and "Traceback" not in ended.err
    [first, second] = runs(sweep)
    kept = len(first.read("judgements"))
    assert 3 <= kept <= 5 and not second.read("judgements") and "judge/match_ratio" not in first.summary()
    server.script, asked = lambda number, body: (200, by_item(body)), len(server.bodies)
    assert judge("judge.cache=null").code == 0
    assert len(server.bodies) - asked == 2 * 2 * ITEMS - kept
    assert first.summary()["judge/match_ratio_n"] == ITEMS and first.provenance()["judges"]["server"]["main"]


def test_runs_that_did_not_end_ok_or_are_at_work_are_left_alone(sweep, judge, server):
    server.script = lambda number, body: (200, by_item(body))
    [first, second] = runs(sweep)
    write_json(first.path / "status.json", {**first.status(), "state": "failed", "error": "killed"})
    assert judge().code == 0
    assert not first.read("judgements") and len(second.read("judgements")) == 2 * ITEMS
    write_json(first.path / "status.json", {**first.status(), "state": "ok", "error": None})
    with open(first.path / "run.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        ended = judge()
    assert (
        ended.code == 1
        and "not judged: another process works on this run" in ended.err
        and not first.read("judgements")
    )


def test_a_screenshot_that_is_another_one_now(sweep, judge, server):
    Image.new("RGB", (64, 48), "green").save(sweep.parent / "data" / "images" / "b.png")
    provenance = runs(sweep)[0].provenance()
    for run in runs(sweep):
        run.provenance(data_root=str(sweep.parent / "data"))
    assert Path(provenance["data_root"]).is_absolute()
    ended = judge()
    assert ended.code == 2 and "b.png: is another picture now" in ended.err and not server.bodies


def test_a_judge_of_ones_own(sweep, judge, server, tmp_path):
    server.script = lambda number, body: (200, by_item(body))
    (tmp_path / "own" / "judge").mkdir(parents=True)
    (tmp_path / "own" / "judge" / "mine.yaml").write_text(
        "defaults: [server, _self_]\nname: mine\nmodel: openai/x\n"
        f"api_base: {server.url}\napi_key_env: JUDGE_TEST_KEY\n"
    )
    assert judge("--config-dir", tmp_path / "own", name="mine").code == 0
    assert set(runs(sweep)[0].provenance()["judges"]) == {"mine"}


def needy(folder: Path) -> tuple:
    (folder / "judge").mkdir(parents=True)
    (folder / "judge" / "needy.yaml").write_text("_target_: tests.judges.needy_judge.NeedyJudge\n")
    return "--config-dir", folder


def test_a_judge_with_an_engine_of_its_own_gets_a_process_a_run(sweep, judge, tmp_path):
    ended = judge(*needy(tmp_path / "own"), name="needy")
    assert ended.code == 0, ended.err
    rationales = [{j.rationale for j in run.read("judgements")} for run in runs(sweep)]
    assert all(len(one) == 1 and one.copy().pop().startswith("there ") for one in rationales)
    assert rationales[0] != rationales[1] and str(os.getpid()) not in str(rationales)
    assert "judge 6/6" in ended.err and "chatter" not in ended.err + ended.out
    assert "chatter of a library" in (runs(sweep)[0].path / "run.log").read_text()
    assert runs(sweep)[1].summary()["judge/match_ratio"] == 0.5 and "match ratio" in ended.out


def test_a_judge_that_dies_takes_nothing_with_it(sweep, judge, tmp_path):
    own = needy(tmp_path / "own")
    ended = judge(*own, "+judge.dies=true", name="needy")
    assert ended.code == 1 and ended.err.count("killed by SIGKILL; see its run.log") == 2
    assert [len(run.read("judgements")) for run in runs(sweep)] == [2, 2]
    assert {run.status()["state"] for run in runs(sweep)} == {"ok"}


# --------------------------------------------------------------------------------------------------------------- people


def test_people_judge_too_and_the_judge_is_held_against_them(sweep, judge, server, tmp_path):
    server.script = lambda number, body: (200, by_item(body))
    judge()
    write(read_texts(sweep, None, 0), tmp_path / "r.xlsx", "people.ru.txt")
    book = load_workbook(tmp_path / "r.xlsx")
    sheet = book.worksheets[0]
    for row in sheet.iter_rows(min_row=2):
        text = row[4].value
        row[5].value = 10 if text == "Чат" else {"a": 8, "b": 8, "c": 6, "d": 3, "e": 3, "f": 2}[text[-1]]
    assert sheet.max_row - 1 == 2 * ITEMS  # both runs say the same: each text is rated once
    book.save("ratings.xlsx")
    ended = judge("judge.path=ratings.xlsx", name="people")
    assert ended.code == 0, ended.err
    people, model = (8, 8, 6, 3, 3, 2), (7, 7, 7, 4, 4, 4)
    difference = (sum(model) - sum(people)) / 6
    for run in runs(sweep):
        summary = run.summary()
        assert summary["judge.people/match_ratio"] == pytest.approx(30 / 60)
        assert summary["judge/match_ratio"] == pytest.approx(33 / 48)
        assert summary["judge/people_difference_mean"] == pytest.approx(difference)
        assert {f"judge/people_difference_mean_{e}" for e in ("ci_low", "ci_high", "n")} <= set(summary)
        assert summary["judge/people_alpha"] > 0.6 and 0.9 < summary["judge/people_correlation"] < 1
        assert not any(key.startswith("judge.people/people") for key in summary)
        assert mlflow_run(sweep, run)[1].data.metrics["judge/people_alpha"] == pytest.approx(
            summary["judge/people_alpha"]
        )
    assert "judge against people" in ended.out and "+0.50" in ended.out
    pooled = read_json(sweep / "sweep.json")["agreement_with_people"]["judge.server"]
    assert pooled["people_difference_mean_n"] == 2 * ITEMS
    # Corrected ratings take the place of the old ones; a further judge is held against them as well.
    book = load_workbook("ratings.xlsx")
    for row in book.worksheets[0].iter_rows(min_row=2):
        row[5].value, row[7].value = 5, "Анна"
    book.save("ratings.xlsx")
    assert judge("judge.path=ratings.xlsx", name="people").code == 0
    assert {j.judge for j in runs(sweep)[0].read("judgements")} == {"server", "people.Анна"}
    assert runs(sweep)[0].summary()["judge.people/match_ratio"] == 1
    assert judge("judge.name=third").code == 0
    assert "judge.third/people_difference_mean" in runs(sweep)[0].summary()


def test_ratings_of_another_sweep_judge_nothing(sweep, judge):
    Path("other.csv").write_text("row,score\nr000000000000,5\n")
    ended = judge("judge.path=other.csv", name="people")
    assert ended.code == 1 and "nothing was judged, not_asked: not in the workbook" in ended.err


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["judge=nobody"], "judge=nobody: no such option; judge has:"),
        (["judge=none"], "judge=none judges nothing"),
        (["judge.model=x"], "judge=NAME is missing"),
        (["judge=server", "quant=awq"], "quant=awq: only judge=NAME and judge.KEY=VALUE can be given"),
        (["judge=server", "judge.modle=x"], "judge.modle: no such key"),
        (["judge=server"], "judge.api_base: no value given"),
        (["judge=server,none"], "judge=server,none"),
        (["judge=recorded"], "it needs engine=replay"),
        (["judge=people", "judge.path=nowhere.xlsx"], "nowhere.xlsx: no such table"),
        (["judge=server", "--config-dir", "nowhere"], "--config-dir=nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(sweep, monkeypatch, capfd, arguments, said):
    before = {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()}
    ended = command(monkeypatch, capfd, sweep, *arguments)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1, ended.err
    assert {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()} == before


def test_a_folder_that_is_no_sweep(judge, tmp_path, sweep):
    ended = judge(folder=tmp_path)
    assert ended.code == 2 and "no sweep.json here; give the folder of a sweep" in ended.err
    for run in runs(sweep):
        write_json(run.path / "status.json", {**run.status(), "state": "failed"})
    assert "no run of this sweep ended ok" in judge().err
    with open(sweep / "sweep.lock", "a") as held:  # as by the process that makes these runs
        fcntl.flock(held, fcntl.LOCK_EX)
        said = f"vlm-eval-judge: {sweep}: another process works on this sweep; wait for its end\n"
        assert judge() == (2, "", said)
    assert json.loads((sweep / "sweep.json").read_text())["failed"] == 0
