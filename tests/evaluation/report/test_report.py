"""Reports: what is printed and written of a comparison."""

import re
from xml.etree import ElementTree

import pytest

from sharpen.evaluation import BM25, Document, Query, Report, Task, compare
from sharpen.evaluation.files import InputError
from sharpen.evaluation.report import charts
from sharpen.evaluation.report.by_query import query_changes
from sharpen.evaluation.report.comparison import make_comparison


class Reversed:
    """BM25's documents, the worst first."""

    def __init__(self, corpus):
        self.bm25 = BM25(corpus)

    def search(self, queries, k):
        return {q: {d: -s for d, s in scores.items()} for q, scores in self.bm25.search(queries, 100).items()}


@pytest.fixture
def task(corpus) -> Task:
    """Of each document a query, which one other document has a word of."""
    more = {f"{i}-2": Document(f"{i}-2", f"{d.title.split()[-1]} and nothing else") for i, d in corpus.items()}
    queries = [Query(f"q-{i}", f"{d.title} {d.text}"[:200]) for i, d in corpus.items()]
    return Task(corpus | more, queries, {f"q-{i}": {i: 1} for i in corpus}, name="topics & more")


@pytest.fixture
def report(task) -> Report:
    return compare(task, before=Reversed(task.corpus), after=BM25(task.corpus))


def test_it_is_printed_as_text_markdown_latex_and_numbers(report: Report):
    assert report.verdict == "better"
    text = str(report)
    assert "The tuned model is better than the base: ndcg@10" in text and "**" not in text
    assert re.search(r"^metric +BM25 +before +after +difference", text, flags=re.M)
    markdown = report.to_markdown()
    assert "is **better** than the base" in markdown and "| ndcg@10 |" in markdown and "## Kinds of queries" in markdown
    latex = report.to_latex()
    assert latex.count(r"\\") == 4 and latex.splitlines()[2].startswith(r"system & ndcg@10 & hit\_rate@1")
    after = next(line for line in latex.splitlines() if line.startswith("after"))
    assert r"1.0000$^{\dagger}$" in after and "12 queries of topics" in latex
    numbers = report.to_dict()
    assert numbers["verdict"] == "better" and numbers["bm25"]["ndcg@10"]["value"] == 1.0


def test_models_are_compared_by_name_and_the_same_model_twice_is_no_difference(task):
    report = compare(task, before="packaged:tiny-bert", after="packaged:tiny-bert", bm25=False)
    assert report.verdict == "not distinguishable" and report.to_dict()["bm25"] is None
    assert "BM25" not in str(report) and report.to_latex().count(r"\\") == 3


def test_the_page_has_each_query_with_the_documents_that_moved(report: Report, tmp_path):
    page = report.to_html(tmp_path / "report.html").read_text()
    assert page.count('<tr id="q-') == 12 and "left the top 10" not in page  # all documents are in both top 10
    assert page.count("rank 1 after") == 12 and "topics &amp; more" in page
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="') == 2
    assert page.count('<a href="#q-') == 12


def test_documents_that_leave_and_enter_the_top_10(task):
    query = task.queries["q-bread"]
    small = Task(task.corpus, [query], {query.id: {"bread": 1}})
    ids = list(task.corpus)
    runs = ({query.id: {i: -n for n, i in enumerate(ids[:12])}}, {query.id: {i: -n for n, i in enumerate(ids[2:])}})
    scores = ({"ndcg@10": {query.id: 1.0}}, {"ndcg@10": {query.id: 0.0}})
    (change,) = query_changes(small, runs, scores)
    assert [(hit.doc_id, hit.rank, hit.grade) for hit in change.left] == [(ids[0], 1, 1), (ids[1], 2, 0)]
    assert [(hit.doc_id, hit.rank) for hit in change.entered] == [(ids[10], 9), (ids[11], 10)]
    assert change.relevant_ranks == (("bread", 1, None),) and change.outcome == "lost" and change.overlap == 1.0


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [e.text for e in parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_charts_are_well_formed_in_the_pages_colours_and_escape_names(report: Report):
    drawn = (
        charts.intervals(report.comparison.model_copy(update={"names": ("<b>one</b>", "two")})),
        charts.scatter({"q-1": (0.25, 1.0), "q-2": (0.0, 0.0)}, ("a & b", "c")),
        charts.curves([(1, 2.5), (100, 0.5)], [(0, 0.3), (100, 0.4)], 100, "ndcg@10 on validation"),
        charts.curves([(1, 2.5)], [], None, "ndcg@10"),
        charts.arms_chart([("arm <1>", 0.01, (-0.02, 0.04)), ("other", 0.0, (0.0, 0.0))], "the untuned model"),
    )
    for svg in drawn:
        root = parse(svg)
        assert root.get("role") == "img" and root.get("aria-label") and " id=" not in svg
        assert not re.search(r'(fill|stroke)="#', svg)
    assert "<b>one</b>" in texts(drawn[0]) and {"0", "0.2", "1", "ndcg@10"} <= set(texts(drawn[0]))
    assert "nDCG@10, a & b" in texts(drawn[1]) and {"loss", "step", "kept"} <= set(texts(drawn[2]))
    assert "kept" not in texts(drawn[3]) and "arm <1>" in texts(drawn[4]) and "<style>" in drawn[4]


def test_points_lie_where_their_values_are():
    svg = parse(charts.scatter({"q-1": (0.0, 1.0), "q-2": (1.0, 0.0)}, ("one", "two")))
    links = svg.findall("{http://www.w3.org/2000/svg}a")
    (x1, y1), (x2, y2) = ((float(a[0].get("cx")), float(a[0].get("cy"))) for a in links)
    assert x1 < x2 and y1 < y2 and x2 - x1 == pytest.approx(y2 - y1)
    assert [a.get("href") for a in links] == ["#q-1", "#q-2"]
    assert charts.scale_around([0.0], 0, 1).ticks() and charts.scale_around([-3.0, 17.0], 0, 100)(-5) >= 0


def test_systems_that_were_scored_on_other_queries_are_not_compared():
    scores = {"ndcg@10": {"q1": 0.5, "q2": 0.25}}
    for other, message in (
        ({"q1": 0.5, "q3": 1.0}, "of which 1 are the same; 'q2' is one that only base has"),
        ({"x": 1.0}, "of which 0 are the same"),
        ({}, "there is no query"),
    ):
        with pytest.raises(InputError, match=message):
            make_comparison(scores, {"ndcg@10": other}, seed=1, queries_of="queries")
