"""Pools of few-shot examples, as YAML files or as lists in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.settings import Marker
from sharpen.evaluation.yaml_files import read_yaml

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """What a prompt shows (a document, a sentence, a query to rewrite), and the queries that are wanted for it.

    ``answers``: one for each query, where the strategy asks for them.
    """

    document: str
    queries: tuple[str, ...]
    answers: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The queries, so that a copy of one is recognised."""
        return self.queries


def parse_example(row: Any) -> Example:
    """An example of ``{document, query}``, or ``{document, queries, answers}`` where several are asked for at once.

    Raises ``ValueError`` with what is wrong.

    >>> parse_example({"document": "Boil eggs for six minutes.", "query": "how long to boil an egg"})
    Example(document='Boil eggs for six minutes.', queries=('how long to boil an egg',), answers=())
    """
    if (
        not isinstance(row, dict)
        or len({"query", "queries"} & set(row)) != 1
        or not {"document"} <= set(row) <= {"document", "query", "queries", "answer", "answers"}
    ):
        raise ValueError(
            "an example has the keys document and query (or queries), and where answers are asked for answer"
            " (or answers)"
        )
    lists = {key: value if isinstance(value, list) else [value] for key, value in row.items()}
    queries, answers = lists.get("queries", lists.get("query")), lists.get("answers", lists.get("answer", []))
    if not queries or not all(
        isinstance(text, str) and text.strip() for text in [*lists["document"], *queries, *answers]
    ):
        raise ValueError("document, queries and answers are text")
    if answers and len(answers) != len(queries):
        raise ValueError(f"{len(queries)} queries with {len(answers)} answers; one answer for each is expected")
    stripped = [tuple(str(text).strip() for text in texts) for texts in (queries, answers)]
    return Example(str(row["document"]).strip(), *stripped)


def read_pool(path: str | Path, parse: Callable[[Any], T] = parse_example, keys: str = "document and query") -> list[T]:
    """Read a pool: a YAML list of examples, each read by ``parse``. ``keys``: what an example has, for the message.

    Raises ``InputError`` (file and line).
    """
    rows = read_yaml(Path(path))
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a list of examples, each with {keys}")
    examples = []
    for index, row in enumerate(rows):
        try:
            examples.append(parse(row))
        except ValueError as error:
            raise InputError(f"{path}, line {rows.lc.item(index)[0] + 1}: {error}") from None
    return examples


def parse_rows(pool: Any, parse: Callable[[Any], Any]) -> Any:
    """A pool that is given in Python, as a tuple of examples; anything else as it is."""
    if not isinstance(pool, Sequence) or isinstance(pool, str):
        return pool
    return tuple(row if is_dataclass(row) else parse(row) for row in pool)


def _digest(pool: Any) -> Any:
    return asdict(pool) if is_dataclass(pool) else sha256_file(Path(pool))


def _check(pool: Any) -> None:
    if isinstance(pool, str) and not Path(pool).is_file():
        raise InputError(f"{pool}: no such file")


POOL = Marker(_digest, _check)
"""A pool: the path of a file, for which its content stands in a fingerprint, or the examples themselves."""
