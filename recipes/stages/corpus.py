"""The corpus: documents in, cut into chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sharpen.evaluation.beir import Corpus, write_corpus
from sharpen.evaluation.contents import content
from sharpen.evaluation.datasets import known_ids, read_judged
from sharpen.evaluation.files import write_jsonl
from sharpen.evaluation.ids import KnownIds
from sharpen.evaluation.languages import LANGUAGE, find_languages, language_of
from sharpen.evaluation.models import ProgressBar, no_progress
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import SKIPPED, Inputs
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.chunking import chunk_with, token_counter
from sharpen.sdg.documents import ReadingLog, read_documents
from sharpen.sdg.drawing import drawn
from sharpen.sdg.resources import Resources

if TYPE_CHECKING:
    from sharpen.evaluation.encoders.tokenizer import TokenCounter

WORRYING = 0.05
"""Of the tokens unknown ones from which a person is told."""


class CorpusStage(StagePart):
    """``tokenizer``: the encoder whose tokens are counted. ``judged``: whose documents are in a part of the corpus
    first, as there would be next to nothing to compare on; None where the corpus is whole."""

    corpus: CorpusPart
    runs: str
    tokenizer: str
    judged: Judged | None

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        chunk = recipe.corpus.chunk
        return cls(
            corpus=recipe.corpus,
            runs=recipe.runs,
            tokenizer=(chunk and chunk.tokenizer) or recipe.training.base,
            judged=Judged.of(recipe.evaluation) if recipe.corpus.documents else None,
        )

    def token_counter(self) -> TokenCounter | None:
        """Of the encoder whose tokens count, where the documents are cut by tokens."""
        chunk = self.corpus.chunk
        return token_counter(self.tokenizer) if chunk and chunk.by_tokens else None

    def fingerprint(self) -> Any:
        parts = {"corpus": self.corpus.fingerprint(), "documents": self.corpus.digest(self.runs)}
        if self.corpus.chunk and self.corpus.chunk.by_tokens:
            from sharpen.evaluation.encoders.tokenizer import tokenizer_digest  # loads torch

            parts["tokenizer"] = content("tokenizer", self.tokenizer, lambda: tokenizer_digest(self.tokenizer))
        return parts | ({"judged": self.judged.fingerprint()} if self.judged else {})

    def part_of(self, documents: Corpus) -> Corpus:
        """So many documents as are asked for, in their order: judged ones first, all else drawn by ID."""
        judged: set[str] = set()
        if self.judged:
            known, (_, qrels) = KnownIds(known_ids(documents)), read_judged(self.judged.data, self.judged.split)
            judged = {known.find(i) for grades in qrels.values() for i in grades}
        order = sorted(documents, key=lambda i: (i not in judged, drawn(0, "corpus", i)))
        kept = set(order[: self.corpus.documents])
        return {i: document for i, document in documents.items() if i in kept}


def make_corpus(part: CorpusStage, _inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    count, log = part.token_counter(), ReadingLog()
    corpus = cut_corpus(part, count, log, resources.progress)
    write_corpus(folder.path / "corpus.jsonl", corpus)
    for sentence in log.sentences():
        resources.warn(sentence)
    if log.skipped:
        write_jsonl(folder.path / SKIPPED, log.rows())
    of_document = {document.doc_id: language_of(document) for document in corpus.values()}
    counts = {
        "documents": len(of_document),
        "chunks": len(corpus),
        "languages": dict(Counter(of_document.values()).most_common()),
    }
    return counts | log.counts() | (_unknown_tokens(count, part.tokenizer, resources.warn) if count else {})


def _unknown_tokens(count: TokenCounter, encoder: str, warn: Callable[[str], None]) -> Counts:
    """How many tokens are not known to the encoder, which then reads nothing of these words."""
    if count.unknown > WORRYING * count.counted:
        warn(
            f"{count.unknown / count.counted:.0%} of the documents' tokens are unknown to {encoder}, which cannot tell"
            " these words apart; take a base that knows the language, as a multilingual one does"
        )
    return {"tokens": count.counted, "unknown_tokens": count.unknown}


def cut_corpus(
    part: CorpusStage,
    count: TokenCounter | None = None,
    log: ReadingLog | None = None,
    progress: ProgressBar = no_progress,
) -> Corpus:
    """The documents with their languages, cut into chunks. ``count``: of the tokens that they are cut by. ``log``: is
    told what was skipped; without one that is a warning. Raises ``InputError`` as the readers do."""
    settings = part.corpus
    documents = read_documents(settings.source, Path(part.runs), settings.reading(), log, progress)
    if settings.documents:
        documents = part.part_of(documents)
    documents = with_languages(documents, settings.language)
    return documents if settings.chunk is None else chunk_with(settings.chunk, documents, count or part.token_counter())


def with_languages(documents: Corpus, language: str | None) -> Corpus:
    """The documents, each with its language in its metadata: the one that is given, or the one that is found."""
    found = dict.fromkeys(documents, language) if language else find_languages(documents)
    return {i: replace(d, metadata=d.metadata | {LANGUAGE: found[i]}) for i, d in documents.items()}


STAGE = Stage("corpus", 3, CorpusStage, make_corpus)
