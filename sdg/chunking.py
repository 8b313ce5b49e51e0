"""Documents cut into chunks whose IDs are stable, so that labels made on chunks keep their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import semchunk
from sharpen.evaluation.beir import Document


def chunk(documents: Iterable[Document], max_words: int, overlap_words: int = 0) -> Iterator[Document]:
    """Cut each document into chunks of at most ``max_words`` words, at the highest break there is: paragraph, line,
    sentence, clause, word.

    A document that fits stays one chunk under its own ID; the chunks of any other are ``<doc ID>#0``, ``#1``, ... in
    the order of the text. Each carries ``chunk_of`` (the document), ``start`` and ``end`` (characters of the document's
    text) in its metadata and repeats the title. ``overlap_words``: words that a chunk repeats of the one before.
    """
    split = semchunk.chunkerify(lambda text: len(text.split()), max_words)
    for document in documents:
        if len(document.text.split()) <= max_words:
            yield document
            continue
        texts, offsets = split(document.text, offsets=True, overlap=overlap_words or None)
        for number, (text, (start, end)) in enumerate(zip(texts, offsets, strict=True)):
            metadata = document.metadata | {"chunk_of": document.id, "start": start, "end": end}
            yield Document(f"{document.id}#{number}", text, document.title, metadata)
