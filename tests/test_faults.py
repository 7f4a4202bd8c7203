"""Runs that die in every way, time limits, signals, resuming: real processes, with an engine that breaks on demand."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from vlm_eval import launch, resolvers
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tracking.run_facts import tags_of

from .helpers import FAULTY, QUICK, VLM_EVAL, hear_ctrl_c, left_behind, make_data

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


def test_what_an_engine_does_to_warm_up_is_no_part_of_its_throughput(vlm_eval_cli, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTY_ENGINE_LOG", str(tmp_path / "log"))
    ended = vlm_eval_cli(*arguments, "engine.mode=ok", "+engine.warm_up_s=2")
    assert ended.code == 0, ended
    steps = [line.partition(" ok")[0] for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert steps == ["start", "warmed up", "answer", "answer", "answer", "stop"]
    [status] = tmp_path.glob("cwd/**/status.json")
    assert 2 > RunFolder(status.parent).provenance()["engine"]["generation_wall_s"] > 0


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
        "system.jsonl",
    }


# ----------------------------------------------------------------------------------------------------------- time limit


def test_a_hanging_run_is_killed_at_its_time_limit(vlm_eval_cli, arguments, tmp_path):
    ended = vlm_eval_cli(*arguments, "engine.mode=hang", "run.timeout_s=3")
    assert ended.code == 1
    status = RunFolder(tmp_path / "cwd" / ended.out.strip()).status()
    assert status["state"] == "failed" and status["error"].startswith("killed after run.timeout_s=3")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "no run.log: No such file or directory"),
        ("", "run.log is empty"),
        ("\n \n", "run.log is empty"),
        ("1\n2\n\n 3 \n4\n\n\n\n", "last in run.log: 2 | 3 | 4"),
    ],
)
def test_a_reason_ends_with_what_the_log_ends_with(tmp_path, text, said):
    if text is not None:
        (tmp_path / "run.log").write_text(text)
    assert launch._end_of_log(RunFolder(tmp_path)) == said


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_sweep_and_all_it_started(vlm_eval_cli, arguments, tmp_path, number, code):
    with started(tmp_path, *arguments, "engine.mode=hang,ok") as sweep:
        hanging = wait_for(lambda: runs(sweep_folder(tmp_path))["hang"])
        # The sweep, the run, its child, and the next run, which waits for its turn.
        wait_for(lambda: len(answered(hanging)) == 2 and len(left_behind(tmp_path)) == 4)
        wait_for(lambda: re.search(r"^\[2/2\].* items", (tmp_path / "said").read_text(), re.MULTILINE))
        sent = time.monotonic()
        sweep.send_signal(number)
        assert sweep.wait(10) == code, (tmp_path / "said").read_text()
    assert time.monotonic() - sent < 10
    assert left_behind(tmp_path) == []
    status = hanging.status()
    assert (status["state"], status["stage"], status["error"]) == ("interrupted", "generate", "stopped by a signal")
    assert answered(hanging) == ["a", "b"]
    # The files say how far it came: the second run had not begun its work.
    states = {row["engine.mode"]: row["state"] for row in comparison(sweep_folder(tmp_path))}
    assert states == {"hang": "interrupted", "ok": "interrupted"}
    assert answered(runs(sweep_folder(tmp_path))["ok"]) == []
    assert "Traceback" not in (tmp_path / "said").read_text()


def test_an_interrupted_sweep_says_how_far_it_came_and_how_to_go_on(vlm_eval_cli, arguments, monkeypatch, tmp_path):
    asked = [*arguments, "engine.mode=hang,ok", "sweep.prefetch=0"]
    with started(tmp_path, *asked) as sweep:
        hanging = wait_for(lambda: runs(sweep_folder(tmp_path))["hang"])
        wait_for(lambda: len(answered(hanging)) == 2)
        folder = sweep_folder(tmp_path)
        assert [line.split()[1] for line in status_of(folder)] == ["running", "waiting"]
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(10) == 130
    said = (tmp_path / "said").read_text().splitlines()
    assert said[-1] == "0 of 2 runs ok, 1 interrupted, 1 not begun" and read_json(folder / "sweep.json")["failed"] == 2
    assert [line.split()[1] for line in status_of(folder)] == ["interrupted", "not"]  # begun
    [again] = [line for line in said if line.startswith("interrupted; ")]
    command = shlex.split(again.partition(": ")[2])
    assert command == ["vlm-eval", "-m", *asked, f"sweep.resume={folder.relative_to(tmp_path / 'cwd')}"]
    monkeypatch.setenv("FAULTY_ENGINE_MENDED", "1")
    ended = vlm_eval_cli(*command[1:])
    assert ended.code == 0 and ended.out.splitlines()[-1] == "2 of 2 runs ok"
    assert sweep_folder(tmp_path) == folder


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_single_run_says_what_keeps_it(vlm_eval_cli, arguments, tmp_path, number, code):
    with started(tmp_path, *arguments, "engine.mode=hang", mode=()) as process:
        [folder] = wait_for(lambda: list((tmp_path / "cwd").glob("multirun/*/*")))
        wait_for(lambda: len(answered(RunFolder(folder))) == 2)
        process.send_signal(number)
        assert process.wait(10) == code
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last == f"vlm-eval: interrupted; what was written is kept in {folder}"
    assert [line.split()[:4] for line in status_of(folder)] == [[folder.name, "interrupted", "generate", "2"]]
    for mode in ((), ("-m",)):
        ended = vlm_eval_cli(*mode, *arguments, "engine.mode=hang", f"sweep.resume={folder}")
        why = "a single run; only a sweep is resumed, and a single point with -m is a sweep, too"
        assert (ended.code, ended.err) == (2, f"vlm-eval: sweep.resume={folder}: {why}\n")


def status_of(folder) -> list[str]:
    """What vlm-eval-status says of the runs in a folder, a line each."""
    command = [VLM_EVAL.with_name("vlm-eval-status"), folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[2:]


def test_a_second_signal_ends_everything_at_once(vlm_eval_cli, arguments, tmp_path):
    with started(tmp_path, *arguments, "engine.mode=deaf,ok") as sweep:
        deaf = wait_for(lambda: runs(sweep_folder(tmp_path))["deaf"])
        wait_for(lambda: len(answered(deaf)) == 2 and len(left_behind(tmp_path)) == 4)
        sweep.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert sweep.poll() is None  # the run does not hear it, and has some seconds
        sent = time.monotonic()
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait(10) == 143
    assert time.monotonic() - sent < 1
    assert "stopped at once by a second signal" in (tmp_path / "said").read_text()
    wait_for(lambda: not left_behind(tmp_path), 3)
    assert deaf.status()["state"] == "interrupted" and answered(deaf) == ["a", "b"]


def test_an_interrupted_sweep_tells_mlflow_last_and_not_for_ever(vlm_eval_cli, arguments, tmp_path):
    """A server that takes connections and never answers: files and table come first, and the exit in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracked = [a for a in arguments if not a.startswith("tracking=")]
        tracked += ["tracking=mlflow_server", f"tracking.uri=http://127.0.0.1:{silent.getsockname()[1]}"]
        with started(tmp_path, *tracked, "engine.mode=hang", MLFLOW_HTTP_REQUEST_TIMEOUT="1") as sweep:
            hanging = wait_for(lambda: runs(sweep_folder(tmp_path))["hang"], 60)
            wait_for(lambda: len(answered(hanging)) == 2)
            sent = time.monotonic()
            sweep.send_signal(signal.SIGINT)
            assert sweep.wait(15) == 130
        assert time.monotonic() - sent < 10.5
    assert [row["state"] for row in comparison(sweep_folder(tmp_path))] == ["interrupted"]
    assert "interrupted; this goes on with it" in (tmp_path / "said").read_text()
    assert left_behind(tmp_path) == []


def test_a_run_ends_with_the_process_that_started_it(vlm_eval_cli, arguments, tmp_path):
    with started(tmp_path, *arguments, "engine.mode=hang") as sweep:
        hanging = wait_for(lambda: runs(sweep_folder(tmp_path))["hang"])
        wait_for(lambda: len(answered(hanging)) == 2)
        sweep.kill()
    wait_for(lambda: hanging.status()["state"] == "interrupted")
    # With all that it has started, deaf as that may be: only SIGKILL, of both at once, leaves that behind.
    wait_for(lambda: not left_behind(tmp_path), 10)


@contextmanager
def started(tmp_path, *arguments, mode=("-m",), **variables):
    """A sweep, or with no mode a single run, in a process of its own that hears Ctrl-C; what it says is in
    tmp_path/said."""
    with open(tmp_path / "said", "w") as said:
        sweep = subprocess.Popen(
            [VLM_EVAL, *mode, *arguments],
            cwd=tmp_path / "cwd",
            stdout=said,
            stderr=said,
            preexec_fn=hear_ctrl_c,
            env=os.environ | variables,
        )
    try:
        yield sweep
    finally:
        sweep.kill()
        sweep.wait()


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
    arguments = ["-m", *arguments, "engine.mode=ok,kill", "engine.delay_s=0.01"]
    first_time = vlm_eval_cli(*arguments)
    assert first_time.code == 1 and "several goes" not in first_time.out
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
    # Its tokens/s is not read as if it stood for one batch.
    several = f"tokens/s of {runs(folder)['kill'].path.name}: made in several goes, the number is over all of them"
    assert several in ended.out.splitlines()
    assert ended.out.count("several goes") == 1
    report = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert re.search(r"^- Сделано в несколько приёмов, токены/с .*: .*kill, [^;]*\.$", report, re.MULTILINE)


def test_a_died_engine_is_started_again_so_often_and_says_so(vlm_eval_cli, arguments, monkeypatch, tmp_path):
    log = tmp_path / "engine.log"
    monkeypatch.setenv("FAULTY_ENGINE_LOG", str(log))
    ended = vlm_eval_cli("-m", *arguments, "engine.mode=kill,raise,start", "engine.retries=1", "task.repeats=2")
    found = runs(sweep_folder(tmp_path))
    starts = Counter(line for line in log.read_text().splitlines() if line.startswith("start"))
    # Six answers, a death before each third: one more start is not enough. What cannot be loaded is not tried again.
    assert ended.code == 1 and starts == {"start kill": 2, "start raise": 2, "start start": 1}
    for mode, reason in (("kill", "killed by SIGKILL"), ("raise", "ValueError: the engine broke over two lines")):
        status, [restart] = found[mode].status(), found[mode].provenance()["engine_restarts"]
        assert (status["state"], status["stage"]) == ("failed", "generate") and status["error"].startswith(reason)
        assert restart["stage"] == "generate" and restart["error"].startswith(reason)
        assert len(answered(found[mode])) == len(set(found[mode].read("answers"))) == 4
        assert "started again, 1 of engine.retries=1" in ended.err
    assert found["start"].provenance()["engine_restarts"] == []
    configs = {mode: resolvers.load_config(run.path) for mode, run in found.items()}
    tags = {mode: tags_of(configs[mode], run, None)["vlm_eval.engine_restarts"] for mode, run in found.items()}
    assert tags == {"kill": "1", "raise": "1", "start": None}
    log.unlink()
    resumed = vlm_eval_cli(
        "-m",
        *(*arguments, "engine.mode=kill,raise,start", "engine.retries=2", "task.repeats=2"),
        f"sweep.resume={sweep_folder(tmp_path)}",
    )
    assert resumed.code == 1 and resumed.out.splitlines()[-1] == "2 of 3 runs ok, 1 failed"
    assert len(answered(found["kill"])) == 6 and found["kill"].provenance()["engine_restarts"] == []


def test_a_run_leaves_no_temporary_file(vlm_eval_cli, arguments, monkeypatch, tmp_path):
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert vlm_eval_cli("-m", *arguments, "engine.mode=litter,kill_litter").code == 1
    assert list(own.iterdir()) == []


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
    command = shlex.join(["vlm-eval", "-m", *arguments, "engine.mode=ok", f"sweep.resume={folder}"])
    new = "is no point of that sweep: run.seed=0 is not among its overrides; start a new sweep, or go on with"
    less = "is no point of that sweep: engine.mode=ok is missing; start a new sweep, or go on with"
    for mode, asked, said in (
        ([], ["engine.mode=ok"], "a sweep goes on with its own command, -m included: "),
        (["-m"], ["engine.mode=ok", "run.seed=0,5", "run.timeout_s=99"], new),
        (["-m"], ["run.timeout_s=99"], less),
    ):
        ended = vlm_eval_cli(*mode, *arguments, *asked, f"sweep.resume={folder}")
        assert ended.code == 2 and ended.err.count("\n") == 1, ended
        assert said in ended.err and ended.err.endswith(f": {command}\n")
    [run] = (folder / point["folder"] for point in read_json(folder / "sweep.json")["points"])
    for mode in ([], ["-m"]):
        ended = vlm_eval_cli(*mode, *arguments, "engine.mode=ok", f"sweep.resume={run}")
        assert ended.err == f"vlm-eval: sweep.resume={run}: a run of a sweep; give the folder above it\n"
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


def test_two_processes_do_not_work_on_one_sweep(vlm_eval_cli, arguments, tmp_path):
    with started(tmp_path, *arguments, "engine.mode=hang") as sweep:
        hanging = wait_for(lambda: runs(sweep_folder(tmp_path))["hang"])
        wait_for(lambda: len(answered(hanging)) == 2)
        before = (sweep_folder(tmp_path) / "sweep.json").read_bytes()
        second = vlm_eval_cli("-m", *arguments, "engine.mode=hang", f"sweep.resume={sweep_folder(tmp_path)}")
        assert second.code == 2 and "another process works on this sweep" in second.err
        # And a single run into its folder leaves its status alone.
        third = vlm_eval_cli(*arguments, "engine.mode=hang", f"hydra.run.dir={hanging.path}")
        assert third.code == 1 and "another process works on it" in third.err
        assert hanging.status()["state"] == "running"
        assert (sweep_folder(tmp_path) / "sweep.json").read_bytes() == before
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait(10) == 143


def test_two_sweeps_at_once_share_a_new_store_and_nothing_else(vlm_eval_cli, arguments, tmp_path):
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/new/mlflow.db"
    tracked = [a for a in arguments if not a.startswith("tracking=")]
    tracked += ["tracking=mlflow_local", f"tracking.uri={store}", f"tracking.artifacts={tmp_path}/artifacts"]
    command = [VLM_EVAL, "-m", *tracked, "engine.mode=ok", "run.seed=0,1"]
    both = [subprocess.Popen(command, cwd=tmp_path / "cwd", stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "not tracked" not in "".join(said)
    folders = sorted((tmp_path / "cwd" / "multirun").iterdir())
    assert len(folders) == 2 and all(len(read_json(f / "sweep.json")["points"]) == 2 for f in folders)
    client = MlflowClient(store)
    found = client.search_runs([client.get_experiment_by_name("vlm-eval").experiment_id])
    assert Counter((r.data.tags["vlm_eval.kind"], r.info.status) for r in found) == {
        ("sweep", "FINISHED"): 2,
        ("run", "FINISHED"): 4,
    }


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
