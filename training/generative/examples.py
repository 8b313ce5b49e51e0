"""What a generative retriever is trained on: texts of documents and queries, each with the document it belongs to."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from sharpen.evaluation.beir import Corpus, Query, list_queries
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import PROMPT_END, Identifiers
from sharpen.training.generative.settings import Combination


@dataclass(frozen=True, slots=True)
class Example:
    """A text whose answer is the identifier of ``document``. ``kind``: a text of the document itself (Context2ID), or a
    query (Query2ID). ``key``: the chunk's or the query's ID."""

    text: str
    document: str
    kind: Literal["context", "query"]
    key: str


def context_examples(
    corpus: Corpus, identifiers: Identifiers, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[Example]:
    """Each chunk of the corpus (title and text) with itself, if it has an identifier, or what it was cut from.

    ``max_tokens``: of a prompt, as in ``prompt_tokens``; a longer text is cut into pieces of about the same number of
    tokens, of which nothing is left out. Raises ``InputError`` for a chunk of a document without an identifier, and for
    an empty document.
    """
    ends = tokenizer.encode(PROMPT_END, add_special_tokens=False)
    room = max(1, max_tokens - len(ends) - (tokenizer.bos_token_id is not None))
    examples = []
    for chunk in corpus.values():
        document = _with_identifier(chunk.id, corpus, identifiers)
        if not chunk.content:
            raise InputError(f"{chunk.id}: the document is empty, so nothing can be learnt of it; leave it out")
        for number, piece in enumerate(pieces(chunk.content, tokenizer, room)):
            examples.append(Example(piece, document, "context", f"{chunk.id}#{number}" if number else chunk.id))
    return examples


def query_examples(
    queries: Mapping[str, Query] | Iterable[Query], corpus: Corpus, identifiers: Identifiers
) -> list[Example]:
    """Each query with each of its documents (``metadata["positives"]``), or with what they were cut from, where that
    has the identifier. Raises ``InputError`` for a document without an identifier.

    >>> from sharpen.evaluation.generative.identifiers import Identifier
    >>> query_examples([Query("q", "what rises", {"positives": ["a"]})], {}, {"a": Identifier("a", "bread", "title")})
    [Example(text='what rises', document='a', kind='query', key='q')]
    """
    return [
        Example(query.text, document, "query", query.id)
        for query in list_queries(queries)
        for document in dict.fromkeys(
            _with_identifier(i, corpus, identifiers) for i in query.metadata.get("positives", ())
        )
    ]


def pieces(text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    """The text, halved between words until no piece has more than ``room`` tokens; together the pieces are the text."""
    number = len(tokenizer.encode(text, add_special_tokens=False))
    if number <= room:
        return [text]
    if len(text) == 1:  # a character of several tokens
        return [text]
    blanks = [n for n in range(1, len(text)) if text[n].isspace()]
    middle = min(blanks or range(1, len(text)), key=lambda n: abs(2 * n - len(text)))
    return [*pieces(text[:middle], tokenizer, room), *pieces(text[middle:], tokenizer, room)]


def combine(
    context: Sequence[Example], queries: Sequence[Example], how: Combination = "interleaved", seed: int = 13
) -> list[Example]:
    """Both kinds in one sequence, a function of the seed.

    ``interleaved``: they take turns until every example has come; of the fewer ones all come again and again, in
    another order each time. ``concatenated``: each comes once, in any order.

    >>> context, queries = ([Example(n, n, "query", n) for n in names] for names in ("a", "xyz"))
    >>> [example.text for example in combine(context, queries)]
    ['a', 'z', 'a', 'x', 'a', 'y']
    """
    if how == "concatenated" or not context or not queries:
        return _shuffled([*context, *queries], seed, 0)
    length = max(len(context), len(queries))
    columns = [_repeated(examples, length, f"{seed}/{n}") for n, examples in enumerate((context, queries))]
    return [example for pair in zip(*columns, strict=True) for example in pair]


def replay(old: Sequence[Example], new: Sequence[Example], fraction: float, seed: int = 13) -> list[Example]:
    """Examples to go on with when documents have been added: the new ones, and so many of the old that these are
    ``fraction`` of all, or all that there are; the same number of each document, as far as may be.

    >>> old = [Example(f"{d} {n}", d, "query", f"{d}{n}") for d in "ab" for n in range(3)]
    >>> new = [Example(f"c {n}", "c", "query", f"c{n}") for n in range(2)]
    >>> sorted(example.document for example in replay(old, new, fraction=0.5))
    ['a', 'b', 'c', 'c']
    """
    if not 0 <= fraction < 1:
        raise InputError(f"replay: {fraction} is no fraction of 0 or more and below 1")
    by_document: dict[str, list[Example]] = {}
    for example in _shuffled(old, seed, "replay"):
        by_document.setdefault(example.document, []).append(example)
    # one of each document, then a second one of each ...
    turns = sorted((turn, n) for n, rows in enumerate(by_document.values()) for turn in range(len(rows)))
    rows = list(by_document.values())
    number = round(len(new) * fraction / (1 - fraction))
    return [*new, *(rows[n][turn] for turn, n in turns[:number])]


def texts_by_document(examples: Iterable[Example]) -> dict[str, str]:
    """The examples' texts of each document, one after the other.

    >>> texts_by_document([Example(text, "d", "context", text) for text in ("salt", "water")])
    {'d': 'salt water'}
    """
    texts: dict[str, list[str]] = {}
    for example in examples:
        texts.setdefault(example.document, []).append(example.text)
    return {document: " ".join(rows) for document, rows in texts.items()}


def _with_identifier(i: str, corpus: Corpus, identifiers: Identifiers) -> str:
    document = corpus[i].doc_id if i in corpus and i not in identifiers else i
    if document not in identifiers:
        raise InputError(f"the document {document!r} has no identifier; make those of all documents first")
    return document


def _shuffled(examples: Sequence[Example], seed: int | str, turn: int | str) -> list[Example]:
    result = list(examples)
    random.Random(f"{seed}/{turn}").shuffle(result)
    return result


def _repeated(examples: Sequence[Example], length: int, seed: str) -> list[Example]:
    turns = -(-length // len(examples))
    return [example for turn in range(turns) for example in _shuffled(examples, seed, turn)][:length]
