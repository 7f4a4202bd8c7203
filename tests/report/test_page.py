"""index.html in a real browser, opened from the disk."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.report.sweep import make_sweep
from vlm_eval.report import page as page_module
from vlm_eval.report.write import remake_report, write_report
from vlm_eval.store import RunFolder, write_json

pytestmark = pytest.mark.needs("chromium")

SCRIPT = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'><!--"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Opened:
    """A page with all that it said and asked for."""

    def __init__(self, browser, file: Path, **size: int):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000, **size})
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        for table in ("runs", "items"):  # built, and drawn for the last time
            self.page.locator(f"#{table} .tabulator-sortable[tabindex='0']").first.wait_for()

    def rows(self, table: str) -> list[str]:
        return self.page.locator(f"#{table} .tabulator-row").all_inner_texts()

    def left_the_disk(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "data:"))]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = make_sweep(
        tmp_path_factory.mktemp("page") / "свип",
        quants=("gptq4", "awq", "bf16"),
        tasks=("vqa", "screen_annotation"),
        items=6,
        failed=["awq"],
        texts={"item/3": SCRIPT},
    )
    run = RunFolder(folder / "demo-bf16-screen_annotation")
    *others, last = run.read("judgements")
    run.replace("judgements", [*others, dataclasses.replace(last, status="refused", candidate_score=None)])
    return write_report(folder)


def test_runs_are_sorted_by_mouse_and_keyboard(browser, report):
    opened = Opened(browser, report / "index.html")
    assert len(opened.rows("runs")) == 6  # the failed ones too
    assert sum("failed: out of <memory>" in row for row in opened.rows("runs")) == 2
    header = opened.page.locator("#runs .tabulator-sortable", has_text="оценка относительно эталона")
    header.focus()
    opened.page.keyboard.press("Enter")
    opened.page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert "bf16" in opened.rows("runs")[0] and "0,900 [0,900; 0,900]" in opened.rows("runs")[0]
    assert opened.said == [] and opened.left_the_disk() == []


def test_filters_leave_what_was_asked_for(browser, report):
    opened = Opened(browser, report / "index.html")
    shown = opened.page.locator("#count")
    assert shown.inner_text() == "показано: 12 / 12"
    opened.page.select_option("[name=task]", "vqa")
    assert shown.inner_text() == "показано: 6 / 12"
    opened.page.select_option("[name=device]", "phone")
    assert shown.inner_text() == "показано: 3 / 12" and len(opened.rows("items")) == 3
    opened.page.select_option("[name=spread]", "0.3")
    assert shown.inner_text() == "показано: 1 / 12" and "item/0" in opened.rows("items")[0]
    opened.page.select_option("[name=spread]", "")
    opened.page.select_option("[name=task]", "")
    opened.page.select_option("[name=device]", "")
    opened.page.fill("[name=search]", "экране 4")
    assert shown.inner_text() == "показано: 2 / 12"
    opened.page.check("[name=errors]")
    assert shown.inner_text() == "показано: 0 / 12"  # awq failed as a whole, which the list of runs says
    opened.page.fill("[name=search]", "")
    assert shown.inner_text() == "показано: 1 / 12" and "item/5" in opened.rows("items")[0]  # its judgement was refused


def test_an_item_opens_by_keyboard_with_all_answers_and_rationales(browser, report):
    opened = Opened(browser, report / "index.html")
    page = opened.page
    for _ in range(5):  # Tabulator may draw the list anew when the page gets its height, and the focus is gone
        page.locator("button.open").first.press("Enter")
        page.wait_for_timeout(500)
        if page.locator("#opened-name").count():
            break
    assert page.locator("#opened-name").inner_text() == "item/0"
    assert page.locator(".answer").count() == 3
    text = page.locator("#opened-body").inner_text()
    assert "Ответ gptq4" in text and "Ответ bf16" in text and "прогон не дал ответа" in text
    assert "stern, кандидат первым (A): оценка 4, эталон 10" in text and "потому что ba <b>bf16</b>" in text
    assert page.locator("#opened-body img").evaluate("image => image.complete && image.naturalWidth") == 60
    page.keyboard.press("ArrowRight")
    assert page.locator("#opened-name").inner_text() == "item/1"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#opened-name").inner_text() == "item/0"
    page.keyboard.press("Escape")
    assert not page.locator("#opened").is_visible()
    assert opened.said == [] and opened.left_the_disk() == []


def test_repeats_stand_one_below_the_other_with_all_candidates_side_by_side(browser, tmp_path):
    folder = make_sweep(tmp_path / "s", items=5)
    run = RunFolder(folder / "demo-bf16-vqa")
    run.append("answers", [dataclasses.replace(a, repeat=1, text="Ещё раз") for a in run.read("answers")])
    opened = Opened(browser, write_report(folder, language="en") / "index.html")
    opened.page.locator("button.open").first.click()
    assert opened.page.locator(".repeat").all_inner_texts() == ["repeat 0", "repeat 1"]
    first, second = (grid.locator(".answer") for grid in opened.page.locator(".answers").all())
    assert [a.split("\n")[0] for a in first.all_inner_texts()] == ["demo gptq4", "demo bf16"]
    assert "the run gave no answer" in second.nth(0).inner_text() and "Ещё раз" in second.nth(1).inner_text()


def test_markup_in_an_answer_stays_text(browser, report):
    opened = Opened(browser, report / "index.html")
    opened.page.locator("button.open", has_text="item/3").first.click()
    assert SCRIPT in opened.page.locator("#opened-body").inner_text()
    assert opened.page.evaluate("window.broken") is None
    assert opened.said == []


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, report):
    opened = Opened(browser, report / "index.html", width=390, height=844)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.page.locator("button.open").first.click()
    assert opened.page.locator("#opened-body").evaluate("body => body.scrollWidth") <= 390


def test_a_large_sweep_keeps_answers_and_screenshots_beside_the_page(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "INLINE_BYTES", 0)
    out = write_report(make_sweep(tmp_path / "s", items=120), language="en")
    assert [p.name for p in sorted((out / "answers").iterdir())] == ["0.js", "1.js"]
    assert "потому что" not in (out / "index.html").read_text()
    opened = Opened(browser, out / "index.html")
    opened.page.fill("[name=search]", "item/115")
    opened.page.locator("button.open").first.click()
    opened.page.locator(".answer").first.wait_for()
    assert "потому что ab <b>gptq4</b>" in opened.page.locator("#opened-body").inner_text()
    assert (
        opened.page.locator("#opened-body img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 60
    )
    assert opened.said == [] and opened.left_the_disk() == []


def test_a_large_report_opens_from_a_server_too(browser, tmp_path, monkeypatch):
    """As an archive of reports is served; what is beside the page is then no file:."""
    monkeypatch.setattr(page_module, "INLINE_BYTES", 0)
    out = write_report(make_sweep(tmp_path / "s", items=3))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(out)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.locator("button.open").first.click()
        page.locator(".answer").first.wait_for()
        assert page.locator("#opened-body img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 60
    finally:
        server.shutdown()


def test_numbers_are_rounded_as_in_the_table_for_a_pull_request(browser, tmp_path):
    folder = make_sweep(tmp_path / "s")
    run = RunFolder(folder / "demo-gptq4-vqa")
    write_json(run.path / "summary.json", run.summary() | {"rouge/rouge1_f_mean": 0.8875})  # 0.88749999... in binary
    out = write_report(folder, language="en")
    opened = Opened(browser, out / "index.html")
    assert "0.887" in opened.rows("runs")[0] and "| 0.887 |" in (out / "report.md").read_text()


def test_options_are_kept_for_the_next_report_that_a_sweep_ends_with(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), items=6)
    write_report(folder, language="en", baseline="quant=awq", margin=0.1)
    (folder / "report" / "plots" / "of_before.png").touch()
    remake_report(folder)
    text = (folder / "report" / "report.md").read_text()
    assert "against demo awq" in text or "of demo awq's" in text
    assert not (folder / "report" / "plots" / "of_before.png").exists()
    write_report(folder)  # a person who gives none has the defaults again
    assert "против demo bf16" in (folder / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--margin", "5"], "no ratio such as 0.05"),
        (["--margin", "5%"], "5% is no number above 0"),
        (["--max-gib", "0"], "0 is no number above 0"),
        (["--baseline", "quant"], "is not KEY=VALUE"),
        (["--out", "/proc/nothing"], "cannot be written"),
    ],
)
def test_options_that_make_no_sense_are_one_line(tmp_path, options, said):
    folder = make_sweep(tmp_path / "s")
    command = [sys.executable, "-m", "vlm_eval.report.cli", str(folder), *options]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and said in refused.stderr.splitlines()[-1], refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_command_says_where_the_report_is_and_refuses_what_is_no_sweep(tmp_path):
    folder = make_sweep(tmp_path / "s")
    command = [sys.executable, "-m", "vlm_eval.report.cli"]
    made = subprocess.run([*command, str(folder), "--language", "en"], capture_output=True, text=True)
    assert made.returncode == 0 and f"{folder}/report/index.html" in made.stdout
    assert '<html lang="en">' in (folder / "report" / "index.html").read_text()
    refused = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 2 and "no sweep.json here" in refused.stderr
