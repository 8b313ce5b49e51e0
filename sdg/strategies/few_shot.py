"""What all built-in strategies share: settings, examples drawn from a pool, and a prompt made of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.settings import Count, Fraction, Settings
from sharpen.sdg.answers import (
    ParsedAnswer,
    ParsedQuery,
    format_example,
    held_to_schema,
    parse_answer,
    queries_schema,
)
from sharpen.sdg.drawing import drawn
from sharpen.sdg.filters.text import one_line, query_key
from sharpen.sdg.languages import ENGLISH, Wording
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.prompts import template
from sharpen.sdg.rejections import Problem, RejectionReason
from sharpen.sdg.strategies.base import Unit, titled, wanted_language
from sharpen.sdg.strategies.pools import POOL, Example, parse_example, parse_rows, read_pool
from sharpen.sdg.strategies.worded import default_examples, instruction_in, without_labels, worded_in

REPAIRED_CHARACTERS = 2000
"""Of an answer that could not be read, shown in the second request."""


class AskingSettings(Settings):
    """How queries are asked for; a strategy takes what it does not say from ``queries``."""

    task: str | None = Field(None, description="What the LLM is told first. Default: by kind.")
    pool: Annotated[str | tuple[Any, ...] | None, POOL] = Field(
        None,
        description=(
            "YAML file of examples ({document, query} or {document, queries}); some 20 is a good number. Default of"
            " document, sentence and question_answer: five in the language of the queries, which also take the place of"
            " a pool that is clearly in another one."
        ),
    )
    examples_per_prompt: Annotated[int, Field(ge=0, le=8)] | None = Field(
        None, description="Drawn from the pool (Promptagator: 2 to 8). Default 6; 2 for multi_hop."
    )
    example_draws: Count | None = Field(
        None,
        description=(
            "Draws from the pool, of which each prompt shows the one that its text falls to; those of one draw share"
            " the server's prefix cache. Default 12."
        ),
    )
    per_document: Count | None = Field(None, description="Prompts for each text. Default 1.")
    max_document_words: Count | None = Field(None, description="Words of the text in the prompt. Default 120.")
    form: Literal["line", "list", "json"] | None = Field(
        None,
        description=(
            "How the LLM writes its answer. Default: line for one query, list for several; json for question_answer."
        ),
    )
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = Field(
        None,
        description=(
            "Two-letter code of the language that queries are asked for in; those clearly in another one are dropped."
            " Default: that of each document."
        ),
    )
    typos: Fraction | None = Field(None, description="Fraction of the queries that get a typing error. Default 0.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Default 0.7.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Default 0.95.")
    max_tokens: Count | None = Field(
        None,
        description=(
            "Tokens of an answer at most. Default for each query: 48; 64 for back_translation, 110 for question_answer,"
            " 400 for multi_hop."
        ),
    )
    extra_body: dict[str, Any] | None = Field(None, description="More parameters for the endpoint, sent as they are.")


class StrategySettings(AskingSettings):
    """A built-in strategy. What it does not say is taken from ``queries``, and then from its class.

    ``resolve`` fills in every default, and gives what can be asked.
    """

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Stands in the queries' metadata. Default: the kind."
    )
    queries: Annotated[int, Field(ge=1, le=20)] = Field(1, description="Queries asked for in one prompt.")
    documents: Count | None = Field(
        None, description="Of the documents drawn for all strategies, the first so many. null: all."
    )

    default_task: ClassVar[str] = ""
    default_examples: ClassVar[int] = 6
    default_form: ClassVar[str | None] = None
    """None: line for one query, list for several."""
    tokens_per_query: ClassVar[int] = 48
    label: ClassVar[str] = "Document"
    """Stands before a text in the prompt."""
    pool_keys: ClassVar[str] = "document and query"
    """What an example of the pool has."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Keys that a strategy of this kind has no use for."""
    not_inherited: ClassVar[tuple[str, ...]] = ()
    """Keys not taken from ``queries``: what this kind is given or gives is another thing than a document or a query."""
    asks_for_answers: ClassVar[bool] = False
    worded: ClassVar[bool] = False
    """Whether ``sharpen.sdg.languages`` has the task and examples in other languages."""
    rewrites: ClassVar[bool] = False

    _language: str | None = PrivateAttr(None)
    _wording: Wording | None = PrivateAttr(None)
    """Of what ``in_language`` made."""

    @field_validator("pool", mode="before")
    @classmethod
    def _pool_rows(cls, pool: Any) -> Any:
        return parse_rows(pool, cls.parse_example)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for key in self.unused:
            if getattr(self, key) is not None:
                raise ValueError(f"a strategy of kind {self.kind} has no {key}")
        if self.form == "line" and self.queries > 1:
            raise ValueError("form: line has room for one query; say list or json")
        if self.form == "line" and self.asks_for_answers:
            raise ValueError("form: line has no room for an answer; say list or json")
        return self

    @classmethod
    def parse_example(cls, row: Any) -> Any:
        """An example of the pool. Raises ``ValueError`` with what is wrong."""
        return parse_example(row)

    def resolve(self, inherited: AskingSettings | None = None) -> Self:
        """With every default filled in: from ``inherited``, and then from the class."""
        form = self.default_form or ("line" if self.queries == 1 else "list")
        values: dict[str, Any] = {
            "task": self.default_task,
            "pool": None,
            "examples_per_prompt": self.default_examples,
            "example_draws": 12,
            "per_document": 1,
            "max_document_words": 120,
            "form": form,
            "language": None,
            "typos": 0.0,
            "temperature": 0.7,
            "top_p": 0.95,
            "max_tokens": self.tokens_per_query * self.queries,
            "extra_body": {},
        }
        for key in values:
            given = getattr(self, key)
            if given is None and inherited is not None and key not in self.not_inherited:
                given = getattr(inherited, key)
            if given is not None:
                values[key] = given
        if values["form"] == "line" and self.queries > 1:  # given for all strategies, and meant for those of one query
            values["form"] = form
        if isinstance(values["pool"], tuple):
            values["pool"] = parse_rows(values["pool"], self.parse_example)
        fields = {key: getattr(self, key) for key in type(self).model_fields}
        # not a copy, which would keep what was read of another pool
        return type(self).model_construct(**fields | values | {"name": self.name or self.kind})

    # ---- what is shown

    @property
    def needs_pool(self) -> bool:
        """Whether there is no pool, and no default of one."""
        return not self.pool and not self.worded

    @cached_property
    def examples(self) -> Sequence[Any]:
        """The pool's examples. Raises ``InputError`` if there is no pool and no default, or a bad one."""
        if self.pool is None and self.worded:
            return default_examples(ENGLISH, self.kind)
        if self.pool is None:
            raise InputError(f"no pool of examples for {self.name or self.kind}: give pool")
        return self.pool if isinstance(self.pool, tuple) else read_pool(self.pool, self.parse_example, self.pool_keys)

    def group(self, unit: Unit, seed: int) -> int:
        """Which draw of examples the unit's prompt shows: by its key, so that other units change nothing."""
        return drawn(seed, unit.key, "examples") % self.example_draws

    def draw(self, seed: int, group: int) -> list[Any]:
        """The examples of a group of units."""
        number = min(self.examples_per_prompt, len(self.examples))
        return random.Random(f"{seed}/{group}").sample(list(self.examples), number)

    @property
    def prefix(self) -> str:
        """Stands before the keys of units, so that no two strategies share one."""
        return "" if self.name == "document" else f"{self.name}:"

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        """Of each document the whole text, ``per_document`` times."""
        for document in documents[: self.documents]:
            for sample in range(self.per_document):
                yield Unit(f"{self.prefix}{document.id}/{sample}", titled(document), document, (document.id,))

    def expected_prompts(self, documents: Sequence[Document], corpus: Corpus) -> int:
        return 0 if self.rewrites else sum(1 for _ in self.units(documents, (), corpus))

    # ---- in which language

    def in_language_of(self, unit: Unit) -> Self:
        """This strategy as it asks for the unit's queries, in the language that these are to be in."""
        language = wanted_language(self, unit)
        return self.in_language(language) if language else self

    def in_language(self, language: str) -> Self:
        """With task, labels and examples in a language, or in English with a request for answers in it; what a user has
        said stays, but for examples that are clearly in another language."""
        if language == self._language:
            return self
        if language not in self._in_languages:
            changes, wording = worded_in(self, language)
            values = {name: getattr(self, name) for name in type(self).model_fields}
            # not a copy, which would keep what was read of another pool
            made = self._in_languages[language] = type(self).model_construct(**values | changes)
            made._language, made._wording = language, wording
        return self._in_languages[language]

    @cached_property
    def _in_languages(self) -> dict[str, Self]:
        return {}

    def _word(self, label: str) -> str:
        return self._wording.labels.get(label, label) if self._wording else label

    # ---- how it is asked

    @property
    def parameters(self) -> dict[str, Any]:
        """Of sampling, as in ``Request``."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        return sampling | ({"extra_body": self.extra_body} if self.extra_body else {})

    @property
    def json_answers(self) -> bool:
        return self.form == "json"

    @property
    def first(self) -> StrategySettings | None:
        return None

    @property
    def then(self) -> StrategySettings | None:
        return None

    @property
    def follow_ups(self) -> int:
        return 0

    def request(self, unit: Unit, *, seed: int = 13, chat: bool = True) -> Request:
        """The prompt for the unit: the task, the examples of its group and the text."""
        asking = self.in_language_of(unit)
        examples = asking.draw(seed, self.group(unit, seed))
        return asking._request(unit, examples, len(examples) + 1, seed, chat)

    def shared_prefix(self, unit: Unit, *, seed: int = 13, chat: bool = True) -> Request:
        asking = self.in_language_of(unit)
        examples = asking.draw(seed, self.group(unit, seed))
        prompt = asking.prompt(None, examples, len(examples) + 1, chat)
        return Request(prompt, chat, asking.parameters | {"max_tokens": 1})

    def repair(self, unit: Unit, text: str, error: str, *, seed: int, chat: bool) -> Request | None:
        request = self.in_language_of(unit)._request(unit, [], 1, seed, chat)
        prompt = (
            f"{request.prompt} {text[:REPAIRED_CHARACTERS].strip()}\n\nThat cannot be read ({error}). Once"
            " more, as JSON and nothing else:"
        )
        return Request(prompt, chat, request.parameters)

    def _request(self, unit: Unit, examples: Sequence[Any], number: int, seed: int, chat: bool) -> Request:
        parameters = self.parameters | {"seed": sampling_seed(seed, unit.key)}
        if not chat and (stop := self.stop()):
            parameters = {"stop": stop} | parameters
        if schema := self.answer_schema(unit, chat):
            parameters = held_to_schema(parameters, self.schema_name, schema, chat)
        return Request(self.prompt(unit, examples, number, chat), chat, parameters)

    def stop(self) -> list[str]:
        """Where models that continue a text stop; small ones go on with the next document else."""
        return ["\n"] if self.form == "line" else [f"\n{self._word(self.label)}", "\n\n"]

    schema_name: ClassVar[str] = "queries"

    def answer_schema(self, unit: Unit, chat: bool) -> dict[str, Any] | None:
        """The JSON schema that an answer is held to."""
        return queries_schema(self.queries, self.asks_for_answers) if self.form == "json" else None

    def prompt(self, unit: Unit | None, examples: Sequence[Any], number: int, chat: bool) -> str:
        """The text for ``unit`` as the ``number``-th after ``examples``; without a unit, only what a group shares."""
        prompt = template("few_shot.j2").render(
            task=self.task.strip(),
            instruction=instruction_in(self._wording, self.form, self.queries, self.asks_for_answers, chat),
            examples=[(self.text_of_example(example), self.answer_of(example)) for example in examples],
            text_label=self._word(self.label),
            label=self._word(self.answer_label),
            number=number,
            text=self.text_of(unit) if unit else "",
        )
        return prompt.strip()

    @property
    def answer_label(self) -> str:
        """Stands before an answer in the prompt."""
        return "Query" if self.form == "line" else "Queries"

    def text_of(self, unit: Unit) -> str:
        """What a prompt shows of a unit."""
        return first_words(unit.text, self.max_document_words)

    def text_of_example(self, example: Any) -> str:
        """What a prompt shows of an example, above its answer."""
        return one_line(example.document)

    def answer_of(self, example: Any) -> str:
        """An example's answer, as it stands in a prompt and is wanted."""
        return format_example(self.form, example.queries, example.answers if self.asks_for_answers else ())

    # ---- what comes back

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        text = without_labels(text, self.in_language_of(unit)._wording, self.form)
        return parse_answer(text, self.form, self.queries, self.asks_for_answers)

    def problem_of(self, query: ParsedQuery, unit: Unit) -> Problem | None:
        asked = self.in_language_of(unit)
        if asked is not self and query_key(query.query) in asked._example_keys:
            return Problem(RejectionReason.COPIED_FROM_EXAMPLE)
        return None

    @cached_property
    def _example_keys(self) -> frozenset[str]:
        return frozenset(map(query_key, self.example_texts()))

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        return unit

    def follow_up(
        self, units: Mapping[int, Unit], answers: Mapping[int, ParsedAnswer], corpus: Corpus
    ) -> tuple[Mapping[int, ParsedAnswer], dict[int, Unit]]:
        return answers, {}

    def example_texts(self) -> list[str]:
        return [text for example in self.examples for text in example.texts]

    def example_answers(self) -> list[tuple[str, int]]:
        return [(self.answer_of(example), len(example.texts)) for example in self.examples]

    def sample_units(self) -> list[Unit]:
        examples: Sequence[Example] = (self.first or self).examples
        return [Unit(str(n), example.document, Document(str(n), ""), ()) for n, example in enumerate(examples)]


def sampling_seed(seed: int, key: str) -> int:
    """A number of 31 bits (what samplers take) for one unit.

    >>> sampling_seed(13, "d1/0") == sampling_seed(13, "d1/0") != sampling_seed(13, "d2/0")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4], "big") >> 1
