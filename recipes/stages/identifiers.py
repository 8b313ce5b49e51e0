"""Identifiers: what a generative retriever is to write for each document."""

from __future__ import annotations

from typing import ClassVar, Self

from sharpen.evaluation.beir import Document
from sharpen.evaluation.generative.identifiers import IDENTIFIERS, Identifier, read_identifiers, write_identifiers
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.identifiers.making import make_identifiers
from sharpen.sdg.identifiers.settings import IdentifierSettings
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.resources import Resources


class IdentifiersStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus",)

    settings: IdentifierSettings
    llm: LLMSettings | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        settings, replay = recipe.generative.identifiers, recipe.generative.replay
        if replay and settings.known is None:
            settings = settings.model_copy(update={"known": replay.run})
        return cls(settings=settings, llm=recipe.llm if settings.asks_llm else None, seed=recipe.queries_seed)


def write(part: IdentifiersStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    made = make_identifiers(inputs.corpus(), part.settings, resources, part.seed)
    write_identifiers(folder.path / IDENTIFIERS, made.identifiers.values())
    return made.counts()


def identifiers_of(inputs: Inputs) -> dict[str, Identifier]:
    """By document (or chunk), as the stage wrote them."""
    return read_identifiers(inputs.folder("identifiers") / IDENTIFIERS)


def unit_of(chunk: Document, unit: str) -> str:
    """What a chunk's identifier is found by: its document, or itself."""
    return chunk.doc_id if unit == "document" else chunk.id


STAGE = Stage("identifiers", 2, IdentifiersStage, write)
