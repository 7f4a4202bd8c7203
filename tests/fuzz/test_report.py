"""Nothing of the data becomes markup of the report: no element, attribute or script comes out of a text."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.report.sweep import make_sweep
from vlm_eval.report.markdown import _plain
from vlm_eval.report.page import _json
from vlm_eval.report.write import write_report
from vlm_eval.store import RunFolder, read_json, write_json

PIECES = [
    *(
        "<",
        ">",
        "&",
        '"',
        "'",
        "`",
        "=",
        "/",
        "\\",
        "{{",
        "}}",
        "{%",
        "%}",
        "${",
        "\n",
        "\r",
        "\0",
        "\x0b",
        "\x7f",
        "\u2028",
    ),
    *(
        "<script>",
        "</script>",
        "</SCRIPT ",
        "<!--",
        "-->",
        "]]>",
        "<![CDATA[",
        "</style>",
        "</title>",
        "<img src=x onerror=",
    ),
    *(
        "javascript:alert(1)",
        "&lt;",
        "&#60;",
        "\\u003c",
        "\ud83d",
        "\ufeff",
        "\u202e",
        "я",
        "😀",
        "</textarea>",
        "<svg/onload=a>",
    ),
    *(
        "|",
        "[x](javascript:a)",
        "![x](http://evil.example)",
        "# ",
        "**",
        "~~~",
        "http://evil.example/",
        "=1+1",
        "__proto__",
    ),
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join), st.text(min_size=1, max_size=20)
)


class Outline(HTMLParser):
    """The elements and attributes of a page, and what stands in its scripts."""

    def __init__(self, file: Path):
        super().__init__(convert_charrefs=True)
        self.elements, self.comments, self.scripts, self._in_script = Counter(), [], [], False
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        # Values too, but for pictures: what a page of harmless texts has not, an attack's may not have either.
        kept = [(k, v if k not in ("src", "alt") else v.partition(",")[0][:30]) for k, v in attributes]
        self.elements[tag, tuple(kept)] += 1
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data

    def handle_comment(self, data):
        self.comments.append(data)

    handle_decl = unknown_decl = handle_pi = handle_comment


def report_of(folder: Path, said: list[str]) -> Path:
    """A report in which these texts stand wherever texts come from elsewhere."""
    answer, item_id, rationale, device, question, reference, error, image = said
    make_sweep(folder, items=2)
    for run in (RunFolder(folder / f"demo-{quant}-vqa") for quant in ("gptq4", "bf16")):
        first, other = run.read("items")
        changed = dataclasses.replace(
            first, item_id=item_id, device=device, question=question, reference=reference, facts=(answer,)
        )
        # A screenshot of that name need not be there: then the name itself is told of.
        gone = dataclasses.replace(other, image=f"images/{image}")
        run.replace("items", [changed, gone])
        for kind in ("answers", "scores", "judgements"):
            rows = [
                dataclasses.replace(r, item_id=item_id) if r.item_id == first.item_id else r for r in run.read(kind)
            ]
            if kind == "answers":
                rows[0] = dataclasses.replace(rows[0], text=answer)
            if kind == "judgements":
                rows[0] = dataclasses.replace(rows[0], rationale=rationale, flag=rationale)
                rows[1] = dataclasses.replace(rows[1], status="error", error=error, candidate_score=None)
            run.replace(kind, rows)
    RunFolder(folder / "demo-gptq4-vqa").set_status("failed", "judge", error)
    write_json(folder / "sweep.json", read_json(folder / "sweep.json") | {"command": f"vlm-eval {rationale}"})
    return write_report(folder, language="en")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    return Outline(report_of(tmp_path_factory.mktemp("harmless") / "s", ["слово"] * 7 + ["gone.png"]) / "index.html")


ATTACK = "</script><script>window.broken = 1</script><!--<img src=x onerror='window.broken = 2'>\"'{{ 7*7 }}"


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(texts, min_size=8, max_size=8))
@example([ATTACK] * 8)
@example(["--><svg onload=alert(1)>"] * 8)
def test_the_page_has_the_elements_that_it_has_anyway(tmp_path_factory, harmless, said):
    out = report_of(tmp_path_factory.mktemp("attacked") / "s", said)
    page = Outline(out / "index.html")
    assert page.elements == harmless.elements
    assert page.comments == harmless.comments and len(page.scripts) == len(harmless.scripts)
    data = page.scripts[1]
    assert (
        data.count("\n") == harmless.scripts[1].count("\n") and "<" not in data.split("const PARTS")[0].split("{", 1)[1]
    )


@settings(max_examples=800, deadline=None)
@given(st.recursive(texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)))
def test_json_in_a_script_is_the_same_thing_and_never_ends_it(thing):
    text = _json(thing)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == json.loads(json.dumps(thing))
    text.encode("utf-8")


@settings(max_examples=1000, deadline=None)
@given(texts)
def test_a_text_in_markdown_is_one_line_without_html(text):
    line = _plain(text)
    assert len(line.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>|`*_\[\]&]", line)


def test_a_report_says_which_screenshots_are_missing(tmp_path):
    out = report_of(tmp_path / "s", ["слово"] * 7 + ["gone.png"])
    assert "1 screenshots are missing or cannot be read, the first: images/gone.png" in (out / "report.md").read_text()


@pytest.mark.needs("chromium")
def test_a_browser_runs_nothing_of_it(tmp_path):
    from playwright.sync_api import sync_playwright

    from tests.report.test_page import NAMES, Opened

    out = report_of(tmp_path / "s", [ATTACK] * 8)
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        opened = Opened(browser, out / "index.html")
        for button in range(2):
            opened.page.locator("button.open").nth(button).click()
            opened.page.locator(".answer").first.wait_for()
            opened.page.locator("#close").click()
        assert opened.page.evaluate("window.broken") is None
        assert opened.said == [] and opened.left_the_disk() == []
        browser.close()
