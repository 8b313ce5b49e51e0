"""Sessions of a simulated user: a need, a first query, and others while the document is not found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, WrapValidator, model_validator

from sharpen.evaluation.beir import Corpus, Document, Query, Run
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.settings import Count
from sharpen.sdg.answers import ParsedAnswer
from sharpen.sdg.filters.round_trip import name_or_retriever, positive_rank
from sharpen.sdg.filters.text import one_line, query_key
from sharpen.sdg.strategies.base import Unit, titled
from sharpen.sdg.strategies.few_shot import StrategySettings

NEED_TOKENS = 80
"""Of an answer that is an information need, at most."""
RESULT_WORDS = 12
"""Of a result, as the user sees it: its title and how its text begins."""

_NEED_TASK = (
    "Each document stands with an information need that it satisfies: one sentence in which somebody who has never seen"
    " the document says what they want to know or to get done, and what for, in words of their own."
)
_REFORMULATION_TASK = (
    "Each information need stands with what somebody who has it has typed into a search box so far, and with what the"
    " last query found, none of which helped. Then comes what they type next for the same need: other words, more or"
    " fewer of them, or another side of it."
)


@dataclass(frozen=True)
class SessionExample:
    """A document, the need that it satisfies, and a first query; of a query that failed, the ``results``, which did not
    help, and the next query."""

    document: str
    need: str
    query: str
    results: tuple[str, ...] = ()
    reformulation: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The queries, so that a copy of one is recognised."""
        return (self.query, self.reformulation) if self.reformulation else (self.query,)


def parse_session_example(row: Any) -> SessionExample:
    """An example of a pool. Raises ``ValueError`` with what is wrong.

    >>> parse_session_example({"document": "Boil eggs for six minutes.", "need": "I want soft eggs.",
    ...     "query": "soft eggs", "results": ["Soft toys"], "reformulation": "egg boiling time"}).texts
    ('soft eggs', 'egg boiling time')
    """
    always, failed = {"document", "need", "query"}, {"results", "reformulation"}
    if not isinstance(row, dict) or set(row) not in (always, always | failed):
        raise ValueError(
            "an example has the keys document, need and query, and where the query failed results and reformulation"
        )
    results, texts = row.get("results", []), {key: text for key, text in row.items() if key != "results"}
    if not isinstance(results, list) or ("results" in row and not results):
        raise ValueError("results are a list of what the query found, one or more")
    if not all(isinstance(text, str) and text.strip() for text in [*results, *texts.values()]):
        raise ValueError("document, need, query, results and reformulation are text")
    lines = {key: one_line(text) for key, text in texts.items()}
    return SessionExample(**lines, results=tuple(map(one_line, results)))


class SimulatedUser(StrategySettings):
    """Queries of somebody who has a need that the document satisfies, and types until the document is found.

    The LLM writes the need from the document, and a first query from the need alone. Where the document is not among
    the first ``top_k`` that the retriever finds, it is shown need, queries and results, and writes another query, up to
    ``rounds`` in all. Somebody who types the same again gives up.

    Each query of a session is one in its own right, whether it found the document or not, and says in its metadata
    where it is from: ``session``, ``round`` (from 1), ``rank`` of the document (None: not among the first 100), and
    ``found``, whether that is within ``top_k``. What failed is what the retriever has to learn; what failed by far may
    be no query for the document at all, which a round trip with a large ``top_k`` rejects.

    >>> from sharpen.sdg.answers import ParsedQuery
    >>> class Titles:
    ...     def search(self, queries, k):
    ...         return {q: {"tea": 1.0} for q in queries}
    >>> corpus = {i: Document(i, f"How to cook {i} for a long time.") for i in ("tea", "beans")}
    >>> pool = [{"document": "d", "need": "n", "query": "q", "results": ["r"], "reformulation": "s"}]
    >>> strategy = SimulatedUser(retriever=Titles(), pool=pool).resolve()
    >>> unit, = strategy.units([corpus["beans"]], [], corpus)
    >>> answers, following = strategy.follow_up({0: unit}, {0: ParsedAnswer((ParsedQuery("bean time"),))}, corpus)
    >>> answers[0].queries[0].metadata, following[0].key, following[0].segments
    ({'rank': None, 'found': False}, 'simulated_user:beans/0/2', ('bean time',))
    """

    kind: Literal["simulated_user"] = "simulated_user"
    rounds: Annotated[int, Field(ge=1, le=10)] = Field(3, description="Queries of a session at most.")
    top_k: Annotated[int, Field(ge=1, le=50)] = Field(
        10, description="Results that the user looks at; the session ends when the document is among them."
    )
    retriever: Annotated[Literal["dense", "bm25"], WrapValidator(name_or_retriever)] = Field(
        "dense", description="What the user searches with: the base encoder, or bm25."
    )
    per_document: Count | None = Field(None, description="Sessions for each text. Default 1.")

    default_task: ClassVar[str] = (
        "Each information need stands with what somebody who has it types into a search box first."
    )
    default_examples: ClassVar[int] = 4
    label: ClassVar[str] = "Need"
    pool_keys: ClassVar[str] = "document, need and query"
    unused: ClassVar[tuple[str, ...]] = ("task", "form")
    not_inherited: ClassVar[tuple[str, ...]] = ("task", "pool", "form", "examples_per_prompt")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if self.queries > 1:
            raise ValueError("simulated_user types one query at a time; for more sessions, say per_document")
        return self

    @classmethod
    def parse_example(cls, row: Any) -> SessionExample:
        return parse_session_example(row)

    @property
    def needs_base(self) -> bool:
        """Whether the base encoder retrieves."""
        return self.retriever == "dense"

    @cached_property
    def first(self) -> Need | None:
        """What asks for the need."""
        return Need.model_construct(**self._values() | {"name": "need", "task": _NEED_TASK, "max_tokens": NEED_TOKENS})

    @cached_property
    def then(self) -> Reformulation | None:
        """What asks for another query."""
        return Reformulation.model_construct(**self._values() | {"name": "reformulation", "task": _REFORMULATION_TASK})

    @property
    def follow_ups(self) -> int:
        return self.rounds - 1

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        """The first round of each session."""
        for unit in super().units(documents, queries, corpus):
            yield replace(unit, key=f"{unit.key}/1", metadata={"session": unit.key, "round": 1})

    def expected_prompts(self, documents: Sequence[Document], corpus: Corpus) -> int:
        return (1 + self.rounds) * super().expected_prompts(documents, corpus)

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        return replace(unit, text=answer.queries[0].query)

    def follow_up(
        self, units: Mapping[int, Unit], answers: Mapping[int, ParsedAnswer], corpus: Corpus
    ) -> tuple[dict[int, ParsedAnswer], dict[int, Unit]]:
        """Search with each query that was typed. Raises ``InputError`` if the retriever is but a name, or finds what is
        not in the corpus."""
        typed = {n: a.queries[0].query for n, a in answers.items() if a.queries and a.queries[0].query}
        run = self._search({units[n].key: query for n, query in typed.items()})
        shown = {doc_id for hits in run.values() for doc_id in hits}
        if unknown := sorted(shown - set(corpus)):
            raise InputError(
                f"{self.name}: the retriever found {unknown[0]!r}, which is no document of the corpus; give one that"
                " searches the corpus (its chunks, where documents were cut)"
            )
        keys = {i: corpus[i].copy_key for i in shown | {i for n in typed for i in units[n].positives}}
        looked, following = dict(answers), {}
        for n, query in typed.items():
            unit, hits = units[n], ranking(run.get(units[n].key, {}))
            rank = positive_rank(hits, unit.positives, keys)
            found = rank is not None and rank <= self.top_k
            looked[n] = ParsedAnswer((replace(answers[n].queries[0], metadata={"rank": rank, "found": found}),))
            again = query_key(query) in map(query_key, unit.segments)
            if not found and not again and unit.metadata["round"] < self.rounds:
                following[n] = self._next_round(unit, query, [corpus[doc_id] for doc_id in hits[: self.top_k]])
        return looked, following

    def check_retriever(self) -> None:
        """Raise ``InputError`` if the retriever is but a name: names are for recipes."""
        if isinstance(self.retriever, str):
            raise InputError(
                f"{self.name or self.kind}: retriever is {self.retriever!r}, a name, which only a recipe can do"
                " something with; give an object with search(queries, k), like Dense(corpus, model)"
            )

    def _search(self, texts: Mapping[str, str]) -> Run:
        from sharpen.evaluation.retrievers.base import RUN_DEPTH  # loads what computes

        self.check_retriever()
        return self.retriever.search(texts, RUN_DEPTH) if texts else {}

    def _next_round(self, unit: Unit, query: str, results: Sequence[Document]) -> Unit:
        session, number = unit.metadata["session"], unit.metadata["round"] + 1
        return replace(
            unit,
            key=f"{session}/{number}",
            metadata=unit.metadata | {"round": number},
            segments=(*unit.segments, query),
            notes=_list([first_words(titled(document), RESULT_WORDS) for document in results]),
        )

    def text_of_example(self, example: SessionExample) -> str:
        return example.need

    def answer_of(self, example: SessionExample) -> str:
        return f" {example.query}"

    def example_texts(self) -> list[str]:
        """Raises ``InputError`` if no example shows a second round, and there are some."""
        return [*super().example_texts(), *(self.then.example_texts() if self.then and self.follow_ups else ())]

    def example_answers(self) -> list[tuple[str, int]]:
        return [(self.answer_of(example), 1) for example in self.examples]


class _Step(SimulatedUser):
    """What is asked before or after a query: it has no steps of its own."""

    @property
    def first(self) -> None:
        return None

    @property
    def then(self) -> None:
        return None


class Need(_Step):
    """The first step: from a document to a need."""

    label: ClassVar[str] = "Document"

    @property
    def answer_label(self) -> str:
        return "Need"

    def text_of_example(self, example: SessionExample) -> str:
        return example.document

    def answer_of(self, example: SessionExample) -> str:
        return f" {example.need}"

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        """The need. Small models say one of the examples' again, which is none that the document satisfies."""
        text = re.sub(r"^\s*(?:information )?need(?: \d+)?\s*:", "", text, flags=re.IGNORECASE)
        answer = super().parse(text, unit)
        if any(query_key(query.query) in self._needs_shown for query in answer.queries):
            return ParsedAnswer(error="need copied from an example of the prompt")
        return answer

    @cached_property
    def _needs_shown(self) -> set[str]:
        return {query_key(example.need) for example in self.examples}


class Reformulation(_Step):
    """What comes after: from a need, the queries so far and what the last one found to the next query."""

    @cached_property
    def examples(self) -> Sequence[SessionExample]:
        """Those of a query that failed. Raises ``InputError`` if there is none."""
        examples: Sequence[SessionExample] = super().examples
        if not (failed := [example for example in examples if example.reformulation]):
            place = self.pool if isinstance(self.pool, str) else "pool"
            raise InputError(
                f"{place}: no example has results and a reformulation, which show what is typed after a query that"
                " failed; give some, or rounds: 1"
            )
        return failed

    def text_of(self, unit: Unit) -> str:
        return _searched(unit.text, unit.segments, unit.notes)

    def text_of_example(self, example: SessionExample) -> str:
        return _searched(example.need, [example.query], _list(example.results))

    def answer_of(self, example: SessionExample) -> str:
        return f" {example.reformulation}"

    def sample_units(self) -> list[Unit]:
        """The examples, with as many results as the user looks at."""
        document = Document("", "")
        return [
            Unit("", e.need, document, (), {}, (e.query,), _list((e.results * self.top_k)[: self.top_k]))
            for e in self.examples
        ]


def _searched(need: str, queries: Sequence[str], results: str) -> str:
    return f"{need}\nTyped: {' / '.join(queries)}\nFound:\n{results}"


def _list(results: Sequence[str]) -> str:
    return "\n".join(f"- {result}" for result in results or ["nothing"])
