"""Prompts in other languages than English: what of a strategy is said in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import regex

from sharpen.evaluation.languages import identify, is_another_language, language_name
from sharpen.sdg.answers import Form, format_example, instruction
from sharpen.sdg.languages import ENGLISH, Wording, languages_with_wording, wording_of
from sharpen.sdg.strategies.pools import Example

if TYPE_CHECKING:
    from sharpen.sdg.strategies.few_shot import StrategySettings

SURE = 0.99
"""Probability from which a pool is known to be in another language."""


def worded_in(strategy: StrategySettings, language: str) -> tuple[dict[str, Any], Wording | None]:
    """The settings of a strategy that are others where queries are to be in a language, and the wording of its prompts.

    A pool that is clearly in another language gives way to the language's own examples, where there are some. A task of
    the user's stays, and so do English labels around it if it is in another language. Where the wording is None,
    prompts are in English, and ask for answers in the language.
    """
    wording, changes = wording_of(language), {}
    if strategy.worded and wording and (strategy.pool is None or _shows_another(strategy, language)):
        changes["pool"] = default_examples(language, strategy.kind)
    own_task = strategy.task != strategy.default_task
    has_words = strategy.worded and wording is not None and bool(wording.tasks)
    if not has_words or (own_task and is_another_language(strategy.task, language)):
        wording = None
    if wording and not own_task:
        changes["task"] = wording.tasks[strategy.kind]
    elif not wording and language != ENGLISH:
        changes["task"] = f"{strategy.task.strip()} Answer in {language_name(language)}.".strip()
    return changes, wording


def _shows_another(strategy: StrategySettings, language: str) -> bool:
    found = identify(" ".join(strategy.example_texts()))
    # names and codes are taken for rare languages
    known = found is not None and found.probability >= SURE and found.language in languages_with_wording()
    return known and found.language != language


def default_examples(language: str, kind: str = "document") -> tuple[Example, ...]:
    """What prompts of a kind show where there is no pool; nothing for a language without a file.

    >>> default_examples("de")[1].queries
    ('Wann salzt man Bohnen?',)
    """
    wording = wording_of(language)
    if wording is None:
        return ()
    pairs = ((e, e.document if kind == "sentence" else e.whole) for e in wording.examples)
    return tuple(Example(text, (e.query,), (e.answer,)) for e, text in pairs)


def instruction_in(wording: Wording | None, form: Form, count: int, answers: bool, chat: bool) -> str:
    """``answers.instruction`` in the words of ``wording``; without one, and for a list of queries with answers, in
    English.

    >>> instruction_in(wording_of("es"), "json", 2, answers=False, chat=True)[-78:]
    'español (número: 2), como JSON igual que en los ejemplos: {"queries": ["..."]}'
    """
    english = instruction(form, count, answers, chat)
    if not english or wording is None or (form == "list" and answers):
        return english
    shape = format_example("json", ["..."], ["..."] * answers) if form == "json" else ""
    return wording.write[form].replace("{n}", str(count)) + shape


def without_labels(text: str, wording: Wording | None, form: Form) -> str:
    """An answer without the labels of ``wording`` that a model has written before its queries."""
    if form == "json" or wording is None:
        return text
    labels = "|".join(regex.escape(wording.labels[label]) for label in ("Query", "Queries"))
    return regex.sub(rf"(?im)^(\s*(?:[-*•]\s+)?)(?:{labels})(?: ?\d+)?\s*[:：]\s*", r"\1", text)
