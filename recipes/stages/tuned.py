"""The run's model, as the stages after it search with it."""

from __future__ import annotations

from typing import Self

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.encoders.settings import Encoder, EncoderOptions
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.encoders import Index
from sharpen.evaluation.settings import Settings
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe


class TunedPart(Settings):
    """``options``: prompts, length and precision, as the base has them. ``kept``: the base, where documents keep its
    vectors: these are then made once for both."""

    options: EncoderOptions
    kept: Encoder | None

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        training = recipe.training
        kept = training.encoder if training.documents == "kept" else None
        return cls(options=EncoderOptions.of_fields(training), kept=kept)

    def encoder(self, inputs: Inputs) -> Encoder:
        """The model's folder, with its options."""
        return Encoder(model=str(inputs.folder("model")), **self.options.model_dump())

    def index(
        self, inputs: Inputs, models: Models, corpus: Corpus, approximate: bool = False, keep: bool = True
    ) -> Index:
        """The corpus by this model; ``keep`` as in ``Models.index``."""
        encoder = self.encoder(inputs)
        if self.kept is None:
            return models.index(corpus, encoder, approximate, keep)
        return models.index(corpus, self.kept, approximate, keep).with_query_encoder(models.load(encoder))
