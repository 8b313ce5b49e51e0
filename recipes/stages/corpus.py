"""The corpus: documents in, cut into chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from sharpen.evaluation.beir import Corpus, write_corpus
from sharpen.evaluation.files import write_jsonl
from sharpen.evaluation.models import ProgressBar, no_progress
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import SKIPPED, Inputs
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.chunking import chunk
from sharpen.sdg.documents import ReadingLog, read_documents
from sharpen.sdg.resources import Resources


class CorpusStage(StagePart):
    corpus: CorpusPart
    runs: str

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(corpus=recipe.corpus, runs=recipe.runs)

    def fingerprint(self) -> Any:
        return {"corpus": self.corpus.fingerprint(), "documents": self.corpus.digest(self.runs)}


def make_corpus(part: CorpusStage, _inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    log = ReadingLog()
    corpus = cut_corpus(part.corpus, part.runs, log, resources.progress)
    write_corpus(folder.path / "corpus.jsonl", corpus)
    for sentence in log.sentences():
        resources.warn(sentence)
    if log.skipped:
        write_jsonl(folder.path / SKIPPED, log.rows())
    return {"documents": len({d.doc_id for d in corpus.values()}), "chunks": len(corpus), **log.counts()}


def cut_corpus(
    part: CorpusPart, runs: str, log: ReadingLog | None = None, progress: ProgressBar = no_progress
) -> Corpus:
    """The documents, cut into chunks. ``log``: is told what was skipped; without one that is a warning. Raises
    ``InputError`` as the readers do."""
    documents = read_documents(part.source, Path(runs), part.reading(), log, progress)
    return documents if part.chunk is None else chunk(documents, part.chunk.max_words, part.chunk.overlap_words)


STAGE = Stage("corpus", 2, CorpusStage, make_corpus)
