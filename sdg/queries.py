"""Queries written by an LLM for documents, with a few-shot prompt as in Promptagator (Dai et al. 2022)."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from evaluation.data import Document, Query, text_key
from evaluation.files import InputError
from sdg.llm import LLM, Answer, Request

MIN_WORDS = 5
"""Words that a document must have for a query to be written from it."""
MAX_FAILED = 0.01
"""Share of the requests that may stay without an answer; more is an outage, and the queries would be too few in silence."""


@dataclass(frozen=True)
class Example:
    """A pair of the few-shot pool: what a document looks like and what somebody types who needs it."""

    document: str
    query: str


@dataclass(frozen=True)
class FewShot:
    """How queries are asked for.

    ``task``: what the model is told first. ``pool``: all examples; ``per_prompt`` of them (Promptagator: 2 to 8) are
    drawn for each ``group`` of documents, which so share the beginning of their prompts, and a server computes it once.
    ``per_document``: queries asked for each document. ``max_document_words``: the document is cut to this in the prompt.
    ``parameters``: sampling, as in ``Request``. ``chat``: ask as a user message; off for models without a chat template.
    """

    task: str
    pool: Sequence[Example]
    per_prompt: int = 4
    group: int = 50
    per_document: int = 1
    max_document_words: int = 120
    chat: bool = True
    parameters: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.7, "top_p": 0.95, "max_tokens": 48})


@dataclass
class Generated:
    """Kept queries (``metadata``: the document under ``positives``, strategy, model, prompt hash), rejected ones with
    their reason, and counts: ``asked`` is the sum of ``kept`` and of ``rejected`` by reason."""

    kept: list[Query]
    rejected: list[dict[str, Any]]
    tokens: Counter[str]

    def counts(self) -> dict[str, Any]:
        return {"asked": len(self.kept) + len(self.rejected), "kept": len(self.kept), "rejected": dict(Counter(r["reason"] for r in self.rejected).most_common())}


def sample_documents(documents: Sequence[Document], limit: int | None, seed: int, min_words: int = MIN_WORDS) -> list[Document]:
    """At most ``limit`` documents in an order drawn by ``seed``, of at least ``min_words`` words, no text twice.

    A larger limit of the same seed begins with the smaller one's documents, so their answers are found in the journal.
    """
    unique = {d.copy_key: d for d in reversed(documents) if len(d.content.split()) >= min_words}
    chosen = sorted(unique.values(), key=lambda d: d.id)
    random.Random(seed).shuffle(chosen)
    return chosen[:limit]


def generate_queries(
    documents: Sequence[Document],
    llm: LLM,
    few_shot: FewShot,
    seed: int,
    warm_up: bool = False,
    progress: Callable[[Answer], None] | None = None,
) -> Generated:
    """Ask ``llm`` for queries that ``documents`` answer, and drop what is unusable.

    ``warm_up``: send each group's shared prefix ahead of its first new request (for a local server of one slot, whose
    answers then do not depend on where an earlier run was killed). Raises ``InputError`` as ``LLM.ask`` does, and if more
    than ``MAX_FAILED`` of the requests got no answer after all retries.
    """
    requests, warm_ups, sources = [], [], []
    for position, document in enumerate(documents):
        group = position // few_shot.group
        examples = _draw(few_shot, seed, group)
        ahead = _request(few_shot, examples, None, len(examples), {"max_tokens": 1}) if warm_up else None
        for sample in range(few_shot.per_document):
            # Two numbers in turn: neighbouring prompts then differ right where the document begins, so exactly the
            # examples come from the server's prefix cache, whichever document was asked before.
            number = len(examples) + 1 + (position + sample) % 2
            requests.append(_request(few_shot, examples, document, number, {"seed": _seed(seed, document.id, sample)}))
            sources.append((document, sample))
            warm_ups.append((group, ahead))
    answers = llm.ask(requests, _first_of_each_group(requests, warm_ups, llm), progress)
    failed = [a.error for a in answers if a.failed]
    if len(failed) > MAX_FAILED * len(answers):
        raise InputError(f"llm: {len(failed)} of {len(answers)} requests failed, the last with {failed[-1]!r}. What was answered is kept; run again to ask for the rest")
    return _sort_out(sources, requests, answers, llm.identity)


def reject_reason(text: str, document: Document) -> str | None:
    """Why a query is unusable, or None: empty, too short (under 2 words), too long (over 32), no words, refers to the
    document as a document, or is the document's own words (8 in a row, or the title)."""
    words = _WORD.findall(text.lower())
    if not text:
        return "empty"
    if not words:
        return "no words"
    if len(words) < 2:
        return "too short"
    if len(words) > 32:
        return "too long"
    if _SELF_REFERENCE.search(text):
        return "refers to the document itself"
    own = " ".join(_WORD.findall(document.content.lower()))
    title = set(_WORD.findall(document.title.lower()))
    if title.issuperset(words) or any(" ".join(words[i : i + 8]) in own for i in range(len(words) - 7)):
        return "copied from the document"
    return None


def clean(text: str) -> str:
    """The query in an answer: its first line, without a label, list mark or quotes around it."""
    line = next((line for line in text.strip().splitlines() if line.strip()), "").strip()
    line = re.sub(r"^(?:(?:search )?query|question|q)(?: \d+)?\s*[:.]\s*", "", line, flags=re.IGNORECASE)
    line = re.sub(r"^(?:[-*•]|\d{1,2}[.)])\s+", "", line)
    for left, right in ('""', "''", "“”", "``"):
        if len(line) > 1 and line[0] == left and line[-1] == right:
            line = line[1:-1]
    return line.strip()


_WORD = re.compile(r"\w+")
_SELF_REFERENCE = re.compile(r"\b(?:this|the|above|given|following) (?:passage|document|excerpt|paragraph|article|author|authors|text above|abstract|segment)\b|\b(?:segment|document|query) \d+\b", re.IGNORECASE)


def _sort_out(sources, requests: list[Request], answers: list[Answer], model: str) -> Generated:
    kept: list[Query] = []
    rejected: list[dict[str, Any]] = []
    tokens: Counter[str] = Counter()
    seen: set[str] = set()
    for (document, sample), request, answer in zip(sources, requests, answers, strict=True):
        tokens += Counter(prompt=answer.prompt_tokens, cached=answer.cached_tokens, completion=answer.completion_tokens)
        text = clean(answer.text)
        reason = f"LLM error: {answer.error.partition(':')[0]}" if answer.error else reject_reason(text, document)
        if answer.finish_reason == "length":
            reason = reason or "cut off at max_tokens"
        key = text_key(" ".join(_WORD.findall(text)))
        if reason is None and key in seen:
            reason = "duplicate of another query"
        if reason:
            rejected.append({"document": document.id, "sample": sample, "text": answer.text or answer.error, "reason": reason})
            continue
        seen.add(key)
        metadata = {"positives": [document.id], "strategy": "few_shot", "model": model, "prompt_hash": hashlib.sha256(request.prompt.encode()).hexdigest()[:16]}
        kept.append(Query(_query_id(document.id, sample), text, metadata))
    return Generated(kept, rejected, tokens)


def _draw(few_shot: FewShot, seed: int, group: int) -> list[Example]:
    count = min(few_shot.per_prompt, len(few_shot.pool))
    return random.Random(f"{seed}/{group}").sample(list(few_shot.pool), count)


def _request(few_shot: FewShot, examples: list[Example], document: Document | None, number: int, more: dict[str, Any]) -> Request:
    text = ""
    if document:
        # on one line, as the examples are: small models take up the line breaks of a text, and a query ends at one
        words = ": ".join(part for part in (document.title, document.text) if part).split()
        text = " ".join(words[: few_shot.max_document_words])
    prompt = _template("few_shot.j2").render(task=few_shot.task.strip(), examples=examples, number=number, document=text)
    parameters = few_shot.parameters | more
    if not few_shot.chat:
        parameters = {"stop": ["\n"]} | parameters
    return Request(prompt.strip(), few_shot.chat, parameters)


def _first_of_each_group(requests: list[Request], warm_ups: list[tuple[int, Request | None]], llm: LLM) -> list[Request | None]:
    warmed: set[int] = set()
    result: list[Request | None] = []
    for request, (group, ahead) in zip(requests, warm_ups, strict=True):
        needed = ahead is not None and group not in warmed and not llm.knows(request)
        result.append(ahead if needed else None)
        if needed:
            warmed.add(group)
    return result


@cache
def _template(name: str) -> jinja2.Template:
    folder = Path(__file__).parent / "prompts"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    return environment.get_template(name)


def _query_id(doc_id: str, sample: int) -> str:
    return "q" + hashlib.sha256(f"{doc_id}/{sample}".encode()).hexdigest()[:16]


def _seed(seed: int, doc_id: str, sample: int) -> int:
    """A number of 31 bits (what samplers take) that is this document's and this sample's own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{doc_id}/{sample}".encode()).digest()[:4], "big") >> 1
