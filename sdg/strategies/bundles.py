"""Which documents are shown together to ask questions over them, and in what order their chunks stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.beir import Corpus, Document, chunks_by_document
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.settings import Settings

Order = Literal["sequential", "balanced", "interleaved"]
QueryType = Literal["multi_hop", "structural", "contextual"]
Hops = Annotated[int, Field(ge=1, le=6)]


class BundleSettings(Settings):
    """What is shown together, and which questions are wanted of it.

    >>> BundleSettings(documents=2, segments=1)
    Traceback (most recent call last):
        ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for BundleSettings
    ...
    """

    documents: Annotated[int, Field(ge=1, le=5)] = Field(
        1,
        description=(
            "Documents put together at most, of several at least two; 1: questions over several chunks of one document."
        ),
    )
    related: bool = Field(
        True,
        description=(
            "Put a document together with those that BM25 finds for it; false: with those behind it in the corpus."
        ),
    )
    order: Order = Field(
        "balanced",
        description="Their chunks one document after the other, a part of each document in every prompt, or in turns.",
    )
    segments: Annotated[int, Field(ge=2, le=20)] = Field(4, description="Chunks in one prompt at most.")
    hops: tuple[Hops, Hops] = Field((2, 4), description="Least and most hops of a question.")
    min_complexity: Annotated[int, Field(ge=1, le=5)] = Field(
        1, description="Of 1 to 5, as the LLM rates its own question (4 in NVIDIA's toolkit)."
    )
    query_types: Annotated[tuple[QueryType, ...], Field(min_length=1)] = ("multi_hop",)

    @field_validator("hops")
    @classmethod
    def _in_order(cls, hops: tuple[int, int]) -> tuple[int, int]:
        if hops[0] > hops[1]:
            raise ValueError("the first number of hops must not be greater than the last")
        return hops

    @model_validator(mode="after")
    def _all_are_shown(self) -> Self:
        if self.segments < self.documents:
            raise ValueError("segments must be at least documents, or some would never be shown")
        if self.segments < self.hops[0]:
            raise ValueError("segments must be at least the least number of hops, as each hop needs another one")
        return self


def bundles(
    documents: Sequence[Document], corpus: Corpus, settings: BundleSettings
) -> Iterator[tuple[list[str], list[list[Document]]]]:
    """Document IDs of each bundle, and for each of them its chunks. Each document is in one bundle at most, so that a
    split can keep bundles whole. Documents whose neighbours are all in other bundles are left out, as are bundles of
    one segment.

    Which belong together hangs on the other documents: 1 % more of Python's documentation made 2 % of 259 bundles of
    two others, and 7 % of 1,551, where all documents are in one."""
    chunks = chunks_by_document(corpus)
    first = list(dict.fromkeys(d.doc_id for d in documents))
    others = _neighbours(first, chunks, settings) if settings.documents > 1 else {}
    used: set[str] = set()
    for doc_id in first:
        if doc_id in used:
            continue
        members, texts = [doc_id], {_copy_key(chunks[doc_id])}
        for other in others.get(doc_id, []):
            if len(members) == settings.documents:
                break
            if other not in used and other != doc_id and (key := _copy_key(chunks[other])) not in texts:
                members.append(other)
                texts.add(key)
        if len(members) >= min(2, settings.documents) and sum(len(chunks[m]) for m in members) > 1:
            used.update(members)
            yield members, [chunks[m] for m in members]


def arrange(chunks: Sequence[Sequence[Document]], order: Order, size: int) -> list[list[Document]]:
    """The segments of each prompt, at most ``size``: all chunks of a bundle's documents, in that ``order``; of more
    documents than ``size``, balanced is in turns.

    >>> parts = [[Document(f"{name}{n}", "") for n in range(2)] for name in "ab"]
    >>> [[chunk.id for chunk in window] for window in arrange(parts, "balanced", 2)]
    [['a0', 'b0'], ['a1', 'b1']]
    """
    if order == "balanced" and len(chunks) <= size:
        windows = _balanced(chunks, size)
    else:
        if order == "sequential":
            line = [chunk for part in chunks for chunk in part]
        else:
            line = [chunk for row in zip_longest(*chunks) for chunk in row if chunk is not None]
        windows = [line[start : start + size] for start in range(0, len(line), size)]
    return [window for window in windows if len(window) > 1]


def _balanced(chunks: Sequence[Sequence[Document]], size: int) -> list[list[Document]]:
    prompts = -(-sum(map(len, chunks)) // size)
    while True:  # rounding up the part of each document may make a prompt too long
        windows = [[chunk for part in chunks for chunk in _slice(part, n, prompts)] for n in range(prompts)]
        if max(map(len, windows)) <= size:
            return windows
        prompts += 1


def _slice(part: Sequence[Document], n: int, prompts: int) -> Sequence[Document]:
    """A document's chunks in the ``n``-th prompt; of one with fewer chunks than prompts, one is shown several times."""
    start, end = n * len(part) // prompts, (n + 1) * len(part) // prompts
    return part[start : max(end, start + 1)]


def _neighbours(
    first: Sequence[str], chunks: Mapping[str, Sequence[Document]], settings: BundleSettings
) -> dict[str, list[str]]:
    """For each document, those that may be put together with it, the best first."""
    if not settings.related:
        order = list(chunks)
        place = {doc_id: n for n, doc_id in enumerate(order)}
        return {doc_id: order[place[doc_id] + 1 : place[doc_id] + 1 + 4 * settings.documents] for doc_id in first}
    from sharpen.evaluation.retrievers.bm25 import BM25

    whole = {
        doc_id: Document(doc_id, " ".join(c.text for c in parts), parts[0].title) for doc_id, parts in chunks.items()
    }
    # the beginning says what a document is about, and BM25 grows slow with long queries
    texts = {doc_id: first_words(whole[doc_id].content, 60, in_prompt=False) for doc_id in first}
    run = BM25(whole).search(texts, min(len(whole), 10 * settings.documents))
    return {doc_id: ranking(run[doc_id]) for doc_id in first}


def _copy_key(chunks: Sequence[Document]) -> tuple[str, ...]:
    return tuple(c.copy_key for c in chunks)
