"""What a team lead does on MLflow's page, for a browser: used by the test of the page and by scripts/make_pictures.

The ids (`data-component-id`) are those of the pinned MLflow; its words alone are not enough, they stand in menus too.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import Iterator

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WAIT_MS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def open_page(browser: Browser, address: str, width: int = 1700, height: int = 1100) -> Page:
    """MLflow's page, without the panel of its assistant that covers half of it."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{address}/#/experiments/1/evaluation-runs")
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
    return page


def open_runs(page: Page, address: str, mode: str = "") -> None:
    """The list of runs, the newest sweep's opened; mode CHART or ARTIFACT: beside what is drawn of them. Once a page,
    which remembers what is open."""
    page.goto(f"{address}/#/experiments/1/runs" + (f"?compareRunsMode={mode}" if mode else ""))
    page.get_by_text("matching runs").wait_for()
    page.locator("[data-component-id*='runnamecellrenderer']").first.click()


def compare_answers(page: Page, address: str, first: str, second: str) -> None:
    """Evaluation runs: choose two by name, Actions, Compare."""
    page.goto(f"{address}/#/experiments/1/evaluation-runs")
    for name in (first, second):
        row = page.locator(".eval-runs-table-row").filter(has=page.get_by_text(name, exact=True)).first
        row.locator("[data-component-id='mlflow.eval-runs.checkbox-cell']").click()
    page.get_by_role("button", name="Actions").first.click()
    page.get_by_role("menuitem", name="Compare").click()
    page.get_by_text("Comparing").first.wait_for()


def open_answer(page: Page, named: str) -> None:
    """A row of the comparison: both answers with the screenshot."""
    page.get_by_text(named).first.click()
    page.get_by_text("Comparing 2 traces").wait_for()
    # Both pictures are there and drawn.
    pictures = page.locator("img[src^='blob:'], img[src^='data:image/jpeg']")
    expect(pictures).to_have_count(2, timeout=WAIT_MS)
    page.wait_for_function(
        "() => [...document.querySelectorAll('img')].every(image => image.complete && image.naturalWidth)"
    )


def show_rationales(page: Page) -> None:
    """In an opened row: the judgements of both answers side by side."""
    page.get_by_role("tab", name="Details & Timeline").click()
    tabs = page.get_by_role("tab", name="Assessments")
    expect(tabs).to_have_count(2, timeout=WAIT_MS)
    for number in range(2):
        tabs.nth(number).click()
