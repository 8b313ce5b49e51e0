"""The queries and negatives of the recipe triplets (the quickstart before) are those that commit cca6b94 made with the
same answers of the LLM."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from sharpen.evaluation.files import read_jsonl
from sharpen.recipes.engine import run_stages
from sharpen.recipes.load import load_recipe
from sharpen.recipes.resources import JOURNAL
from sharpen.recipes.run import prepare_run
from sharpen.sdg.llm.journal import Journal

GOLDEN = Path(__file__).parent / "golden"
NEEDED = ("corpus", "queries", "pairs", "negatives")


def _sum(rows: list) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


@pytest.mark.slow
def test_the_walk_by_triplets_makes_the_same_queries_and_negatives_as_before(tmp_path):
    expected = json.loads((GOLDEN / "quickstart.json").read_text())
    with closing(Journal(tmp_path / JOURNAL)) as journal, journal.together():
        for line in (GOLDEN / "quickstart_answers.jsonl").read_text(encoding="utf-8").splitlines():
            key, text, finish, prompt, cached, completion = json.loads(line)
            answer = {"text": text, "finish_reason": finish, "prompt_tokens": prompt, "cached_tokens": cached}
            journal.put(key, answer | {"completion_tokens": completion, "seconds": 0.0, "error": ""})
    recipe = load_recipe("triplets", [f"runs={tmp_path}"]).recipe
    run = prepare_run(recipe, Console(quiet=True))
    # the others are not read by these, and take minutes
    run.stages = [(stage, part) for stage, part in run.stages if stage.name in NEEDED]
    run_stages(run, until="corpus")
    corpus = [[d.id, d.text] for d in run.inputs().corpus().values()]
    if _sum(corpus) != expected["corpus"]:
        pytest.skip("the documentation of this Python is another one than that of the golden run")
    run_stages(run, until="negatives")
    with closing(Journal(tmp_path / JOURNAL)) as journal:
        assert len(journal) == 700, "a prompt has changed, and the LLM was asked anew"
    queries = [
        [row["_id"], row["text"], row["metadata"]["positives"]]
        for _, row in read_jsonl(run.folder / "queries" / "queries.jsonl")
    ]
    pairs = {
        split: [
            line.split("\t") for line in (run.folder / "pairs" / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]
        ]
        for split in ("train", "dev")
    }
    negatives = [
        [row["query_id"], row["doc_id"], row["miner"], row["rank"], row["verdict"]]
        for _, row in read_jsonl(run.folder / "negatives" / "negatives.jsonl")
    ]
    counts = {"queries": len(queries), "train": len(pairs["train"]), "negatives": len(negatives)}
    assert counts == expected["counts"]
    assert (_sum(queries), _sum(pairs), _sum(negatives)) == tuple(
        expected[name] for name in ("queries", "pairs", "negatives")
    )
