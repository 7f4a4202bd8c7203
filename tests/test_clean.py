"""scripts/clean: what it lists, what it removes, and that what runs stays."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vlm_eval.clean.__main__ import KINDS, main, removes
from vlm_eval.clean.caches import find_caches
from vlm_eval.clean.mlflow_store import find_mlflow
from vlm_eval.clean.sweeps import find_sweeps
from vlm_eval.judges.cache import ReplyCache
from vlm_eval.store import read_json, write_json

from .helpers import FAULTY, REPO, VLM_EVAL, Ended, make_data

DAY_S = 86400
COMMAND = [sys.executable, "-m", "vlm_eval.clean"]


@pytest.fixture(autouse=True)
def cwd(tmp_path, monkeypatch) -> Path:
    """Where one stands, with a cache folder of its own."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cwd"


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process, without a terminal."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["scripts/clean", *arguments])
            code = main()
        return Ended(code, *capsys.readouterr())

    return run


def listed(out: str) -> dict[str, str]:
    """path -> state"""
    lines = [line for line in out.splitlines() if line.startswith(KINDS)]
    return {line.split()[1]: re.split(r" {2,}", line)[-1] for line in lines}


def make_sweep(name: str, days: float = 0, size: int = 1000, state: str = "ok", ended: bool = True) -> Path:
    """A sweep's folder of one run, last written so many days ago."""
    folder = Path("multirun") / name
    write_json(folder / "sweep.json", {"ended": "2026-01-01" if ended else None, "points": [{"folder": "run"}]})
    write_json(folder / "run" / "status.json", {"state": state})
    (folder / "run" / "run.log").write_bytes(b"." * size)
    age(folder, days)
    return folder


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    for entry in [path, *path.rglob("*")]:
        os.utime(entry, (then, then), follow_symlinks=False)


@pytest.fixture
def running(tmp_path):
    """Starts a real sweep whose engine answers twice and then sleeps; its folder, and a function that kills it."""
    started = []

    def start(*overrides: str) -> tuple[Path, subprocess.Popen]:
        data = make_data(tmp_path / "data")
        command = [VLM_EVAL, "-m", *FAULTY, "judge=none", "metrics=tech", "task=vqa", "engine.mode=hang"]
        process = subprocess.Popen(
            [*command, f"task.data.root={data}", *overrides],
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        deadline = time.monotonic() + 90
        while not (answers := list(Path("multirun").glob("*/*/answers.jsonl"))) or not answers[0].stat().st_size:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        return answers[0].parent.parent, process

    yield start
    for process in started:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """The sweep with its runs and what they started, as a power cut would."""
    import psutil

    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # first: it would start a died engine again
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    _, left = psutil.wait_procs(children, timeout=30)  # until then they hold their locks
    assert not left


# ------------------------------------------------------------------------------------------------------ what is chosen


def test_it_lists_and_removes_nothing(run, tmp_path):
    make_sweep("old", 40, size=5_000_000)
    make_sweep("bad", 3, state="failed")
    make_sweep("dead", 2, state="running", ended=False)
    (Path("multirun") / "something else").mkdir()
    ReplyCache(tmp_path / "cache" / "judge_replies.sqlite").put("key", {"text": "paid for"})
    done = run()
    assert done.code == 0 and done.err == ""
    cache = "../cache/judge_replies.sqlite"
    paths = {"multirun/old": "ok", "multirun/bad": "failed", "multirun/dead": "died", cache: "ok"}
    assert listed(done.out) == paths
    assert re.search(r"^sweeps +multirun/old +40 d +5\.0 MB +ok$", done.out, re.M)
    assert re.search(r"^4 can be removed, 5\.[01] MB$", done.out, re.M)  # SQLite tidies its file when it likes
    assert run("sweeps", "--older-than", "30d").out.splitlines()[-1] == "1 can be removed, 5.0 MB"
    assert all(Path(path).exists() for path in paths)


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--older-than", "30d"], {"b", "c", "d"}),
        (["--older-than", "36h"], {"d"}),
        (["--larger-than", "1MB"], {"a", "c", "d"}),
        (["--larger-than", "1MB", "--older-than", "1w"], {"a", "b", "c", "d"}),
        (["--keep", "2"], {"c", "d"}),
        (["--keep", "3", "--older-than", "1d"], {"b", "c", "d"}),
        (["--keep", "0"], set()),
    ],
)
def test_by_age_size_and_number(run, arguments, left):
    for name, days in (("a", 40), ("b", 5), ("c", 3), ("d", 0)):
        make_sweep(name, days, size=2_000_000 if name == "b" else 1000)
    done = run("sweeps", *arguments, "--remove", "--yes")
    assert done.code == 0 and {path.name for path in Path("multirun").iterdir()} == left
    gone = 4 - len(left)
    assert f"{gone} of {gone} removed" in done.out if gone else "nothing found" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep"], "sweep: no such kind; there are sweeps, caches, mlflow"),
        (["--older-than", "30"], "--older-than 30: give a number and one of h, d, w"),
        (["--larger-than", "1 GB"], "--larger-than 1 GB: give a number and one of B, KB"),
        (["--keep", "-1"], "--keep -1: give a number"),
        (["--remove", "--yes"], "--remove would take all: say what with --older-than, --larger-than or --keep N"),
        (["--remove", "--keep", "0"], "--remove asks first and there is no terminal; add --yes"),
        (["mlflow", "--uri", "sqlite:///none.db"], "--uri sqlite:///none.db: no such store"),
        (["mlflow", "--uri", "http://127.0.0.1:5000"], "run `mlflow gc` on the server"),
    ],
)
def test_bad_input_is_one_line_and_removes_nothing(run, arguments, said):
    folder = make_sweep("old", 40)
    done = run(*arguments)
    assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1 and done.out == ""
    assert folder.is_dir() and not Path("none.db").exists()


@pytest.mark.parametrize(("answer", "is_left"), [("n", True), ("", True), ("y", False)])
def test_on_a_terminal_it_asks(answer, is_left):
    folder = make_sweep("old", 40)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*COMMAND, "sweeps", "--keep", "0", "--remove"], stdin=theirs, stdout=subprocess.PIPE)
    os.write(ours, f"{answer}\n".encode())
    out = process.communicate(timeout=60)[0].decode()
    os.close(ours), os.close(theirs)
    assert process.returncode == 0 and "Remove 1, 1.1 KB? [y/N]" in out
    assert folder.is_dir() is is_left and ("nothing removed" in out) is is_left


def test_the_script_itself():
    make_sweep("old", 40)
    script = [REPO / "scripts" / "clean", "sweeps"]
    env = {**os.environ, "VLM_EVAL_VENV": sys.prefix}
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and listed(done.stdout) == {"multirun/old": "ok"}


# ----------------------------------------------------------------------------------------------------------- what runs


def test_a_running_sweep_and_its_cache_stay(run, running, tmp_path, capsys):
    ReplyCache(tmp_path / "cache" / "judge_replies.sqlite").put("key", {"text": "paid for"})
    [listed_before] = find_caches(None)
    assert listed_before.state == "ok"
    folder, process = running("tracking=none")
    assert not removes(listed_before) and "left, it is running: process " in capsys.readouterr().err
    old = make_sweep("old", 40)
    everything = ["sweeps", "caches", "--keep", "0", "--remove", "--yes"]
    cache = "../cache/judge_replies.sqlite"
    for days in (0, 40):  # however long ago it wrote something
        age(folder, days)
        done = run(*everything)
        assert listed(done.out) == {str(folder): "running", cache: "running"} | ({} if days else {str(old): "ok"})
        assert done.code == 0 and "2 running, never removed" in done.out
        assert folder.is_dir() and Path(cache).is_file() and not old.exists()
    kill(process)
    age(folder, 40)
    assert listed(run("sweeps").out) == {str(folder): "died"}
    assert run(*everything).code == 0 and not folder.exists() and not Path(cache).exists()


@pytest.mark.parametrize("lock", ["sweep.lock", "run/run.log"])
def test_a_locked_sweep_stays_even_where_it_has_ended(run, lock):
    """A judge's or an import's, or a sweep between two runs."""
    folder = make_sweep("old", 40)
    with open(folder / lock, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        age(folder, 40)
        assert "running" in listed(run("sweeps", "--keep", "0", "--remove", "--yes").out)[str(folder)]
        assert folder.is_dir()
    assert run("sweeps", "--keep", "0", "--remove", "--yes").code == 0 and not folder.exists()


def test_one_that_has_not_ended_and_was_just_written_to_stays(run):
    """Its process may be about to take the lock, or be on another machine."""
    folder = make_sweep("new", 0, state="running", ended=False)
    run_alone = Path("multirun") / "single" / "run"
    write_json(run_alone / "status.json", {"state": "running"})
    (run_alone / ".hydra").mkdir()
    done = run("sweeps", "--keep", "0", "--remove", "--yes")
    assert listed(done.out) == {str(folder): "running", "multirun/single": "running"} and run_alone.is_dir()
    age(run_alone.parent, 0.1)
    assert listed(run("sweeps").out)["multirun/single"] == "died"


def test_one_that_begins_to_run_after_it_was_listed_stays(capsys):
    folder = make_sweep("old", 40)
    [found] = find_sweeps(None)
    assert found.state == "ok"
    with open(folder / "run" / "run.log") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not removes(found)
    write_json(folder / "sweep.json", {"ended": None, "points": []})  # a resume has begun
    assert not removes(found) and folder.is_dir()
    assert capsys.readouterr().err.count("multirun/old: left, it is running") == 2


# ------------------------------------------------------------------------------------------------------ how it removes


def test_links_are_not_followed(run, tmp_path):
    (tmp_path / "elsewhere" / "run").mkdir(parents=True)
    (tmp_path / "elsewhere" / "run" / "status.json").write_text('{"state": "ok"}')
    folder = make_sweep("old", 40)
    (folder / "run" / "link").symlink_to(tmp_path / "elsewhere")
    Path("multirun/link").symlink_to(tmp_path / "elsewhere")
    done = run("sweeps", "--keep", "0", "--remove", "--yes")
    assert done.code == 0 and listed(done.out) == {str(folder): "ok"}
    assert [path.name for path in Path("multirun").iterdir()] == ["link"]
    assert (tmp_path / "elsewhere" / "run" / "status.json").is_file()


@contextlib.contextmanager
def without_privileges():
    """As a person who may not do everything; root may."""
    before = os.geteuid()
    os.seteuid(65534 if before == 0 else before)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_removal_that_fails_half_way_is_said_and_the_others_go_on(run):
    stuck, other = make_sweep("stuck", 50), make_sweep("other", 40)
    (stuck / "zz" / "deep").mkdir(parents=True)
    for path in [Path("multirun"), *Path("multirun").rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    (stuck / "zz").chmod(0o555)
    age(stuck, 50)
    with without_privileges():
        done = run("sweeps", "--keep", "0", "--remove", "--yes")
    assert (
        done.code == 1 and "1 of 2 removed" in done.out and "multirun/stuck: not removed: PermissionError" in done.err
    )
    assert not other.exists() and not stuck.exists()  # what is left of it is not taken for a sweep
    left = Path("multirun/.removing-stuck")
    assert (left / "zz" / "deep").is_dir()

    # Chosen once, it goes with the next removal, whatever that one is told to keep.
    left.joinpath("zz").chmod(0o777)
    assert listed(run("sweeps").out) == {str(left): "half removed"}
    assert run("sweeps", "--keep", "9", "--remove", "--yes").code == 0 and not left.exists()


# -------------------------------------------------------------------------------------------------------------- caches


def test_caches_are_removed_whole(run, tmp_path):
    cache = tmp_path / "cache"
    open_cache = ReplyCache(cache / "answers.sqlite")
    open_cache.put("key", {"text": "x"})
    assert (cache / "answers.sqlite-wal").is_file()
    (cache / "images").mkdir()
    (cache / "images" / "0123-4567.png").write_bytes(b"." * 2_000_000)
    (cache / "notes.txt").write_text("a person's own")
    assert "2.0 MB" in run("caches", "--larger-than", "1MB").out
    assert run("caches", "--larger-than", "1MB", "--remove", "--yes").code == 0
    assert not (cache / "images").exists() and (cache / "answers.sqlite").is_file()
    assert run("caches", "--keep", "0", "--remove", "--yes").code == 0
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]


def test_a_cache_that_is_closed_after_it_was_listed_is_removed_all_the_same(run, tmp_path):
    """SQLite takes its own files away when the last connection closes."""
    cache = tmp_path / "cache"
    open_cache = ReplyCache(cache / "answers.sqlite")
    open_cache.put("key", {"text": "x"})
    [found] = find_caches(None)
    assert (cache / "answers.sqlite-wal").is_file()
    open_cache._db.close()
    assert [path.name for path in cache.iterdir()] == ["answers.sqlite"]
    assert removes(found) and list(cache.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- MLflow


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A sqlite store with its tables made and nothing in it."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def client(cwd, empty_store) -> MlflowClient:
    """Of the store where one stands, empty."""
    Path("mlruns").mkdir()
    shutil.copy(empty_store, "mlruns/mlflow.db")
    client = MlflowClient(f"sqlite:///{cwd}/mlruns/mlflow.db")
    client.create_experiment("vlm-eval", artifact_location=(cwd / "mlruns" / "artifacts").as_uri())
    return client


def make_run(client: MlflowClient, parent: str | None = None, ended: bool = True, **tags: str) -> str:
    experiment = client.get_experiment_by_name("vlm-eval").experiment_id
    tags |= {"mlflow.parentRunId": parent} if parent else {}
    run_id = client.create_run(experiment, start_time=1_700_000_000_000, tags=tags).info.run_id
    client.log_text(run_id, "." * 1000, "answers.json")
    if ended:
        client.set_terminated(run_id, end_time=1_700_000_001_000)
    return run_id


def artifacts(cwd: Path) -> set[str]:
    return {path.name for path in (cwd / "mlruns" / "artifacts").iterdir()}


def runs_of(client: MlflowClient) -> set[str]:
    from mlflow.entities import ViewType

    ids = [e.experiment_id for e in client.search_experiments()]
    return {run.info.run_id for run in client.search_runs(ids, run_view_type=ViewType.ALL)}


def test_a_real_sweep_leaves_mlflow_whole(run, client, cwd, running):
    """While it runs it stays; when it is dead it goes, with rows, traces and artifacts; what is not ours stays."""
    stranger = make_run(client)
    folder, process = running()
    everything = ["mlflow", "--keep", "0", "--remove", "--yes"]
    [parent] = runs_of(client) - {stranger}
    age(cwd / "mlruns", 40)
    age(folder, 40)
    assert set(listed(run(*everything).out).values()) == {"running"} and runs_of(client) == {stranger, parent}
    kill(process)
    mended = {**os.environ, "PYTHONPATH": str(REPO), "FAULTY_ENGINE_MENDED": "1"}
    command = [VLM_EVAL, "-m", *FAULTY, "judge=none", "metrics=tech", "task=vqa", "engine.mode=hang"]
    command += [f"task.data.root={cwd.parent / 'data'}", f"sweep.resume={folder}"]
    subprocess.run(command, env=mended, check=True, capture_output=True, timeout=200)
    experiment = client.get_experiment_by_name("vlm-eval").experiment_id
    assert len(client.search_traces(locations=[experiment], include_spans=False)) == 3
    assert len(runs_of(client)) == 3 and len(list((cwd / "mlruns/artifacts/traces").iterdir())) == 3

    [found] = find_mlflow(argparse.Namespace(uri=None))
    assert found.state == "ok"
    with open(next(folder.glob("*/run.log"))) as log:  # a judge has begun
        fcntl.flock(log, fcntl.LOCK_EX)
        assert not removes(found) and len(runs_of(client)) == 3
    done = run(*everything)
    assert done.code == 0 and "1 of 1 removed" in done.out, done.err
    assert runs_of(client) == {stranger} and artifacts(cwd) == {stranger, "traces"}
    assert client.search_traces(locations=[experiment], include_spans=False) == []
    assert list((cwd / "mlruns/artifacts/traces").iterdir()) == []
    assert read_json(folder / "sweep.json")["ended"]  # the files are another kind


def test_runs_in_mlflow_by_age_and_state(run, client, cwd):
    sweep = make_run(client, **{"vlm_eval.kind": "sweep"})
    child = make_run(client, sweep, **{"vlm_eval.kind": "run"})
    died = make_run(client, ended=False, **{"vlm_eval.key": "k", "vlm_eval.folder": str(make_sweep("m", 40))})
    unseen = make_run(client, ended=False, **{"vlm_eval.key": "k", "vlm_eval.folder": "/on/another/machine"})
    gone = make_run(client, **{"vlm_eval.kind": "run"})
    client.delete_run(gone)
    age(cwd / "mlruns", 40)
    path = "mlruns/artifacts/{}".format
    states = {path(sweep): "ok", path(died): "died", path(unseen): "running", path(gone): "deleted"}
    done = run("mlflow", "--older-than", "30d")
    assert listed(done.out) == states and f"{path(sweep)}  40 d  2.0 KB" in done.out
    assert run("mlflow", "--keep", "9", "--remove", "--yes").code == 0
    assert runs_of(client) == artifacts(cwd) == {sweep, child, died, unseen}
    assert run("mlflow", "--older-than", "30d", "--remove", "--yes").code == 0
    assert runs_of(client) == artifacts(cwd) == {unseen}
    client.delete_run(unseen)  # by a person who knows
    assert run("mlflow", "--keep", "9", "--older-than", "30d", "--remove", "--yes").code == 0
    assert runs_of(client) == artifacts(cwd) == set()


def test_a_store_that_cannot_be_read_is_bad_input(run):
    Path("mlruns").mkdir()
    Path("mlruns/mlflow.db").write_text("no database" * 1000)
    done = run()
    assert done.code == 2 and len(done.err.splitlines()) == 1, done
    assert "MLflow cannot read sqlite:///mlruns/mlflow.db: " in done.err and "leave it out: scripts/clean" in done.err


def test_artifacts_of_no_run(run, client, cwd):
    known, orphan, fresh = (
        make_run(client),
        cwd / "mlruns/artifacts" / ("a" * 32),
        cwd / "mlruns/artifacts" / ("b" * 32),
    )
    trace = cwd / "mlruns/artifacts/traces" / f"tr-{'c' * 32}"
    for folder in (orphan, fresh, trace):
        (folder / "artifacts").mkdir(parents=True)
    (cwd / "mlruns/artifacts/my notes/artifacts").mkdir(parents=True)
    age(cwd / "mlruns", 1)
    age(fresh, 0)
    names = {str(path.relative_to(cwd)): "orphan" for path in (orphan, trace)}
    assert listed(run("mlflow").out) == names

    shutil.copy("mlruns/mlflow.db", "mlruns/other.db")  # they may be that one's
    done = run("mlflow", "--keep", "0", "--remove", "--yes")
    assert "orphans are not looked for: mlruns/other.db" in done.err and orphan.is_dir()
    Path("mlruns/other.db").unlink()
    assert run("mlflow", "--keep", "0", "--remove", "--yes").code == 0
    assert artifacts(cwd) == {known, fresh.name, "traces", "my notes"} and not trace.exists()


def test_artifacts_that_cannot_be_removed_leave_a_deleted_run(run, client, cwd):
    """Its rows say where they lie: they are the last to go."""
    linked = make_run(client, **{"vlm_eval.kind": "run"})
    folder = cwd / "mlruns" / "artifacts" / linked
    folder.rename(cwd / "elsewhere")
    folder.symlink_to(cwd / "elsewhere")
    done = run("mlflow", "--keep", "0", "--remove", "--yes")
    assert done.code == 1 and "it is a link" in done.err and (cwd / "elsewhere/artifacts/answers.json").is_file()
    assert listed(run("mlflow").out) == {f"mlruns/artifacts/{linked}": "deleted"}
