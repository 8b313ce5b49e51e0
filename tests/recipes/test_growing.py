"""A corpus that grows under a recipe: what the LLM is asked anew."""

from __future__ import annotations

import json
from dataclasses import replace

from sharpen.evaluation.beir import Corpus, read_queries, write_corpus
from sharpen.sdg.documents import read_documents
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
