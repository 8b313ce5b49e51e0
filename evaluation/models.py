"""Models that several steps use: the base's index, which is made once, and scores by whoever is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Corpus, Queries
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.encoders.settings import Encoder, Precision
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.base import RUN_DEPTH
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense, similarities
from sharpen.evaluation.retrievers.reranked import standardized
from sharpen.evaluation.scorers import BASE, BM25_SCORER, BUILT_IN, ENCODER, FUSED, scorer_digest

Pairs = Sequence[tuple[str, str]]
"""Query IDs and document IDs."""
PairScores = dict[tuple[str, str], float]
"""(Query ID, document ID) to a score; higher is more relevant."""
ProgressBar = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""``progress(label, total)`` is a block that yields ``advance(n=1, note="")``."""


@contextmanager
def no_progress(_label: str, _total: int):
    """A progress bar that shows nothing."""
    yield lambda *_args, **_kwargs: None


@dataclass
class Models:
    """Encoders and cross-encoders with what was computed by them.

    ``base``: the encoder that is to be tuned (None: asking for it is an ``InputError``). ``current``: the model in
    training, in place of the base. ``precision``: of cross-encoders. ``cache``: indexes and scores in memory; several
    ``Models`` with the same dict share them. ``remember_scores``: keep the scores of models, too, as the arms of a
    study ask for many of the same.
    """

    base: Encoder | None = None
    current: SentenceTransformer | None = None
    precision: Precision = "auto"
    progress: ProgressBar = no_progress
    cache: dict[Any, Any] = field(default_factory=dict)
    remember_scores: bool = False

    def with_current(self, model: SentenceTransformer) -> Models:
        """The same, with the model in training in place of the base. Nothing computed by it is kept."""
        return replace(self, current=model, cache={})

    def need_base(self) -> Encoder:
        """The base. Raises ``InputError`` if there is none."""
        if self.base is None:
            raise InputError("no base encoder is given, and a scorer, miner or filter asks for it; give base")
        return self.base

    def load(self, encoder: Encoder | None = None) -> SentenceTransformer:
        """The encoder (None: the base, or the model in training). Raises ``InputError`` if it cannot be loaded."""
        if encoder is None and self.current is not None:
            return self.current
        chosen = encoder or self.need_base()
        return load_encoder(chosen.model, max_seq_length=chosen.max_seq_length, attention=chosen.attention)

    def index(
        self, corpus: Corpus, encoder: Encoder | None = None, approximate: bool = False, keep: bool = True
    ) -> Dense:
        """The dense index of ``corpus`` by ``encoder`` (None: the base). ``keep``: the last one of each encoder stays
        in memory, for whoever asks for it again."""
        chosen = encoder or self.need_base()
        key = ("index", chosen.model_dump_json(), approximate)
        known, index = self.cache.get(key, (None, None))
        if known is not corpus:
            with self.progress("encoding documents", len(corpus)) as advance:
                index = Dense(
                    corpus,
                    self.load(encoder),
                    chosen.query_prompt,
                    chosen.document_prompt,
                    precision=chosen.precision,
                    progress=advance,
                    approximate=approximate,
                )
            if keep:
                self.cache[key] = corpus, index
        return index

    def score(self, scorer: str, pairs: Pairs, queries: Queries, corpus: Corpus) -> PairScores:
        """Scores of the pairs by ``scorer``: ``base``, ``bm25``, ``fused`` (both), ``encoder:<name>``, or the name of a
        cross-encoder. Under ``accelerate launch`` every process must call this.

        Raises ``InputError`` if a model cannot be loaded.
        """
        pairs = list(dict.fromkeys(pairs))
        if not self.remember_scores or self.current is not None or scorer in BUILT_IN:
            return self._scored(scorer, pairs, queries, corpus)
        known = self.cache.setdefault(("scores", self.precision, scorer_digest(scorer)), {})
        # by the texts: another seed or another LLM may have written another query under the same ID
        keys = {
            (q, i): hashlib.blake2b(f"{queries[q].text}\0{corpus[i].content}".encode(), digest_size=16).digest()
            for q, i in pairs
        }
        new = self._scored(scorer, [pair for pair in pairs if keys[pair] not in known], queries, corpus)
        known |= {keys[pair]: value for pair, value in new.items()}
        return {pair: known[keys[pair]] for pair in pairs}

    def _scored(self, scorer: str, pairs: list[tuple[str, str]], queries: Queries, corpus: Corpus) -> PairScores:
        if not pairs:
            return {}
        if scorer == FUSED:
            parts = [self._scored(one, pairs, queries, corpus) for one in (BM25_SCORER, BASE)]
            return dict(zip(pairs, fused_scores(pairs, parts), strict=True))
        if scorer == BM25_SCORER:
            run = BM25(corpus).search({q: queries[q].text for q, _ in pairs}, min(len(corpus), 10 * RUN_DEPTH))
            return {(q, i): run[q].get(i, 0.0) for q, i in pairs}
        texts = [(queries[q].text, corpus[i].content) for q, i in pairs]
        with self.progress("scoring", len(pairs)) as advance:
            if scorer == BASE or scorer.startswith(ENCODER):
                encoder = (
                    None if scorer == BASE else Encoder(model=scorer.removeprefix(ENCODER), precision=self.precision)
                )
                chosen = encoder or self.need_base()
                values = similarities(
                    self.load(encoder), texts, chosen.query_prompt, chosen.document_prompt, chosen.precision, advance
                )
            else:
                values = score_pairs(load_cross_encoder(scorer), texts, advance, precision=self.precision)
        return dict(zip(pairs, values, strict=True))


def fused_scores(pairs: Pairs, parts: Sequence[PairScores]) -> list[float]:
    """For each pair the sum of the parts' scores, each standardized over a query's documents, as they have no scale in
    common.

    >>> pairs = [("q", "a"), ("q", "b")]
    >>> fused_scores(pairs, [dict(zip(pairs, [10.0, 30.0])), dict(zip(pairs, [0.1, 0.9]))])
    [-2.0, 2.0]
    """
    rows: dict[str, list[int]] = {}
    for row, (q, _) in enumerate(pairs):
        rows.setdefault(q, []).append(row)
    scores = np.zeros(len(pairs))
    for values in ([part[pair] for pair in pairs] for part in parts):
        for of_query in rows.values():
            scores[of_query] += standardized(np.array([values[row] for row in of_query]))
    return scores.tolist()
