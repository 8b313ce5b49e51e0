"""Asking an LLM about documents: each question once, and no answer lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.scorers import LLM_LISTWISE
from sharpen.sdg.llm.client import LLMClient, raise_if_unanswered
from sharpen.sdg.llm.messages import NO_LOGPROBS, Answer, Request
from sharpen.sdg.reranking.answers import Ranking
from sharpen.sdg.reranking.questions import Question

T = TypeVar("T")
Shown = tuple[str, Sequence[Document]]
"""What a prompt is about: the text of a query, and documents."""
SHOWN_CHARACTERS = 200
"""Of an answer, in an error."""


@dataclass
class RerankingStats:
    """What was asked, each question once: ``answers``, of which ``from_journal`` were known. ``unread``: those that say
    nothing (no yes or no; no number of a document; an error of the server). ``mended``: orders that did not name each
    document exactly once. ``tokens``: prompt, cached, completion. ``seconds``: from the first question to the last
    answer."""

    answers: int = 0
    from_journal: int = 0
    unread: int = 0
    mended: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, answer: Answer, read: Any) -> None:
        """Count an answer, and what could be read of it."""
        self.answers += 1
        self.from_journal += answer.from_journal
        self.unread += read is None
        self.mended += isinstance(read, Ranking) and read.mended
        self.tokens.update(answer.tokens)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what is another number when a run goes on."""
        tokens = {f"{kind}_tokens": n for kind, n in self.tokens.items()}
        return {"answers": self.answers, "unread": self.unread, "mended": self.mended} | tokens


@dataclass
class Asking(Generic[T]):
    """One kind of question, with the answers so far: what was asked before is neither asked nor counted again."""

    question: Question[T]
    stats: RerankingStats = field(default_factory=RerankingStats, init=False)
    _known: dict[bytes, T | None] = field(default_factory=dict, init=False, repr=False)
    _unread: str = field(default="", init=False)
    """The latest answer that said nothing."""

    def ask(self, client: LLMClient, shown: Sequence[Shown], advance: Callable[..., None]) -> list[T | None]:
        """What the answers say of each; None: nothing.

        Raises ``InputError`` for an endpoint without logprobs where they are needed, for a budget that does not suffice
        and for an outage; what was answered is in the journal.
        """
        keys = [_key(unit) for unit in shown]
        new = {key: unit for key, unit in zip(keys, shown, strict=True) if key not in self._known}
        numbers = [len(documents) for _, documents in new.values()]
        if known := len(shown) - len(new):
            advance(known)

        def use(number: int, _request: Request, answer: Answer) -> tuple[Answer, T | None]:
            if answer.error_kind == NO_LOGPROBS:
                raise InputError(_without_logprobs(self.question.name, client, answer))
            advance()
            read = None if answer.error else self.question.read(answer, numbers[number])
            return replace(answer, text=answer.text[:SHOWN_CHARACTERS], first_token=None), read

        replies = client.ask(self._requests(client, list(new.values())), use)
        answers = [answer for answer, _ in replies]
        fewer = "let the LLM score fewer documents (fewer queries, training.candidates or negatives.per_query)"
        raise_if_unanswered(client, answers, f"questions of {self.question.name}", fewer)
        found = dict(zip(new, (read for _, read in replies), strict=True))
        for key, (answer, read) in zip(new, replies, strict=True):
            self.stats.add(answer, read)
            if read is None:
                self._unread = answer.error or repr(answer.text)
            if not answer.error:  # another time it may be answered
                self._known[key] = read
        return [found[key] if key in found else self._known[key] for key in keys]

    def raise_if_unread(self, read: Sequence[T | None]) -> None:
        """Raise ``InputError`` if none of several answers says anything."""
        if read and all(value is None for value in read):
            raise InputError(
                f"{self.question.name}: of {len(read):,} answers none {self.question.wanted}; the last was"
                f" {self._unread}. Take a model that answers at once, and where prompts are too long a smaller"
                " llm_reranker.max_document_words or window"
            )

    def problems(self) -> str:
        """What was wrong with answers; empty: nothing."""
        stats, parts = self.stats, []
        if stats.unread:
            parts.append(f"{stats.unread:,} of {stats.answers:,} answers say nothing ({self.question.unread})")
        if stats.mended:
            parts.append(f"{stats.mended:,} of {stats.answers:,} name a document twice or not at all (mended)")
        return ", ".join(parts)

    def _requests(self, client: LLMClient, shown: Sequence[Shown]) -> Iterator[Request]:
        for query, documents in shown:
            yield self.question.request(query, documents, client.chat, client.warm_up)


def _key(shown: Shown) -> bytes:
    query, documents = shown
    texts = "\0".join([query, *(document.content for document in documents)])
    return hashlib.blake2b(texts.encode(), digest_size=16).digest()


def _without_logprobs(name: str, client: LLMClient, answer: Answer) -> str:
    where = " and ".join(endpoint.base_url for endpoint in client.endpoints)
    return (
        f"llm: {where} gives no logprobs, from which the scorer {name} reads yes and no ({answer.error}). Take"
        f" {LLM_LISTWISE} in its place, which needs none; where an endpoint gives fewer than asked for, lower"
        " llm_reranker.top_logprobs"
    )
