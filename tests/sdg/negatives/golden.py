"""A small corpus with copies and chunks, scorers and an LLM that answer by a hash, and what is mined from it: the same
input for each version of the code."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.llm.messages import Answer

SEED = 5
WORDS = [
    "ice",
    "snow",
    "river",
    "stone",
    "wood",
    "bread",
    "salt",
    "wheel",
    "rope",
    "sail",
    "lamp",
    "candle",
    "oil",
    "root",
    "leaf",
    "seed",
    "frost",
    "glass",
    "iron",
    "wool",
]


def golden_corpus() -> Corpus:
    """60 documents: some are chunks of one document, some are copies of others."""
    rng = random.Random("golden corpus")
    corpus: Corpus = {}
    for n in range(60):
        text = " ".join(rng.choices(WORDS, k=12))
        if n % 11 == 10:
            text = corpus[f"d{n - 7}"].text.upper()  # a copy, as copies are folded to lower case
        metadata = {"chunk_of": f"whole{n // 3}"} if n % 4 < 2 else {}
        corpus[f"d{n}"] = Document(f"d{n}", text, f"title {n}" if n % 2 else "", metadata)
    return corpus


def golden_queries(corpus: Corpus) -> list[Query]:
    """20 queries of three words of their document."""
    rng = random.Random("golden queries")
    return [
        Query(f"q{n}", " ".join(rng.sample(corpus[f"d{n * 2}"].text.lower().split(), 3)), {"positives": [f"d{n * 2}"]})
        for n in range(20)
    ]


HELD_OUT = ("d41", "d45", "d49", "d53", "d57")


def golden_score(scorer: str, pairs: Iterable[tuple[str, str]], queries: dict[str, Query]) -> dict:
    """Between 0 and 1, the positives' between 0.5 and 1."""
    scores = {}
    for q, i in pairs:
        value = int(hashlib.sha256(f"{scorer}/{q}/{i}".encode()).hexdigest()[:8], 16) / 2**32
        scores[q, i] = 0.5 + value / 2 if i in queries[q].metadata["positives"] else value
    return scores


class GoldenLLM:
    """Writes passages and judges by a hash of the prompt, with some mistakes."""

    identity = "golden"

    def __init__(self) -> None:
        self.spending = Spending()

    def ask(self, requests: Iterable[Any], use: Any) -> list[Any]:
        return [use(n, request, Answer(self._answer(request))) for n, request in enumerate(requests)]

    def _answer(self, request: Any) -> str:
        rng = random.Random(f"{request.prompt}/{request.parameters.get('seed')}")
        shape = request.parameters["response_format"]["json_schema"]
        if shape["name"] == "relevant":
            number = shape["schema"]["properties"]["relevant"]["maxItems"]
            return json.dumps({"relevant": [rng.random() < 0.3 for _ in range(number - (rng.random() < 0.1))]})
        texts = [" ".join(rng.choices(WORDS, k=10)) for _ in range(4)]
        return json.dumps({"negatives": [*texts, rng.choice(["too short", texts[0], "a new text of some more words"])]})


PARTS: dict[str, dict[str, Any]] = {
    "bm25": {"per_query": 2, "miners": [{"kind": "bm25", "ranks": [2, 9]}]},
    "weighted, percentage, others": {
        "per_query": 4,
        "miners": [{"kind": "bm25", "ranks": [1, 12], "weight": 3.0}, {"kind": "random", "ranks": [1, 15]}],
        "filters": [{"kind": "percentage"}],
        "too_few": "others",
    },
    "concatenation, guide, cross-encoder, random": {
        "per_query": 3,
        "mix": "concatenation",
        "miners": [
            {"kind": "bm25", "ranks": [1, 5], "language": "none"},
            {"kind": "random", "ranks": [1, 9]},
            {"kind": "cross_encoder", "model": "any/reranker", "depth": 20, "ranks": [1, 10]},
        ],
        "filters": [{"kind": "guide"}, {"kind": "cross_encoder", "model": "any/reranker"}],
        "too_few": "random",
    },
    "fixed limits by bm25": {
        "per_query": 3,
        "miners": [{"kind": "bm25", "ranks": [1, 20]}],
        "filters": [
            {"kind": "absolute", "scorer": "bm25", "max": 3.0},
            {"kind": "margin", "scorer": "encoder:any/encoder", "min": 0.1},
            {"kind": "percentage", "max": 0.9},
        ],
        "too_few": "random",
    },
    "auto limits, left out": {
        "per_query": 4,
        "miners": [{"kind": "bm25", "ranks": [1, 15]}, {"kind": "random", "ranks": [1, 15]}],
        "filters": [{"kind": "absolute"}, {"kind": "margin"}],
    },
    "an LLM writes and judges": {
        "per_query": 3,
        "miners": [{"kind": "llm", "negatives": 5}, {"kind": "bm25", "ranks": [1, 12]}, {"kind": "random"}],
        "filters": [{"kind": "judge", "action": "relabel"}],
        "too_few": "others",
    },
}


def sums(rows: Sequence[Any]) -> tuple[str, str]:
    """Of the kept rows (query_id, doc_id, miner, rank), and of all rows with their verdict."""
    kept = [(n.query_id, n.doc_id, n.miner, n.rank) for n in rows if n.verdict == "kept"]
    every = [(n.query_id, n.doc_id, n.miner, n.rank, n.verdict) for n in rows]
    return tuple(hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in (kept, every))
