"""Difficult questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

from sharpen.evaluation.files import InputError
from sharpen.sdg.strategies.few_shot import StrategySettings
from sharpen.sdg.strategies.pools import Example


class QuestionAnswer(StrategySettings):
    """Difficult questions about a document, each with the answer that the document gives.

    >>> pool = [{"document": "Boil eggs for six minutes.", "query": "time for soft eggs", "answer": "six minutes"}]
    >>> QuestionAnswer(pool=pool).resolve().form
    'json'
    """

    kind: Literal["question_answer"] = "question_answer"

    worded: ClassVar[bool] = True
    default_task: ClassVar[str] = (
        "Each document stands with a difficult question that somebody typed into a search box and with the answer, a"
        " short phrase that the document gives."
    )
    default_form: ClassVar[str | None] = "json"
    tokens_per_query: ClassVar[int] = 110
    not_inherited: ClassVar[tuple[str, ...]] = ("form", "max_tokens")
    asks_for_answers: ClassVar[bool] = True

    @cached_property
    def examples(self) -> Sequence[Example]:
        """Raises ``InputError`` if an example has no answer."""
        examples: Sequence[Example] = super().examples
        if silent := [example for example in examples if not example.answers]:
            place = self.pool if isinstance(self.pool, str) else "pool"
            raise InputError(
                f"{place}: strategy {self.name} asks for answers, and {len(silent)} of {len(examples)} examples have"
                " none; give each example answer, or answers"
            )
        return examples
