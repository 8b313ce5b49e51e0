"""Training of a generative retriever: identifiers from texts and queries, then preferences among its own beams."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sharpen.evaluation.beir import ALSO_ANSWERS, NEAR_DUPLICATES, Queries, Query
from sharpen.evaluation.datasets import Task, known_ids, read_judged
from sharpen.evaluation.files import InputError, link_or_copy, write_json
from sharpen.evaluation.generative.identifiers import IDENTIFIERS, Identifiers, read_identifiers
from sharpen.evaluation.generative.model import GenerativeModel, load_generative, load_tokenizer
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.processes import on_main, process_state
from sharpen.evaluation.retrievers.base import search_task
from sharpen.evaluation.retrievers.generative import Generative, search_identifiers
from sharpen.evaluation.runs import ranking
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import MANIFEST, TRAINING_LOG, Inputs
from sharpen.recipes.schema.judged import Evaluated, Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.schema.training import ReplaySettings
from sharpen.recipes.stages.identifiers import identifiers_of, unit_of
from sharpen.recipes.stages.tracking import record, shown, tracked
from sharpen.sdg.filters.text import query_key
from sharpen.sdg.replay import unchanged
from sharpen.sdg.resources import Resources
from sharpen.sdg.splitting import read_split
from sharpen.training.generative.atomic import name_tokens, new_tokens
from sharpen.training.generative.examples import Example, context_examples, query_examples, replay
from sharpen.training.generative.packing import prompt_room
from sharpen.training.generative.preference import PreferencePair, preference_pairs, train_preference
from sharpen.training.generative.settings import GenerativeSettings, HitSettings, PreferenceSettings
from sharpen.training.generative.trainer import train_generative
from sharpen.training.trainer import TrainingRun
from sharpen.training.validation import Validation

Unit = Literal["document", "chunk"]
FEW_QUERIES = 20
"""To choose a state by."""


class ExamplesPart(StagePart):
    """What is trained on. ``second``: strategies whose queries are those of the second stage. ``replay``: None unless
    the run goes on from an earlier one."""

    unit: Unit
    second: tuple[str, ...]
    replay: ReplaySettings | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        part = recipe.generative
        return cls(
            unit=part.identifiers.unit,
            second=part.preferences.strategies if part.preferences else (),
            replay=part.replay,
            seed=recipe.seed,
        )

    def contexts(
        self, inputs: Inputs, identifiers: Identifiers, tokenizer: PreTrainedTokenizerBase, max_tokens: int
    ) -> list[Example]:
        """The documents' texts, each with its document (Context2ID)."""
        corpus = inputs.corpus()
        examples = context_examples(corpus, identifiers, tokenizer, max_tokens)
        if self.replay is None:
            return examples
        old = unchanged(corpus, Inputs.of_earlier(self.replay).corpus())
        new = {unit_of(corpus[i], self.unit) for i in corpus if i not in old}
        known, added = ([e for e in examples if (e.document in new) is is_new] for is_new in (False, True))
        return replay(known, added, self.replay.fraction, self.seed)

    def queries(self, inputs: Inputs, identifiers: Identifiers, second: bool = False) -> list[Example]:
        """The queries of the first stage, or of the ``second``, each with every document that answers (Query2ID)."""
        every = inputs.queries()
        chosen = [q for q in inputs.train_queries().values() if self._is_of_second(q, every) is second]
        return query_examples(chosen, inputs.corpus(), identifiers)

    def _is_of_second(self, query: Query, every: Queries) -> bool:
        """Whether the query, or one that it was made of, is of a strategy of the second stage: in other words the first
        would have seen it."""
        while query.metadata["strategy"] not in self.second:
            if (of := query.metadata.get("of")) is None:
                return False
            if of not in every:  # a filter rejected it
                return of.startswith(tuple(f"{name}:" for name in self.second))
            query = every[of]
        return True

    def allowed_negatives(self, inputs: Inputs) -> Callable[[Example], Callable[[str], bool]]:
        """What may be a negative of a query: as of mined ones none that is held out, another chunk or a copy of a
        document that answers it, or what else may answer it."""
        corpus, sides = inputs.corpus(), read_split(inputs.folder("pairs") / "split.jsonl")
        queries, copies = inputs.train_queries(), self.copies(inputs)
        document_of = {unit_of(chunk, self.unit): chunk.doc_id for chunk in corpus.values()}
        trained = {unit_of(corpus[i], self.unit) for i, side in sides.items() if side == "train"}

        def of(example: Example) -> Callable[[str], bool]:
            metadata = queries[example.key].metadata
            known = [corpus[i] for i in (*metadata["positives"], *metadata.get(ALSO_ANSWERS, ())) if i in corpus]
            documents = {chunk.doc_id for chunk in known}.union(metadata.get(NEAR_DUPLICATES, ()))
            texts = {copies[unit_of(chunk, self.unit)] for chunk in known}
            return lambda i: i in trained and document_of[i] not in documents and copies[i] not in texts

        return of

    def copies(self, inputs: Inputs) -> dict[str, str]:
        """Equal values for documents with the same text."""
        texts: dict[str, list[str]] = {}
        for chunk in inputs.corpus().values():
            texts.setdefault(unit_of(chunk, self.unit), []).append(chunk.copy_key)
        return {document: "\n".join(keys) for document, keys in texts.items()}


class GenerativeTraining(ExamplesPart):
    """``judged``: whose queries choose the state that is kept (None: generated ones, held out); ``evaluated``: those
    that are compared on at the end, which choose nothing."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "identifiers")

    settings: GenerativeSettings
    validation: HitSettings | None
    judged: Judged | None
    evaluated: Evaluated

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        part = recipe.generative
        return cls(
            **dict(ExamplesPart.of(recipe)),
            settings=GenerativeSettings.of_fields(part),
            validation=part.validation,
            judged=Judged.of(part.validation),
            evaluated=Evaluated.of(recipe),
        )

    def check(self) -> None:
        """Raise ``InputError`` as of all settings, and for a base that is not the model of the run that is gone on
        from: it would have learnt only what is new."""
        super().check()
        if self.replay is None:
            return
        earlier = Path(self.replay.run)
        files = (earlier / "identifiers" / IDENTIFIERS, Path(self.settings.base).expanduser() / IDENTIFIERS)
        if not files[0].is_file():
            raise InputError(f"generative.replay: {earlier} is no run of a generative retriever; {files[0]} is missing")
        if not files[1].is_file() or read_identifiers(files[0]) != read_identifiers(files[1]):
            raise InputError(
                f"generative.replay: goes on from {earlier}, and generative.base, {self.settings.base}, is not that"
                f" run's model and has not learnt its documents; generative.base={earlier / 'model'}"
            )

    def task(self, inputs: Inputs) -> Task:
        """The queries to choose by, at most so many. Raises ``InputError`` if there is none."""
        corpus, judged = inputs.corpus(), self.judged
        queries, qrels = read_judged(judged.data, judged.split) if judged else (inputs.queries(), inputs.qrels("dev"))
        excluded = self.evaluated.keys() | {query_key(q.text) for q in inputs.train_queries().values()}
        if judged is None:
            qrels = {q: {unit_of(corpus[i], self.unit): g for i, g in grades.items()} for q, grades in qrels.items()}
        known = known_ids(corpus)
        qrels = {
            q: grades
            for q, grades in qrels.items()
            if query_key(queries[q].text) not in excluded and any(g > 0 and i in known for i, g in grades.items())
        }
        if not qrels:
            raise InputError(
                "generative.validation: no query to choose by: all are compared on or trained on, or their documents"
                " are not in the corpus; give other data, or raise split.dev"
            )
        by_document = bool(judged) or self.unit == "document"
        task = Task(corpus, {q: queries[q] for q in qrels}, qrels, "validation", by_document)
        return task.sample(self.validation.queries, self.seed)


def trained_on(part: GenerativeTraining, inputs: Inputs, model: GenerativeModel) -> tuple[list[Example], ...]:
    """What a model is to know: the texts of all documents, also those that an earlier run learnt and this one did not
    replay, and the queries of both stages that it was trained on."""
    part = part.model_copy(update={"replay": None})
    queries = [example for second in (False, True) for example in part.queries(inputs, model.identifiers, second)]
    return part.contexts(inputs, model.identifiers, model.tokenizer, model.max_tokens), queries


def train(part: GenerativeTraining, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    identifiers, settings = identifiers_of(inputs), part.settings
    tokenizer = load_tokenizer(settings.base)
    name_tokens(tokenizer, new_tokens(tokenizer, identifiers))
    room = prompt_room(identifiers, tokenizer, settings.max_tokens, "generative")
    contexts, queries = part.contexts(inputs, identifiers, tokenizer, room), part.queries(inputs, identifiers)
    task = part.task(inputs) if part.validation else None
    if task and (number := len(task.qrels)) < FEW_QUERIES:
        resources.warn(
            f"generative.validation: {number} queries choose the state that is kept, which is hardly better than"
            " chance; raise split.dev, give data, or leave validation out"
        )
    with (
        resources.progress("training", 0) as advance,
        tracked(settings, inputs.run, "training", resources) as settings,
    ):
        retriever_of = partial(GenerativeModel, tokenizer=tokenizer, identifiers=identifiers, max_tokens=room)
        validation = _validation(part, task, retriever_of) if task else None
        run = TrainingRun(work=folder.work, progress=shown(advance), validation=validation)
        result = train_generative(contexts, queries, identifiers, settings, folder.path, part.seed, run)
    counts = {"contexts": len(contexts) if settings.context else 0, "queries": len(queries)}
    return counts | record(folder.path, result, result.triplets, 0)


def _validation(
    part: GenerativeTraining, task: Task, retriever_of: Callable[[PreTrainedModel], GenerativeModel]
) -> Validation:
    """HIT@k among all identifiers."""
    metric, beams = part.validation.metric, max(part.settings.beams, part.validation.k)

    def score(model: PreTrainedModel) -> float:
        retriever = Generative(retriever_of(model), task.corpus, beams)
        return fmean(evaluate(task.qrels, search_task(task, retriever), [metric])[metric].values())

    return Validation(metric, score, part.validation.evaluations, part.validation.patience, later=True)


class GenerativeModelStage(ExamplesPart):
    """``settings``: of the second stage; None where there is none, and the first stage's model is the run's."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "identifiers", "training")

    settings: PreferenceSettings | None

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        part = recipe.generative
        return cls(
            **dict(ExamplesPart.of(recipe)),
            settings=PreferenceSettings.of_fields(part.preferences) if part.preferences else None,
        )


def make_model(part: GenerativeModelStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    first = inputs.folder("training")
    if part.settings is None or part.settings.negatives == "none":
        return _as_trained(first, folder.path)
    pairs, counts = _pairs(part, first, inputs, folder, resources)
    if not pairs:
        resources.warn(
            f"generative.preferences: of {counts['queries']:,} queries every one finds its document first, or there is"
            " none; nothing is left to learn, and the first stage's model is the run's"
        )
        return _as_trained(first, folder.path) | counts
    with (
        resources.progress("preferences", 0) as advance,
        tracked(part.settings, inputs.run, "model", resources) as settings,
    ):
        run = TrainingRun(work=folder.work, progress=shown(advance))
        result = train_preference(first, pairs, settings, folder.path, part.seed, run)
    return counts | record(folder.path, result, len(pairs), 0)


def _pairs(
    part: GenerativeModelStage, first: Path, inputs: Inputs, folder: Folder, resources: Resources
) -> tuple[list[PreferencePair], Counts]:
    """What the first stage's model ranks above the queries' documents. Kept while the stage is at work: a training that
    is taken up again goes on with the same pairs, and they take as long as a search for every query."""
    kept = folder.work / "pairs.json"
    if on_main(kept.is_file):
        found = json.loads(kept.read_text(encoding="utf-8"))
        return [PreferencePair(*row) for row in found["pairs"]], found["counts"]
    model = load_generative(first)
    queries = part.queries(inputs, model.identifiers, second=True)
    with resources.progress("searching", len(queries)) as advance:
        rankings = search_identifiers(model, {q.key: q.text for q in queries}, part.settings.beams, progress=advance)
    ranked = {key: ranking(scores) for key, scores in rankings.items()}
    pairs = preference_pairs(
        queries,
        ranked,
        part.settings.top_k,
        part.settings.negatives,
        list(model.identifiers),
        part.seed,
        part.allowed_negatives(inputs),
    )
    firsts = {(q.key, q.document) for q in queries if ranked[q.key][:1] == [q.document]}
    counts = {"queries": len(ranked), "first": len(firsts), "pairs": len(pairs)}
    if process_state().is_main_process:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"counts": counts, "pairs": [astuple(pair) for pair in pairs]})
    return pairs, counts


def _as_trained(first: Path, target: Path) -> Counts:
    for path in first.iterdir() if process_state().is_main_process else ():
        if path.is_file() and path.name not in (MANIFEST, TRAINING_LOG):
            link_or_copy(path, target / path.name)
    return {}


TRAINING = Stage("training", 2, GenerativeTraining, train, shared=True, resumable=True)
MODEL = Stage("model", 2, GenerativeModelStage, make_model, shared=True, resumable=True)
