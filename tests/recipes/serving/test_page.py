"""The page of ``sharpen serve`` in a real browser."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from sharpen.evaluation.files import read_jsonl
from tests.browsers import luminance

pytestmark = [pytest.mark.slow, pytest.mark.browser]

QUERY = "candles <img src=x onerror='window.owned = 1'>"
ANSWERED = """() => {
  const said = [...document.querySelectorAll(".system header .note")].map(note => note.textContent);
  return said.length === 5 && said.every(text => text.endsWith("ms"));
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None:
        pytest.skip("axe-playwright-python, which carries axe-core, is not installed")
    return next(Path(spec.origin).parent.rglob("axe*.js")).read_text(encoding="utf-8")


@pytest.fixture
def open_page(browser, served):
    """Opens the page, keeps what the browser says and asks for, and looks at it in the end."""
    pages = []

    def opened(**options):
        page = browser.new_page(**options)
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served.address)
        page.wait_for_selector("#query:focus")
        pages.append(page)
        return page

    yield opened
    for page in pages:
        assert page.said == []  # an error, or something that the page's policy forbade
        assert all(url.startswith(served.address.partition("#")[0]) for url in page.asked)
        assert not any(served.token in url for url in page.asked[1:])
        page.close()


def _search(page, query: str = QUERY) -> None:
    page.get_by_label("Query").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_function(ANSWERED)


def _focused(page) -> dict:
    return page.evaluate(
        "() => { const card = document.activeElement.closest('.card'); return {id: card?.dataset.id, system:"
        " card?.closest('.system')?.dataset.system, key: card?.dataset.key} }"
    )


def test_systems_stand_side_by_side_and_what_moved_is_told(open_page, served):
    page = open_page()
    _search(page)
    heads = page.locator("#columns h3").all_inner_texts()
    assert heads[:3] == ["BM25", "base", "tuned"] and "BM25" in heads[3] and "reranked" in heads[4]
    assert page.locator('[data-system="tuned"] .card').count() == 10
    assert "candles" in page.locator("#columns mark").all_inner_texts()
    assert page.locator("#moved tbody tr").count() > 0 and "standard deviations" in page.inner_text("#moved")
    assert page.title() == "small · sharpen" and "token" not in page.url and "12 documents" in page.inner_text("#about")


def test_a_query_that_was_asked_before_the_server_has_answered_is_searched_then(browser, served):
    page, waiting = browser.new_page(), []
    page.route("**/api/about", lambda route: waiting.append(route))
    page.goto(served.address)
    page.wait_for_function("() => performance.getEntriesByType('resource').some(e => e.name.endsWith('/search.js'))")
    page.wait_for_timeout(200)  # until what was loaded has run
    assert len(waiting) == 1
    page.get_by_label("Query").fill("candles")
    page.keyboard.press("Enter")
    waiting.pop().continue_()
    page.wait_for_function(ANSWERED)
    assert not waiting and page.get_by_label("Query").input_value() == "candles"  # the page was not loaded anew
    page.close()


def test_text_of_documents_and_queries_stays_text(open_page):
    page = open_page()
    _search(page)
    title = page.locator('[data-system="base"] .card[data-id="candle"] h4').inner_text()
    assert title == "<script>window.owned = 1</script> Making candles"
    page.click("#to-review")
    page.wait_for_selector("#items .card")
    page.get_by_label("words in it").fill("window.owned")
    page.wait_for_function("() => document.querySelectorAll('#items .card').length < 10")
    page.locator("#items .card").first.focus()
    page.keyboard.press("e")
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#items .card.correct")
    assert QUERY in page.inner_text("#items")
    assert page.evaluate("window.owned") is None and page.locator("img, body script").count() == 0
    page.locator("#items .card.correct").focus()
    page.keyboard.press("u")
    page.wait_for_selector("#items .card.correct", state="detached")


def test_results_are_marked_by_keyboard_alone(open_page, served):
    page = open_page()
    _search(page, "ice flowing downhill")
    while _focused(page)["system"] is None:
        page.keyboard.press("Tab")
    ids = page.locator('[data-system="bm25"] .card').evaluate_all("cards => cards.map(card => card.dataset.id)")
    assert _focused(page) == {"id": ids[0], "system": "bm25", "key": None}
    page.keyboard.press("l")
    page.keyboard.press("l")
    first = _focused(page)
    assert first["system"] == "tuned"
    page.keyboard.press("y")
    page.wait_for_selector(f'[data-system="base"] .card.relevant[data-id="{first["id"]}"]')  # wherever it stands
    page.keyboard.press("j")
    second = _focused(page)
    assert second["id"] != first["id"]
    page.keyboard.press("n")
    page.wait_for_selector(f'.card.not[data-id="{second["id"]}"]')
    assert "2 marks of 1 query" in page.inner_text("#marked-count")
    rows = [row for _, row in read_jsonl(served.run / "marks" / "marks.jsonl")][-2:]
    assert [(row["document"], row["relevant"], row["who"]) for row in rows] == [
        (first["id"], True, "Anna"),
        (second["id"], False, "Anna"),
    ]
    page.reload()  # the token is in the tab, the marks are in the run
    page.wait_for_selector("#query:focus")
    _search(page, "ice flowing downhill")
    assert page.locator(f'[data-system="tuned"] .card.relevant[data-id="{first["id"]}"]').count() == 1
    page.locator('[data-system="tuned"] .card').first.focus()
    for key in ("u", "j", "u"):
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelector('#marked-count').textContent === 'Nothing marked yet'")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"


def test_pairs_and_negatives_are_decided_on_by_keyboard_alone(open_page, served):
    page = open_page()
    page.get_by_role("button", name="Review").press("Enter")
    page.wait_for_selector("#items .card")
    while _focused(page)["key"] is None:
        page.keyboard.press("Tab")
    first = _focused(page)["key"]
    page.keyboard.press("r")
    page.wait_for_selector(f'.card.reject[data-key="{first}"]')
    assert _focused(page)["key"] not in (first, None)  # on to the next one
    second = _focused(page)["key"]
    page.keyboard.press("e")
    page.keyboard.type("What is asked better?")
    page.keyboard.press("Enter")
    page.wait_for_selector(f'.card.correct[data-key="{second}"]')
    assert "2 decisions" in page.inner_text("#decided")
    page.locator("#group").select_option("negatives")
    page.wait_for_selector('.card[data-key^="negative/"]')
    page.locator("#items .card").first.focus()
    page.keyboard.press("e")
    page.wait_for_selector(".card.relevant")
    rows = [json.loads(line) for line in (served.run / "decisions.jsonl").read_text().splitlines()][-3:]
    assert [(row["decision"], row["who"]) for row in rows] == [
        ("reject", "Anna"),
        ("correct", "Anna"),
        ("relevant", "Anna"),
    ]
    assert rows[1]["text"] == "What is asked better?"
    page.get_by_label("words in it").fill("no document has this")
    page.wait_for_function("() => document.querySelector('#reviewed').textContent === 'None.'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_on_a_phone_and_in_the_dark_and_axe_finds_no_serious_fault(open_page, axe, scheme, width):
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    _search(page)
    for view in ("search", "review"):
        if view == "review":
            page.click("#to-review")
            page.wait_for_selector("#items .card")
            page.locator("#items .card").first.focus()
            page.keyboard.press("e")  # with an open field
        for summary in page.locator("details:visible > summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper, ink = (
            luminance(page.evaluate(f"getComputedStyle(document.body).{name}")) for name in ("backgroundColor", "color")
        )
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7 and (paper < 0.1) == (scheme == "dark")
        page.evaluate(axe)
        found = page.evaluate("axe.run(document)")["violations"]
        assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found] == []
        if width == 390:  # to be hit by a thumb
            heights = page.locator("button:visible").evaluate_all(
                "all => all.map(b => b.getBoundingClientRect().height)"
            )
            assert min(heights) >= 44


def test_without_the_token_the_page_says_what_to_open(browser, served):
    page = browser.new_page()
    page.goto(served.address.partition("#")[0])
    page.wait_for_selector("#trouble:not([hidden])")
    assert "Open the address that sharpen serve has printed" in page.inner_text("#trouble")
    page.goto(served.address.partition("#")[0] + "#token=wrong")  # in the same tab, which loads nothing by itself
    page.wait_for_function("() => sessionStorage.getItem('token') === 'wrong'")
    page.wait_for_function("() => document.querySelector('#trouble').textContent.includes('all that stands behind')")
    page.goto(served.address)
    page.wait_for_selector("#query:focus")
    page.close()


def test_a_search_that_fails_is_told_and_marks_stay_with_the_query_whose_results_are_shown(open_page, served):
    page = open_page()
    _search(page, "ice flowing downhill")
    page.route("**/api/search", lambda route: route.fulfill(status=503, body="Service Unavailable"))
    page.get_by_label("Query").fill("beans per litre")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "The server failed (503)" in page.inner_text("#trouble")
    page.locator('[data-system="tuned"] .card').first.focus()
    page.keyboard.press("y")
    page.wait_for_selector('[data-system="tuned"] .card.relevant')
    rows = [row for _, row in read_jsonl(served.run / "marks" / "marks.jsonl")]
    assert rows[-1]["query"] == "ice flowing downhill" and rows[-1]["relevant"]
    assert "fraction: " in page.locator("#marked-use").text_content()
    page.keyboard.press("u")
    page.wait_for_selector(".card.relevant", state="detached")
    page.said.clear()  # the browser's own line on the failed request
