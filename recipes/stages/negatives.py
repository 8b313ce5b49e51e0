"""Hard negatives of the queries that are trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from evaluation.retrievers import BM25
from recipes.engine import Context
from recipes.schema import Recipe
from recipes.stages.corpus import read_own_corpus
from recipes.stages.pairs import train_queries
from sdg.negatives import bm25 as bm25_miner
from sdg.negatives import write_negatives
from sdg.split import read_split


def more_negatives(recipe: Recipe) -> int:
    """What the reranker learns from beyond the retriever's."""
    return max(0, recipe.reranker.negatives - recipe.negatives.per_query) if recipe.reranker else 0


def mine_negatives(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus, queries = read_own_corpus(context), train_queries(context)
    held_out = {doc_id for doc_id, side in read_split(context.stage_folder("pairs") / "split.jsonl").items() if side != "train"}
    first, last = recipe.negatives.ranks
    # dev documents, positives and copies are passed over, so look further down than the last rank
    depth = min(len(corpus), 2 * last + 50)
    run = BM25(corpus).search({q.id: q.text for q in queries.values()}, depth)
    negatives = bm25_miner.mine(list(queries.values()), run, corpus, held_out, recipe.negatives.per_query, first, last, recipe.seed, more=more_negatives(recipe))
    write_negatives(folder / "negatives.jsonl", negatives)
    kept = Counter(n.query_id for n in negatives if n.verdict == "kept")
    return {
        "queries": len(queries),
        "negatives": kept.total(),
        "queries_with_too_few": sum(kept[q] < recipe.negatives.per_query for q in queries),
        "dropped": dict(Counter(n.reason for n in negatives if n.verdict == "dropped").most_common()),
    }
