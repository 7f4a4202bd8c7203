"""Runs that die in every way, time limits, signals, resuming: real processes, with an engine that breaks on demand."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from vlm_eval import launch
from vlm_eval.store import RunFolder, read_json

from .helpers import FAULTY, QUICK, VLM_EVAL, make_data

DEATHS = {  # mode: what status.json says of it, in which stage
    "raise": ("ValueError: the engine broke over two lines", "generate"),
    "exit": ("SystemExit: 0", "generate"),
    "kill": ("killed by SIGKILL", "generate"),
    "segfault": ("killed by SIGSEGV", "generate"),
    "os_exit": ("exited with 0", "generate"),
    "start": ("RuntimeError: no such weights", "start engine"),
}


@pytest.fixture
def arguments(tmp_path):
    """The overrides of a run of three questions that takes no time; when a test fails, nothing goes on running."""
    yield [*FAULTY, *QUICK, "task=vqa", f"task.data.root={make_data(tmp_path / 'data')}"]
    for process in left_behind(tmp_path):
        process.kill()


def sweep_folder(tmp_path) -> Path:
    [folder] = (tmp_path / "cwd" / "multirun").iterdir()
    return folder


def runs(folder: Path) -> dict[str, RunFolder]:
    """The sweep's runs by the mode of their engine."""
    found = {}
    for point in read_json(folder / "sweep.json")["points"]:
        mode = next(o.partition("=")[2] for o in point["overrides"] if o.startswith("engine.mode="))
        found[mode] = RunFolder(folder / point["folder"])
    return found


def answered(run: RunFolder) -> list[str]:
    return [answer.item_id for answer in run.read("answers")]


def comparison(folder: Path) -> list[dict[str, str]]:
    with open(folder / "comparison.csv", encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


# --------------------------------------------------------------------------------------------- one sweep of many deaths


def test_a_run_that_dies_takes_no_other_with_it(vlm_eval_cli, arguments, tmp_path):
    modes = ["raise", "ok", "exit", "kill", "segfault", "os_exit", "start", "one_bad"]
    ended = vlm_eval_cli("-m", *arguments, f"engine.mode={','.join(modes)}")
    assert ended.code == 1, ended
    assert ended.out.splitlines()[-1] == "2 of 8 runs ok, 6 failed"

    folder = sweep_folder(tmp_path)
    found = runs(folder)
    assert list(found) == modes
    for mode, (reason, stage) in DEATHS.items():
        status = found[mode].status()
        assert (status["state"], status["stage"]) == ("failed", stage), (mode, status)
        assert status["error"].startswith(reason) and "\n" not in status["error"]
        assert status["ended"] and status["ended"] >= status["started"]
        # What was answered before the death is there after it.
        assert answered(found[mode]) == ([] if mode == "start" else ["a", "b"])
        assert reason in ended.out  # said again at the end, where a person looks
    assert found["ok"].status()["state"] == found["one_bad"].status()["state"] == "ok"
    assert answered(found["ok"]) == ["a", "b", "c"]

    sweep = read_json(folder / "sweep.json")
    assert sweep["failed"] == 6 and sweep["ended"]
    rows = {row["engine.mode"]: row for row in comparison(folder)}
    assert list(rows) == modes
    for mode, row in rows.items():
        assert row["state"] == ("ok" if mode in ("ok", "one_bad") else "failed")
        assert row["error"] == (found[mode].status()["error"] or "")
        assert row["tech/failed_rate"] == {"ok": "0.0", "one_bad": str(1 / 3)}.get(mode, "")

    # A single bad answer is a row with its reason, not a failed run, not a text.
    bad = found["one_bad"].read("answers")[2]
    assert (bad.item_id, bad.text, bad.error) == ("c", None, "refused by the engine")
    # The run.log has the traceback, the terminal has not.
    assert "Traceback" in (found["raise"].path / "run.log").read_text() and "Traceback" not in ended.err


def test_a_single_run(vlm_eval_cli, arguments, tmp_path):
    ended = vlm_eval_cli(*arguments, "engine.latency_items=2", "task.repeats=2")
    run = RunFolder(tmp_path / "cwd" / ended.out.strip())
    assert ended.code == 0 and run.status()["state"] == "ok"
    assert Counter((a.item_id, a.repeat) for a in run.read("answers")) == {(i, k): 1 for i in "abc" for k in (0, 1)}
    assert [x.item_id for x in run.read("latency")] == ["a", "b"]
    assert run.summary()["tech/latency_s_mean"] == 0.5
    assert {p.name for p in run.path.iterdir()} == {
        ".hydra",
        "answers.jsonl",
        "items.jsonl",
        "latency.jsonl",
        "provenance.json",
        "run.log",
        "scores.jsonl",
        "status.json",
        "summary.json",
    }


# ----------------------------------------------------------------------------------------------------------- time limit


def test_a_hanging_run_is_killed_at_its_time_limit(vlm_eval_cli, arguments, tmp_path):
    ended = vlm_eval_cli(*arguments, "engine.mode=hang", "run.timeout_s=3")
    assert ended.code == 1
    status = RunFolder(tmp_path / "cwd" / ended.out.strip()).status()
    assert status["state"] == "failed" and status["error"].startswith("killed after run.timeout_s=3")
    assert left_behind(tmp_path) == []


def left_behind(tmp_path) -> list[psutil.Process]:
    """Processes that still stand in this test's folder: runs, and what their engines started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.cwd().startswith(str(tmp_path)) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_sweep_and_all_it_started(vlm_eval_cli, arguments, tmp_path, number, code):
    command = [VLM_EVAL, "-m", *arguments, "engine.mode=hang,ok"]
    with open(tmp_path / "said", "w") as said:
        # A shell that started the tests in the background has SIGINT ignored, and that is inherited.
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        sweep = subprocess.Popen(command, cwd=tmp_path / "cwd", stdout=said, stderr=said, preexec_fn=heard)
    try:
        hanging = wait_for(lambda: runs(sweep_folder(tmp_path))["hang"])
        wait_for(
            lambda: len(answered(hanging)) == 2 and len(left_behind(tmp_path)) == 3
        )  # the sweep, the run, its child
        sent = time.monotonic()
        sweep.send_signal(number)
        assert sweep.wait(10) == code, (tmp_path / "said").read_text()
    finally:
        sweep.kill()
    assert time.monotonic() - sent < 10
    assert left_behind(tmp_path) == []
    status = hanging.status()
    assert (status["state"], status["stage"], status["error"]) == ("interrupted", "generate", "stopped by a signal")
    assert answered(hanging) == ["a", "b"]
    # The files say how far it came: the second run was never begun.
    states = {row["engine.mode"]: row["state"] for row in comparison(sweep_folder(tmp_path))}
    assert states == {"hang": "interrupted", "ok": "missing"}
    assert "Traceback" not in (tmp_path / "said").read_text()


def wait_for(condition, seconds: float = 20):
    """What `condition` returns once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if found := condition():
                return found
        except (OSError, ValueError, KeyError):  # the file is not there yet
            pass
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_a_run_that_is_deaf_to_sigterm_is_killed(monkeypatch):
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"deaf\n"
    monkeypatch.setattr(launch, "STOP_WITHIN_S", 0.2)
    launch._stop(process)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


# ------------------------------------------------------------------------------------------------------------- resuming


def test_resuming_does_only_what_is_missing(vlm_eval_cli, arguments, monkeypatch, tmp_path):
    log = tmp_path / "engine.log"
    monkeypatch.setenv("FAULTY_ENGINE_LOG", str(log))
    arguments = ["-m", *arguments, "engine.mode=ok,kill"]
    assert vlm_eval_cli(*arguments).code == 1
    folder = sweep_folder(tmp_path)
    first = read_json(folder / "sweep.json")
    before = {mode: (run.path / "answers.jsonl").read_bytes() for mode, run in runs(folder).items()}
    (runs(folder)["kill"].path / "answers.jsonl").write_bytes(before["kill"] + b'{"item_id": "c", "rep')  # a torn row

    log.unlink()
    monkeypatch.setenv("FAULTY_ENGINE_MENDED", "1")
    ended = vlm_eval_cli(*arguments, f"sweep.resume={folder}")
    assert ended.code == 0 and ended.out.splitlines()[-1] == "2 of 2 runs ok"
    assert "done already" in ended.err
    assert log.read_text().splitlines() == ["start kill", "answer kill c 0", "stop kill"]
    assert sweep_folder(tmp_path) == folder  # no second one
    second = read_json(folder / "sweep.json")
    assert (second["sweep_id"], second["started"], second["points"]) == (
        first["sweep_id"],
        first["started"],
        first["points"],
    )
    for mode, run in runs(folder).items():
        assert run.status()["state"] == "ok" and answered(run) == ["a", "b", "c"], mode
    assert (runs(folder)["ok"].path / "answers.jsonl").read_bytes() == before["ok"]
    assert (runs(folder)["kill"].path / "answers.jsonl").read_bytes().startswith(before["kill"])
    assert [row["state"] for row in comparison(folder)] == ["ok"] * 2
    assert {row["tech/failed_rate"] for row in comparison(folder)} == {"0.0"}
    assert "sweep.resume" not in comparison(folder)[0]


# ------------------------------------------------------------------------------------------------------------ bad items


def test_a_bad_item_is_answered_with_its_error_when_the_task_records_it(vlm_eval_cli, arguments, tmp_path):
    (tmp_path / "data" / "images" / "b.png").write_bytes(b"not a picture")
    ended = vlm_eval_cli(*arguments, "task.on_bad_item=record", "task.repeats=2", "engine.after=9")
    run = RunFolder(tmp_path / "cwd" / ended.out.strip())
    assert ended.code == 0, ended.err
    rows = {(a.item_id, a.repeat): a for a in run.read("answers")}
    assert len(rows) == len(run.read("answers")) == 6
    for repeat in (0, 1):
        assert rows["b", repeat].text is None and "not an image" in rows["b", repeat].error
        assert rows["a", repeat].text == "Ответ a"
    assert run.summary()["tech/failed_rate"] == pytest.approx(1 / 3)
    [unscored] = {json.dumps(s.unscored) for s in run.read("scores") if s.item_id == "b"}
    assert json.loads(unscored) == {"tech": "no answer"}


# ------------------------------------------------------------------------------------------------- folders and resuming


def test_a_forked_child_that_holds_the_pipe_does_not_hold_the_sweep(vlm_eval_cli, arguments, tmp_path):
    began = time.monotonic()
    ended = vlm_eval_cli(*arguments, "engine.mode=fork")
    assert ended.code == 0, ended
    assert time.monotonic() - began < 60  # the child sleeps for 600 s
    assert not left_behind(tmp_path)


def test_a_run_without_a_single_answer_has_failed(vlm_eval_cli, arguments, tmp_path):
    ended = vlm_eval_cli(*arguments, "engine.mode=all_bad", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1
    status = RunFolder(tmp_path / "run").status()
    assert status["state"] == "failed" and status["stage"] == "generate"
    assert "not one of 3 requests was answered" in status["error"] and "refused by the engine" in status["error"]


def test_a_folder_of_another_config_is_refused_and_left_as_it_is(vlm_eval_cli, arguments, tmp_path):
    where = f"hydra.run.dir={tmp_path / 'run'}"
    assert vlm_eval_cli(*arguments, "run.seed=0", where).code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    composed = (tmp_path / "run" / ".hydra" / "config.yaml").read_bytes()
    ended = vlm_eval_cli(*arguments, "run.seed=7", where)
    assert ended.code == 2 and "another config, prompt or data" in ended.err
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_bytes() == composed
    assert vlm_eval_cli(*arguments, "run.seed=0", "run.timeout_s=99", where).code == 0  # how it is run is no input


def test_a_resume_with_other_points_is_refused_with_the_sweeps_own_command(vlm_eval_cli, arguments, tmp_path):
    assert vlm_eval_cli("-m", *arguments, "engine.mode=ok").code == 0
    folder = sweep_folder(tmp_path)
    before = (folder / "sweep.json").read_bytes()
    for alone in ([], ["-m"]):
        ended = vlm_eval_cli(*alone, *arguments, "run.seed=5", f"sweep.resume={folder}")
        assert ended.code == 2
        assert not alone or "is no point of that sweep" in ended.err and "engine.mode=ok" in ended.err
    assert (folder / "sweep.json").read_bytes() == before


def test_two_processes_do_not_write_one_folder(vlm_eval_cli, arguments, tmp_path):
    run_dir = tmp_path / "run"
    assert vlm_eval_cli(*arguments, f"hydra.run.dir={run_dir}").code == 0
    rows_before = (run_dir / "answers.jsonl").read_bytes()
    (run_dir / "answers.jsonl").unlink()
    with open(run_dir / "run.log", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.run([sys.executable, "-m", "vlm_eval.run", str(run_dir)], capture_output=True, text=True)
    assert second.returncode == 3 and "another process" in second.stderr
    assert not (run_dir / "answers.jsonl").exists() and rows_before


def test_a_resume_makes_no_second_mlflow_run(vlm_eval_cli, arguments, monkeypatch, tmp_path):
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"
    tracked = [a for a in arguments if not a.startswith("tracking=")]
    tracked += ["tracking=mlflow_local", f"tracking.uri={store}", f"tracking.artifacts={tmp_path}/artifacts"]
    assert vlm_eval_cli("-m", *tracked, "engine.mode=raise").code == 1
    monkeypatch.setenv("FAULTY_ENGINE_MENDED", "1")
    assert vlm_eval_cli("-m", *tracked, "engine.mode=raise", f"sweep.resume={sweep_folder(tmp_path)}").code == 0
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("vlm-eval").experiment_id])
    [child] = [r for r in runs if r.data.tags["vlm_eval.kind"] == "run"]
    assert len(runs) == 2 and child.info.status == "FINISHED"
    assert "vlm_eval.error" not in child.data.tags and child.data.metrics["tech/failed_rate"] == 0
