"""Negatives that people look at: a sheet to label, and what the labels say of each miner.

What a score calls hard may be relevant, and what an LLM calls hard may be easy. Only reading them tells (Sinha 2025
leaves it open why LLM-written negatives do worse).
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from scipy import stats

from sharpen.evaluation.beir import Corpus, Queries
from sharpen.evaluation.files import InputError, atomic_file
from sharpen.evaluation.significance import Estimate, estimate
from sharpen.sdg.negatives.record import Negative

LABELS = ("too easy", "hard", "false positive", "unclear")
"""Of a negative: nobody would take it for an answer; it could be taken for one, and is none; it is one; one cannot
tell."""
COLUMNS = ("item", "query", "positive", "negative", "label")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


@dataclass(frozen=True)
class Audit:
    """``fractions``: miner to label to its fraction of the miner's negatives, with a 95 % interval, drawn by query; the
    labels of several people count in equal parts. ``items``: miner to how many were labelled. ``alpha``: agreement
    (``nominal_alpha``); None for one person."""

    fractions: dict[str, dict[str, Estimate]]
    items: dict[str, int]
    alpha: float | None


def item_key(negative: Negative) -> str:
    """What a negative is known by in a sheet: it says nothing of where it comes from, and stays the same."""
    return hashlib.sha256(f"{negative.query_id}\n{negative.doc_id}\n{negative.miner}".encode()).hexdigest()[:12]


def draw_negatives(negatives: Iterable[Negative], per_miner: int, seed: int = 13) -> list[Negative]:
    """So many kept negatives of each miner at most, of as many queries as there are, in an order that does not tell the
    miner. A function of the seed.

    >>> rows = [Negative(f"q{n % 2}", f"d{n}", "bm25", n, 0.0, "kept", 13) for n in range(1, 5)]
    >>> sorted(row.query_id for row in draw_negatives(rows, per_miner=2))
    ['q0', 'q1']
    """
    random = Random(seed)
    by_miner: dict[str, list[Negative]] = {}
    for negative in negatives:
        if negative.verdict == "kept":
            by_miner.setdefault(negative.miner, []).append(negative)
    drawn = []
    for rows in by_miner.values():
        random.shuffle(rows)
        turns: Counter[str] = Counter()
        numbered = []
        for row in rows:
            numbered.append((turns[row.query_id], len(numbered), row))
            turns[row.query_id] += 1
        drawn += [row for _, _, row in sorted(numbered, key=lambda item: item[:2])[:per_miner]]
    random.shuffle(drawn)
    return drawn


def write_sheet(
    path: Path, negatives: Sequence[Negative], queries: Queries, positives: Mapping[str, str], corpus: Corpus
) -> None:
    """A CSV file with a row for each negative and an empty column ``label``, for one person; each gets a copy.

    ``positives``: query to the document that answers it. Texts that a spreadsheet would take for formulas begin with an
    apostrophe. Raises ``InputError`` if the file is there already, as it may have labels.
    """
    if path.exists():
        raise InputError(f"{path} is there already, perhaps with labels; give another name")
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in negatives:
            texts = queries[row.query_id].text, corpus[positives[row.query_id]].content, corpus[row.doc_id].content
            writer.writerow([item_key(row), *map(_cell, texts), ""])


def read_sheets(paths: Sequence[Path], negatives: Iterable[Negative]) -> dict[Path, dict[str, str]]:
    """Each person's labels by item; rows without one are left out.

    Raises ``InputError`` (file and line) for a file that is no such sheet, a label that is none of ``LABELS``, an item
    twice, one that is none of these negatives, and a sheet without any label.
    """
    known = {item_key(row) for row in negatives}
    return {path: _read_sheet(path, known) for path in paths}


def audit(labels: Iterable[Mapping[str, str]], negatives: Iterable[Negative], seed: int = 13) -> Audit:
    """What people's labels say of each miner. ``labels``: of each person, by item.

    >>> rows = [Negative(f"q{n}", "d", "bm25", 1, 0.0, "kept", 13) for n in range(3)]
    >>> given = dict(zip(map(item_key, rows), ("hard", "hard", "false positive")))
    >>> found = audit([given, given], rows)
    >>> round(found.fractions["bm25"]["hard"].value, 2), found.alpha
    (0.67, 1.0)
    """
    people = list(labels)
    votes: dict[str, Counter[str]] = {}
    for person in people:
        for item, label in person.items():
            votes.setdefault(item, Counter())[label] += 1
    by_miner: dict[str, dict[str, Negative]] = {}
    for row in negatives:
        if (key := item_key(row)) in votes:
            by_miner.setdefault(row.miner, {})[key] = row
    fractions = {}
    for miner, rows in by_miner.items():
        groups = {key: row.query_id for key, row in rows.items()}
        fractions[miner] = {
            label: _fraction({key: votes[key][label] / votes[key].total() for key in rows}, groups, seed)
            for label in LABELS
        }
    alpha = nominal_alpha(list(votes.values())) if len(people) > 1 else None
    return Audit(fractions, {miner: len(rows) for miner, rows in by_miner.items()}, alpha)


def nominal_alpha(votes: Iterable[Mapping[str, int]]) -> float | None:
    """Krippendorff's alpha for labels without an order: 1 for agreement, 0 for what chance gives (Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability"). ``votes``: of each item, label to how many people gave it; items with
    one vote say nothing. None where no item has two, or all labels are the same.

    >>> nominal_alpha([{"hard": 2}, {"easy": 2}, {"hard": 1, "easy": 1}])
    0.4444444444444444
    """
    pairable = [counts for counts in votes if sum(counts.values()) > 1]
    totals: Counter[str] = Counter()
    for counts in pairable:
        totals.update(counts)
    number = totals.total()
    by_chance = number * number - sum(n * n for n in totals.values())
    if not by_chance:
        return None
    observed = sum(
        (sum(counts.values()) ** 2 - sum(n * n for n in counts.values())) / (sum(counts.values()) - 1)
        for counts in pairable
    )
    return 1 - (number - 1) * observed / by_chance


def _fraction(values: Mapping[str, float], groups: Mapping[str, str], seed: int) -> Estimate:
    found = estimate(values, seed, groups)
    if len(set(values.values())) > 1 or found.value not in (0, 1):
        return found
    # where all are alike, drawing from them tells nothing: the exact interval of as many queries
    number = len(set(groups.values()))
    exact = stats.binomtest(round(found.value * number), number).proportion_ci(method="exact")
    return Estimate(value=found.value, interval=(float(exact.low), float(exact.high)))


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _read_sheet(path: Path, known: set[str]) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"item", "label"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path}: no columns item and label; give a sheet of sharpen negatives, saved as CSV")
            labels: dict[str, str] = {}
            seen: set[str] = set()
            for row in reader:
                item, label = (row["item"] or "").strip(), " ".join((row["label"] or "").lower().split())
                where = f"{path}, line {reader.line_num}"
                if item not in known:
                    raise InputError(f"{where}: {item!r} is no negative of this run")
                if label and label not in LABELS:
                    raise InputError(f"{where}: label {label!r}; there are {', '.join(LABELS)}")
                if item in seen:
                    raise InputError(f"{where}: {item!r} for the second time")
                seen.add(item)
                if label:
                    labels[item] = label
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not labels:
        raise InputError(f"{path}: no label in it; write one of {', '.join(LABELS)} into the column label")
    return labels
