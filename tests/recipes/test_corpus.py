"""The corpus stage: languages of the documents, chunks in the base's tokens, and what its tokenizer does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpen.evaluation.beir import read_corpus
from tests.evaluation.test_languages import CZECH, THAI
from tests.processes import sharpen

RECIPE = """\
name: words
corpus: {{source: documents{more}}}
queries: {{strategies: [{{kind: harvested}}]}}
training: {{base: "packaged:all-MiniLM-L6-v2"}}
"""


def _run(folder: Path, texts: list[str], more: str = "") -> tuple[dict, str]:
    (folder / "documents").mkdir(exist_ok=True)
    for n, text in enumerate(texts):
        (folder / "documents" / f"{n}.txt").write_text(text, encoding="utf-8")
    (folder / "words.yaml").write_text(RECIPE.format(more=more))
    result = sharpen("run", "words.yaml", "--until", "corpus", cwd=folder)
    assert result.returncode == 0, result.stderr
    counts = json.loads((folder / "runs/words/corpus/manifest.json").read_text())["counts"]
    return counts, " ".join((result.stdout + result.stderr).split())


def test_languages_and_unknown_tokens_are_said(tmp_path):
    counts, said = _run(tmp_path, [*CZECH, *[text * 3 for text in THAI]])
    assert counts["languages"] == {"cs": 3, "th": 3}
    assert counts["unknown_tokens"] > 0.05 * counts["tokens"]
    assert "tokens are unknown to packaged:all-MiniLM-L6-v2" in said
    corpus = read_corpus(tmp_path / "runs/words/corpus/corpus.jsonl")
    assert {d.metadata["language"] for d in corpus.values()} == {"cs", "th"}


@pytest.mark.parametrize("more", [", language: sk", ", language: sk, chunk: {max_words: 20}"])
def test_a_recipe_may_fix_the_language(tmp_path, more):
    counts, said = _run(tmp_path, CZECH, more)
    assert counts["languages"] == {"sk": 3} and "are unknown to" not in said
    assert counts["chunks"] >= counts["documents"] == 3


@pytest.mark.parametrize("number", [4, 7])
def test_a_part_of_the_documents_has_the_judged_ones_first_and_is_compared_on_them(number, recipe_file, tmp_path):
    arguments = ("run", str(recipe_file), "llm=null", "queries={strategies: [{kind: harvested}]}")
    arguments += (f"corpus.documents={number}",)
    result = sharpen(*arguments, "filters={}", "--until", "before", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    before = tmp_path / "runs" / "topics" / "before"
    found = {line.split()[2] for line in (before / "before.trec").read_text().splitlines()}
    corpus = read_corpus(tmp_path / "runs" / "topics" / "corpus" / "corpus.jsonl")
    assert found == set(corpus) and len(corpus) == number
    queries = json.loads((before / "before.json").read_text())["ndcg@10"]
    judged = {"bread", "bicycle", "tomato", "glacier", "coffee", "chess"}
    assert len(judged & set(corpus)) == min(number, 6)
    assert set(queries) == {f"t-{i}" for i in judged & set(corpus)}
