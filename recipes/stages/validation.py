"""What is chosen while training, and by which queries: the best checkpoint, and the base's share in the result."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import zip_longest
from statistics import fmean

from sentence_transformers import SentenceTransformer
from sharpen.evaluation.beir import Corpus, Qrels, Queries, chunks_by_document, read_qrels, read_queries
from sharpen.evaluation.datasets import read_judged
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY, evaluate
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import ranking
from sharpen.recipes.engine import Context
from sharpen.recipes.stages.comparison import evaluation_inputs, judged_inputs
from sharpen.recipes.stages.corpus import read_own_corpus
from sharpen.recipes.stages.pairs import train_queries
from sharpen.recipes.stages.queries import evaluated_keys
from sharpen.sdg.queries import query_key
from sharpen.training.trainer import Validation

BEST_OF = 20
"""Documents of BM25's ranking that a query may bring into the validation's corpus."""


def validation(context: Context) -> Validation | None:
    """The recipe's validation; None where it has none. Raises ``InputError`` as the readers do."""
    part = context.recipe.training.validation
    return part and Validation(PRIMARY, scorer(context), part.evaluations, part.patience)


def scorer(context: Context) -> Callable[[SentenceTransformer], float]:
    """A function that gives a model's nDCG@10 on the queries to choose by, searched among few documents: a score to
    compare models by, higher than it would be in the whole corpus."""
    corpus, queries, qrels = _small_task(context)
    training = context.recipe.training
    texts = {q.id: q.text for q in queries.values()}

    def score(model: SentenceTransformer) -> float:
        run = Dense(corpus, model, training.query_prompt, training.document_prompt).search(texts, 11)
        run = {q: {d: scores[d] for d in ranking(scores) if d != q} for q, scores in run.items()}
        return fmean(evaluate(qrels, run, (PRIMARY,))[PRIMARY].values())

    return score


def validation_inputs(context: Context) -> dict[str, str]:
    part = context.recipe.training.validation
    if part is None:
        return {}
    own = (
        {f"validation/{name}": digest for name, digest in judged_inputs(part.data, part.split).items()}
        if part.data
        else {}
    )
    return own | evaluation_inputs(context)  # whose queries are left out


def _small_task(context: Context) -> tuple[Corpus, Queries, Qrels]:
    recipe, part = context.recipe, context.recipe.training.validation
    corpus = read_own_corpus(context)
    if part.data is None:
        folder = context.stage_folder("pairs")
        queries, qrels = read_queries(folder / "queries.jsonl"), read_qrels(folder / "qrels" / "dev.tsv")
    else:
        queries, qrels = read_judged(part.data, part.split)
    chunks = chunks_by_document(corpus)
    # people label documents; each of their chunks counts as relevant
    qrels = {
        q: {
            i: grade
            for d, grade in grades.items()
            if grade > 0
            for i in ([d] if d in corpus else [c.id for c in chunks.get(d, [])])
        }
        for q, grades in qrels.items()
    }
    # under whatever name they come: what is compared on at the end or trained on is nothing to choose by
    seen = evaluated_keys(recipe) | {query_key(q.text) for q in train_queries(context).values()}
    qrels = {q: grades for q, grades in qrels.items() if grades and query_key(queries[q].text) not in seen}
    if not qrels:
        where = (
            f"none of the documents of {part.data}, split {part.split}, is in the corpus, or all are evaluated or"
            " trained on"
            if part.data
            else "split.dev holds out none of the generated ones; raise it, or queries.documents"
        )
        raise InputError(f"training.validation: no query to choose by: {where}")
    chosen = sorted(qrels)
    if len(chosen) > part.queries:
        chosen = sorted(random.Random(recipe.seed).sample(chosen, part.queries))
    qrels = {q: qrels[q] for q in chosen}
    relevant = dict.fromkeys(i for grades in qrels.values() for i in grades)
    hard = BM25(corpus).search({q: queries[q].text for q in chosen}, min(len(corpus), BEST_OF))
    by_rank = dict.fromkeys(
        i
        for row in zip_longest(*(ranking(hard[q]) for q in chosen))
        for i in row
        if i is not None and i not in relevant
    )
    pool = list(relevant) + list(by_rank)[: max(0, part.documents - len(relevant))]
    return {i: corpus[i] for i in pool}, {q: queries[q] for q in chosen}, qrels
