"""The model: the trained weights, or what lies between them and the base's."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import transformers

from sharpen.evaluation.encoders.families import AnyEncoder, load_family
from sharpen.evaluation.encoders.routes import with_routes
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import write_json
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.processes import process_state
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.validating import ValidationPart
from sharpen.sdg.resources import Resources
from sharpen.training.merging import choose_base_weight, weights_of


class ModelStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "training")

    encoder: Encoder
    base_weight: tuple[float, ...]
    documents: Literal["trained", "kept"]
    validation: ValidationPart | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(
            encoder=recipe.training.encoder,
            base_weight=recipe.training.base_weight,
            documents=recipe.training.documents,
            validation=ValidationPart.of(recipe),
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("pairs",) if self.validation else ()))


def make_model(part: ModelStage, inputs: Inputs, folder: Folder, _resources: Resources) -> Counts:
    def load(name: str, device: str | None = None) -> AnyEncoder:
        transformers.set_seed(part.seed)  # as in training: weights that a base lacks are drawn
        options = {"max_seq_length": part.encoder.max_seq_length, "attention": part.encoder.attention}
        return load_family(name, part.encoder.family, device, **options)

    # a GPU has the model that is scored, and no second one but where documents keep the base
    device = None if part.validation else "cpu"
    model = load(str(inputs.folder("training")), device)
    kept = load(part.encoder.model, device) if part.documents == "kept" else None
    chosen, scores = part.base_weight[0], {}
    if part.validation or chosen:
        score = part.validation.task(inputs).scorer(part.encoder, kept) if part.validation else None
        base = weights_of(kept or load(part.encoder.model, "cpu"))
        chosen, scores = choose_base_weight(model, weights_of(model), base, part.base_weight, score)
    if kept:
        model = with_routes(model, kept)
    if process_state().is_main_process:
        model.save_pretrained(str(folder.path), safe_serialization=True, create_model_card=False)
        rows = [{"base_weight": weight, "value": value} for weight, value in sorted(scores.items())]
        write_json(folder.path / "choice.json", {"base_weight": chosen, PRIMARY: rows})
    by_weight = {f"base weight {weight:g}": value for weight, value in sorted(scores.items())}
    return {"base_weight": chosen} | ({f"{PRIMARY} on validation": by_weight} if scores else {})


STAGE = Stage("model", 4, ModelStage, make_model, shared=True)
