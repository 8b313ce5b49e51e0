"""The corpus: documents in, cut into chunks."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, read_corpus, write_corpus
from sharpen.evaluation.datasets import find_dataset
from sharpen.evaluation.files import InputError, sha256_tree
from sharpen.recipes.engine import Context
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.chunking import chunk
from sharpen.sdg.documents import PYTHON_DOCS, read_documents, text_files


def make_corpus(context: Context, folder: Path) -> dict[str, Any]:
    corpus = cut_corpus(context.recipe)
    write_corpus(folder / "corpus.jsonl", corpus)
    return {"documents": len({d.doc_id for d in corpus.values()}), "chunks": len(corpus)}


def corpus_inputs(context: Context) -> dict[str, str]:
    source = context.recipe.corpus.source
    if source == PYTHON_DOCS:
        return {"python": platform.python_version()}
    path = Path(source).expanduser()
    if not path.exists() or (path / "corpus.jsonl").exists():
        path = find_dataset(source) / "corpus.jsonl"
    return {"corpus": sha256_tree(path, text_files(path, Path(context.recipe.runs)) if path.is_dir() else None)}


def cut_corpus(recipe: Recipe) -> Corpus:
    """The recipe's documents, cut into chunks. Raises ``InputError`` as the readers do."""
    part = recipe.corpus
    documents = read_documents(part.source, Path(recipe.runs))
    chunks = (
        documents.values()
        if part.chunk is None
        else chunk(documents.values(), part.chunk.max_words, part.chunk.overlap_words)
    )
    corpus: Corpus = {}
    for piece in chunks:
        if piece.id in corpus:
            raise InputError(
                f"{part.source}: the chunk ID {piece.id!r} is also the ID of a document; rename that document"
            )
        corpus[piece.id] = piece
    return corpus


def read_own_corpus(context: Context) -> Corpus:
    key = corpus_key(context)
    if context.cache.get("corpus", (None,))[0] != key:
        context.cache["corpus"] = key, read_corpus(context.stage_folder("corpus") / "corpus.jsonl")
    return context.cache["corpus"][1]


def corpus_key(context: Context) -> tuple[int, int]:
    """What the corpus on the disk is told by, for what is kept in memory."""
    state = (context.stage_folder("corpus") / "corpus.jsonl").stat()
    return state.st_ino, state.st_mtime_ns
