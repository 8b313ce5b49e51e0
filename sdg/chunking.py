"""Documents cut into chunks whose IDs are stable, so that labels made on chunks keep their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from sharpen.evaluation.beir import Corpus, Document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import Settings


class ChunkSettings(Settings):
    """How documents are cut."""

    max_words: Annotated[int, Field(ge=20)] = Field(
        150, description="Words of a chunk at most; some 200 tokens of an encoder."
    )
    overlap_words: Annotated[int, Field(ge=0)] = Field(0, description="Words that a chunk repeats of the one before.")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.overlap_words >= self.max_words:
            raise ValueError("overlap_words must be smaller than max_words")
        return self


def chunk(documents: Corpus | Iterable[Document], max_words: int = 150, overlap_words: int = 0) -> Corpus:
    """Cut each document into chunks of at most ``max_words`` words, at the highest break there is: paragraph, line,
    sentence, clause, word.

    A document that fits stays one chunk under its own ID; the chunks of any other are ``<doc ID>#0``, ``#1``, ... in
    the order of the text. Each carries ``chunk_of`` (the document), ``start`` and ``end`` (characters of the document's
    text) in its metadata and repeats the title. ``overlap_words``: words that a chunk repeats of the one before.

    Returns chunk ID to chunk. Raises ``InputError`` if the ID of a chunk is also a document's.

    >>> document = Document("guide", "First soak the beans overnight. Then boil them for an hour.", "Beans")
    >>> {i: piece.text for i, piece in chunk([document], max_words=6).items()}
    {'guide#0': 'First soak the beans overnight.', 'guide#1': 'Then boil them for an hour.'}
    """
    corpus: Corpus = {}
    for piece in _pieces(documents.values() if isinstance(documents, dict) else documents, max_words, overlap_words):
        if piece.id in corpus:
            raise InputError(f"the chunk ID {piece.id!r} is also the ID of a document; rename that document")
        corpus[piece.id] = piece
    return corpus


def _pieces(documents: Iterable[Document], max_words: int, overlap_words: int) -> Iterator[Document]:
    import semchunk

    cut = semchunk.chunkerify(lambda text: len(text.split()), max_words)
    for document in documents:
        if len(document.text.split()) <= max_words:
            yield document
            continue
        texts, offsets = cut(document.text, offsets=True, overlap=overlap_words or None)
        for number, (text, (start, end)) in enumerate(zip(texts, offsets, strict=True)):
            metadata = document.metadata | {"chunk_of": document.id, "start": start, "end": end}
            yield Document(f"{document.id}#{number}", text, document.title, metadata)
