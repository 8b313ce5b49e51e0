"""A language model that answers a query with a document's identifier."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sharpen.recipes.schema.training import ReplaySettings
from sharpen.sdg.identifiers.settings import IdentifierSettings
from sharpen.training.generative.settings import GenerativeSettings, HitSettings, PreferenceSettings


class PreferencesPart(PreferenceSettings):
    """The second stage: the model's own mistakes, on queries that the first has not seen."""

    strategies: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("question_answer",),
        description="Names of the strategies whose queries train the second stage, and not the first.",
    )


class GenerativePart(GenerativeSettings):
    """In place of a dense retriever: ``training`` then names the encoder that it is compared with."""

    identifiers: IdentifierSettings = IdentifierSettings()
    preferences: PreferencesPart | None = Field(None, description="Second stage; null: none.")
    validation: HitSettings | None = None
    replay: ReplaySettings | None = Field(
        None,
        description=(
            "Go on from an earlier run, whose model generative.base should name: its identifiers stay, and of its"
            " documents and queries a fraction is trained on again beside the new ones."
        ),
    )
