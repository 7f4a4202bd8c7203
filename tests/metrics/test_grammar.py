"""Who checks: a real server of LanguageTool's protocol, Java where it is, pylat-ru in their place."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_eval.errors import BadInput
from vlm_eval.metrics import grammar

from ..helpers import REPO
from .data import answered, as_scores
from .language_metric import CLEAN, STRANGE, WRONG, columns, download_lt, language, pylat_ru

PYLAT = f"pylat-ru {pylat_ru.__version__}"
DEAD = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def no_language_tool_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LTP_PATH", str(tmp_path / "lt"))
    monkeypatch.delenv("LTP_JAR_DIR_PATH", raising=False)
    monkeypatch.setattr(download_lt, "BASE_URL_NEW_RELEASES", f"{DEAD}/{{version}}/")
    grammar._say_once.cache_clear()


@contextmanager
def server(*faults):
    """The address of a server of its own process."""
    command = [sys.executable, "-m", "tests.languagetool_server", *(f"--fault={fault}" for fault in faults)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address():
    with server() as there:
        yield there


# -------------------------------------------------------------------------------------- LanguageTool's protocol, remote


def test_a_server_counts_under_its_own_name_and_finds_the_same(address):
    texts = [WRONG, CLEAN, "😀 Превет 😀 мир работаит", "Пожалуйста помогите мне."]
    metric = language(backend="remote", remote_server=address)
    assert metric.check() is None
    found = list(metric.score(answered(texts)).values())
    assert found == columns(*texts) and found[2]["error_words"] == ["Превет", "работаит"]
    assert metric.facts()["backend"] == f"{PYLAT} (remote)"


@pytest.mark.parametrize("path", ["", "/", "/v2", "/v2/"])
def test_the_address_may_be_written_in_every_usual_way(address, path):
    metric = language(backend="auto", remote_server=address.removeprefix("http://") + path)
    assert metric.check() is None
    assert [x["grammar_errors"] for x in metric.score(answered([WRONG])).values()] == [2]
    assert metric.facts()["backend"].endswith("(remote)")


def test_a_server_is_given_texts_that_json_and_http_cannot_carry(address):
    assert columns(*STRANGE, backend="remote", remote_server=address) == columns(*STRANGE)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.data())
def test_places_in_utf_16_units_become_places_in_the_text(text, data):
    from language_tool_python import Match

    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    units = [len(text[:place].encode("utf-16-le")) // 2 for place in (start, end)]
    rule = {"id": "R", "issueType": "misspelling", "category": {"id": "C"}}
    raw = {"message": "", "replacements": [], "rule": rule, "context": {"text": "", "offset": 0}}
    match = Match({**raw, "offset": units[0], "length": units[1] - units[0]}, text)
    assert grammar._in_code_points(text, [match]) == [grammar.Mistake("R", "C", start, end)]


def test_a_server_that_answers_500_to_one_text_costs_that_text_alone():
    with server("3:500", "4:json", "5:incomplete") as there:  # the first check asks who it is
        fine, broken, other, half, last = columns(
            *[f"{WRONG} {n}" for n in range(5)], remote_server=there, backend="auto"
        )
    assert fine["grammar_errors"] == last["grammar_errors"] == 2
    assert broken["grammar_errors"] is other["grammar_errors"] is half["grammar_errors"] is None
    assert "refused the text: Error: Internal Error: something broke over" in broken["grammar_error_reason"]
    assert "answer of another kind: {'error'" in other["grammar_error_reason"]
    assert "did not finish" in half["grammar_error_reason"]


def test_a_server_that_dies_leaves_a_reason_in_every_answer_after_it():
    with server("4:die") as there:
        metric = language(backend="remote", remote_server=there)
        data = answered([f"{WRONG} {n}" for n in range(8)])
        found = metric.score(data)
    errors = [x["grammar_errors"] for x in found.values()]
    assert errors == [2, 2] + [None] * 6
    reasons = [x["grammar_error_reason"] for x in found.values() if x["grammar_errors"] is None]
    assert all("cannot be reached" in reason and "\n" not in reason for reason in reasons)
    assert reasons[2].startswith("LanguageTool") and reasons[3].startswith("not asked any more: LanguageTool")
    summary = metric.summarise(data, as_scores(found))
    assert summary["language/grammar_unchecked"] == 6 and "language/grammar_errors_sum" not in summary
    assert summary["language/grammar_errors_per_100_words"] == pytest.approx(100 * 4 / 12)
    assert summary["language/grammar_errors_per_100_words_n"] == 2 and summary["language/refusal_rate_n"] == 8


def test_a_server_that_hangs_is_not_asked_for_ever(monkeypatch):
    monkeypatch.setattr(grammar, "ANSWER_S", 2)
    monkeypatch.setattr(grammar, "GIVE_UP", 2)
    with server(*(f"{number}:hang" for number in range(2, 40))) as there:
        with grammar.opened("remote", there) as checker:
            began, reasons = time.monotonic(), []
            for _ in range(20):
                with pytest.raises(grammar.CannotCheck) as raised:
                    checker.mistakes(CLEAN)
                reasons.append(str(raised.value))
    assert time.monotonic() - began < 20
    assert "imed out" in reasons[0] and Counter(r.startswith("not asked") for r in reasons) == {False: 2, True: 18}


@pytest.mark.parametrize(
    "given, said",
    [
        ({"backend": "remote", "remote_server": DEAD}, "remote_server=http://127.0.0.1:9: cannot be reached"),
        ({"backend": "auto", "remote_server": DEAD}, "remote_server=http://127.0.0.1:9: cannot be reached"),
        ({"backend": "remote", "remote_server": "http://[bad"}, "cannot be reached"),
        ({"backend": "remote"}, "needs remote_server"),
        ({"backend": "pylat", "remote_server": DEAD}, "drop one"),
        ({"backend": "java"}, "it is one of auto, local, remote, pylat"),
        ({"brands": "nowhere.txt"}, "metrics.language.brands=nowhere.txt: no such file"),
        ({"words_file": "nowhere.txt"}, "metrics.language.words_file=nowhere.txt: no such file"),
    ],
)
def test_what_cannot_work_is_one_line_before_the_run(given, said):
    with pytest.raises(BadInput) as raised:
        language(**given).check()
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_no_languagetool_is_said_before_the_run(tmp_path):
    with files_over_http(tmp_path) as there:
        (tmp_path / "v2").mkdir()
        with pytest.raises(BadInput, match="what answers there is no LanguageTool.*404"):
            language(backend="remote", remote_server=there).check()
        (tmp_path / "v2" / "languages").write_text("<html>")
        with pytest.raises(BadInput, match="what answers there is no LanguageTool"):
            language(backend="remote", remote_server=there).check()
        (tmp_path / "v2" / "languages").write_text('[{"longCode": "en-US"}]')
        with pytest.raises(BadInput, match="knows no Russian"):
            language(backend="remote", remote_server=there).check()


def test_a_server_gone_between_check_and_score_is_a_reason_and_the_rest_is_scored():
    metric = language(backend="remote", remote_server=DEAD)
    data = answered([WRONG, "Sorry, but I can't assist with that."])
    found = metric.score(data)
    assert all("cannot be reached" in x["grammar_error_reason"] for x in found.values())
    assert metric.facts()["backend"] is None
    summary = metric.summarise(data, as_scores(found))
    assert not [name for name in summary if "grammar_errors" in name]
    assert summary["language/grammar_unchecked"] == 2 and summary["language/refusal_rate"] == 0.5


@contextmanager
def files_over_http(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()


# ---------------------------------------------------------------------------------------------------------- Java, local

SERVE = f'cd "{REPO}" && exec "{sys.executable}" -m tests.languagetool_server -p "$5"'  # java -cp JAR CLASS -p PORT


@pytest.fixture
def java(tmp_path, monkeypatch):
    """`java(version, script)`: an executable that claims a version, and runs `script` when it shall run a jar."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(version: str = 'openjdk version "17.0.15" 2025-04-15', script: str = SERVE):
        file = folder / "java"
        file.write_text(f"#!/bin/sh\nif [ \"$1\" = -version ]; then echo '{version}' >&2; exit 0; fi\n{script}\n")
        file.chmod(0o755)

    # Only what the script needs stays reachable: this machine's own java shall not be found.
    monkeypatch.setenv("PATH", str(folder))
    return install


def put_jar(tmp_path, content: bytes = b""):
    jar = tmp_path / "lt" / f"LanguageTool-{download_lt.LTP_DOWNLOAD_VERSION}" / "languagetool-server.jar"
    jar.parent.mkdir(parents=True)
    jar.write_bytes(content)
    return jar


def test_languagetool_on_this_machine_counts_where_it_is_there(java, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", DEAD)  # a company's proxy does not lead to this machine itself
    java()
    put_jar(tmp_path)
    metric = language(backend="auto")
    assert metric.check() is None
    assert [x["error_words"] for x in metric.score(answered([WRONG])).values()] == [["Превет", "работаит"]]
    assert metric.facts()["backend"] == f"{PYLAT} (local)"  # what the server says of itself
    assert not servers_left()


@pytest.mark.needs("javac")
def test_with_a_real_java_and_a_jar(tmp_path):
    """The jar is no LanguageTool: its server class starts the one over pylat-ru."""
    source = tmp_path / "HTTPServer.java"
    source.write_text(
        """package org.languagetool.server;
        public class HTTPServer {
          public static void main(String[] given) throws Exception {
            Process server = new ProcessBuilder("PYTHON", "-m", "tests.languagetool_server", given[0], given[1])
              .directory(new java.io.File("REPO")).inheritIO().start();
            Runtime.getRuntime().addShutdownHook(new Thread(server::destroy));
            System.exit(server.waitFor());
          }
        }""".replace("PYTHON", sys.executable).replace("REPO", str(REPO))
    )
    subprocess.run(["javac", "-d", tmp_path / "classes", source], check=True)
    with zipfile.ZipFile(put_jar(tmp_path), "w") as jar:
        jar.write(
            tmp_path / "classes/org/languagetool/server/HTTPServer.class", "org/languagetool/server/HTTPServer.class"
        )
    metric = language(backend="local")
    assert metric.check() is None
    assert [x["error_words"] for x in metric.score(answered([WRONG])).values()] == [["Превет", "работаит"]]
    assert metric.facts()["backend"] == f"{PYLAT} (local)"
    assert not servers_left()


def servers_left() -> list[psutil.Process]:
    time.sleep(0.5)
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.status() != psutil.STATUS_ZOMBIE and "-p" in p.cmdline()]


def test_languagetool_is_downloaded_where_it_is_not_there(java, tmp_path, monkeypatch):
    java()
    name = f"LanguageTool-{download_lt.LTP_DOWNLOAD_VERSION}"
    (tmp_path / "web").mkdir()
    with zipfile.ZipFile(tmp_path / "web" / f"{name}.zip", "w") as archive:
        archive.writestr(f"{name}/languagetool-server.jar", "a jar")
    monkeypatch.setenv("LTP_BYPASS_VERIFIED_DOWNLOADS", "true")
    with files_over_http(tmp_path / "web") as there:
        monkeypatch.setattr(download_lt, "BASE_URL_NEW_RELEASES", f"{there}/")
        metric = language(backend="auto")
        assert metric.check() is None and not (tmp_path / "lt" / name).exists()  # not yet
        with pytest.warns(RuntimeWarning, match="Verified downloads are bypassed"):
            metric.score(answered([WRONG]))
    assert metric.facts()["backend"].endswith("(local)") and (tmp_path / "lt" / name).is_dir()


JAVAS = {
    "too old": ('openjdk version "11.0.2" 2019-01-15', "Detected java 11.0"),
    "very old": ('java version "1.8.0_392"', "Detected java 1.8"),
    "unknown": ("a Java of our own", "Could not parse Java version"),
    "none": (None, "no java on PATH"),
}


@pytest.mark.parametrize("version, said", JAVAS.values(), ids=JAVAS)
def test_without_a_fitting_java_pylat_ru_counts_and_it_is_said_why(java, caplog, version, said):
    if version:
        java(version)
    with pytest.raises(BadInput) as raised:
        language(backend="local").check()
    assert said in str(raised.value) and "needs Java 17" in str(raised.value) and "\n" not in str(raised.value)
    metric = language(backend="auto")
    assert metric.check() is None
    assert [x["grammar_errors"] for x in metric.score(answered([WRONG])).values()] == [2]
    assert metric.facts()["backend"] == PYLAT
    said_so = [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "pylat-ru in place" in r.message
    ]
    assert len(said_so) == 1 and said in said_so[0]  # by check(), and not again by score()


def test_a_download_that_fails_leaves_pylat_ru_or_a_reason(java, caplog):
    java()
    metric = language(backend="auto")
    assert metric.check() is None
    assert [x["grammar_errors"] for x in metric.score(answered([WRONG])).values()] == [2]
    assert metric.facts()["backend"] == PYLAT
    assert "pylat-ru in place of LanguageTool: LanguageTool cannot be had: ConnectionRefusedError" in caplog.text
    forced = language(backend="local")
    assert forced.check() is None
    [found] = forced.score(answered([WRONG])).values()
    assert found["grammar_errors"] is None and "LanguageTool cannot be had" in found["grammar_error_reason"]
    assert found["russian_words"] == 6 and forced.facts()["backend"] is None


def test_a_java_that_ends_at_once_is_a_reason_with_its_last_words(java, tmp_path):
    java(script="echo something; echo 'Error: no such class' >&2; exit 3")
    put_jar(tmp_path)
    began = time.monotonic()
    [found] = columns(WRONG, backend="local")
    assert found["grammar_error_reason"].endswith("ended at its start with exit code 3: Error: no such class")
    assert time.monotonic() - began < 10


def test_a_java_that_never_answers_is_stopped(java, tmp_path, monkeypatch):
    monkeypatch.setattr(grammar, "START_S", 1)
    java(script="exec /bin/sleep 600")
    put_jar(tmp_path)
    [found] = columns(WRONG, backend="local")
    assert "did not answer within 1 seconds" in found["grammar_error_reason"]
    assert not [p for p in psutil.Process().children(recursive=True) if "600" in p.cmdline()]


def test_traps_of_the_jar_s_place_are_said(java, tmp_path, monkeypatch):
    java()
    put_jar(tmp_path).unlink()
    with pytest.raises(BadInput, match="has no jar in it; delete it"):
        language(backend="local").check()
    monkeypatch.setenv("LTP_JAR_DIR_PATH", str(tmp_path))
    with pytest.raises(BadInput, match="set LTP_PATH alone"):
        language(backend="local").check()
    monkeypatch.delenv("LTP_JAR_DIR_PATH")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LTP_PATH", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="the folder for LanguageTool cannot be used: FileExistsError"):
        language(backend="local").check()


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setattr(grammar, "_has", lambda module: False)
    for backend in ("auto", "local", "pylat"):
        with pytest.raises(BadInput, match=r"pip install 'vlm-eval\[grammar\]'"):
            language(backend=backend).check()
