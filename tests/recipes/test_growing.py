"""A corpus that grows under a recipe: what the LLM is asked anew."""

from __future__ import annotations

import json
from dataclasses import replace

from sharpen.evaluation.beir import Corpus, read_qrels, read_queries, write_corpus
from sharpen.sdg.documents import read_documents
from sharpen.sdg.splitting import read_split
from tests.conftest import make_dataset, make_recipe, write_rows
from tests.processes import sharpen
from tests.servers import chat_answer, serve_replies


def test_the_quickstart_with_one_percent_more_documents_asks_for_two_percent_at_most(tmp_path):
    asked: list[str] = []

    def reply(_path, body, _headers):
        asked.append(body["messages"][0]["content"])
        return chat_answer(f"what is number {len(asked)} good for")

    def generate(corpus: Corpus, **more: str) -> int:
        asked.clear()
        write_corpus(tmp_path / "docs.jsonl", corpus)
        result = sharpen("generate", "quickstart", "corpus.source=docs.jsonl", *settings, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return len(asked)

    documents = read_documents("python-docs")
    with serve_replies(reply) as url:
        settings = (f"llm={{base_url: '{url}', model: m}}",)
        first = generate(documents)
        assert first == 300
        sample = list(documents.values())[:: len(documents) // (len(documents) // 100)]
        added = {f"new/{d.id}": replace(d, id=f"new/{d.id}", text=f"{d.text} It is new here.") for d in sample}
        assert len(added) >= len(documents) // 100
        # they stand before, between and behind the others
        grown = dict(sorted((documents | added).items(), key=lambda item: item[0].removeprefix("new/")))
        again = generate(grown)
        assert 0 < again <= 0.02 * first
        # one document that is changed asks for its own alone
        queries = read_queries(tmp_path / "runs" / "quickstart" / "queries" / "queries.jsonl").values()
        chunk = next(q for q in queries if q.metadata["strategy"] == "document").metadata["positives"][0]
        changed = chunk.partition("#")[0]
        grown[changed] = replace(grown[changed], text=f"Changed, from its first word on. {grown[changed].text}")
        mine = generate(grown)
        assert 0 < mine <= 3 and all("Changed, from" in prompt for prompt in asked[:1])
        # and one that is gone asks for what takes its place, and drops its pairs
        del grown[changed]
        assert generate(grown) <= 3
        rows = [json.loads(line) for line in (tmp_path / "runs/quickstart/queries/queries.jsonl").open()]
        assert not [row for row in rows for i in row["metadata"]["positives"] if i.partition("#")[0] == changed]


def test_a_run_goes_on_from_the_last_model_with_old_pairs_and_says_what_became_of_old_and_new_documents(tmp_path):
    """Eight documents and then twelve, four of them new and one of the eight changed."""
    data = make_dataset(tmp_path / "topics")
    recipe = make_recipe(tmp_path, data)
    rows = [json.loads(line) for line in (data / "corpus.jsonl").open()]
    (data / "corpus.jsonl").unlink()  # the recipe's documents are searched
    later = ("glacier", "coffee", "candle", "sailing")
    asked: list[str] = []

    def reply(_path, body, _headers):
        asked.append(body["messages"][0]["content"])
        return chat_answer(f"what do people say of number {len(asked)}")

    with serve_replies(reply) as url:
        given = (
            f"llm={{base_url: '{url}', model: m}}",
            "corpus.source=docs.jsonl",
            "filters.round_trip=null",
            "evaluation.unknown_documents=drop",
            "evaluation.systems=false",
            "negatives.miners=[{kind: random}]",
            "training.epochs=1",
        )
        write_rows(tmp_path / "docs.jsonl", [row for row in rows if row["_id"] not in later])
        first = sharpen("run", str(recipe), *given, cwd=tmp_path)
        assert first.returncode == 0, first.stderr
        asked.clear()
        changed = [row | {"text": f"Changed. {row['text']}"} if row["_id"] == "bread" else row for row in rows]
        write_rows(tmp_path / "docs.jsonl", changed)
        go_on = ("training/continued", "training.base=runs/topics/model", "training.replay.run=runs/topics")
        second = sharpen("run", str(recipe), *given, *go_on, "name=more", cwd=tmp_path)
        assert second.returncode == 0, second.stderr
    # two prompts of each new document and of the changed one
    assert len(asked) == 2 * (len(later) + 1)
    old, new = tmp_path / "runs" / "topics" / "pairs", tmp_path / "runs" / "more" / "pairs"
    sides = read_split(new / "split.jsonl")
    assert {i: side for i, side in sides.items() if i in read_split(old / "split.jsonl")} == read_split(
        old / "split.jsonl"
    )
    queries, trained = read_queries(new / "queries.jsonl"), read_qrels(new / "qrels" / "train.tsv")
    of_new = [q for q in trained if {i.partition("#")[0] for i in queries[q].metadata["positives"]} & {*later, "bread"}]
    assert len(trained) == 2 * len(of_new) > 0  # half of them are old ones
    metrics = json.loads((tmp_path / "runs" / "more" / "metrics.json").read_text())
    assert {name: c["queries"] for name, c in metrics["documents"].items()} == {"there before": 3, "new or changed": 3}
    report = (tmp_path / "runs" / "more" / "report.md").read_text()
    assert "| there before | 3 |" in report and "| new or changed | 3 |" in report
    result = sharpen("run", str(recipe), *go_on[:2], "training.replay.run=runs/gone", "name=z", cwd=tmp_path)
    assert result.returncode == 2 and "runs/gone/corpus/corpus.jsonl: no such file" in result.stderr
