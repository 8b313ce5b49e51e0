"""Several cross-encoders whose mean opinion counts, as one: a folder that names its members."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import CrossEncoder

from sharpen.evaluation.files import InputError, write_json
from sharpen.evaluation.retrievers.candidates import standardize

COMMITTEE = "committee.json"
"""In the folder of a committee: the names of the folders in it that are its members, each an ordinary cross-encoder."""


@dataclass(frozen=True)
class Committee:
    """Loaded cross-encoders that score together; usable wherever sharpen takes a cross-encoder."""

    members: tuple[CrossEncoder, ...]


def committee_members(name: str | Path) -> tuple[str, ...]:
    """The members' folders, where ``name`` is the folder of a committee; none for any other model.

    Raises ``InputError`` for a file that names no members, or one that is not there.
    """
    folder = Path(name).expanduser()
    path = folder / COMMITTEE
    if not path.is_file():
        return ()
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["members"]
        valid = bool(names) and isinstance(names, list) and all(_is_name(name) for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise InputError(f'{path}: expected {{"members": [...]}} with the names of folders that lie beside it')
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise InputError(
            f"{path}: its member {missing[0]} is not there; copy the whole folder, or name one of the others"
        )
    return tuple(str(folder / name) for name in names)


def write_committee(folder: Path, names: Sequence[str]) -> None:
    """Make a folder that holds its members' folders a committee."""
    write_json(folder / COMMITTEE, {"members": list(names)})


def holds_cross_encoder(folder: Path) -> bool:
    """Whether a cross-encoder lies there, or a committee."""
    return (folder / COMMITTEE).is_file() or (folder / "config.json").is_file()


def committee_scores(scores: Sequence[Sequence[float]], queries: Sequence[Hashable]) -> list[float]:
    """One score for each pair of query and document: the mean of the members' scores, standardized for each query.

    ``scores``: a row for each member, of shape (members, pairs). ``queries``: whose documents are standardized
    together, one for each pair. The mean is given in the members' mean standard deviation and about their mean score of
    the query, so that it is a logit as theirs are: limits and temperatures mean the same, a query with one document has
    the mean of its scores, and a single member is left as it is.

    >>> committee_scores([[1.0, 3.0], [40.0, 20.0]], ["q", "q"])  # who has the larger scores does not decide
    [16.0, 16.0]
    >>> committee_scores([[1.0, 3.0, 7.0]], ["q1", "q1", "q2"])
    [1.0, 3.0, 7.0]
    """
    rows = np.array(scores, dtype=np.float64).reshape(len(scores), len(queries))
    columns: dict[Hashable, list[int]] = {}
    for column, query in enumerate(queries):
        columns.setdefault(query, []).append(column)
    result = np.empty(len(queries))
    for chosen in columns.values():
        means = rows[:, chosen].mean()
        standardized, deviations = standardize(rows[:, chosen])
        result[chosen] = means + deviations.mean() * standardized.mean(axis=0)
    return result.tolist()


def shared_progress(progress: Callable[[int], None] | None, members: int) -> Callable[[int], None] | None:
    """For members that each go through all pairs: tells of one when as many as there are members have been scored.

    >>> told = []
    >>> advance = shared_progress(told.append, members=2)
    >>> for _ in range(4):
    ...     advance(3)
    >>> sum(told)
    6
    """
    if progress is None:
        return None
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        before, done = done // members, done + n
        progress(done // members - before)

    return advance


def _is_name(name: object) -> bool:
    """Of a folder within: a path could lead anywhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\")
