"""Which questions ``sharpen answers`` asks, and with which documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharpen.evaluation.answer_metrics import are_short
from sharpen.evaluation.beir import Corpus, Query, chunks_by_document
from sharpen.evaluation.datasets import Task, read_judged
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import find_languages
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.runs import ranking
from sharpen.recipes.finished import queries_of, task_of
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.sdg.answering.asking import Asked, GivenAnswer, shows_answer
from sharpen.sdg.answering.questions import AnsweredQuestion, answered_queries, read_answered
from sharpen.sdg.drawing import drawn
from sharpen.sdg.resources import Resources

BASE, TUNED, BM25, NONE, GOLD = "base", "tuned", "bm25", "none", "gold"
SYSTEMS = (BASE, TUNED, BM25, NONE, GOLD)
"""Whose documents the LLM is shown: ``none``, none at all (a floor); ``gold``, those that are known to answer (a
ceiling)."""
LANGUAGES_LOOKED_AT = 50


@dataclass(frozen=True)
class AnswersOptions:
    """``questions``: a ``.json`` file in SQuAD's layout, a ``.jsonl`` file, or a dataset whose queries have answers in
    their metadata; None: the run's own. ``top_k``: documents shown. ``number``: questions at most, drawn by the
    recipe's seed. ``judge``: whether an LLM judges, too."""

    questions: str | None = None
    top_k: int = 5
    systems: Sequence[str] = (BASE, TUNED, NONE, GOLD)
    number: int = 100
    judge: bool = False

    def check(self) -> None:
        """Raise ``InputError`` for a system that there is not, or none."""
        for name in self.systems:
            if name not in SYSTEMS:
                raise InputError(f"--systems: no {name!r}; there are {', '.join(SYSTEMS)}")
        if not self.systems:
            raise InputError(f"--systems: name at least one of {', '.join(SYSTEMS)}")


@dataclass
class Asking:
    """What is to be asked: of each system, the questions with their documents, in one order for all."""

    questions: list[AnsweredQuestion]
    queries_of: str
    corpus: Corpus
    asked: dict[str, list[Asked]]
    left_out: int = 0
    language: str = "en"
    answers: dict[str, list[GivenAnswer]] = field(default_factory=dict)

    @property
    def is_short(self) -> bool:
        return are_short([question.answers for question in self.questions])

    def task(self) -> Task:
        """The questions as queries, for what a report says of them."""
        queries = {q.id: Query(q.id, q.text) for q in self.questions if q.documents}
        qrels = {q.id: dict.fromkeys(q.documents, 1) for q in self.questions if q.documents}
        return Task(self.corpus, queries, qrels, self.queries_of)


def prepare_asking(recipe: Recipe, folder: Path, options: AnswersOptions, resources: Resources) -> Asking:
    """The questions with the documents that each system finds. Raises ``InputError`` for a run without a model, and
    where no question has an answer."""
    options.check()
    inputs = Inputs(folder)
    if recipe.generative:
        raise InputError(f"{folder}: answers compares encoders, and this run has a generative retriever")
    if inputs.manifest("model") is None:
        raise InputError(f"{folder}: no model there yet; give the folder of a finished run, like runs/quickstart")
    if recipe.llm is None:
        raise InputError(f"{folder}: its recipe has no llm to answer; add one, as in llm=embedded")
    task = task_of(recipe, inputs)
    questions, name = _questions(recipe, inputs, task, options.questions)
    found = len(questions)
    if GOLD in options.systems:
        known = task.known
        questions = [q for q in questions if any(i in known for i in q.documents)]
        if not questions:
            raise InputError(
                "--systems: gold shows the documents that answer, and of no question they are known; leave it out, or"
                " give each question its document"
            )
    left_out = found - len(questions)
    questions = sorted(questions, key=lambda q: drawn(recipe.seed, "answers", q.id))[: options.number]
    ((language, _),) = Counter(find_languages(task.corpus, LANGUAGES_LOOKED_AT).values()).most_common(1)
    asked = {
        s: _gold(questions, task.corpus, options.top_k, language)
        if s == GOLD
        else _shown(s, questions, task.corpus, recipe, inputs, resources, options.top_k)
        for s in options.systems
    }
    return Asking(questions, name, task.corpus, asked, left_out, language)


def _questions(recipe: Recipe, inputs: Inputs, task: Task, given: str | None) -> tuple[list[AnsweredQuestion], str]:
    """The questions, and what they are called."""
    if given and Path(given).suffix in (".json", ".jsonl"):
        return read_answered(Path(given), task.corpus, task.qrels), f"questions of {Path(given).name}"
    if given:
        split = recipe.evaluation.split
        if found := answered_queries(*read_judged(given, split)):
            return found, f"questions of {Path(given).name}, split {split}"
        raise InputError(f"--questions {given}: none of its queries has an answer in its metadata; give a file")
    if found := answered_queries(task.queries, task.qrels):
        return found, queries_of(recipe)
    queries = inputs.queries()
    for split in ("test", "dev"):
        try:
            qrels = inputs.qrels(split)
        except InputError:  # no query is in this split
            continue
        if found := answered_queries(queries, qrels):
            return found, f"generated questions, split {split}"
    raise InputError(
        "no query of the run has an answer; give --questions FILE (.jsonl with question and answer in each line, or"
        " SQuAD's .json), or have some generated: strategies/question_answer"
    )


def _shown(
    system: str,
    questions: Sequence[AnsweredQuestion],
    corpus: Corpus,
    recipe: Recipe,
    inputs: Inputs,
    resources: Resources,
    top_k: int,
) -> list[Asked]:
    """Each question with the documents that a system has for it."""
    if system == NONE:
        return [(question, None) for question in questions]
    models = resources.models
    retriever: Retriever
    if system == BASE:
        retriever = models.index(corpus, recipe.training.encoder)
    elif system == TUNED:
        retriever = TunedPart.of(recipe).index(inputs, models, corpus)
    else:
        retriever = models.bm25(corpus)
    # one more, as a document with the question's ID is left out
    run = retriever.search({q.id: q.text for q in questions}, top_k + 1)
    return [(q, [corpus[i] for i in ranking(run[q.id]) if i != q.id][:top_k]) for q in questions]


def _gold(questions: Sequence[AnsweredQuestion], corpus: Corpus, top_k: int, language: str) -> list[Asked]:
    """Each question with what is known to answer it; of a document that was cut, the chunks that show the answer
    first."""
    chunks = chunks_by_document(corpus)
    asked: list[Asked] = []
    for question in questions:
        found = [c for i in question.documents for c in ([corpus[i]] if i in corpus else chunks.get(i, []))]
        asked.append((question, sorted(found, key=lambda c: not shows_answer(question, [c], language))[:top_k]))
    return asked
