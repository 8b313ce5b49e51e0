"""An LLM that scores documents for ``Models``, through the client, journal and budget that queries use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from sharpen.evaluation.beir import Corpus, Document, Queries
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.models import Pairs, PairScores, ProgressBar, no_progress
from sharpen.evaluation.processes import on_main
from sharpen.evaluation.scorers import LLM_LISTWISE, LLM_POINTWISE
from sharpen.sdg.estimate import CostEstimate
from sharpen.sdg.llm.budget import Prices, Spending
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.settings import LLM, LLMSettings
from sharpen.sdg.reranking.answers import Ranking, window_starts
from sharpen.sdg.reranking.asking import Asking, RerankingStats, Shown
from sharpen.sdg.reranking.questions import OrderQuestion, RelevanceQuestion
from sharpen.sdg.reranking.settings import LLMRerankerSettings

Method = Literal["llm", "llm:listwise"]
QUESTIONS = {LLM_POINTWISE: RelevanceQuestion, LLM_LISTWISE: OrderQuestion}
SAMPLE = 100
"""Prompts that an estimate of tokens looks at."""
QUERY_WORDS = 10
"""Of a query in such a prompt: there is none yet."""


@dataclass
class LLMReranker:
    """Scores of documents by an LLM, in one of two ways (``method``).

    ``llm``: it is asked of each document whether it answers the query; the score is log p(yes) - log p(no) by the
    answer's first token (its logprobs), as in monoT5. ``llm:listwise``: it puts ``settings.window`` documents in order,
    in windows from the last documents to the first (RankGPT, Sun et al. 2023); the score is the number of documents
    below, so each place is worth 1. RankGPT's students learn an order and no distances, and equal steps claim none.

    An answer that cannot be read says nothing: such a document has the mean of its query's others, which in a mixture
    is 0, and such a window stays in its order. ``llm``: an ``LLM``, its settings or an open client. ``warn``: is given
    a sentence on such answers. ``spending``: where money is counted, with its budget (default: one of its own).
    ``stats``: what was asked. What was answered is remembered, and is in the journal beyond that.

    As a teacher, beside others::

        models = ev.Models(base, scorers=sdg.llm_scorers(sdg.LLM("http://localhost:8000/v1", model="...")))
        print(ev.compare_teachers(models, ["bm25", "base", "llm", "llm:listwise"], task).recipe_line())
        run = ev.rank_candidates(models, {"base": 1, "bm25": 0.3, "llm": 1}, queries, corpus, size=16)
    """

    llm: LLM | LLMSettings | LLMClient
    method: Method = LLM_POINTWISE
    settings: LLMRerankerSettings = field(default_factory=LLMRerankerSettings)
    progress: ProgressBar = no_progress
    warn: Callable[[str], None] = lambda _sentence: None
    spending: Spending | None = None

    def __post_init__(self) -> None:
        if isinstance(self.llm, LLMSettings):
            self.llm = LLM(settings=self.llm)
        if self.spending is None:
            self.spending = spending_of(self.llm)
        self._asking: Asking = Asking(QUESTIONS[self.method](self.settings))

    @property
    def stats(self) -> RerankingStats:
        return self._asking.stats

    def score(self, pairs: Pairs, queries: Queries, corpus: Corpus) -> PairScores:
        """A score for each (query ID, document ID); higher is more relevant. ``llm:listwise`` shows a query's documents
        in the order in which they are given, so let that be a ranking, best first.

        Under ``accelerate launch`` the first process asks, and all must call this. Raises ``InputError`` if the
        endpoint gives no logprobs (``llm``), if the budget does not suffice or more than 1 % of the requests failed
        (what was answered is kept: call again), if no answer can be read, and as ``LLMClient.ask`` does.
        """
        return on_main(lambda: self._score(pairs, queries, corpus))

    def sentence(self) -> str:
        """What was asked so far, and what it took."""
        stats, tokens = self.stats, self.stats.tokens
        money = "" if self.spending.prices == Prices() else f"; {self.spending}"
        trouble = f"; {problems}" if (problems := self._asking.problems()) else ""
        return (
            f"{self.method}: {stats.answers:,} answers, {stats.from_journal:,} of them from the journal;"
            f" {tokens['prompt']:,} tokens of prompts and {tokens['completion']:,} of answers; {stats.seconds:.1f} s"
            f"{money}{trouble}."
        )

    def estimate(
        self, queries: int, per_query: int, documents: Sequence[Document], count_tokens: Callable[[str], int]
    ) -> CostEstimate:
        """What scoring ``per_query`` documents of each of so many queries will cost, before anything is asked.
        ``documents``: of the corpus; the prompts of 100 of them are counted by ``count_tokens``."""
        question, chat = self._asking.question, self._asks_by_chat()
        shown, prompts = 1, per_query
        if self.method == LLM_LISTWISE:
            shown = max(1, min(self.settings.window, per_query, len(documents)))
            prompts = len(window_starts(per_query, self.settings.window, self.settings.step))
        places = range(0, len(documents) - shown + 1, max(1, len(documents) // SAMPLE))
        samples = [documents[n : n + shown] for n in places]
        requests = [
            question.request(first_words(d[0].content, QUERY_WORDS, in_prompt=False), d, chat, False) for d in samples
        ]
        return CostEstimate(
            self.method,
            queries * prompts,
            fmean(count_tokens(request.prompt) for request in requests) if requests else 0.0,
            count_tokens(question.usual_answer(shown)),
            requests[0].parameters["max_tokens"] if requests else 0,
        )

    def _score(self, pairs: Pairs, queries: Queries, corpus: Corpus) -> PairScores:
        documents: dict[str, list[str]] = {}
        for q, i in dict.fromkeys(pairs):
            documents.setdefault(q, []).append(i)
        texts = {q: queries[q].text for q in documents}
        score = self._listwise if self.method == LLM_LISTWISE else self._pointwise
        started, before = time.monotonic(), self._asking.problems()
        try:
            with self._opened() as client:
                scores = score(client, documents, texts, corpus)
        finally:
            self.stats.seconds += time.monotonic() - started
        if (problems := self._asking.problems()) != before:
            self.warn(f"{self.method}: {problems}.")
        return {pair: scores[pair] for pair in pairs}

    def _pointwise(
        self, client: LLMClient, documents: Mapping[str, Sequence[str]], texts: Mapping[str, str], corpus: Corpus
    ) -> PairScores:
        pairs = [(q, i) for q, ids in documents.items() for i in ids]
        shown: list[Shown] = [(texts[q], [corpus[i]]) for q, i in pairs]
        with self.progress("asking the LLM", len(shown)) as advance:
            read: list[float | None] = self._asking.ask(client, shown, advance)
        self._asking.raise_if_unread(read)
        odds = dict(zip(pairs, read, strict=True))
        scores: PairScores = {}
        for q, ids in documents.items():
            known = [value for i in ids if (value := odds[q, i]) is not None]
            mean = fmean(known) if known else 0.0
            scores |= {(q, i): mean if (value := odds[q, i]) is None else value for i in ids}
        return scores

    def _listwise(
        self, client: LLMClient, documents: Mapping[str, Sequence[str]], texts: Mapping[str, str], corpus: Corpus
    ) -> PairScores:
        """The n-th windows of all queries are asked together; what is best in them stands in the next ones."""
        window, step = self.settings.window, self.settings.step
        order = {q: list(ids) for q, ids in documents.items()}
        starts = {q: window_starts(len(ids), window, step) for q, ids in documents.items()}
        answers: list[Ranking | None] = []
        with self.progress("asking the LLM", sum(map(len, starts.values()))) as advance:
            for n in range(max(map(len, starts.values()), default=0)):
                asked = {q: slice(at[n], at[n] + window) for q, at in starts.items() if n < len(at)}
                shown: list[Shown] = [(texts[q], [corpus[i] for i in order[q][of]]) for q, of in asked.items()]
                rankings: list[Ranking | None] = self._asking.ask(client, shown, advance)
                for (q, of), ranking in zip(asked.items(), rankings, strict=True):
                    if ranking:
                        order[q][of] = [order[q][of][place] for place in ranking.places]
                answers += rankings
        self._asking.raise_if_unread(answers)
        return {(q, i): float(len(ids) - place) for q, ids in order.items() for place, i in enumerate(ids, start=1)}

    def _asks_by_chat(self) -> bool:
        return self.llm.settings.asks_by_chat if isinstance(self.llm, LLM) else self.llm.chat

    def _opened(self) -> AbstractContextManager[LLMClient]:
        return self.llm.open(self.spending) if isinstance(self.llm, LLM) else nullcontext(self.llm)


def spending_of(llm: LLM | LLMClient) -> Spending:
    """Where what an LLM costs is counted."""
    return Spending(llm.settings.prices, llm.settings.budget) if isinstance(llm, LLM) else llm.spending


def llm_scorers(
    llm: LLM | LLMSettings | LLMClient,
    settings: LLMRerankerSettings | None = None,
    progress: ProgressBar = no_progress,
    warn: Callable[[str], None] = lambda _sentence: None,
    spending: Spending | None = None,
) -> dict[str, LLMReranker]:
    """Both ways of asking an LLM, with one budget, under the names that recipes have for them: what ``Models.scorers``
    takes. ``spending``: as of ``LLMReranker``.

    >>> list(llm_scorers(LLMSettings(base_url="http://localhost:8000/v1", model="Qwen/Qwen3-4B-Instruct-2507")))
    ['llm', 'llm:listwise']
    """
    llm = LLM(settings=llm) if isinstance(llm, LLMSettings) else llm
    chosen, spending = settings or LLMRerankerSettings(), spending or spending_of(llm)
    return {method: LLMReranker(llm, method, chosen, progress, warn, spending) for method in QUESTIONS}
