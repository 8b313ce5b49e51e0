"""Queries for documents, written by an LLM or harvested from them: generate, parse, accept or reject."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.custom import Custom
from sharpen.evaluation.files import InputError
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery
from sharpen.sdg.asking import Asker, Reply
from sharpen.sdg.filters.text import HARVESTED, query_key, text_problem
from sharpen.sdg.generated import GeneratedQueries, StrategyStats, also_answered
from sharpen.sdg.languages import ENGLISH
from sharpen.sdg.llm.client import raise_if_outage
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.llm.settings import LLM, LLMSettings, opened
from sharpen.sdg.rejections import Problem, Rejection
from sharpen.sdg.rejections import RejectionReason as Reason
from sharpen.sdg.selecting import sample_documents
from sharpen.sdg.strategies.base import MIN_WORDS, Strategy, Unit, wanted_language
from sharpen.sdg.strategies.few_shot import StrategySettings
from sharpen.sdg.strategies.harvested import Harvested, in_several_documents
from sharpen.sdg.strategies.mixed import members_of
from sharpen.sdg.strategies.settings import LABELLED as LABELLED
from sharpen.sdg.strategies.settings import asks_llm, resolve_strategy
from sharpen.sdg.strategies.simulated_user import SimulatedUser
from sharpen.sdg.typos import with_typo

if TYPE_CHECKING:
    from sharpen.sdg.llm.client import LLMClient

GENERATION = "generation"
"""``Rejection.step`` of what is rejected here."""
SHOWN_CHARACTERS = 2000
"""Of an answer, in a rejection."""

AnyStrategy = StrategySettings | Harvested | Custom | Strategy


def generate_queries(
    corpus: Corpus,
    llm: LLM | LLMSettings | LLMClient | None,
    strategies: Sequence[AnyStrategy],
    *,
    seed: int = 13,
    documents: int | Sequence[Document] | None = None,
    labelled: Sequence[Query] = (),
    progress: Callable[[Answer], None] = lambda _answer: None,
) -> GeneratedQueries:
    """Ask ``llm`` for queries that the documents of ``corpus`` answer, and drop what is unusable.

    ``llm``: None where all ``strategies`` are ``Harvested``, which ask none and take their texts from all documents.
    ``documents``: have the LLM write for so many, drawn by ``seed`` (default: all that have 5 words), or for these.
    ``labelled``: queries that there are already, for strategies that rewrite queries; none of them is written again.
    ``progress`` is given each answer as it comes.

    With the same corpus, strategies, seed and answers the queries and their IDs are the same. Every answer is in the
    LLM's journal and is not asked for again. An LLM that is not open is opened, and closed at the end. Raises
    ``InputError`` if no document has enough words, if a pool is bad, if there is no LLM and a strategy asks one, if a
    ``SimulatedUser`` has no retriever, as ``LLMClient.ask`` does, and if more than 1 % of a strategy's requests got no
    answer after all retries.

    >>> corpus = {"d": Document("d", "A kiln is an oven for pottery. It takes nine hours to fire it.", "Firing pots")}
    >>> generate_queries(corpus, llm=None, strategies=[Harvested()]).counts()
    {'asked': 2, 'kept': 2, 'rejected': {}}

    With an LLM it needs a server::

        llm = LLM("http://localhost:8000/v1", model="Qwen/Qwen3-4B-Instruct-2507")
        queries = generate_queries(corpus, llm, [Document(pool="pool.yaml"), Sentence(pool="sentences.yaml")])
    """
    given = documents is not None and not isinstance(documents, int)
    drawn = list(documents) if given else sample_documents(list(corpus.values()), documents, seed)
    if not drawn:
        raise InputError(f"no document has the {MIN_WORDS} words, separated by blanks, that a query is written from")
    resolved = [resolve_strategy(strategy) for strategy in strategies]
    asking = [strategy for strategy in resolved if asks_llm(strategy)]
    if asking and llm is None:
        raise InputError(f"llm: none is given, and the strategy {asking[0].name} asks one; give llm")
    for strategy in asking:  # what is wrong with the last one is found before the first one is paid for
        strategy.example_texts()
        if isinstance(strategy, SimulatedUser):
            strategy.check_retriever()
    with opened(llm) if asking else nullcontext() as client:
        generation = Generation(drawn, client, seed, corpus, labelled, progress)
        for strategy in resolved:
            generation.run(strategy)
        if asking:
            generation.result.refused_parameters = dict(client.refused_parameters)
    return generation.result


def expected_prompts(strategies: Sequence[Strategy | Harvested], documents: Sequence[Document], corpus: Corpus) -> int:
    """For a progress bar: about how many prompts there will be, as far as that can be known."""
    return sum(strategy.expected_prompts(documents, corpus) for strategy in strategies if asks_llm(strategy))


class Generation:
    """One run of ``generate_queries``: every strategy adds to ``result``, and works on what those before it brought.

    ``documents``: those to write for. ``client``: None where no strategy asks. ``corpus``: all documents, for
    strategies that show several together, and to be harvested.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        client: LLMClient | None,
        seed: int,
        corpus: Corpus | None = None,
        labelled: Sequence[Query] = (),
        progress: Callable[[Answer], None] = lambda _answer: None,
    ) -> None:
        self.documents = documents
        self.client = client
        self.seed = seed
        self.corpus = {d.id: d for d in documents} if corpus is None else corpus
        self.labelled = labelled
        self.asker = Asker(client, seed, progress)
        self.result = GeneratedQueries()
        self._known: dict[str, int | str] = {query_key(query.text): query.id for query in labelled}
        """Key to the query's place in ``result.kept``, or to a labelled one's ID."""

    def run(self, strategy: Strategy | Harvested) -> None:
        """Ask for everything that ``strategy`` wants (of a mixture, each type of queries after the other), or harvest
        it. Raises ``InputError`` as ``generate_queries`` does."""
        for member in members_of(strategy, self.seed):
            self._run(member)

    def _run(self, strategy: Strategy | Harvested) -> None:
        started = time.monotonic()
        stats = self.result.stats[strategy.name] = StrategyStats()
        if isinstance(strategy, Harvested):
            self._harvest(strategy, stats)
        else:
            self._ask_for(strategy, stats)
        stats.seconds = round(time.monotonic() - started, 2)

    def _harvest(self, strategy: Harvested, stats: StrategyStats) -> None:
        units = strategy.harvest(self.corpus, self.seed)
        several = in_several_documents(units)
        stats.asked = stats.parsed = len(units)
        for unit in units:
            key = query_key(unit.text)
            problem = strategy.problem_of(unit)
            if problem is None and (key in several or key in self._known):
                problem = Problem(Reason.DUPLICATE)
            if problem:
                self._reject(strategy, unit, 0, unit.text, problem, unit.positives)
                continue
            self._known[key] = len(self.result.kept)
            stats.kept += 1
            metadata = {"positives": list(unit.positives), "strategy": strategy.name, **unit.metadata}
            self.result.kept.append(Query(_query_id(unit.key, 0), unit.text, metadata))

    def _ask_for(self, strategy: Strategy, stats: StrategyStats) -> None:
        examples = {query_key(text) for text in strategy.example_texts()}
        # what is harvested is not rewritten: it is of all documents, and what is asked is to stay within those drawn
        earlier = [query for query in self.result.kept if HARVESTED not in query.metadata]
        units = dict(enumerate(strategy.units(self.documents, [*earlier, *self.labelled], self.corpus)))
        replies, every = self._first_step(strategy, units, stats), []
        step, left = strategy, {n: unit for n, unit in units.items() if n not in replies}
        while units:
            replies |= self.asker.ask(step, left, stats)
            every += replies.values()
            raise_if_outage([reply.answer for reply in every])
            answers, following = strategy.follow_up(left, {n: replies[n].parsed for n in left}, self.corpus)
            for n, unit in units.items():
                reply = replace(replies[n], parsed=answers[n]) if n in left else replies[n]
                self._accept_answer(strategy, unit, reply, examples)
            step, units, left, replies = strategy.then, following, following, {}

    def _first_step(self, strategy: Strategy, units: dict[int, Unit], stats: StrategyStats) -> dict[int, Reply]:
        """Put what the first step brings into ``units``. Returns the replies with which nothing more is to be asked."""
        first, final = strategy.first, {}
        if first is None:
            return final
        for n, reply in self.asker.ask(first, units, stats).items():
            if error := _first_step_error(first, reply):
                final[n] = replace(reply, parsed=ParsedAnswer(error=error))
                continue
            units[n] = strategy.after_first(units[n], reply.parsed)
            self.result.first_steps.append(
                {
                    "unit": units[n].key,
                    "strategy": strategy.name,
                    "documents": list(units[n].positives),
                    first.name: reply.parsed.queries[0].query,
                }
            )
        return final

    def _accept_answer(self, strategy: Strategy, unit: Unit, reply: Reply, examples: set[str]) -> None:
        """Keep or reject each of the queries that were asked for: those that did not come are rejected, too, so that
        the counts add up."""
        stats = self.result.stats[strategy.name]
        stats.asked += strategy.queries
        parsed = () if reply.is_blank else reply.parsed.queries
        was_cut = reply.answer.finish_reason == "length" and not reply.parsed.goes_on
        for sample in range(strategy.queries):
            if sample >= len(parsed):
                text = reply.answer.text or reply.answer.error
                self._reject(strategy, unit, sample, text, reply.problem())
                continue
            query = parsed[sample]
            stats.parsed += bool(query.query)
            problem = self._problem(strategy, unit, query, examples, was_cut and sample == len(parsed) - 1)
            if problem is None:
                self._keep(strategy, unit, reply, query, sample)
            else:
                self._reject(strategy, unit, sample, query.query, problem, query.evidence or unit.positives)

    def _problem(
        self, strategy: Strategy, unit: Unit, query: ParsedQuery, examples: set[str], cut_off: bool
    ) -> Problem | None:
        """Why the query is not kept: the first reason that holds."""
        if problem := query.problem or text_problem(query.query, unit.document, wanted_language(strategy, unit)):
            return problem
        if cut_off:
            return Problem(Reason.TRUNCATED)
        if problem := strategy.problem_of(query, unit):
            return problem
        key = query_key(query.query)
        if key in examples:
            return Problem(Reason.COPIED_FROM_EXAMPLE)
        return Problem(Reason.DUPLICATE) if key in self._known else None

    def _keep(self, strategy: Strategy, unit: Unit, reply: Reply, query: ParsedQuery, sample: int) -> None:
        self._known[query_key(query.query)] = len(self.result.kept)
        self.result.stats[strategy.name].kept += 1
        query_id, text = _query_id(unit.key, sample), query.query
        metadata = {
            "positives": list(unit.positives),
            "strategy": strategy.name,
            "model": self.client.identity,
            "prompt_hash": reply.prompt_hash,
            **unit.metadata,
            **query.metadata,
        }
        if query.answer:
            metadata["answer"] = query.answer
        if query.evidence:
            metadata["positives"] = list(query.evidence)
        if strategy.typos and (rng := random.Random(f"{self.seed}/{query_id}")).random() < strategy.typos:
            typed = with_typo(text, rng, wanted_language(strategy, unit) or ENGLISH)
            if typed != text:
                metadata["typed_for"], text = text, typed
        self.result.kept.append(Query(query_id, text, metadata))

    def _reject(
        self,
        strategy: Strategy | Harvested,
        unit: Unit,
        sample: int,
        text: str,
        problem: Problem,
        positives: Sequence[str] = (),
    ) -> None:
        """``positives``: of what is a query, the documents that answer it."""
        if problem.reason == Reason.DUPLICATE:
            self._also_answers(query_key(text), positives)
        self.result.stats[strategy.name].rejected[str(problem.reason)] += 1
        shown, document = text[:SHOWN_CHARACTERS], unit.document.id
        self.result.rejected.append(
            Rejection(problem, shown, document, strategy.name, GENERATION, unit=unit.key, sample=sample)
        )

    def _also_answers(self, key: str, doc_ids: Sequence[str]) -> None:
        """Note with the query of this key that these documents answer it, too."""
        known = self._known.get(key)
        if isinstance(known, str):
            self.result.also_answers.setdefault(known, []).extend(doc_ids)
        elif known is not None:
            self.result.kept[known] = also_answered(self.result.kept[known], doc_ids)


def _first_step_error(first: Strategy, reply: Reply) -> str:
    """Why nothing should be asked with what a first step brought."""
    queries = reply.parsed.queries
    if not queries or not queries[0].query.strip():
        return reply.parsed.error or f"no {first.name}"
    if reply.answer.finish_reason == "length" and not first.json_answers:
        return f"{first.name} cut off at max_tokens"
    return ""


def _query_id(unit: str, sample: int) -> str:
    return "q" + hashlib.sha256((unit if sample == 0 else f"{unit}+{sample}").encode()).hexdigest()[:16]
