"""The corpus: documents in, cut into chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from sharpen.evaluation.beir import Corpus, write_corpus
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.chunking import chunk
from sharpen.sdg.documents import read_documents
from sharpen.sdg.resources import Resources


class CorpusStage(StagePart):
    corpus: CorpusPart
    runs: str

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(corpus=recipe.corpus, runs=recipe.runs)

    def fingerprint(self) -> Any:
        return {"corpus": self.corpus.fingerprint(), "documents": self.corpus.digest(self.runs)}


def make_corpus(part: CorpusStage, _inputs: Inputs, folder: Folder, _resources: Resources) -> Counts:
    corpus = cut_corpus(part.corpus, part.runs)
    write_corpus(folder.path / "corpus.jsonl", corpus)
    return {"documents": len({d.doc_id for d in corpus.values()}), "chunks": len(corpus)}


def cut_corpus(part: CorpusPart, runs: str) -> Corpus:
    """The documents, cut into chunks. Raises ``InputError`` as the readers do."""
    documents = read_documents(part.source, Path(runs))
    return documents if part.chunk is None else chunk(documents, part.chunk.max_words, part.chunk.overlap_words)


STAGE = Stage("corpus", 1, CorpusStage, make_corpus)
