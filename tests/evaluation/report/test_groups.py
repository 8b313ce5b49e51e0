"""Groups of documents: who gains, who loses, and who has no queries."""

from __future__ import annotations

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.report.comparison import make_comparison, sentence
from sharpen.evaluation.report.groups import (
    coverage_table,
    group_comparisons,
    groups_of_documents,
    losing_groups,
    lost_in_groups,
    unanswered,
)

GERMAN = "Der Mieter zahlt die Miete am dritten Werktag eines jeden Monats im Voraus."


@pytest.fixture
def task() -> Task:
    """Thirty short English news of 2024, and thirty long German laws of 1999 in two chunks each."""
    corpus = []
    for n in range(30):
        news = {"source": f"news/{n}.md", "format": "markdown", "language": "en", "date": "2024-05-01"}
        corpus.append(Document(f"news/{n}.md", f"The council met on day {n}.", metadata=news))
        law = {"source": f"law/{n}.html", "format": "html", "language": "de", "date": "May 1999"}
        for part in (1, 2):
            metadata = law | {"chunk_of": f"law/{n}.html"}
            corpus.append(Document(f"law/{n}.html/{part}", f"{n} {GERMAN} " * 10, metadata=metadata))
    ids = {f"n{n}": f"news/{n}.md" for n in range(30)} | {f"l{n}": f"law/{n}.html/2" for n in range(30)}
    return Task(corpus, [Query(q, q) for q in ids], {q: {i: 1} for q, i in ids.items()}, "mixed")


def _scores(task: Task, news: float, law: float) -> dict:
    return {"ndcg@10": {q: (news if q.startswith("n") else law) + int(q[1:]) / 1000 for q in task.queries}}


def test_documents_are_grouped_by_source_length_language_and_date(task):
    groups = groups_of_documents(task.corpus)
    of = {kind: (named["news/3.md"], named["law/3.html"]) for kind, named in groups.items()}
    assert of == {
        "folder": ("news", "law"),
        "format": ("markdown", "html"),
        "length": ("up to 1,000 characters", "1,001 to 5,000 characters"),
        "language": ("English", "German"),
        "year": ("2024", "1999"),
    }
    same = {i: d for i, d in task.corpus.items() if i.startswith("news")}
    assert groups_of_documents(same) == {}


def test_a_group_that_loses_while_the_mean_gains_is_a_warning(task):
    before, after = _scores(task, 0.2, 0.5), _scores(task, 0.6, 0.3)
    comparison = make_comparison(before, after, seed=1, queries_of="queries")
    assert comparison.verdict != "worse" and comparison.delta["ndcg@10"].value > 0
    compared = group_comparisons(task, groups_of_documents(task.corpus), (before, after), comparison, 1)
    lost = losing_groups(compared)
    assert len(compared) == 10 and len(lost) == 5 and all(compared[name].queries == 30 for name in compared)
    warning = lost_in_groups(compared, comparison)
    assert warning.startswith("**A group lost** while the mean gained:") and "language: German, -0.2000" in warning
    assert "folder: law" in warning and "law" not in lost_in_groups(compared, comparison, named=False)
    assert warning in sentence(comparison.model_copy(update={"caveat": warning}))


def test_no_warning_where_the_mean_loses_or_the_loss_is_chance(task):
    before, after = _scores(task, 0.5, 0.5), _scores(task, 0.4, 0.3)
    comparison = make_comparison(before, after, seed=1, queries_of="queries")
    compared = group_comparisons(task, groups_of_documents(task.corpus), (before, after), comparison, 1)
    assert losing_groups(compared) and lost_in_groups(compared, comparison) == ""
    noisy = {"ndcg@10": {q: v + (0.2 if int(q[1:]) % 2 else -0.18) for q, v in before["ndcg@10"].items()}}
    comparison = make_comparison(before, noisy, seed=1, queries_of="queries")
    compared = group_comparisons(task, groups_of_documents(task.corpus), (before, noisy), comparison, 1)
    assert comparison.delta["ndcg@10"].value > 0 and lost_in_groups(compared, comparison) == ""


def test_coverage_and_queries_that_nothing_answers(task):
    groups = groups_of_documents(task.corpus)
    documents = {d.doc_id for d in task.corpus.values()}
    lines = coverage_table(groups, documents, {f"news/{n}.md" for n in range(15)})
    assert "| all | 60 | 15 | 25% |" in lines and "| folder: `law` | 30 | 0 | 0% |" in lines
    runs = [{"n1": {"news/1.md": 1.0}, "l1": {"law/2.html": 1.0}}, {"l2": {"law/2.html": 0.5}}]
    assert set(task.queries) - set(unanswered(task, runs)) == {"n1", "l2"}
