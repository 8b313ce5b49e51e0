"""Going through a run's queries and negatives: what there is to decide on, and what was decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from sharpen.evaluation.beir import Corpus, Document, Query, read_queries
from sharpen.evaluation.files import InputError
from sharpen.recipes.decided import DECISIONS
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.serving.log import append, now
from sharpen.sdg.decisions import NegativeDecision, PairDecision, original_text, read_decisions
from sharpen.sdg.negatives.record import FINAL_REASONS, Negative
from sharpen.sdg.rejections import Rejection, read_rejections
from sharpen.sdg.splitting import STEP as SPLIT_STEP

Group = Literal["accepted", "borderline", "rejected", "negatives", "dropped"]
GROUPS: tuple[Group, ...] = ("accepted", "borderline", "rejected", "negatives", "dropped")
"""Queries that passed the filters, that a filter rejected narrowly, and other rejected ones; negatives that are trained
on, and candidates that a filter took for relevant."""


@dataclass(frozen=True)
class Item:
    """Something to decide on. ``key``: names it among those of the run. ``document``: that the query was written for,
    or the negative; ``positive``: of a negative, the document that answers. ``why``: what the run made of it.
    ``decision``: of a person, and ``text``, the corrected one."""

    key: str
    group: Group
    query: Query
    document: Document
    positive: Document | None
    why: str
    decision: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Review:
    """The queries and negatives of a run, as it lies there now. Raises ``InputError`` where it has no pairs yet."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "pairs" / "queries.jsonl").exists():
            raise InputError(f"{self.folder}: no pairs there yet; give the folder of a run, like runs/quickstart")

    def items(self, group: Group, words: str = "") -> list[Item]:
        """Those of a group whose query or document has all of these words, with what was decided."""
        wanted = words.casefold().split()
        chosen = [item for item in self._items.values() if item.group == group and _has(item, wanted)]
        return list(self._decided(chosen))

    def counts(self) -> dict[Group, int]:
        """How many there are of each group."""
        return {group: sum(item.group == group for item in self._items.values()) for group in GROUPS}

    def number_decided(self) -> int:
        """Decisions that count, on whatever."""
        found = read_decisions(self.folder / DECISIONS)
        return len(found.pairs) + len(found.negatives)

    def decide(
        self, key: str, decision: str | None, text: str | None, who: str, seen: tuple[str, str] | None = None
    ) -> Item:
        """Note a decision on an item: accept, reject, and of a query correct (with ``text``), of a negative relevant;
        None takes back what was decided. ``seen``: the query's text and the document's ``copy_key`` that the person
        saw (None: those of now). Raises ``InputError`` for another decision, for an item that is not there, and for one
        that is not as it was seen: a run that is made anew may have other texts under the same IDs."""
        if (item := self._items.get(key)) is None:
            raise InputError(f"{key!r}: nothing of this name to decide on; load the page again")
        if seen not in (None, (item.query.text, item.document.copy_key)):
            raise InputError(f"{key!r}: it has another text by now; load the page again")
        common = {"query_id": item.query.id, "query": _decided_text(item), "who": who, "when": now()}
        allowed = ("accept", "reject", "correct") if item.positive is None else ("accept", "reject", "relevant")
        if decision is not None and decision not in allowed:
            raise InputError(f"decision {decision!r}: there are {', '.join(allowed)}")
        if (decision == "correct") != bool(text and text.strip()):
            raise InputError("a correction, and nothing else, comes with the query's new text")
        if item.positive is None:
            made = PairDecision(**common, decision=decision, text=text.strip() if text else None)
        else:
            about = {"document": item.document.id, "copy_key": item.document.copy_key}
            made = NegativeDecision(**common, **about, decision=decision)
        append(self.folder / DECISIONS, made.model_dump(mode="json", exclude_none=decision is not None))
        return next(self._decided([item]))

    @cached_property
    def _items(self) -> dict[str, Item]:
        self._inputs.check_mined()
        corpus = self._inputs.training_corpus()
        made = [*self._kept(corpus), *self._rejected(corpus), *self._negatives(corpus)]
        return {item.key: item for item in made}

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.folder)

    def _kept(self, corpus: Corpus) -> Iterator[Item]:
        for query in self._inputs.queries().values():
            why = str(query.metadata.get("strategy", ""))
            yield Item(
                f"pair/{query.id}", "accepted", query, _document(corpus, query.metadata["positives"][0]), None, why
            )

    def _rejected(self, corpus: Corpus) -> Iterator[Item]:
        """What filters or people rejected; of other things there is no query, or no split that it could be in."""
        queries = read_queries(self.folder / "queries" / "queries.jsonl")
        for row in read_rejections(self.folder / "pairs" / "rejected.jsonl"):
            if row.query in queries and row.step != SPLIT_STEP:
                yield self._of_rejection(row, queries[row.query], corpus)

    def _of_rejection(self, row: Rejection, query: Query, corpus: Corpus) -> Item:
        group: Group = "borderline" if row.borderline else "rejected"
        return Item(
            f"pair/{query.id}", group, query, _document(corpus, row.document), None, f"{row.strategy}; {row.message}"
        )

    def _negatives(self, corpus: Corpus) -> Iterator[Item]:
        queries, seen = self._inputs.queries(), set()
        for row in self._inputs.negatives():
            key = f"negative/{row.query_id}/{row.doc_id}"
            if key in seen or row.reason in FINAL_REASONS or row.query_id not in queries:
                continue
            seen.add(key)
            query = queries[row.query_id]
            positive = _document(corpus, query.metadata["positives"][0])
            group: Group = "negatives" if row.verdict == "kept" else "dropped"
            yield Item(key, group, query, _document(corpus, row.doc_id), positive, _message(row))

    def _decided(self, items: Iterable[Item]) -> Iterator[Item]:
        found = read_decisions(self.folder / DECISIONS)
        pairs = {(d.query_id, d.query): d for d in found.pairs}
        negatives = {(d.query_id, d.query, d.copy_key): d for d in found.negatives}
        for item in items:
            key = (item.query.id, _decided_text(item))
            made = pairs.get(key) if item.positive is None else negatives.get((*key, item.document.copy_key))
            text = made.text if isinstance(made, PairDecision) else None
            yield replace(item, decision=made and made.decision, text=text)


def _decided_text(item: Item) -> str:
    """The query's text that a decision on the item names."""
    return original_text(item.query) if item.positive is None else item.query.text


def _message(row: Negative) -> str:
    what = f"{row.miner}, rank {row.rank}"
    if row.verdict == "relabelled":
        return f"{what}; a positive now" + (f": {row.message}" if row.message else "")
    return f"{what}; {row.message}" if row.message else what


def _document(corpus: Corpus, doc_id: str) -> Document:
    return corpus.get(doc_id) or Document(doc_id, "")


def _has(item: Item, wanted: list[str]) -> bool:
    if not wanted:
        return True
    text = f"{item.query.text} {item.document.content} {item.why}".casefold()
    return all(word in text for word in wanted)
