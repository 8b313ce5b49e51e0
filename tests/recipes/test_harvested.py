"""Recipes that ask nobody for queries, and such as choose the documents that they ask about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpen.evaluation.beir import read_queries
from sharpen.evaluation.files import InputError
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages import stages_of
from tests.conftest import TOPICS
from tests.processes import sharpen

NOBODY = ["llm=null", "queries={strategies: [{kind: harvested}]}"]


def test_a_recipe_without_an_llm_walks_the_whole_way(recipe_file: Path, tmp_path: Path):
    text = recipe_file.read_text().replace("llm: embedded\n", "")
    recipe_file.write_text(
        text[: text.index("queries:")] + "queries: {strategies: [{kind: harvested}]}\n" + text[text.index("filters:") :]
    )
    for verb, *more in (
        ("validate",),
        ("estimate",),
        ("preview", "--documents", "3"),
        ("run",),
        ("inspect",),
        ("diagnose",),
    ):
        given = str(recipe_file) if verb in ("validate", "estimate", "preview", "run") else "runs/topics"
        result = sharpen(verb, given, *more, cwd=tmp_path)
        assert result.returncode == 0, (verb, result.stderr)
        said = {
            "estimate": "texts of the documents; no LLM",
            "preview": "texts of all documents kept",
            "inspect": "harvested",
        }
        assert said.get(verb, "") in " ".join(result.stdout.split())
    folder = tmp_path / "runs" / "topics"
    counts = json.loads((folder / "queries" / "manifest.json").read_text())["counts"]
    assert counts["asked"] == counts["kept"] + sum(counts["rejected"].values()) and "prompt_tokens" not in counts
    queries = read_queries(folder / "queries" / "queries.jsonl")
    assert len(queries) == counts["kept"] > len(TOPICS)
    assert {q.metadata["positives"][0] for q in queries.values()} == set(TOPICS)
    assert all(q.metadata["verbatim"] and q.metadata["harvested"] for q in queries.values())
    assert not list((tmp_path / "runs").glob("*.sqlite"))  # nobody was asked
    assert "texts of the documents (harvested)" in (folder / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["llm=null"], "queries.strategies.0: document asks an LLM, and the recipe has none; give the part llm"),
        ([*NOBODY, "filters.judge={}"], "filters.judge: the judge asks an LLM"),
        ([*NOBODY, "negatives.miners=[{kind: bm25}, {kind: llm}]"], "negatives.miners.1: llm asks an LLM"),
        ([*NOBODY, "negatives.filters=[{kind: judge}]"], "negatives.filters.0: judge asks an LLM"),
        (["queries.strategies=[{kind: harvested}, {kind: paraphrase, pool: x.yaml}]"], "cannot be the first"),
        (["queries.strategies=[{kind: harvested, temperature: 1}]"], "that belongs to"),
        (["queries.strategies=[{kind: harvested, kinds: [titel]}]"], "title"),
        (["queries.select=coverage"], "say how many in documents"),
    ],
)
def test_who_asks_without_an_llm_is_named(recipe_file: Path, overrides: list[str], said: str):
    with pytest.raises(InputError) as caught:
        load_recipe(str(recipe_file), overrides)
    assert said in str(caught.value)


def test_the_encoder_counts_only_where_it_chooses(recipe_file: Path):
    def fingerprint(*overrides: str) -> dict:
        recipe = load_recipe(str(recipe_file), overrides).recipe
        return next(part.fingerprint() for stage, part in stages_of(recipe) if stage.name == "queries")

    drawn = fingerprint("queries.documents=5")
    assert drawn == fingerprint("queries.documents=5", "training.document_prompt='x: '") and "encoder" not in drawn
    covering = ("queries.documents=5", "queries.select=coverage")
    assert fingerprint(*covering) != drawn
    assert fingerprint(*covering) != fingerprint(*covering, "training.document_prompt='x: '")
    nobody = fingerprint(*NOBODY, "queries.documents=5", "queries.select=coverage")
    assert nobody["llm"] is None and "encoder" not in nobody


def test_preview_and_run_ask_about_the_same_covering_documents(recipe_file: Path, tmp_path: Path):
    covering = ["queries.documents=4", "queries.select=coverage", "queries.per_document=1", "filters.round_trip=null"]
    preview = sharpen("preview", str(recipe_file), *covering, "--documents", "2", cwd=tmp_path)
    assert preview.returncode == 0 and "of 2 kept" in preview.stdout, preview.stderr
    estimate = sharpen("estimate", str(recipe_file), *covering, cwd=tmp_path)
    assert "as many drawn at random" in " ".join(estimate.stdout.split())
    run = sharpen("run", str(recipe_file), *covering, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    counts = json.loads((tmp_path / "runs" / "topics" / "queries" / "manifest.json").read_text())["counts"]
    assert counts["asked"] == 4
    assert _answers(tmp_path) == 4  # two of them from the preview


def _answers(folder: Path) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "runs" / "llm_answers.sqlite")) as journal:
        return journal.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
