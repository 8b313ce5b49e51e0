"""What is said in the language of a corpus: tasks, labels and examples of prompts, and what shows that a query speaks
of its document as a document. One YAML file a language; another language is another file.

Prompts for documents in a language without a file are in English and ask for answers in that language.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, ValidationError

from sharpen.evaluation.files import InputError
from sharpen.evaluation.yaml_files import read_yaml

FOLDER = Path(__file__).parent
ENGLISH = "en"

Label = Literal["Document", "Sentence", "Query", "Queries"]


class WordingExample(BaseModel):
    """A pair for prompts, with the answer for strategies that ask for one. ``document``: one sentence, which answers
    the query; ``more``: what stands behind it in the document. Where examples are single sentences and texts are not,
    small models copy the query instead of writing one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    document: str
    more: str
    query: str
    answer: str

    @property
    def whole(self) -> str:
        blank = "" if self.document.endswith("。") else " "
        return f"{self.document}{blank}{self.more}"


class Wording(BaseModel):
    """A language's file.

    ``tasks``: what the LLM is told first, by the kind of the strategy. ``labels``: what stands before texts and
    queries, by the English label. ``write``: how several queries are asked for, by form; ``{n}`` is their number.
    ``examples``: pairs for prompts where a recipe names no pool. ``self_reference``: regular expressions of what only a
    query says that was written with its document in view ("this passage"). ``captions``: the words before the numbers
    of figures and tables. ``definition``: how a sentence begins that defines what it names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tasks: Mapping[Literal["document", "sentence", "question_answer"], str] = {}
    labels: Mapping[Label, str] = {}
    write: Mapping[Literal["list", "json"], str] = {}
    examples: tuple[WordingExample, ...] = ()
    self_reference: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    definition: str | None = None

    def refers_to_itself(self, text: str) -> bool:
        """Whether a query speaks of its document as a document.

        >>> wording_of("de").refers_to_itself("Was sagt dieser Text über Miete?")
        True
        >>> wording_of("de").refers_to_itself("Miete im Kontext der Inflation")
        False
        """
        return bool(self._self_reference.search(text if text.isascii() else unicodedata.normalize("NFC", text)))

    @cached_property
    def _self_reference(self) -> regex.Pattern:
        # (?!) never matches
        pattern = unicodedata.normalize("NFC", "|".join(self.self_reference) or "(?!)")
        return regex.compile(pattern, regex.IGNORECASE)


def read_wording(path: Path) -> Wording:
    """The wording in a file. Raises ``InputError`` (file, line and key)."""
    rows = read_yaml(path)
    if not isinstance(rows, dict):
        raise InputError(f"{path}: expected the keys {', '.join(Wording.model_fields)}")
    try:
        return Wording.model_validate(rows)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        line = rows.lc.key(first["loc"][0])[0] + 1 if first["loc"] and first["loc"][0] in rows else 1
        raise InputError(f"{path}, line {line}: {place}: {first['msg']}") from None


@cache
def wording_of(language: str) -> Wording | None:
    """The wording of a language by its two-letter code; None where there is no file.

    >>> wording_of("cs").labels["Query"], wording_of("sw") is None
    ('Dotaz', True)
    """
    path = FOLDER / f"{language}.yaml"
    return read_wording(path) if path.is_file() else None


def languages_with_wording() -> list[str]:
    """Two-letter codes of the languages that there are files for, in their order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
