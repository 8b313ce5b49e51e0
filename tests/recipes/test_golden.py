"""The queries and negatives of the recipe triplets are those that were made before with the same answers of the LLM."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from sharpen.evaluation.files import read_jsonl
from sharpen.recipes.engine import run_stages
from sharpen.recipes.load import load_recipe
from sharpen.recipes.run import prepare_run
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.settings import JOURNAL

GOLDEN = Path(__file__).parent / "golden"
ANSWERS = GOLDEN / "quickstart_answers.jsonl"
FIELDS = ("text", "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens")
DOCUMENTS = 200
BASE = "packaged:tiny-bert"
NEEDED = ("corpus", "queries", "pairs", "negatives")


def _sum(rows: list) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


@pytest.mark.slow
def test_the_walk_by_triplets_makes_the_same_queries_and_negatives_as_before(tmp_path):
    expected = json.loads((GOLDEN / "quickstart.json").read_text())
    made = _walk(tmp_path)
    if made["corpus"] != expected["corpus"]:
        pytest.skip("the documentation of this Python is another one than that of the golden run")
    with closing(Journal(tmp_path / JOURNAL)) as journal:
        assert len(journal) == DOCUMENTS, "a prompt has changed, and the LLM was asked anew"
    assert made["counts"] == expected["counts"]
    assert made == expected


def _walk(runs: Path, answers: str | None = None) -> dict:
    """Sums and counts of what the recipe makes with ``answers`` (default: those of the folder golden); what they lack
    is asked."""
    lines = (ANSWERS.read_text(encoding="utf-8") if answers is None else answers).splitlines()
    with closing(Journal(runs / JOURNAL)) as journal, journal.together():
        for key, *values in map(json.loads, lines):
            journal.put(key, dict(zip(FIELDS, values, strict=True)) | {"seconds": 0.0, "error": ""})
    # one precision wherever it runs, as the round trip ranks by the base, and one that encodes all of it in seconds
    more = [f"runs={runs}", f"queries.documents={DOCUMENTS}", "training.precision=float32", f"training.base={BASE}"]
    recipe = load_recipe("triplets", more).recipe
    run = prepare_run(recipe, Console(quiet=True))
    # the others are not read by these, and take minutes
    run.stages = [(stage, part) for stage, part in run.stages if stage.name in NEEDED]
    run_stages(run, until="negatives")
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
    corpus = [[d.id, d.text] for d in run.inputs().corpus().values()]
    sums = {"corpus": corpus, "queries": queries, "pairs": pairs, "negatives": negatives}
    counts = {"queries": len(queries), "train": len(pairs["train"]), "negatives": len(negatives)}
    return {name: _sum(rows) for name, rows in sums.items()} | {"counts": counts}


def record(runs: Path, anew: bool) -> None:
    """Make the sums anew, and ``anew`` the answers, too, which takes the LLM three minutes, where what is made has
    changed on purpose: python -m tests.recipes.test_golden EMPTY_FOLDER [anew]."""
    made = _walk(runs, "" if anew else None)
    if anew:
        with closing(sqlite3.connect(runs / JOURNAL)) as database:
            rows = [(k, json.loads(a)) for k, a in database.execute("SELECT key, answer FROM answers ORDER BY key")]
        lines = [json.dumps([key, *(answer[name] for name in FIELDS)], ensure_ascii=False) for key, answer in rows]
        ANSWERS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (GOLDEN / "quickstart.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]), "anew" in sys.argv[2:])
