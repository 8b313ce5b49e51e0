"""What a strategy is: from which piece of a document a query is written, and what a prompt for it looks like.

A strategy turns documents into units. A unit is what one prompt shows, with the IDs of the documents that the queries
written from it are answered by. How the LLM is asked and what becomes of its answers is the same for all of them, see
``sharpen.sdg.queries``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.languages import LANGUAGE, is_another_language
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery, parse_answer
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.rejections import Problem

MIN_WORDS = 5
"""Words that a text must have for a query to be written from it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one prompt is about.

    ``key``: a stable name; IDs of queries and seeds of sampling hang on it. ``document``: where the text is from.
    ``positives``: IDs of the documents that answer. ``metadata`` goes into the queries'. ``segments``: of multi-hop
    questions, in place of the text. ``notes``: what a first step brought, if that stands beside the text.
    """

    key: str
    text: str
    document: Document
    positives: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[str, ...] = ()
    notes: str = ""


class Strategy(Protocol):
    """One way to ask for queries. Your own is a subclass of ``CustomStrategy``, which has all of this but ``units`` and
    ``request``.

    - ``name``: stands in the queries' metadata. ``queries``: asked for in one prompt.
    - ``language``: two-letter code, which every query must have (None: its document's). ``typos``: fraction of the
      queries that get a typing error.
    - ``max_tokens``: of an answer. ``rewrites``: works on the queries of earlier strategies.
    - ``first``: what is asked before, and whose answer goes into the unit by ``after_first``.
    - ``then``: what is asked after, about the units that ``follow_up`` gives, ``follow_ups`` times at most.
    """

    name: str
    queries: int
    language: str | None
    typos: float
    max_tokens: int
    rewrites: ClassVar[bool]

    @property
    def first(self) -> Strategy | None: ...

    @property
    def then(self) -> Strategy | None: ...

    @property
    def follow_ups(self) -> int: ...

    @property
    def json_answers(self) -> bool:
        """Whether answers are JSON: one that cannot be read is asked for once more."""
        ...

    def units(self, documents: Sequence[Document], queries: Sequence[Query], corpus: Corpus) -> Iterable[Unit]:
        """What is asked about, in a stable order. ``queries``: those that there are already. ``corpus``: all
        documents, of which ``documents`` were drawn."""
        ...

    def request(self, unit: Unit, *, seed: int, chat: bool) -> Request:
        """The prompt for the unit, whichever others there are. ``chat``: as a message; else as a text to continue."""
        ...

    def group(self, unit: Unit, seed: int) -> int:
        """Prompts of one group are asked one after the other, as they share their beginning, ``shared_prefix``."""
        ...

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        """At most ``queries`` queries of the answer."""
        ...

    def problem_of(self, query: ParsedQuery, unit: Unit) -> Problem | None:
        """What is wrong with a query whose text is usable."""
        ...

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        """The unit with what the first step brought."""
        ...

    def follow_up(
        self, units: Mapping[int, Unit], answers: Mapping[int, ParsedAnswer], corpus: Corpus
    ) -> tuple[Mapping[int, ParsedAnswer], dict[int, Unit]]:
        """The answers, by the numbers of their units, with what can be said of them now that all have come; and the
        units, by number, that ``then`` is to ask about. The queries of both are kept or rejected."""
        ...

    def shared_prefix(self, unit: Unit, *, seed: int, chat: bool) -> Request | None:
        """What all prompts of the unit's group begin with; None: nothing."""
        ...

    def repair(self, unit: Unit, text: str, error: str, *, seed: int, chat: bool) -> Request | None:
        """A second request, after an answer that could not be read."""
        ...

    def example_texts(self) -> Iterable[str]:
        """The queries that prompts show: copies of them are rejected."""
        ...

    def example_answers(self) -> Sequence[tuple[str, int]]:
        """For an estimate of costs: answers as they are wanted, with the number of queries in each."""
        ...

    def sample_units(self) -> Sequence[Unit]:
        """For an estimate of costs, where ``rewrites``: units made of the examples."""
        ...

    def expected_prompts(self, documents: Sequence[Document], corpus: Corpus) -> int:
        """For a progress bar: about how many prompts there will be; 0 where nobody can know."""
        ...


class CustomStrategy:
    """Base of your own strategies: everything of ``Strategy`` but ``units`` and ``request``.

    >>> class Titles(CustomStrategy):
    ...     name = "titles"
    ...     def units(self, documents, queries, corpus):
    ...         for document in documents:
    ...             yield Unit(f"titles:{document.id}", document.title, document, (document.id,))
    ...     def request(self, unit, *, seed, chat):
    ...         return Request(f"Title: {unit.text}\\nQuestion:", chat, {"max_tokens": 32, "seed": seed})
    >>> unit, = Titles().units([Document("d", "Soak them overnight.", "Cooking beans")], [], {})
    >>> Titles().request(unit, seed=13, chat=False).prompt
    'Title: Cooking beans\\nQuestion:'
    >>> Titles().parse(" how long do beans cook\\n\\nTitle: Rice", unit).queries[0].query
    'how long do beans cook'
    """

    name: str
    queries: int = 1
    language: str | None = None
    typos: float = 0.0
    max_tokens: int = 64
    rewrites: ClassVar[bool] = False
    json_answers: bool = False
    first: Strategy | None = None
    then: Strategy | None = None
    follow_ups: int = 0

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        return parse_answer(text, "line" if self.queries == 1 else "list", self.queries)

    def problem_of(self, query: ParsedQuery, unit: Unit) -> Problem | None:
        return None

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        return unit

    def follow_up(
        self, units: Mapping[int, Unit], answers: Mapping[int, ParsedAnswer], corpus: Corpus
    ) -> tuple[Mapping[int, ParsedAnswer], dict[int, Unit]]:
        return answers, {}

    def group(self, unit: Unit, seed: int) -> int:
        return 0

    def shared_prefix(self, unit: Unit, *, seed: int, chat: bool) -> Request | None:
        return None

    def repair(self, unit: Unit, text: str, error: str, *, seed: int, chat: bool) -> Request | None:
        return None

    def example_texts(self) -> Iterable[str]:
        return ()

    def example_answers(self) -> Sequence[tuple[str, int]]:
        return ()

    def sample_units(self) -> Sequence[Unit]:
        return ()

    def expected_prompts(self, documents: Sequence[Document], corpus: Corpus) -> int:
        return 0 if self.rewrites else sum(1 for _ in self.units(documents, (), corpus))


def wanted_language(strategy: Strategy, unit: Unit) -> str | None:
    """Two-letter code of the language that a unit's queries are to be in: the strategy's, else the document's. None
    where nobody has said which that is, and where a query in another language is rewritten.

    >>> unit = Unit("u", "Fazole namočte.", Document("d", "", metadata={"language": "cs"}), ("d",))
    >>> wanted_language(CustomStrategy(), unit)
    'cs'
    """
    if strategy.language:
        return strategy.language
    language = unit.document.metadata.get(LANGUAGE)
    if not language or (strategy.rewrites and is_another_language(unit.text, language)):
        return None
    return str(language)


def titled(document: Document) -> str:
    """Title and text, as prompts show a document."""
    return ": ".join(part for part in (document.title, document.text) if part)
