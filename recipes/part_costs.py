"""What a recipe's judges and its LLM miners will cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.languages import first_words
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.estimate import CostEstimate
from sharpen.sdg.filters.judge import Judge, JudgeScores
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives.dense import DenseMiner
from sharpen.sdg.negatives.filters.judge import JudgeNegatives
from sharpen.sdg.negatives.hybrid import HybridMiner
from sharpen.sdg.negatives.llm import LLMMiner
from sharpen.sdg.negatives.record import Negative
from sharpen.sdg.negatives.settings import AnyMiner
from sharpen.sdg.reranking.reranker import QUERY_WORDS, SAMPLE

CountTokens = Callable[[str], int]
PartCost = tuple[LLMSettings, CostEstimate]
"""Who is asked, and what that costs."""


def part_costs(
    recipe: Recipe,
    documents: Sequence[Document],
    written_for: int,
    generated: int,
    queries: int,
    token_counter: Callable[[], CountTokens],
) -> list[PartCost]:
    """A row for the judge of queries, and for each miner and filter of negatives that asks an LLM: at most, as if no
    query and no candidate were dropped before.

    ``documents``: of the corpus. ``written_for``: so many of them have ``generated`` queries, which are judged.
    ``queries``: that are trained on at most. ``token_counter`` is called where there is anything to count.
    """
    judge = recipe.filters.judge if generated else None
    settings = recipe.negatives.with_llm_seed(recipe.queries_seed)
    mines = recipe.mines and (settings.per_query or recipe.extra_negatives)
    parts = settings.llm_parts() if mines and queries else []
    if not documents or not (judge or parts):
        return []
    count, sample = token_counter(), documents[:: max(1, len(documents) // SAMPLE)]
    rows: list[PartCost] = []
    if judge:
        llm = judge.llm or recipe.llm
        rows.append((llm, _judge(judge, llm, sample, written_for, generated, count)))
    trained_on = min(queries, recipe.filters.max_queries or queries)
    for part in parts:
        llm = part.llm or recipe.llm
        if isinstance(part, LLMMiner):
            rows.append((llm, _miner(part, llm, sample, trained_on, count)))
        else:
            rows.append((llm, _judge_of_negatives(part, llm, recipe, sample, len(documents), trained_on, count)))
    return rows


def uncounted(recipe: Recipe) -> list[str]:
    """Parts of a user's own, which may ask an LLM, too."""
    own = ["filters.custom"] if recipe.filters.custom else []
    if recipe.mines:
        named = {"miners": recipe.negatives.miners, "filters": recipe.negatives.filters}
        own += [f"negatives.{name}" for name, each in named.items() if any(part.kind == "custom" for part in each)]
    return own


def _judge(
    judge: Judge, llm: LLMSettings, sample: Sequence[Document], documents: int, queries: int, count: CountTokens
) -> CostEstimate:
    most, about = judge.per_prompt, min(queries, documents)
    shown = min(most, math.ceil(queries / about))
    calls = (queries + about * (most - 1)) // most  # a document's last prompt may have but one query
    requests = (
        request
        for document in sample
        for request in judge.requests([_query(document)] * shown, {document.id: document}, llm.asks_by_chat)
    )
    answer = json.dumps({"scores": [dict.fromkeys(JudgeScores.model_fields, 8)] * shown})
    return _row("judge of queries", calls, requests, answer, count)


def _miner(
    miner: LLMMiner, llm: LLMSettings, sample: Sequence[Document], queries: int, count: CountTokens
) -> CostEstimate:
    asked = miner.prompt(llm).requests(list(map(_query, sample)), {d.id: d for d in sample}, miner.seed or 0)
    length = " ".join(first_words(d.content, miner.words, in_prompt=False) for d in sample[: miner.negatives])
    return _row(f"negatives, {miner.name or miner.kind}", queries, asked, length, count)


def _judge_of_negatives(
    judge: JudgeNegatives,
    llm: LLMSettings,
    recipe: Recipe,
    sample: Sequence[Document],
    documents: int,
    queries: int,
    count: CountTokens,
) -> CostEstimate:
    judged = {miner: _candidates(miner, documents) for miner in recipe.negatives.by_name().values()}
    calls = sum(math.ceil(n / judge.per_prompt) * _times(miner, recipe) for miner, n in judged.items())
    shown = min(judge.per_prompt, max(judged.values()), len(sample))
    requests = (
        request
        for start in range(len(sample) - shown + 1)
        for request in _about(judge, sample[start : start + shown], llm.asks_by_chat)
    )
    answer = json.dumps({"relevant": [False] * shown})
    return _row("judge of negatives", queries * calls, requests, answer, count)


def _about(judge: JudgeNegatives, shown: Sequence[Document], chat: bool) -> Iterator[Request]:
    query = _query(shown[0])
    rows = [Negative(query.id, d.id, "", n, 0.0, "candidate", 0) for n, d in enumerate(shown, start=1)]
    return judge.requests({query.id: rows}, {query.id: query}, {d.id: d for d in shown}, chat)


def _candidates(miner: AnyMiner, documents: int) -> int:
    """Of a query, at most."""
    there = miner.negatives if isinstance(miner, LLMMiner) else documents
    first, last = miner.ranks
    return max(0, min(last, there) - first + 1)


def _times(miner: AnyMiner, recipe: Recipe) -> int:
    """How often it mines other candidates, at most."""
    changes = isinstance(miner, DenseMiner | HybridMiner) and miner.model is None
    return recipe.training.epochs if recipe.negatives.refresh and changes else 1


def _query(document: Document) -> Query:
    """One about the document: there is none yet."""
    text = first_words(document.content, QUERY_WORDS, in_prompt=False)
    return Query(document.id, text, {"positives": [document.id], "strategy": "document"})


def _row(name: str, calls: int, requests: Iterable[Request], answer: str, count: CountTokens) -> CostEstimate:
    requests = list(requests)
    most = max((request.parameters["max_tokens"] for request in requests), default=0)
    prompt_tokens = fmean(count(request.prompt) for request in requests) if requests else 0.0
    return CostEstimate(name, calls, prompt_tokens, min(count(answer), most), most)
