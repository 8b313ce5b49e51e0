"""Models that several steps use: the base's index, which is made once, and scores by whoever is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sharpen.evaluation.beir import Corpus, Queries, Run
from sharpen.evaluation.encoders.committee import committee_members, committee_scores
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.families import AnyEncoder, load_any
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.settings import Encoder, Precision
from sharpen.evaluation.files import InputError
from sharpen.evaluation.partitions.kept import Partitions, row_keys
from sharpen.evaluation.partitions.models import (
    bm25_in_parts,
    encode_documents,
    gathered,
    nearest_in_parts,
    score_in_parts,
)
from sharpen.evaluation.retrievers.base import RUN_DEPTH, Advance
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.candidates import Candidates
from sharpen.evaluation.retrievers.dense import Dense, similarities
from sharpen.evaluation.retrievers.encoders import Index, encoder_index
from sharpen.evaluation.retrievers.fused import CorpusScorer, Fused
from sharpen.evaluation.scorers import (
    BASE,
    BM25_SCORER,
    BUILT_IN,
    ENCODER,
    FUSED,
    FUSED_WEIGHTS,
    LLM_SCORERS,
    ranks_corpus,
    scorer_digest,
)
from sharpen.evaluation.truncation import collect_truncations, report_truncations

Pairs = Sequence[tuple[str, str]]
"""Query IDs and document IDs."""
PairScores = dict[tuple[str, str], float]
"""(Query ID, document ID) to a score; higher is more relevant."""


class PairScorer(Protocol):
    """A scorer that ``Models`` are lent under a name of its own, as an LLM's.

    >>> class Overlap:
    ...     def score(self, pairs, queries, corpus):
    ...         words = {q: set(queries[q].text.split()) for q, _ in pairs}
    ...         return {(q, i): float(len(words[q] & set(corpus[i].text.split()))) for q, i in pairs}
    >>> from sharpen.evaluation.beir import Document, Query
    >>> corpus = {"a": Document("a", "ice melts"), "b": Document("b", "ice flows downhill")}
    >>> models, queries = Models(scorers={"overlap": Overlap()}), {"q": Query("q", "how ice flows")}
    >>> models.score("overlap", [("q", "a"), ("q", "b")], queries, corpus)
    {('q', 'a'): 1.0, ('q', 'b'): 2.0}
    """

    def score(self, pairs: Pairs, queries: Queries, corpus: Corpus) -> PairScores:
        """A score for each pair. The documents of a query come in the order of what the rest of a mixture gives them,
        best first. Under ``accelerate launch`` every process calls this."""
        ...


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
    study ask for many of the same. ``scorers``: further ones, by the names that ``score`` and mixtures have for them.
    ``indexes``: a folder in which BM25's indexes are kept, for other processes and later runs (None: in memory).
    ``partitions``: who encodes documents and scores pairs, and keeps what comes out (None: this process, in memory).
    """

    base: Encoder | None = None
    current: AnyEncoder | None = None
    precision: Precision = "auto"
    progress: ProgressBar = no_progress
    cache: dict[Any, Any] = field(default_factory=dict)
    remember_scores: bool = False
    scorers: Mapping[str, PairScorer] = field(default_factory=dict)
    indexes: Path | None = None
    partitions: Partitions | None = None

    def with_current(self, model: AnyEncoder) -> Models:
        """The same, with the model in training in place of the base. Nothing computed by it is kept; indexes of BM25
        are."""
        cache = {key: kept for key, kept in self.cache.items() if key[0] == BM25_SCORER}
        return replace(self, current=model, cache=cache)

    def need_base(self) -> Encoder:
        """The base. Raises ``InputError`` if there is none."""
        if self.base is None:
            raise InputError("no base encoder is given, and a scorer, miner or filter asks for it; give base")
        return self.base

    def load(self, encoder: Encoder | None = None) -> AnyEncoder:
        """The encoder (None: the base, or the model in training). Raises ``InputError`` if it cannot be loaded."""
        if encoder is None and self.current is not None:
            return self.current
        chosen = encoder or self.need_base()
        return load_any(chosen.model, chosen.family, max_seq_length=chosen.max_seq_length, attention=chosen.attention)

    def index(
        self, corpus: Corpus, encoder: Encoder | None = None, approximate: bool = False, keep: bool = True
    ) -> Index:
        """The index of ``corpus`` by ``encoder`` (None: the base). ``keep``: the last one of each encoder stays in
        memory, for whoever asks for it again."""
        chosen = encoder or self.need_base()
        key = _index_key(chosen, approximate)
        known, index = self.cache.get(key, (None, None))
        if known is not corpus:
            with self.progress("encoding documents", len(corpus)) as advance:
                index = self._index(corpus, encoder, approximate, advance)
            if keep:
                self.cache[key] = corpus, index
        else:
            report_truncations(index.truncations)  # to who asks now: when it was made, somebody else was told
        return index

    def _index(self, corpus: Corpus, encoder: Encoder | None, approximate: bool, advance: Advance) -> Index:
        chosen = encoder or self.need_base()
        if not self._computes_in_parts(encoder):
            prompts = chosen.query_prompt, chosen.document_prompt
            return encoder_index(corpus, self.load(encoder), *prompts, chosen.precision, advance, approximate)
        with collect_truncations() as found:
            vectors = gathered(encode_documents(self.partitions, corpus, chosen, advance))
        index = Dense.of_vectors(corpus, vectors, self.load(encoder), chosen, approximate)
        index.truncations = found.all()
        return index

    def search_in_parts(
        self, queries: Mapping[str, str], corpus: Corpus, k: int, encoder: Encoder | None = None
    ) -> Run | None:
        """The ``k`` nearest documents of each query, one shard of their vectors in memory at a time; None where there
        are no ``partitions``, or the encoder (None: the base) is in training or no dense one."""
        if not self._computes_in_parts(encoder):
            return None
        chosen = encoder or self.need_base()
        with self.progress("encoding documents", len(corpus)) as advance:
            kept = encode_documents(self.partitions, corpus, chosen, advance)
        # encodes the queries and names what is found; the documents' vectors are in the shards
        index = Dense.of_vectors({}, np.zeros((0, 1), np.float32), self.load(encoder), chosen, False)
        index.ids = list(corpus)
        vectors = index.encode_queries(list(queries.values()))
        found = nearest_in_parts(self.partitions, vectors, kept, min(k, len(corpus)))
        return index.as_run(list(queries), vectors, found, k)

    def _computes_in_parts(self, encoder: Encoder | None) -> bool:
        if self.partitions is None or (encoder is None and self.current is not None):
            return False  # what is in training has no name by which workers could load it
        return (encoder or self.need_base()).as_it_is().family == "dense"

    def forget(self, encoder: Encoder) -> None:
        """Let go of an encoder's indexes."""
        for approximate in (False, True):
            self.cache.pop(_index_key(encoder, approximate), None)

    def dense_index(self, corpus: Corpus, asking: str) -> Dense:
        """The base's index, for what takes a vector a text. Raises ``InputError`` that names who is ``asking`` for a
        base that gives others."""
        index = self.index(corpus)
        if not isinstance(index, Dense):
            raise InputError(
                f"{asking}: compares the dense vectors of training.base, and it is a {index.name} encoder; leave it out"
            )
        return index

    def bm25(self, corpus: Corpus, language: str | None = None) -> BM25:
        """The index of ``corpus`` by BM25, with ``language`` as it takes it. The last one stays in memory; with
        ``indexes``, each is built once, by whichever process asks first."""
        key = (BM25_SCORER, language)
        known, index = self.cache.get(key, (None, None))
        if known is not corpus:
            index = BM25(corpus, language=language, indexes=self.indexes)
            self.cache[key] = corpus, index
        return index

    def search_bm25(self, queries: Mapping[str, str], corpus: Corpus, k: int, language: str | None = None) -> Run:
        """The ``k`` best documents of each query by BM25: by this process, or in parts where there are ``partitions``.
        Under ``accelerate launch`` every process must call this."""
        index = self.bm25(corpus, language)
        if self.partitions is None or index.folder is None:
            return index.search(queries, k)
        with self.progress("searching by BM25", len(queries)) as advance:
            return bm25_in_parts(self.partitions, index, queries, k, advance)

    def corpus_scorer(self, scorer: str, corpus: Corpus) -> CorpusScorer:
        """What scores all documents: BM25, the base, or another bi-encoder. Raises ``InputError`` for what cannot be
        loaded."""
        if scorer == BM25_SCORER:
            return self.bm25(corpus)
        return self.index(corpus, None if scorer == BASE else self._encoder(scorer))

    def fused(self, weights: Mapping[str, float], corpus: Corpus, unit: str | None = None) -> Fused:
        """The retriever of a mixture of scorers that score all documents; the others are left out. ``unit`` as in
        ``Fused``. Raises ``InputError`` if there is none that does."""
        members = {scorer: self.corpus_scorer(scorer, corpus) for scorer in weights if ranks_corpus(scorer)}
        return Fused(members, {scorer: weights[scorer] for scorer in members}, unit)

    def score(self, scorer: str | Mapping[str, float], pairs: Pairs, queries: Queries, corpus: Corpus) -> PairScores:
        """Scores of the pairs by ``scorer``: ``base``, ``bm25``, ``fused`` (both), ``encoder:<name>``, the name of a
        cross-encoder or the folder of a committee of them, one of ``scorers``, or a mixture, scorer to weight. Under
        ``accelerate launch`` every process must call this.

        A mixture's scores are standardized over the corpus for each query, those of a cross-encoder and of ``scorers``
        over the pairs of the query. Raises ``InputError`` if a model cannot be loaded, or if there is no LLM to ask.
        """
        pairs = list(dict.fromkeys(pairs))
        if scorer == FUSED:
            scorer = FUSED_WEIGHTS
        if not isinstance(scorer, str):
            return self._mixed(scorer, pairs, queries, corpus)
        if scorer in self.scorers:
            return self.scorers[scorer].score(pairs, queries, corpus) if pairs else {}
        if scorer in LLM_SCORERS:
            raise InputError(f"no LLM is given, and the scorer {scorer} asks one; give llm (in Python: Models.scorers)")
        if scorer not in BUILT_IN and (members := committee_members(scorer)):
            # each member by itself: its scores, unlike theirs together, are the same whatever else is asked for
            of_members = [self.score(member, pairs, queries, corpus) for member in members]
            rows = [[scores[pair] for pair in pairs] for scores in of_members]
            return dict(zip(pairs, committee_scores(rows, [q for q, _ in pairs]), strict=True))
        if not self.remember_scores or self.current is not None or scorer in BUILT_IN:
            return self._scored(scorer, pairs, queries, corpus)
        known = self.cache.setdefault(("scores", self.precision, scorer_digest(scorer)), {})
        # by the texts: another seed or another LLM may have written another query under the same ID
        of_pairs = row_keys([queries[q].text for q, _ in pairs], [corpus[i].content for _, i in pairs])
        keys = dict(zip(pairs, of_pairs.tolist(), strict=True))
        new = self._scored(scorer, [pair for pair in pairs if keys[pair] not in known], queries, corpus)
        known |= {keys[pair]: value for pair, value in new.items()}
        return {pair: known[keys[pair]] for pair in pairs}

    def _mixed(
        self, weights: Mapping[str, float], pairs: list[tuple[str, str]], queries: Queries, corpus: Corpus
    ) -> PairScores:
        documents: dict[str, list[str]] = {}
        for q, i in pairs:
            documents.setdefault(q, []).append(i)
        texts = {q: queries[q].text for q in documents}
        if any(map(ranks_corpus, weights)):
            candidates = self.fused(weights, corpus).scores_of(texts, documents)
        else:
            candidates = Candidates((), documents, {q: np.zeros((0, len(d)), np.float32) for q, d in documents.items()})
        for scorer in sorted(weights, key=self.scorers.__contains__):  # those that are lent come last
            if scorer not in candidates.scorers:
                of_scorer = _best_first(candidates.run(weights)) if scorer in self.scorers else pairs
                candidates = candidates.with_scorer(scorer, self.score(scorer, of_scorer, queries, corpus))
        return {(q, i): score for q, scores in candidates.run(weights).items() for i, score in scores.items()}

    def _encoder(self, scorer: str) -> Encoder:
        return Encoder(model=scorer.removeprefix(ENCODER), precision=self.precision)

    def _scored(self, scorer: str, pairs: list[tuple[str, str]], queries: Queries, corpus: Corpus) -> PairScores:
        if not pairs:
            return {}
        if scorer == BM25_SCORER:
            index = self.corpus_scorer(scorer, corpus)
            run = index.search({q: queries[q].text for q, _ in pairs}, min(len(corpus), 10 * RUN_DEPTH))
            return {(q, i): run[q].get(i, 0.0) for q, i in pairs}
        texts = [(queries[q].text, corpus[i].content) for q, i in pairs]
        with self.progress("scoring", len(pairs)) as advance:
            if scorer == BASE or scorer.startswith(ENCODER):
                encoder = None if scorer == BASE else self._encoder(scorer)
                chosen = encoder or self.need_base()
                if chosen.as_it_is().family != "dense":
                    return self._scored_by_index(self.index(corpus, encoder), pairs, queries)
                values = similarities(
                    self.load(encoder), texts, chosen.query_prompt, chosen.document_prompt, chosen.precision, advance
                )
            elif self.partitions is not None:
                values = score_in_parts(self.partitions, scorer, self.precision, texts, advance)
            else:
                values = score_pairs(load_cross_encoder(scorer), texts, advance, precision=self.precision)
        return dict(zip(pairs, values, strict=True))

    def _scored_by_index(self, index: Index, pairs: list[tuple[str, str]], queries: Queries) -> PairScores:
        """By sparse vectors or vectors of tokens, whose scores come for all documents at once."""
        columns, asked = {i: n for n, i in enumerate(index.ids)}, list(dict.fromkeys(q for q, _ in pairs))
        documents: dict[str, list[str]] = {}
        for q, i in pairs:
            documents.setdefault(q, []).append(i)
        blocks = index.score_blocks([queries[q].text for q in asked], 1)
        return {
            (q, i): float(block[0, columns[i]]) for q, block in zip(asked, blocks, strict=True) for i in documents[q]
        }


def _index_key(encoder: Encoder, approximate: bool) -> tuple[str, str, bool]:
    return "index", encoder.as_it_is().model_dump_json(), approximate


def _best_first(run: Run) -> list[tuple[str, str]]:
    """The pairs of a run, the best of each query first; equal ones stay in their order."""
    return [(q, i) for q, scores in run.items() for i in sorted(scores, key=scores.__getitem__, reverse=True)]
