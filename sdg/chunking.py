"""Documents cut into chunks whose IDs are stable, so that labels made on chunks keep their meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Self

import semchunk
from pydantic import Field, model_validator

from sharpen.evaluation.beir import Corpus, Document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import language_of, n_words
from sharpen.evaluation.settings import Count, EncoderName, Settings
from sharpen.sdg.blocks import Piece, pieces_of

if TYPE_CHECKING:
    from sharpen.evaluation.encoders.tokenizer import TokenCounter

MAX_TOKENS = 200
"""Where a recipe says nothing: below what any encoder reads, and some 150 English words."""
Span = tuple[int, int]


class ChunkSettings(Settings):
    """How documents are cut: at so many tokens of the encoder that is trained, unless words or sentences are given."""

    max_tokens: Annotated[int, Field(ge=20)] | None = Field(
        None, description=f"Tokens of a chunk with its title at most; null: {MAX_TOKENS}, where max_words is null too."
    )
    tokenizer: EncoderName | None = Field(None, description="The encoder whose tokens count; null: training.base.")
    max_words: Annotated[int, Field(ge=20)] | None = Field(
        None, description="Words of a chunk at most, in place of tokens; 150 English ones are some 200 tokens."
    )
    sentences_per_chunk: Count | None = Field(None, description="Sentences of a chunk at most.")
    overlap: Annotated[int, Field(ge=0)] = Field(
        0, description="Tokens, or words, that a chunk repeats of the one before, in whole sentences if by tokens."
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.max_words and (self.max_tokens or self.tokenizer or self.sentences_per_chunk):
            raise ValueError("max_words: beside max_tokens, tokenizer or sentences_per_chunk; give one or the other")
        if self.overlap >= self.limit:
            raise ValueError("overlap must be smaller than max_tokens, or max_words")
        return self

    @property
    def limit(self) -> int:
        """Words or tokens of a chunk at most."""
        return self.max_words or self.max_tokens or MAX_TOKENS

    @property
    def by_tokens(self) -> bool:
        return self.max_words is None


def chunk(
    documents: Corpus | Iterable[Document],
    max_words: int | None = None,
    overlap: int = 0,
    *,
    max_tokens: int | None = None,
    sentences_per_chunk: int | None = None,
    tokenizer: str = "packaged:all-MiniLM-L6-v2",
) -> Corpus:
    """Cut each document into chunks that an encoder reads whole.

    ``max_tokens`` (default 200): tokens of a chunk with its title, as the tokenizer of the encoder ``tokenizer`` counts
    them. It is cut between sections where a chunk is half full, else between paragraphs, list items, rows of a table
    or the sentences of the document's language, and a block of code stays whole; only what is longer than a chunk by
    itself is cut within. ``sentences_per_chunk``: at most so many of them. ``max_words``: words in place of tokens, cut
    at the highest break there is: paragraph, line, sentence, clause, word. ``overlap``: tokens, or words, that a chunk
    repeats of the one before.

    A document that fits stays one chunk under its own ID; the chunks of any other are ``<doc ID>#0``, ``#1``, ... in
    the order of the text. Each carries ``chunk_of`` (the document), ``start`` and ``end`` in its metadata: its text is
    these characters of the document's. It repeats the title.

    Returns chunk ID to chunk. Raises ``InputError`` if the ID of a chunk is also a document's.

    >>> document = Document("guide", "First soak the beans overnight. Then boil them for an hour.", "Beans")
    >>> {i: piece.text for i, piece in chunk([document], max_words=6).items()}
    {'guide#0': 'First soak the beans overnight.', 'guide#1': 'Then boil them for an hour.'}
    """
    settings = ChunkSettings.model_construct(
        max_words=max_words, max_tokens=max_tokens, sentences_per_chunk=sentences_per_chunk, overlap=overlap
    )
    return chunk_with(settings, documents, None if max_words else token_counter(tokenizer))


def chunk_with(settings: ChunkSettings, documents: Corpus | Iterable[Document], count: TokenCounter | None) -> Corpus:
    """As ``chunk``, by settings. ``count``: of the encoder whose tokens count; needed where these say no words."""
    cut = _by_tokens(settings, count) if settings.by_tokens else _by_words(settings)
    corpus: Corpus = {}
    for document in documents.values() if isinstance(documents, dict) else documents:
        for piece in _chunks_of(document, cut(document)):
            if piece.id in corpus:
                raise InputError(f"the chunk ID {piece.id!r} is also the ID of a document; rename that document")
            corpus[piece.id] = piece
    return corpus


def _chunks_of(document: Document, spans: Sequence[Span]) -> Iterator[Document]:
    if len(spans) <= 1:
        yield document
        return
    for number, (start, end) in enumerate(spans):
        metadata = document.metadata | {"chunk_of": document.id, "start": start, "end": end}
        yield Document(f"{document.id}#{number}", document.text[start:end], document.title, metadata)


def _by_words(settings: ChunkSettings) -> Callable[[Document], Sequence[Span]]:
    def cut(document: Document) -> Sequence[Span]:
        if n_words(document.text) <= settings.limit:
            return ()
        return split_text(document.text, settings.limit, n_words, settings.overlap)

    return cut


def token_counter(tokenizer: str) -> TokenCounter:
    """Counts tokens as an encoder does. Raises ``InputError`` if it has no tokenizer that can be loaded."""
    from sharpen.evaluation.encoders.tokenizer import TokenCounter  # loads transformers

    return TokenCounter(tokenizer)


def _by_tokens(settings: ChunkSettings, count: TokenCounter) -> Callable[[Document], Sequence[Span]]:
    def cut(document: Document) -> Sequence[Span]:
        # a title is read with every chunk; one that leaves too little room for the text is cut off itself
        of_title = count(document.title) if document.title else 0
        limit = max(settings.limit - count.special - of_title, settings.limit // 2)
        most = settings.sentences_per_chunk
        if count.tally(document.text) <= limit and not most:
            return ()
        pieces = pieces_of(document.text, language_of(document))
        sized = list(zip(pieces, count.all([document.text[p.start : p.end] for p in pieces]), strict=True))
        fitting = list(_small_enough(document.text, sized, limit, count))
        return [_stripped(document.text, span) for span in _packed(fitting, limit, most, settings.overlap)]

    return cut


def _small_enough(
    text: str, pieces: Iterable[tuple[Piece, int]], limit: int, count: Callable[[str], int]
) -> Iterator[tuple[Piece, int]]:
    for piece, size in pieces:
        if size <= limit:
            yield piece, size
            continue
        spans = split_text(text[piece.start : piece.end], limit, count)
        for n, (start, end) in enumerate(spans):
            part = Piece(piece.start + start, piece.start + end, piece.kind if n == 0 else "text")
            yield part, count(text[part.start : part.end])


def _packed(pieces: Sequence[tuple[Piece, int]], limit: int, most: int | None, overlap: int) -> Iterator[Span]:
    """Spans of as many pieces as fit. A heading opens a chunk where the one before is half full, and ends none."""
    held: list[tuple[Piece, int]] = []
    new = 0  # of the held ones, those that no chunk had before
    for n, (piece, size) in enumerate(pieces):
        total = sum(s for _, s in held)
        following = pieces[n + 1][1] if piece.kind == "heading" and n + 1 < len(pieces) else 0
        full = total + min(limit, size + following) > limit or (most and _sentences(held) >= most)
        if new and (full or (piece.kind == "heading" and 2 * total >= limit)):
            yield held[0][0].start, held[-1][0].end
            held, new = _repeated(held, min(overlap, limit - size)), 0
        held.append((piece, size))
        new += 1
    if new:
        yield held[0][0].start, held[-1][0].end


def _sentences(held: Sequence[tuple[Piece, int]]) -> int:
    return sum(piece.kind != "heading" for piece, _ in held)


def _repeated(held: Sequence[tuple[Piece, int]], overlap: int) -> list[tuple[Piece, int]]:
    """The last ones that together are no longer than the overlap."""
    n, total = len(held), 0
    while n > 0 and total + held[n - 1][1] <= overlap:
        n -= 1
        total += held[n][1]
    return list(held[n:])


def _stripped(text: str, span: Span) -> Span:
    start, end = span
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def split_text(text: str, limit: int, count: Callable[[str], int], overlap: int = 0) -> list[Span]:
    """Spans of a text of at most ``limit`` by ``count`` each, by ``semchunk``.

    >>> split_text("Soak the beans. Boil them.", 3, lambda text: len(text.split()))
    [(0, 15), (16, 26)]
    """
    cut = semchunk.chunkerify(count, limit)
    _, offsets = cut(text, offsets=True, overlap=overlap or None)
    return [(start, end) for start, end in offsets if end > start]
