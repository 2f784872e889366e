"""What an analyst does in the Prefect UI, in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

SUBMISSIONS = 6
SUBMITTED_MS = 20_000
PATIENCE_MS = 60_000  # a page on a busy machine; the wait for a run has its own limit


@contextmanager
def browser_page(url: str, folder: Path) -> Iterator[Page]:
    """A page of Debian's Chromium on `url`; where it fails, `folder`/failure.png shows the page."""
    program = shutil.which("chromium")
    assert program, "Chromium is missing: apt-get install --no-install-recommends chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1900})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        try:
            yield page
        except BaseException:
            page.screenshot(path=folder / "failure.png", full_page=True)
            raise
        finally:
            browser.close()


def open_form(page: Page, deployment: str) -> None:
    """From the list of deployments to the form of one."""
    page.get_by_text("Deployments", exact=True).first.click()
    page.get_by_role("link", name=deployment).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()


def field(page: Page, title: str) -> Locator:
    """The innermost part of the form with this title."""
    label = page.locator(
        "span.schema-form-property__label",
        has_text=re.compile(rf"^{re.escape(title)}( \(Optional\))?$"),
    ).last
    return label.locator(
        "xpath=ancestor::div[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
    )


def write(page: Page, title: str, text: str) -> None:
    """Fill a text field."""
    field(page, title).locator("textarea").first.fill(text)


def choose(page: Page, title: str, option: str) -> None:
    """Take one option of a select, opened at its arrow.

    In Prefect 3.7.7 a click on the select's text counts twice: it opens and closes at once.
    """
    field(page, title).locator(".p-select-button__icon").click(force=True)
    page.get_by_role("option", name=option, exact=True).click()


def write_list(page: Page, title: str, texts: list[str]) -> None:
    """Add items to an empty list and fill them."""
    listed = field(page, title)
    for number, text in enumerate(texts):
        listed.get_by_role("button", name="Add item").click()
        listed.locator("textarea").nth(number).fill(text)


def submit(page: Page) -> None:
    """Start the run and wait until the form has gone.

    A server on SQLite answers some requests with 'database is locked' while it is busy. The page
    then shows a notice over its buttons, and nothing was started: a person closes the notice and
    sends the form again, and so does this.
    """
    page.add_style_tag(content=".p-toast-container { display: none }")
    for left in reversed(range(SUBMISSIONS)):
        page.get_by_role("button", name="Submit", exact=True).click()
        try:
            page.wait_for_url(_form_has_gone, timeout=SUBMITTED_MS)
            return
        except PlaywrightTimeout:
            if not left:
                raise


def _form_has_gone(url: str) -> bool:
    return "/run" not in url.split("?")[0].removesuffix("/runs")


def end_of_run(page: Page, name: str, timeout_s: float) -> str:
    """Wait on the deployment's page until the named run has ended; returns its state's name."""
    page.get_by_role("link", name=name).first.wait_for(timeout=1000 * timeout_s)
    ends = page.locator(".flow-run-list-item, .p-list-item").filter(has_text=name)
    state = ends.get_by_text(re.compile("^(Completed|Failed|Crashed|Cancelled)$")).first
    state.wait_for(timeout=1000 * timeout_s)
    return state.inner_text()


def open_artifact(page: Page, run: str, description: str) -> None:
    """From the list of runs to the page of a run's artifact."""
    page.get_by_role("link", name=run).first.click()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_role("link").filter(has_text=description).first.click()
