"""Queries written by an LLM for documents: every strategy's prompts, and what becomes of the answers."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sharpen.evaluation.beir import Corpus, Document, Query, text_key
from sharpen.evaluation.files import InputError
from sharpen.sdg.answers import Read
from sharpen.sdg.filters.text import reject_reason, words
from sharpen.sdg.llm.client import LLM, OVER_BUDGET, Answer, Request
from sharpen.sdg.strategies.base import MIN_WORDS, Strategy, Unit

LABELLED = "labelled"
"""Strategy of queries that people wrote."""
MAX_FAILED = 0.01
"""Share of the requests that may stay without an answer; more is an outage, and the queries would be too few in
silence."""


@dataclass
class Tally:
    """What became of the queries asked for by one strategy: ``asked`` is ``kept`` and all of ``rejected`` by reason."""

    prompts: int = 0
    asked: int = 0
    parsed: int = 0
    """Queries that could be read from the answers, usable or not."""
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    """Answers that could be read at the second attempt only."""
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Generated:
    """Kept queries (``metadata``: the documents under ``positives``, strategy, model, prompt hash), rejected ones with
    their reason, a tally by strategy, and what first steps brought (artifacts, translations), by unit."""

    kept: list[Query] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    first_steps: list[dict[str, Any]] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """All strategies together."""
        tallies = self.tallies.values()
        tokens = sum((t.tokens for t in tallies), Counter())
        total = {
            "asked": sum(t.asked for t in tallies),
            "kept": sum(t.kept for t in tallies),
            "rejected": dict(sum((t.rejected for t in tallies), Counter()).most_common()),
        }
        if repaired := sum(t.repaired for t in tallies):
            total["repaired"] = repaired
        return total | {f"{kind}_tokens": n for kind, n in tokens.items()}


def sample_documents(
    documents: Sequence[Document], limit: int | None, seed: int, min_words: int = MIN_WORDS
) -> list[Document]:
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
    strategies: Sequence[Strategy],
    seed: int,
    warm_up: bool = False,
    progress: Callable[[Answer], None] | None = None,
    corpus: Corpus | None = None,
    given: Sequence[Query] = (),
) -> Generated:
    """Ask ``llm`` for queries that ``documents`` answer, by each of ``strategies``, and drop what is unusable.

    ``corpus``: all documents, for strategies that show several of them together (default: ``documents``).
    ``given``: queries that there are already, for strategies that rewrite queries; none of them is written again.
    ``warm_up``: send each group's shared prefix ahead of its first new request (for a local server of one slot, whose
    answers then do not depend on where an earlier run was killed). Those of the kinds ``OF_QUERIES`` work on what those
    before them brought. Raises ``InputError`` as ``LLM.ask`` does, and if more than ``MAX_FAILED`` of a strategy's
    requests got no answer after all retries.
    """
    result = Generated()
    seen = {query_key(query.text) for query in given}
    for strategy in strategies:
        examples = {query_key(text) for example in strategy.pool for text in example.texts}
        started = time.monotonic()
        tally = result.tallies[strategy.name] = Tally()
        units = dict(enumerate(strategy.units(documents, [*result.kept, *given], corpus)))
        said: dict[int, _Said] = {}
        if strategy.first:
            for n, first in _ask(strategy.first, units, llm, seed, warm_up, tally, progress).items():
                if problem := _first_problem(strategy.first, first):  # nothing more to ask: this is the answer
                    said[n] = replace(first, found=Read(error=problem))
                else:
                    units[n] = strategy.after_first(units[n], first.found)
                    result.first_steps.append(
                        {
                            "unit": units[n].key,
                            "strategy": strategy.name,
                            "documents": list(units[n].positives),
                            strategy.first.name: first.found.items[0].query,
                        }
                    )
        said |= _ask(
            strategy, {n: unit for n, unit in units.items() if n not in said}, llm, seed, warm_up, tally, progress
        )
        failed = [s.answer.error for s in said.values() if s.answer.failed]
        if len(failed) > MAX_FAILED * len(said):
            raise InputError(
                f"llm: {len(failed)} of {len(said)} requests failed, the last with {failed[-1]!r}. What was answered is"
                " kept; run again to ask for the rest"
            )
        for n, unit in units.items():
            metadata = {
                "positives": list(unit.positives),
                "strategy": strategy.name,
                "model": llm.identity,
                "prompt_hash": said[n].prompt_hash,
            } | unit.metadata
            _sort_out(strategy, unit, said[n].answer, said[n].found, metadata, seed, seen, examples, result)
        tally.seconds = round(time.monotonic() - started, 2)
    return result


@dataclass(frozen=True)
class _Said:
    """The answer to a prompt, and what could be read of it."""

    prompt_hash: str
    answer: Answer
    found: Read


def _ask(
    strategy: Strategy,
    units: Mapping[int, Unit],
    llm: LLM,
    seed: int,
    warm_up: bool,
    tally: Tally,
    progress: Callable[[Answer], None] | None,
) -> dict[int, _Said]:
    """Ask for each unit, by its number, and once more for what was to be JSON and is not."""

    def use(unit: Unit, request: Request, answer: Answer) -> _Said:
        tally.prompts += 1
        tally.tokens += Counter(
            prompt=answer.prompt_tokens, cached=answer.cached_tokens, completion=answer.completion_tokens
        )
        if progress:
            progress(answer)
        found = Read() if answer.error else strategy.read(answer.text, unit)
        return _Said(hashlib.sha256(request.prompt.encode()).hexdigest()[:16], answer, found)

    asked = list(units.items())
    said = dict(
        zip(
            units,
            llm.ask(
                _requests(strategy, asked, llm, seed, warm_up),
                lambda place, request, answer: use(asked[place][1], request, answer),
            ),
            strict=True,
        )
    )
    broken = [(n, unit) for n, unit in asked if said[n].found.error and strategy.asks_for_json]
    if broken:
        again = llm.ask(
            (_repair(strategy, unit, said[n], seed) for n, unit in broken),
            lambda place, request, answer: use(broken[place][1], request, answer),
        )
        for (n, _), repaired in zip(broken, again, strict=True):
            if repaired.found.items:
                tally.repaired += 1
                said[n] = repaired
    return said


def _first_problem(first: Strategy, said: _Said) -> str:
    """Why nothing should be asked with what a first step brought."""
    if not said.found.items or not said.found.items[0].query.strip():
        return said.found.error or f"no {first.name}"
    return (
        f"{first.name} cut off at max_tokens"
        if said.answer.finish_reason == "length" and not first.asks_for_json
        else ""
    )


def _requests(
    strategy: Strategy, units: Sequence[tuple[int, Unit]], llm: LLM, seed: int, warm_up: bool
) -> Iterator[Request]:
    warmed: set[int] = set()
    for position, unit in units:
        request, group = prompt(strategy, unit, position, seed), position // strategy.group
        if warm_up and group not in warmed and llm.known(request) is None:
            warmed.add(group)
            examples = strategy.draw(seed, group)
            request = replace(request, warm_up=strategy.request(None, examples, len(examples)))
        yield request


def prompt(strategy: Strategy, unit: Unit, position: int, seed: int) -> Request:
    """The request for the unit at ``position``."""
    examples = strategy.draw(seed, position // strategy.group)
    # Two numbers in turn: neighbouring prompts then differ right where the document begins, so exactly the examples
    # come
    # from the server's prefix cache, whichever document was asked before.
    return strategy.request(unit, examples, len(examples) + 1 + position % 2, seed)


def _repair(strategy: Strategy, unit: Unit, said: _Said, seed: int) -> Request:
    request = strategy.request(unit, [], 1, seed)
    return replace(
        request,
        prompt=(
            f"{request.prompt} {said.answer.text[:2000].strip()}\n\nThat cannot be read ({said.found.error}). Once"
            " more, as JSON and nothing else:"
        ),
    )


def _sort_out(
    strategy: Strategy,
    unit: Unit,
    answer: Answer,
    found: Read,
    metadata: dict[str, Any],
    seed: int,
    seen: set[str],
    examples: set[str],
    result: Generated,
) -> None:
    tally = result.tallies[strategy.name]
    tally.asked += strategy.count
    # a query that was asked for and did not come is one that is rejected: so the counts add up
    problem = _problem(answer) or (found.error and f"not readable: {found.error}") or "missing from the answer"
    for sample in range(strategy.count):
        item = found.items[sample] if sample < len(found.items) else None
        text = item.query if item else ""
        tally.parsed += item is not None and bool(text)
        reason = problem if item is None else item.problem or reject_reason(text, unit.document, strategy.language)
        if item and answer.finish_reason == "length" and sample == len(found.items) - 1:
            reason = reason or "cut off at max_tokens"
        if item and reason is None and strategy.fields and not (named := _named(text, unit.metadata["constraints"])):
            reason = "names none of the metadata"
        key = query_key(text)
        if reason is None and key in examples:
            reason = "copied from an example of the prompt"
        if reason is None and key in seen:
            reason = "duplicate of another query"
        if reason:
            tally.rejected[reason] += 1
            shown = text if item else answer.text or answer.error
            result.rejected.append(
                {
                    "document": unit.document.id,
                    "strategy": strategy.name,
                    "unit": unit.key,
                    "sample": sample,
                    "text": shown[:2000],
                    "reason": reason,
                }
            )
            continue
        seen.add(key)
        tally.kept += 1
        query_id = _query_id(unit.key, sample)
        more: dict[str, Any] = {**item.metadata, **({"answer": item.answer} if item.answer else {})}
        if item.evidence:
            more["positives"] = list(item.evidence)
        if strategy.fields:
            more["constraints"] = named
        if strategy.typos and (rng := random.Random(f"{seed}/{query_id}")).random() < strategy.typos:
            more["typed_for"], text = text, with_typo(text, rng)
        result.kept.append(Query(query_id, text, metadata | more))


def _problem(answer: Answer) -> str | None:
    if answer.error.startswith(OVER_BUDGET):
        return OVER_BUDGET
    if answer.error:
        return f"LLM error: {answer.error.partition(':')[0]}"
    return None if answer.text.strip() else "empty"


def _named(text: str, constraints: dict[str, str]) -> dict[str, str]:
    """Those of the constraints whose value the query has, in these words or all but one of them."""
    have = set(words(text))
    return {
        name: value
        for name, value in constraints.items()
        if (wanted := set(words(value))) and len(wanted - have) <= (len(wanted) > 2)
    }


def with_typo(text: str, rng: random.Random) -> str:
    """The text with one slip of the fingers in a word of four letters or more: two letters swapped, one left out, one
    doubled, or its neighbour on the keyboard. Without such a word, the text."""
    pieces = text.split(" ")
    long = [n for n, piece in enumerate(pieces) if len(piece) >= 4 and piece.isalpha()]
    if not long:
        return text
    n = rng.choice(long)
    piece, i = pieces[n], rng.randrange(1, len(pieces[n]) - 1)
    neighbours = _NEIGHBOURS.get(piece[i].lower(), "")
    slips = [
        piece[:i] + piece[i + 1] + piece[i] + piece[i + 2 :],
        piece[:i] + piece[i + 1 :],
        piece[:i] + piece[i] + piece[i:],
    ]
    if neighbours:
        slips.append(piece[:i] + rng.choice(neighbours) + piece[i + 1 :])
    pieces[n] = rng.choice([slip for slip in slips if slip != piece])
    return " ".join(pieces)


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {c: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, c in enumerate(row)}


def query_key(text: str) -> str:
    """Equal for queries that differ in signs and case only."""
    return text_key(" ".join(words(text)))


def _query_id(unit: str, sample: int) -> str:
    return "q" + hashlib.sha256((unit if sample == 0 else f"{unit}+{sample}").encode()).hexdigest()[:16]
