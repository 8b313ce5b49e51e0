"""The other collections on which the base and the tuned model are compared: named ones, or one that is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from sharpen.evaluation.datasets import Task, Unknown, judged_files, load_task, local_dataset
from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import Settings
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.recipes.schema.evaluation import AT_HAND, OtherPart
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.documents import PYTHON_DOCS, read_documents

PYTHON_QUESTIONS = Path(__file__).parents[1] / "demo" / "python_docs"
DOCUMENTS = {PYTHON_DOCS: 1000, "scifact": 500, "cranfield": 500}
"""What may be at hand, in the order in which it is looked for, and the documents that base and tuned model encode in
less than a minute on two cores: those of Python are short."""


class Elsewhere(Settings):
    """One of them, as it is searched. ``of_python``: in the documentation of the running Python, else in its own
    corpus. ``documents``: at most so many, drawn by ``seed`` (None: all)."""

    judged: Judged
    of_python: bool
    documents: int | None
    unknown_documents: Unknown
    seed: int

    @classmethod
    def all_of(cls, recipe: Recipe) -> dict[str, Self]:
        """Those of a recipe, under names for people: the last folder's, or the whole path where two end alike. None of
        a generative retriever, which knows its own documents alone."""
        if recipe.generative:
            return {}
        parts = [found for part in recipe.evaluation.others if (found := _found(part, recipe))]
        last = [Path(part.data).name for part in parts]
        return {
            _name(name if last.count(name) == 1 else part.data, part): cls._of(part, recipe)
            for name, part in zip(last, parts, strict=True)
        }

    @classmethod
    def _of(cls, part: OtherPart, recipe: Recipe) -> Self:
        of_python, is_named = part.data == PYTHON_DOCS, part in recipe.evaluation.others
        return cls(
            judged=Judged(data=str(PYTHON_QUESTIONS) if of_python else part.data, split=part.split),
            of_python=of_python,
            documents=part.documents,
            # a few names come and go between Python versions
            unknown_documents="drop" if of_python or not is_named else recipe.evaluation.unknown_documents,
            seed=recipe.seed,
        )

    def fingerprint(self) -> Any:
        values = self.judged.fingerprint()
        if self.of_python:
            values["documents"] = CorpusPart(source=PYTHON_DOCS).digest("")
        return values | ({"at most": self.documents, "seed": self.seed} if self.documents else {})

    def check(self) -> None:
        """Raises ``InputError`` as ``read_judged`` does, and for a collection without documents."""
        self.judged.check()
        if not self.of_python and "corpus" not in judged_files(self.judged.data, self.judged.split):
            raise InputError(
                f"evaluation.others: {self.judged.data} has no corpus.jsonl, and another collection is searched in its"
                " own documents"
            )

    def task(self) -> Task:
        """Raises ``InputError`` as the readers do."""
        corpus = read_documents(PYTHON_DOCS) if self.of_python else None
        task = load_task(self.judged.data, self.judged.split, corpus, self.unknown_documents)
        return task.with_documents(self.documents, self.seed) if self.documents else task


def _name(collection: str, part: OtherPart) -> str:
    return f"{collection}, split {part.split}" + (f", {part.documents:,} documents" if part.documents else "")


def _found(part: OtherPart, recipe: Recipe) -> OtherPart | None:
    """The part with what is at hand in its place, where it says so; None where nothing is. What the recipe uses itself
    is nothing else."""
    if part.data != AT_HAND:
        return part
    named = [recipe.corpus.source, recipe.evaluation.data, *(other.data for other in recipe.evaluation.others)]
    named += [used.data for used in (recipe.labelled, recipe.training.validation) if used]
    used = {_place(name) for name in named if name}
    for name, documents in DOCUMENTS.items():
        place = _place(name)
        if place not in used and (place / "qrels" / f"{part.split}.tsv").exists():
            data = name if name == PYTHON_DOCS else str(place)
            return part.model_copy(update={"data": data, "documents": part.documents or documents})
    return None


def _place(name: str) -> Path:
    """The folder that a name stands for, as far as it is here."""
    if name == PYTHON_DOCS:
        return PYTHON_QUESTIONS.resolve()
    path = Path(name).expanduser()
    place = path if path.exists() else local_dataset(name) or path
    return (place.parent if place.is_file() else place).resolve()
