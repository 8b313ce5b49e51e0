"""Identifiers for all documents of a corpus, each another one, and the same ones as before for those that have one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpen.evaluation.beir import Corpus, Document, chunks_by_document
from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.evaluation.generative.identifiers import Identifier, Source, read_identifiers
from sharpen.evaluation.languages import LANGUAGE, first_words, n_words, words
from sharpen.sdg.asking import Asker, Reply
from sharpen.sdg.estimate import CostEstimate, CostEstimator
from sharpen.sdg.filters.text import one_line
from sharpen.sdg.generated import StrategyStats
from sharpen.sdg.identifiers.keywords import Keywords, parse_keywords
from sharpen.sdg.identifiers.settings import IdentifierSettings, identifiers_file
from sharpen.sdg.identifiers.unique import make_unique, same_key
from sharpen.sdg.identifiers.words import CharacteristicWords, joined
from sharpen.sdg.llm.client import raise_if_outage
from sharpen.sdg.llm.messages import OVER_BUDGET

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

MIB = 2**20
HIDDEN = 1024
"""Of a model, for a size in an error."""
_ATOMIC = re.compile(r"(<doc_*:)(\d+)>")


@dataclass
class IdentifierResult:
    """``identifiers``: of every document, in the order of the corpus.

    ``asked``: documents that the LLM was asked about, of copies one; ``repaired``: answers that could be read at the
    second attempt only; ``fallback``: documents named by their most characteristic words, as there was no usable
    answer, or no title; ``made_unique``: those that something was added to; ``known``: those that kept an earlier
    identifier; ``shortened``: prompts whose text was halved until the LLM had room for it; ``tokens``: prompt, cached,
    completion; ``money``: what was spent, where the LLM has prices; ``refused_parameters``: what its server did not
    take.
    """

    identifiers: dict[str, Identifier] = field(default_factory=dict)
    asked: int = 0
    repaired: int = 0
    fallback: int = 0
    made_unique: int = 0
    known: int = 0
    shortened: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    money: str = ""
    refused_parameters: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        """As JSON, for a manifest: numbers that are 0 are left out, but for the first."""
        numbers = {
            name: value
            for name in ("asked", "repaired", "fallback", "made_unique", "known", "shortened")
            if (value := getattr(self, name))
        }
        more = {name: value for name in ("money", "refused_parameters") if (value := getattr(self, name))}
        tokens = {f"{kind}_tokens": n for kind, n in self.tokens.items()}
        return {"identifiers": len(self.identifiers)} | numbers | more | tokens


def make_identifiers(
    corpus: Corpus, settings: IdentifierSettings, resources: Resources | None = None, seed: int = 13
) -> IdentifierResult:
    """An identifier for each document of ``corpus`` (of ``settings.unit: chunk``, for each chunk), no two the same.

    ``resources``: the LLM, with its journal, that writes keywords; whom to warn. ``seed``: of the LLM's sampling. What
    an identifier is made from hangs on its document and the seed alone, but for the words of TF-IDF, which hang on the
    corpus: with ``settings.known`` all earlier identifiers stay. Under ``accelerate launch`` call it on one process.

    Raises ``InputError`` for a document without a word, a corpus without titles (``kind: title``) or with more
    documents than ``max_atomic``, a file in which a document is missing, unknown or has the identifier of another, an
    LLM that does not answer or a budget that does not suffice; what was answered is in the journal.

    >>> corpus = {i: Document(i, text) for i, text in {"a": "Ice flows downhill.", "b": "Bread rises."}.items()}
    >>> [row.text for row in make_identifiers(corpus, IdentifierSettings(kind="text")).identifiers.values()]
    ['Ice, flows, downhill', 'Bread, rises']
    """
    documents = documents_of(corpus, settings)
    if empty := [doc_id for doc_id, document in documents.items() if not words(document.content)]:
        raise InputError(
            f"document {empty[0]!r} has neither a word of text nor a title ({len(empty):,} of {len(documents):,} have"
            " none), so nothing can lead to it; take such documents out of the corpus"
        )
    if settings.kind == "given":
        return IdentifierResult(_given(Path(settings.file), documents))
    return _Making(documents, settings, resources, seed).run()


def estimate_identifiers(corpus: Corpus, settings: IdentifierSettings, estimator: CostEstimator) -> list[CostEstimate]:
    """What the identifiers will cost, before anything is asked; nothing, where no LLM is asked. Raises ``InputError``
    for known identifiers that cannot be read."""
    if not settings.asks_llm:
        return []
    documents, known = documents_of(corpus, settings), _known(settings)
    strategy = Keywords.of(settings)
    new = strategy.units([document for doc_id, document in documents.items() if doc_id not in known])
    once = {unit.key: unit.document for unit in new}
    return estimator.estimate([strategy], list(once.values()), corpus) if once else []


def documents_of(corpus: Corpus, settings: IdentifierSettings) -> dict[str, Document]:
    """What has an identifier, by its ID: each chunk, or each document with the texts of its chunks one below the
    other."""
    if settings.unit == "chunk":
        return dict(corpus)
    result = {}
    for doc_id, chunks in chunks_by_document(corpus).items():
        first = chunks[0]
        language = {LANGUAGE: first.metadata[LANGUAGE]} if LANGUAGE in first.metadata else {}
        title = next((chunk.title for chunk in chunks if chunk.title), "")
        result[doc_id] = Document(doc_id, "\n".join(chunk.text for chunk in chunks), title, language)
    return result


@dataclass
class _Making:
    """The making of all identifiers but given ones, with what comes of it."""

    documents: Mapping[str, Document]
    settings: IdentifierSettings
    resources: Resources | None
    seed: int

    def __post_init__(self) -> None:
        self.result = IdentifierResult()
        self.words = CharacteristicWords(self.documents)

    def run(self) -> IdentifierResult:
        settings, known = self.settings, _known(self.settings)
        if known and not known.keys() & self.documents.keys():
            raise InputError(
                f"identifiers.known: {settings.known} has {next(iter(known))!r}, and the corpus"
                f" {next(iter(self.documents))!r}: none of its documents is there. Is identifiers.unit (now"
                f" {settings.unit}) the same as it was?"
            )
        new = {doc_id: document for doc_id, document in self.documents.items() if doc_id not in known}
        if settings.kind == "atomic":
            made = self._atomic(new, known)
        else:
            make = {"keywords": self._keywords, "title": self._titles, "text": self._texts}[settings.kind]
            every = self.documents
            made = make_unique(make(new), lambda i: self.words.of(i) if i in every else [], list(known.values()))
        rows = {doc_id: known.get(doc_id) or made[doc_id] for doc_id in self.documents}
        self.result.identifiers = rows
        self.result.known = len(self.documents) - len(new)
        self.result.made_unique = sum(bool(made[doc_id].added) for doc_id in new)
        return self.result

    def _texts(self, documents: Mapping[str, Document]) -> dict[str, Identifier]:
        return {doc_id: self._text(doc_id) for doc_id in documents}

    def _text(self, doc_id: str) -> Identifier:
        return self._row(doc_id, self.words.of(doc_id)[: self.settings.keywords], "text")

    def _row(self, doc_id: str, parts: list[str], source: Source) -> Identifier:
        """As many of the parts as there is room for, or the beginning of the first one."""
        kept, room = [], self.settings.max_words
        for part in parts:
            room -= n_words(part)
            if room < 0:
                break
            kept.append(part)
        text = joined(kept) or first_words(parts[0], self.settings.max_words, in_prompt=False)
        return Identifier(doc_id, text, source)

    def _titles(self, documents: Mapping[str, Document]) -> dict[str, Identifier]:
        titles = {doc_id: one_line(document.title) for doc_id, document in documents.items() if words(document.title)}
        if documents and not titles:
            raise InputError(
                "identifiers.kind: title, and no document has one; say kind: keywords, or text, which asks no LLM"
            )
        if without := len(documents) - len(titles):
            self.result.fallback = without
            self._warn(
                f"identifiers: {without:,} of {len(documents):,} documents have no title; their identifiers are their"
                " most characteristic words."
            )
        made = {doc_id: self._row(doc_id, [title], "title") for doc_id, title in titles.items()}
        return {doc_id: made.get(doc_id) or self._text(doc_id) for doc_id in documents}

    def _keywords(self, documents: Mapping[str, Document]) -> dict[str, Identifier]:
        if not documents:
            return {}
        if self.resources is None or self.resources.llm is None:
            raise InputError("identifiers.kind: keywords asks an LLM, and none is given; give llm, or say kind: text")
        strategy = Keywords.of(self.settings)
        unit_of = {unit.document.id: unit for unit in strategy.units(list(documents.values()))}
        units = list({unit.key: unit for unit in unit_of.values()}.values())  # of copies, one is asked about
        stats, result = StrategyStats(), self.result
        with (
            self.resources.progress("writing identifiers", len(units)) as advance,
            self.resources.open_llm() as client,
        ):
            asker = Asker(client, self.seed, lambda answer: advance(note=answer.text.strip().split("\n")[0][:60]))
            replies = asker.ask(strategy, dict(enumerate(units)), stats)
            self._raise_if_unpaid(replies, str(client.spending))
            raise_if_outage([reply.answer for reply in replies.values()])
            if client.spending.spent:
                result.money = str(client.spending)
            result.refused_parameters = dict(client.refused_parameters)
        result.asked, result.repaired, result.shortened = len(units), stats.repaired, stats.shortened
        result.tokens = stats.tokens
        usable = {unit.key: _usable(replies[n]) for n, unit in enumerate(units)}
        made = {}
        for doc_id in documents:
            keywords = usable[unit_of[doc_id].key]
            made[doc_id] = self._row(doc_id, keywords, "keywords") if keywords else self._text(doc_id)
            result.fallback += not keywords
        self._look_at_fallback(replies)
        return made

    def _look_at_fallback(self, replies: Mapping[int, Reply]) -> None:
        """Raise ``InputError`` if no answer was usable; say how many were not."""
        unread = [reply for reply in replies.values() if not reply.parsed.queries]
        if len(unread) == len(replies) > 1:
            last = unread[-1]
            raise InputError(
                f"llm: of {len(unread):,} answers none has a keyword; the last was {last.answer.text[:200]!r}"
                f" ({last.problem().message}). Try another model, or identifiers.kind: text"
            )
        if unread:
            self._warn(
                f"identifiers: {len(unread):,} of {len(replies):,} answers of the LLM have no keyword (the last:"
                f" {unread[-1].problem().message}); the identifiers of these documents are their most characteristic"
                " words."
            )

    def _raise_if_unpaid(self, replies: Mapping[int, Reply], spending: str) -> None:
        if unpaid := sum(reply.answer.error_kind == OVER_BUDGET for reply in replies.values()):
            raise InputError(
                f"llm.budget: {unpaid:,} of {len(replies):,} documents were not asked about ({spending}). What was"
                " answered is kept: raise it and run again, or say identifiers.kind: text"
            )

    def _atomic(self, documents: Mapping[str, Document], known: Mapping[str, Identifier]) -> dict[str, Identifier]:
        """Tokens that no text has, numbered on from the known ones."""
        number, most = len(self.documents), self.settings.max_atomic
        if number > most:
            size = number * HIDDEN * 4 / MIB
            raise InputError(
                f"identifiers.kind: atomic: {number:,} documents need {number:,} new tokens, and max_atomic is"
                f" {most:,}: their embeddings alone take {size:,.0f} MiB for each {HIDDEN:,} of the model's hidden"
                " size, in 4 bytes. Say kind: keywords, which needs none, or raise identifiers.max_atomic"
            )
        taken = {row.text for row in known.values()}
        prefixes = set[str]()
        for doc_id, document in self.documents.items():
            for match in _ATOMIC.finditer(content := document.content):
                if match[0] in taken:
                    raise InputError(
                        f"document {doc_id!r} has {match[0]!r} in its text, which is the known identifier of another"
                        " one; change the text, or make all identifiers anew (without identifiers.known)"
                    )
            prefixes.update(re.findall(r"<doc_*:", content))
        prefix = next(p for n in count() if (p := f"<doc{'_' * n}:") not in prefixes)
        numbers = [int(match[2]) for text in taken if (match := _ATOMIC.fullmatch(text)) and match[1] == prefix]
        first = max(numbers, default=-1) + 1
        return {i: Identifier(i, f"{prefix}{n}>", "atomic") for n, i in enumerate(documents, start=first)}

    def _warn(self, sentence: str) -> None:
        if self.resources is not None:
            self.resources.warn(sentence)


def _usable(reply: Reply) -> list[str]:
    """The keywords of an answer, without one that was cut off."""
    keywords = [query.query for query in reply.parsed.queries]
    if reply.answer.finish_reason == "length" and len(keywords) > 1:
        whole, _, cut = reply.answer.text.rstrip().rpartition("\n")
        if same := parse_keywords(cut):
            keywords = [k for k in keywords if k != same[-1]] if whole else keywords[:-1]
    return keywords


def _known(settings: IdentifierSettings) -> dict[str, Identifier]:
    """Earlier identifiers. Raises ``InputError`` for a file that cannot be read, and for atomic ones among others."""
    if settings.known is None:
        return {}
    path = identifiers_file(settings.known)
    known = read_identifiers(path)
    atomic = sum(row.source == "atomic" for row in known.values())
    if atomic not in (0, len(known)) or bool(atomic) != (settings.kind == "atomic"):
        kinds = sorted({row.source for row in known.values()})
        raise InputError(
            f"identifiers.known: {path} has identifiers of kind {', '.join(kinds)}, and identifiers.kind is"
            f" {settings.kind}: a model writes tokens of documents, or texts, and not both. Say the same kind"
        )
    return known


def _given(path: Path, documents: Mapping[str, Document]) -> dict[str, Identifier]:
    """Identifiers from a file, in the order of the documents."""
    rows: dict[str, tuple[str, int]] = {}
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        doc_id, text = row.get("id", row.get("_id")), row.get("text")
        if not (isinstance(doc_id, str) and isinstance(text, str) and words(text)):
            raise InputError(f'{path}, line {number}: expected {{"id": ..., "text": ...}} with a text that has a word')
        if doc_id not in documents:
            raise InputError(
                f"{path}, line {number}: {doc_id!r} is no document of the corpus, which has"
                f" {next(iter(documents))!r}; with identifiers.unit: document these are documents, and not chunks"
            )
        if doc_id in rows:
            raise InputError(f"{path}, line {number}: {doc_id!r} has an identifier in line {rows[doc_id][1]} already")
        text = one_line(text)
        if (other := lines.setdefault(same_key(text), number)) != number:
            raise InputError(
                f"{path}, lines {other} and {number}: the identifier {text!r} stands in both; each document needs"
                " another one (case and white space do not count)"
            )
        rows[doc_id] = text, number
    if missing := [doc_id for doc_id in documents if doc_id not in rows]:
        raise InputError(
            f"{path}: no identifier for {len(missing):,} of {len(documents):,} documents, as {missing[0]!r}; give one"
            " for each"
        )
    return {doc_id: Identifier(doc_id, rows[doc_id][0], "given") for doc_id in documents}
