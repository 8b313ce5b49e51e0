"""Query strategies: from which piece of a document a query is written, and what a prompt for it looks like.

A strategy turns documents into units. A unit is what one prompt shows, with the IDs of the documents that the queries
written from it are answered by. How the LLM is asked and what becomes of its answers is the same for all of them, see
``sdg.queries``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sentencex
from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.answers import Form, Read, held_to_schema, instruction, queries_schema, read, written
from sharpen.sdg.filters.text import first_words
from sharpen.sdg.llm.client import Request
from sharpen.sdg.prompts import template
from sharpen.sdg.strategies import multi_hop

MIN_WORDS = 5
"""Words that a text must have for a query to be written from it."""

Kind = Literal[
    "document", "sentence", "metadata", "question_answer", "multi_hop", "paraphrase", "back_translation", "artifacts"
]
OF_QUERIES: tuple[Kind, ...] = ("paraphrase", "back_translation")
"""Kinds that work on the queries that earlier strategies brought."""


@dataclass(frozen=True)
class Example:
    """A row of a few-shot pool: what a prompt shows (a document, a sentence, a query to say in other words), and the
    queries that are wanted for it; ``answers``: one for each, where the strategy asks for them."""

    document: str
    queries: tuple[str, ...]
    answers: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return self.queries


@dataclass(frozen=True, slots=True)
class Unit:
    """What one prompt is about.

    ``key``: a stable name; IDs of queries and seeds of sampling hang on it. ``document``: where the text is from.
    ``positives``: IDs of the documents that answer. ``metadata`` goes into the queries'. ``segments``: of kind
    ``multi_hop``, in place of the text. ``notes``: what the strategy's first step brought, if that stands beside the
    text.
    """

    key: str
    text: str
    document: Document
    positives: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class Strategy:
    """One way to ask for queries.

    ``count``: queries asked in one prompt. ``samples``: prompts for the same text. ``pool``: all examples; ``examples``
    of them (Promptagator: 2 to 8) are drawn for each ``group`` of units, which so share the beginning of their prompts,
    and a server computes it once. ``max_words``: the text is cut to this in the prompt. ``chat``: ask as a user
    message; off for models without a chat template. ``form``: how the answer is written, see ``sdg.answers``.
    ``parameters``: sampling, as in ``Request``. ``fields``: metadata that queries of kind ``metadata`` must name.
    ``sentences``: at most so many of a document. ``language``: two-letter code, which every query must have. ``typos``:
    share of the queries that get a typing error. ``documents``: of those given, the first so many. ``bundle``: of kind
    ``multi_hop``. ``first``: what is asked before, and whose answer goes into the prompt: a translation, which takes
    the place of the text, or artifacts.
    """

    task: str
    pool: Sequence[Example] | Sequence[multi_hop.Shown]
    kind: Kind = "document"
    name: str = "document"
    count: int = 1
    samples: int = 1
    examples: int = 4
    group: int = 50
    max_words: int = 120
    chat: bool = True
    form: Form = "line"
    parameters: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.7, "top_p": 0.95, "max_tokens": 48})
    fields: tuple[str, ...] = ()
    sentences: int = 3
    language: str | None = None
    typos: float = 0.0
    documents: int | None = None
    bundle: multi_hop.Bundle = field(default_factory=multi_hop.Bundle)
    first: Strategy | None = None

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        """The units of ``documents`` (of ``queries``, for the kinds ``OF_QUERIES``), in their order. ``corpus``: where
        the other documents and chunks of a bundle come from (default: ``documents``).

        Raises ``InputError`` if no document has any of the metadata fields that are asked for.
        """
        if corpus is None:
            corpus = {d.id: d for d in documents}
        if self.kind in OF_QUERIES:
            return _queries(queries, corpus, self)
        if self.kind == "multi_hop":
            return _bundles(documents[: self.documents], corpus, self)
        write = {"document": _whole, "question_answer": _whole, "sentence": _sentences, "metadata": _constraints}[
            self.kind
        ]
        return write(documents[: self.documents], self)

    def draw(self, seed: int, group: int) -> list[Example] | list[multi_hop.Shown]:
        """The examples of a group of units."""
        return random.Random(f"{seed}/{group}").sample(list(self.pool), min(self.examples, len(self.pool)))

    def request(
        self,
        unit: Unit | None,
        examples: Sequence[Example] | Sequence[multi_hop.Shown],
        number: int,
        seed: int | None = None,
    ) -> Request:
        """The prompt for ``unit`` as the ``number``-th after ``examples``; without a unit, only what a group shares."""
        parameters: dict[str, Any] = dict(self.parameters)
        if seed is not None and unit is not None:
            parameters["seed"] = sampling_seed(seed, unit.key)
        if self.kind in ("artifacts", "multi_hop"):
            return self._of_segments(unit, examples, parameters)
        answers = self.kind == "question_answer"
        shown = [(_one_line(e.document), self.answer_of(e)) for e in examples]
        prompt = template("few_shot.j2").render(
            task=self.task.strip(),
            instruction=instruction(self.form, self.count, answers, self.chat),
            examples=shown,
            text_label=_LABELS[self.kind],
            label="Query" if self.form == "line" else "Queries",
            number=number,
            text=first_words(unit.text, self.max_words) if unit else "",
        )
        if unit is None:
            return Request(prompt.strip(), self.chat, parameters | {"max_tokens": 1})
        if not self.chat:
            # small models go on with the next document where they are not stopped
            parameters = {"stop": ["\n"] if self.form == "line" else [f"\n{_LABELS[self.kind]}", "\n\n"]} | parameters
        if self.form == "json":
            parameters = held_to_schema(parameters, "queries", queries_schema(self.count, answers), self.chat)
        return Request(prompt.strip(), self.chat, parameters)

    def answer_of(self, example: Example | multi_hop.Shown) -> str:
        """An example's answer, as it stands in a prompt and is wanted."""
        if self.kind == "artifacts":
            return example.artifacts
        if self.kind == "multi_hop":
            return example.questions
        return written(self.form, example.queries, example.answers if self.kind == "question_answer" else ())

    def _of_segments(
        self, unit: Unit | None, examples: Sequence[multi_hop.Shown], parameters: dict[str, Any]
    ) -> Request:
        segments = [first_words(text, self.max_words) for text in unit.segments] if unit else []
        if self.kind == "artifacts":
            prompt, schema = (
                multi_hop.artifacts_prompt(segments, examples, self.chat),
                multi_hop.artifacts_schema(bounded=not self.chat),
            )
        else:
            prompt = multi_hop.questions_prompt(
                segments, unit.notes if unit else "", examples, self.count, self.bundle, self.chat
            )
            schema = multi_hop.questions_schema(len(segments), self.count, self.bundle, bounded=not self.chat)
        if not self.chat:
            parameters = {"stop": ["\nSegments:"]} | parameters
        if unit is None:
            return Request(prompt, self.chat, parameters | {"max_tokens": 1})
        return Request(prompt, self.chat, held_to_schema(parameters, self.kind, schema, self.chat))

    @property
    def asks_for_json(self) -> bool:
        return self.form == "json" or self.kind in ("artifacts", "multi_hop")

    def read(self, text: str, unit: Unit) -> Read:
        """What an answer to the unit's prompt holds."""
        if self.kind == "artifacts":
            return multi_hop.read_artifacts(text)
        if self.kind == "multi_hop":
            return multi_hop.read_questions(text, unit.positives, self.count, self.bundle)
        return read(text, self.form, self.count, self.kind == "question_answer")

    def after_first(self, unit: Unit, found: Read) -> Unit:
        """The unit with what the first step has found."""
        (item,) = found.items
        return replace(unit, notes=item.query) if self.kind == "multi_hop" else replace(unit, text=item.query)


def sampling_seed(seed: int, key: str) -> int:
    """A number of 31 bits (what samplers take) that is this unit's own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4], "big") >> 1


_LABELS: dict[Kind, str] = {
    "document": "Document",
    "question_answer": "Document",
    "sentence": "Sentence",
    "metadata": "Document",
    "paraphrase": "Question",
    "back_translation": "Question",
}


def _whole(documents: Iterable[Document], strategy: Strategy) -> Iterator[Unit]:
    for document in documents:
        for sample in range(strategy.samples):
            yield Unit(f"{_prefix(strategy)}{document.id}/{sample}", _titled(document), document, (document.id,))


def _sentences(documents: Iterable[Document], strategy: Strategy) -> Iterator[Unit]:
    """Each sentence alone, as in Wen et al. 2025 (3.3.1): queries about a detail and not about the whole."""
    for document in documents:
        sentences = [s.strip() for s in sentencex.segment(strategy.language or "en", document.text)]
        long_enough = [(n, s) for n, s in enumerate(sentences) if len(s.split()) >= MIN_WORDS]
        # spread over the text: the first ones of every document are its introduction
        step = max(1, len(long_enough) // strategy.sentences)
        for number, sentence in long_enough[::step][: strategy.sentences]:
            for sample in range(strategy.samples):
                key = f"{_prefix(strategy)}{document.id}/{number}" + (f"/{sample}" if sample else "")
                yield Unit(key, sentence, document, (document.id,), {"sentence": number})


def _constraints(documents: Iterable[Document], strategy: Strategy) -> Iterator[Unit]:
    """Documents under their metadata, which the queries have to name (Wen et al. 2025, 3.3.2)."""
    seen: set[str] = set()
    found = False
    for document in documents:
        known = document.metadata | ({"title": document.title} if document.title else {})
        seen |= known.keys()
        fields = {name: str(known[name]) for name in strategy.fields if known.get(name) not in (None, "", [], {})}
        if fields:
            found = True
            text = "".join(f"[{name}: {value}] " for name, value in fields.items()) + document.text
            for sample in range(strategy.samples):
                yield Unit(
                    f"{_prefix(strategy)}{document.id}/{sample}",
                    text,
                    document,
                    (document.id,),
                    {"constraints": fields},
                )
    if not found:
        raise InputError(
            f"queries: no document has any of the metadata fields {', '.join(strategy.fields)}; those that there are:"
            f" {', '.join(sorted(seen)) or 'none'}"
        )


def _queries(queries: Iterable[Query], documents: Mapping[str, Document], strategy: Strategy) -> Iterator[Unit]:
    for query in queries:
        positives = tuple(query.metadata["positives"])
        for sample in range(strategy.samples):
            yield Unit(
                f"{_prefix(strategy)}{query.id}/{sample}",
                query.text,
                documents[positives[0]],
                positives,
                {"of": query.id},
            )


def _bundles(documents: Sequence[Document], corpus: Corpus, strategy: Strategy) -> Iterator[Unit]:
    how = strategy.bundle
    found = False
    for members, chunks in multi_hop.bundles(documents, corpus, how):
        windows = list(enumerate(multi_hop.arrange(chunks, how.order, how.segments)))
        # those with the most documents, spread over the whole
        most = max((len({c.doc_id for c in window}) for _, window in windows), default=0)
        of_most = [(n, window) for n, window in windows if len({c.doc_id for c in window}) == most]
        chosen = of_most if len(of_most) >= strategy.samples else windows
        for number, window in (
            chosen[k * len(chosen) // strategy.samples] for k in range(min(strategy.samples, len(chosen)))
        ):
            found = True
            # all that was shown, as one document: for what is said of a query by its words
            shown = Document(window[0].id, "\n".join(c.text for c in window), window[0].title)
            metadata = {"bundle": members} if len(members) > 1 else {}
            yield Unit(
                f"{_prefix(strategy)}{'+'.join(members)}/{number}",
                shown.text,
                shown,
                tuple(c.id for c in window),
                metadata,
                tuple(_titled(c) for c in window),
            )
    if not found:
        raise InputError(
            f"queries: strategy {strategy.name} finds no {how.documents} document{'s' * (how.documents > 1)} with two"
            " chunks to ask about; raise bundle.documents, or cut the documents (corpus.chunk.max_words)"
        )


def _prefix(strategy: Strategy) -> str:
    return "" if strategy.name == "document" else f"{strategy.name}:"


def _titled(document: Document) -> str:
    return ": ".join(part for part in (document.title, document.text) if part)


def _one_line(text: str) -> str:
    # small models take up the line breaks of a text, and a query ends at one
    return " ".join(text.split())
