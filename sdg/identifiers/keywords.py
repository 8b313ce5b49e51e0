"""Keywords of a document, written by an LLM: what it is asked, and what can be read from its answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

from sharpen.evaluation.beir import Corpus, Document, Query, text_key
from sharpen.evaluation.languages import Analyzer, is_another_language, language_of, n_words, words
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery, parse_json
from sharpen.sdg.harvesting import stands_in
from sharpen.sdg.identifiers.settings import IdentifierSettings
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.prompts import template
from sharpen.sdg.strategies.base import Unit, titled
from sharpen.sdg.strategies.few_shot import StrategySettings
from sharpen.sdg.strategies.pools import Example

KEYWORD_WORDS = 6
"""Of a keyword at most; more is a sentence."""
KEYWORD_TOKENS = 10
"""Of an answer, for each keyword. Small models go on and on with the last one: more would be spent on that."""
REPAIR_TEMPERATURE = 0.7
"""At which an answer is asked for again: at 0 it would be the same."""

EXAMPLES = (
    Example(
        "The Matterhorn railway climbs from the village to the ridge in thirty minutes. Its rack lies between the"
        " rails, and in winter a plough on the first car keeps it free of ice. Skiers pay half of the summer fare.",
        ("Matterhorn railway", "rack between the rails", "snow plough", "winter fare for skiers"),
    ),
    Example(
        "Sourdough is raised by wild yeast and bacteria that live in flour and water. A starter is fed once a day;"
        " after a week it doubles within four hours and is strong enough for rye bread.",
        ("sourdough starter", "wild yeast and bacteria", "daily feeding", "rye bread"),
    ),
    Example(
        "Mayor Ines Caldeira of Port Alvor resigned on Tuesday after an audit found that 4 million euros for new flood"
        " walls had been spent on a stadium. Her deputy will lead the town until the elections in May.",
        ("Ines Caldeira", "Port Alvor mayor resigns", "flood wall money", "stadium audit", "elections in May"),
    ),
    Example(
        "Employees who fall ill on holiday get their days back if a doctor's note reaches the personnel office within a"
        " week. Days that were taken for overtime are lost.",
        ("illness on holiday", "doctor's note", "holiday days given back", "overtime"),
    ),
    Example(
        "Owls fly without a sound because the front edge of their wings is a comb that breaks the air into small"
        " streams. Engineers have copied the comb for the blades of wind turbines, which became quieter by half.",
        ("silent flight of owls", "comb on the wing", "quieter wind turbines", "blade design"),
    ),
)
"""For models that continue a text; those that chat are told the form."""


class Keywords(StrategySettings):
    """Asks for a list of keywords that say what a document is about (Wen et al. 2025, 2.1 and figure 4): each is a
    ``ParsedQuery``. An answer without any is asked for once more."""

    kind: Literal["keywords"] = "keywords"

    default_task: ClassVar[str] = (
        "Each document is summarized by meaningful keywords for the different important things in it: names, terms and"
        " topics that tell it from other documents."
    )
    json_answers: ClassVar[bool] = True
    """What cannot be read is asked for once more."""

    @classmethod
    def of(cls, settings: IdentifierSettings) -> Keywords:
        """What asks, as the settings say."""
        return cls(
            name="identifiers",
            queries=settings.keywords,
            form="list",
            examples_per_prompt=len(EXAMPLES),
            example_draws=1,
            max_document_words=settings.max_document_words,
            temperature=settings.temperature,
            top_p=1.0,
            max_tokens=KEYWORD_TOKENS * settings.keywords,
        ).resolve()

    @cached_property
    def examples(self) -> Sequence[Example]:
        return EXAMPLES

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        """Each document by its text, so that copies are the same unit under the same key."""
        for document in documents:
            text = titled(document)
            key = text_key(f"{language_of(document)} {text}")
            yield Unit(f"{self.prefix}{key}", text, document, (document.id,))

    @property
    def answer_label(self) -> str:
        return "Keywords"

    def prompt(self, unit: Unit | None, examples: Sequence[Any], number: int, chat: bool) -> str:
        if not chat:
            return super().prompt(unit, examples, number, chat)
        text = self.text_of(unit) if unit else ""
        return template("keywords.j2").render(task=self.task.strip(), count=self.queries, text=text).strip()

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        """The keywords that are of this document and in its language, without those that an earlier one has in it."""
        content, language = unit.document.content, language_of(unit.document)
        keywords = [k for k in parse_keywords(text) if not self._is_copied(k, content)]
        others = " ".join(k for k in keywords if not stands_in(k, content))
        if others and is_another_language(others, language):
            keywords = [k for k in keywords if stands_in(k, content)]
        keywords = without_repeats(keywords, language)[: self.queries]
        return ParsedAnswer(tuple(map(ParsedQuery, keywords))) if keywords else ParsedAnswer(error="no keyword in it")

    def repair(self, unit: Unit, text: str, error: str, *, seed: int, chat: bool) -> Request:
        """The same once more, with some chance in it."""
        request = self.request(replace(unit, key=f"{unit.key}/again"), seed=seed, chat=chat)
        warmer = {"temperature": max(self.temperature, REPAIR_TEMPERATURE)}
        return replace(request, parameters=request.parameters | warmer)

    def _is_copied(self, keyword: str, content: str) -> bool:
        return " ".join(words(keyword)) in self._shown_keywords and not stands_in(keyword, content)

    @cached_property
    def _shown_keywords(self) -> frozenset[str]:
        return frozenset(" ".join(words(keyword)) for example in EXAMPLES for keyword in example.queries)


def without_repeats(keywords: Iterable[str], language: str) -> list[str]:
    """The keywords that say something that no single one before has said.

    >>> without_repeats(["Amazon rainforest", "rainforests", "Amazon", "rain"], "en")
    ['Amazon rainforest', 'rain']
    """
    analyzer, kept = _analyzer(language), dict[str, set[str]]()
    for keyword in keywords:
        terms = set(analyzer.terms(keyword)) or set(words(keyword))
        if not any(terms <= earlier for earlier in kept.values()):
            kept[keyword] = terms
    return list(kept)


@cache
def _analyzer(language: str) -> Analyzer:
    return Analyzer(language)


_MARK = re.compile(r"\s*(?:[-*+•–—▪·]+|\(?\d{1,2}[.):])\s+|\s*[-•▪](?=\w)")
_LABEL = re.compile(
    r"(?:the |main |important )*(?:key ?words?|key ?terms?|topics?|tags?|list)(?: ?\d+)?\s*[:：]\s*", re.I
)
_SEPARATOR = re.compile(r"(?<!\d),|,(?!\d)|[;、，；،؛]|\s[|•·]\s")
_EXPLAINED = re.compile(r"\s*(?::|：|\s[-–—])\s+")
_EDGES = " \t.,:;!?。，：；*_`\"'“”„«»「」『』#-–—•"


def parse_keywords(text: str) -> list[str]:
    """The keywords in an answer, each once: items of a list, or what stands between commas. Forgives labels, marks,
    quotes, JSON, explanations behind a keyword, and sentences before and after the list.

    >>> parse_keywords("Sure, here they are:\\n\\n- **Rye bread**: a loaf that is made of rye\\n- yeast\\n- rye bread.")
    ['Rye bread', 'yeast']
    >>> parse_keywords("Keywords: 1,252 yards, NFL")
    ['1,252 yards', 'NFL']
    """
    lines = _json_items(text) or [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("```")]
    if any(_MARK.match(line) for line in lines):  # all else only speaks about the list
        lines = [line[match.end() :] for line in lines if (match := _MARK.match(line))]
    else:
        lines = [line for line in lines if not line.endswith((":", "："))]
    found: dict[str, str] = {}
    for line in lines:
        for part in _parts(line):
            keyword = " ".join(part.split()).strip(_EDGES)
            if (key := " ".join(words(keyword))) and n_words(keyword) <= KEYWORD_WORDS:
                found.setdefault(key, keyword)
    return list(found.values())


def _parts(line: str) -> Iterable[str]:
    line = _LABEL.sub("", line, count=1) if _LABEL.match(line) else line
    if bold := re.match(r"\*\*(.+?)\*\*", line):
        line = bold[1]
    else:
        head, *rest = _EXPLAINED.split(line, maxsplit=1)
        if rest and n_words(head) <= KEYWORD_WORDS and n_words(rest[0]) > KEYWORD_WORDS // 2:
            line = head
    return _SEPARATOR.split(line)


def _json_items(text: str) -> list[str]:
    """The texts in an answer that is JSON, a list or an object with one; none where it is not."""
    bare = re.sub(r"^```\w*\s*", "", text.strip())
    if not bare.startswith(("[", "{")):
        return []
    try:
        value = parse_json(bare)
    except ValueError:
        return []
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), [])
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
