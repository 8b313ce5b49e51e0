"""Seconds for 10,000 documents, and memory, of what is done with a large corpus around the LLM's answers.

    python scripts/benchmark.py corpora [10000 30000 ...]

Writes a corpus of short documents, one in twenty a near-duplicate of another, and reads, cuts, samples, asks (every
answer is in the journal already), deduplicates the queries and splits, as a run does. Prints a row for each size, each
measured in a process of its own: there is no peer, so what counts is that the columns do not grow.

About 2 minutes on two AVX2 cores; a size of 200,000 takes some 4.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.common import ROOT, SEED, Table, in_fresh_process, peak_gib, timed

if TYPE_CHECKING:
    from sharpen.evaluation.beir import Corpus
    from sharpen.sdg import GeneratedQueries

POOL = ROOT / "recipes" / "pools" / "general.yaml"
DEFAULT_SIZES = [10_000, 30_000]
WORDS = 60
DIMENSION = 384
STEPS = ("read", "cut", "ask", "same queries", "similar documents", "split")


def main(
    sizes: Annotated[list[int], typer.Argument(help="Numbers of documents.")] = DEFAULT_SIZES,
) -> None:
    columns = ("documents", *STEPS, "all", "memory, GiB")
    table = Table("Seconds for 10,000 documents", columns, ("datasketch", "faiss-cpu"))
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_made_up(Path(folder) / "corpus.jsonl", size)
            seconds, gib = in_fresh_process(walk, Path(folder))
        each = [seconds[step] / size * 10_000 for step in STEPS]
        table.row(f"{size:,}", *(f"{s:.2f}" for s in each), f"{sum(each):.2f}", f"{gib:.2f}")


def walk(folder: Path) -> tuple[dict[str, float], float]:
    """Seconds by step, and the most memory that this process had."""
    from sharpen.recipes.engine import rare_full_collections

    with rare_full_collections():  # as in a run
        return _walk(folder), peak_gib()


def _walk(folder: Path) -> dict[str, float]:
    import numpy as np

    from sharpen.sdg import SplitSettings, chunk, read_documents
    from sharpen.sdg.filters.duplicates import drop_near_duplicates
    from sharpen.sdg.splitting import near_duplicate_documents, split_documents, split_queries

    seconds: dict[str, float] = {}
    with timed() as watch:
        documents = read_documents(folder / "corpus.jsonl")
    seconds["read"] = watch.seconds
    with timed() as watch:
        corpus = chunk(documents)
    seconds["cut"] = watch.seconds
    generated, seconds["ask"] = _ask(corpus, folder / "journal.sqlite")
    vectors = np.random.default_rng(SEED).standard_normal((len(generated.kept), DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with timed() as watch:
        queries = drop_near_duplicates(generated.kept, vectors, 0.9).kept
    seconds["same queries"] = watch.seconds
    with timed() as watch:
        together = near_duplicate_documents(corpus, 0.8)
    seconds["similar documents"] = watch.seconds
    with timed() as watch:
        sides = split_documents(corpus, SplitSettings(dev=0.1, test=0.1), SEED, together)
        splits = split_queries(queries, sides)
    seconds["split"] = watch.seconds
    if not together or not all(members for _, members in splits.items()):
        raise RuntimeError("nothing to be found was found: this measures another thing than it says")
    return seconds


def _ask(corpus: Corpus, journal: Path) -> tuple[GeneratedQueries, float]:
    """Queries of recorded answers, and the seconds of generating, with the draw of documents."""
    from sharpen.sdg import Answer, Document, generate_queries
    from sharpen.sdg.llm.client import LLMClient
    from sharpen.sdg.llm.journal import Journal
    from sharpen.sdg.llm.messages import EndpointSettings
    from sharpen.sdg.queries import sample_documents

    strategy = Document(pool=str(POOL)).resolve()
    client = LLMClient([EndpointSettings("http://127.0.0.1:9/v1", "none", "recorded")], Journal(journal), chat=False)
    with client.journal.together():
        for unit in strategy.units(sample_documents(list(corpus.values()), None, SEED)):
            answer = Answer("what about " + " ".join(unit.text.split()[5:30:5]))
            client.record(strategy.request(unit, seed=SEED, chat=False), answer)
    with timed() as watch:
        generated = generate_queries(corpus, client, [strategy], seed=SEED)
    return generated, watch.seconds


def write_made_up(path: Path, size: int) -> None:
    """A corpus of words some of which are frequent and most of which are rare, as in any language."""
    rng = random.Random(SEED)
    middles = ("la", "ren", "du", "vi", "sto", "")
    words = [f"{a}{b}{c}" for a in ("ba", "ko", "mi", "ter", "sol", "gra") for b in middles for c in range(1500)]
    texts: list[list[str]] = []
    with path.open("w", encoding="utf-8") as file:
        for n in range(size):
            if n % 20 == 19:
                text = list(texts[rng.randrange(len(texts))])
                text[rng.randrange(WORDS)] = "another"
            else:
                text = [words[int(len(words) ** rng.random())] for _ in range(WORDS)]
                texts.append(text)
            file.write(json.dumps({"_id": f"d{n}", "title": "", "text": " ".join(text)}) + "\n")
