"""Seconds for 10,000 documents, and memory, of what is done with a large corpus around the LLM's answers.

    .venv/bin/python scripts/benchmark_corpus.py [documents ...]

Writes a corpus of short documents, one in twenty a near-duplicate of another, and reads, cuts, samples, asks (every
answer is in the journal already), deduplicates the queries and splits, as a run does. Each size runs in a process of
its own. 50,000, 100,000 and 200,000 documents (the default) take some five minutes on 2 cores.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sharpen.evaluation.beir import Query
from sharpen.recipes.engine import few_full_collections
from sharpen.recipes.load import read_pool
from sharpen.sdg.chunking import chunk
from sharpen.sdg.documents import read_documents
from sharpen.sdg.filters.duplicates import near_duplicates
from sharpen.sdg.llm.client import LLM, Answer, EndpointSettings
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.queries import generate_queries, prompt, sample_documents
from sharpen.sdg.split import near_duplicate_documents, split_documents, split_queries
from sharpen.sdg.strategies.base import Strategy

POOL = Path(__file__).parents[1] / "recipes" / "pools" / "general.yaml"
WORDS = 60
DIMENSION = 384


def main(sizes: list[int]) -> None:
    print(
        "| documents | " + " | ".join(STEPS) + " | all | memory, GiB |\n" + "| --- " * (len(STEPS) + 3) + "|",
        flush=True,
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            _write_corpus(Path(folder) / "corpus.jsonl", size)
            output = subprocess.run(
                [sys.executable, __file__, "--one", folder], capture_output=True, text=True, check=True
            ).stdout
        measured = json.loads(output.splitlines()[-1])
        seconds = [measured["seconds"][step] / size * 10_000 for step in STEPS]
        print(
            f"| {size:,} | "
            + " | ".join(f"{s:.2f}" for s in seconds)
            + f" | {sum(seconds):.2f} | {measured['gib']:.2f} |",
            flush=True,
        )


STEPS = ("read", "cut", "sample", "ask", "same queries", "similar documents", "split")


def one(folder: Path) -> None:
    """One size, in this process: print seconds by step and the most memory that it took."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[step] = time.perf_counter() - started

    with timed("read"):
        documents = read_documents(str(folder / "corpus.jsonl"))
    with timed("cut"):
        corpus = {piece.id: piece for piece in chunk(documents.values(), 150)}
    with timed("sample"):
        chosen = sample_documents(list(corpus.values()), None, 13)
    strategy = Strategy("Write a query.", read_pool(POOL), chat=False)
    llm = LLM([EndpointSettings("http://127.0.0.1:9/v1", "none", "recorded")], Journal(folder / "journal.sqlite"))
    with llm.journal.together():
        for position, unit in enumerate(strategy.units(chosen)):
            llm.record(prompt(strategy, unit, position, 13), Answer(_recorded(unit.text)))
    with timed("ask"):
        generated = generate_queries(chosen, llm, [strategy], 13)
    rng = np.random.default_rng(13)
    vectors = rng.standard_normal((len(generated.kept), DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with timed("same queries"):
        queries, _ = near_duplicates(generated.kept, vectors, 0.9)
    with timed("similar documents"):
        together = near_duplicate_documents(corpus, 0.8)
    with timed("split"):
        members = split_queries(queries, split_documents(corpus, 0.1, 13, 0.1, together))
    assert together and all(members.values()) and all(isinstance(q, Query) for q in members["test"])
    print(json.dumps({"seconds": seconds, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def _recorded(text: str) -> str:
    return "what about " + " ".join(text.split()[5:30:5])


def _write_corpus(path: Path, size: int) -> None:
    rng = random.Random(13)
    vocabulary = [
        f"{a}{b}{c}"
        for a in ("ba", "ko", "mi", "ter", "sol", "gra")
        for b in ("la", "ren", "du", "vi", "sto", "")
        for c in range(1500)
    ]
    texts: list[list[str]] = []
    with path.open("w", encoding="utf-8") as file:
        for n in range(size):
            if n % 20 == 19:
                words = list(texts[rng.randrange(len(texts))])
                words[rng.randrange(WORDS)] = "another"
            else:
                # a few words are frequent and most are rare, as in any language
                words = [vocabulary[int(len(vocabulary) ** rng.random())] for _ in range(WORDS)]
                texts.append(words)
            file.write(json.dumps({"_id": f"d{n}", "title": "", "text": " ".join(words)}) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        with few_full_collections():
            one(Path(sys.argv[2]))
    else:
        main([int(a.replace(",", "")) for a in sys.argv[1:]] or [50_000, 100_000, 200_000])
