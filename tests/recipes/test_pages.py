"""The report of a real run in a real browser."""

import re

import pytest

from tests.browsers import luminance

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def open_page(browser, undisturbed):
    """Opens the report and keeps what the browser says and asks for."""
    report = undisturbed[0] / "runs" / "topics" / "report.html"
    pages = []

    def opened(**options):
        page = browser.new_page(**options)
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(report.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        assert page.said == []  # an error, or something that the page's policy forbade
        assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]
        page.close()


def test_text_of_documents_and_queries_stays_text(open_page):
    page = open_page()
    assert page.evaluate("window.owned") is None
    assert "first moves <img src=x onerror='window.owned = 1'>" in page.inner_text("#queries")
    assert page.locator("#queries img, main script").count() == 0
    source = page.content()
    assert "&lt;script&gt;window.owned" in source and "<script>window.owned" not in source


def test_the_table_sorts_and_filters(open_page):
    page = open_page()

    def column(n):
        return [
            float(cell)
            for cell in page.eval_on_selector_all(
                f"#queries tbody tr:not([hidden]) td:nth-child({n})", "cells => cells.map(c => c.dataset.value)"
            )
        ]

    assert len(column(4)) == 6
    button = page.get_by_role("button", name="after")
    button.click()
    assert (
        column(3) == sorted(column(3), reverse=True)
        and page.get_attribute("#queries th:nth-child(3)", "aria-sort") == "descending"
    )
    button.press("Enter")  # by keyboard, too
    assert column(3) == sorted(column(3)) and page.get_attribute("#queries th:nth-child(3)", "aria-sort") == "ascending"
    page.get_by_label("words in it").fill("FIRST moves")
    assert len(column(4)) == 1 and page.inner_text("#count") == "1 queries"
    page.get_by_label("words in it").fill("")
    for outcome, right in (("won", lambda d: d > 0), ("lost", lambda d: d < 0), ("tied", lambda d: d == 0)):
        page.get_by_label("outcome").select_option(outcome)
        assert all(map(right, column(4)))
    page.get_by_label("words in it").fill("no query has this")
    page.evaluate("location.hash = '#q-1'")  # as a point of the chart leads there
    page.wait_for_function("document.querySelectorAll('#queries tbody tr:not([hidden])').length === 6")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_on_a_phone_and_in_the_dark(open_page, scheme: str, width: int):
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert (
        page.evaluate("document.documentElement.scrollWidth") <= width
    )  # nothing makes the page itself wider than the screen
    colours = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('svg text')).fill]"
    )
    ink, paper, drawn = (luminance(c) for c in colours)
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7 and (paper < 0.1) == (scheme == "dark")
    assert drawn == ink  # the charts are in the page's colours
    assert page.locator("svg[role=img][aria-label]").count() == 3
    assert page.eval_on_selector_all("[id]", "all => all.length === new Set(all.map(e => e.id)).size")


def test_every_control_is_reached_by_keyboard(open_page):
    page = open_page()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.tagName + ' ' + (document.activeElement.id ||"
                " document.activeElement.textContent.trim())"
            )
        )
    assert reached[0] == "A To the numbers"
    assert {
        "INPUT words",
        "SELECT outcome",
        *(f"BUTTON {name}" for name in ("query", "before", "after", "difference", "relevant", "overlap")),
    } <= set(reached)
    assert not any(tag.startswith("a ") for tag in reached)  # the points of the chart: the table has the same


def test_the_page_tells_of_the_whole_run(open_page):
    text = open_page().inner_text("body")
    for heading in (
        "The numbers",
        "Query by query",
        "Kinds of queries",
        "Model selection",
        "Time and cost",
        "Rejected queries",
        "Overlap of training and comparison",
        "Training examples",
        "The recipe",
    ):
        assert re.search(rf"^{heading}$", text, flags=re.M), heading
    assert "packaged:tiny-bert" in text and "positive" in text
