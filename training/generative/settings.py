"""What a person may choose about training a generative retriever. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sharpen.evaluation.encoders.settings import EncoderOptions, PrecisionSetting
from sharpen.evaluation.settings import UNHASHED, CausalLMName, Count
from sharpen.training.optimization import Dropout, LoraSettings, Optimization
from sharpen.training.settings import HeldOutSettings

Weight = Annotated[float, Field(ge=0)]
Combination = Literal["interleaved", "concatenated"]


class GenerativeOptimization(Optimization):
    """What both stages have."""

    lora: LoraSettings | None = Field(None, description="Low-rank adapters in place of all weights.")
    precision: PrecisionSetting = Field("auto", description=EncoderOptions.model_fields["precision"].description)


class GenerativeSettings(GenerativeOptimization):
    """How to teach a language model to write the identifier of a text's or a query's document. The defaults are those
    of Wen et al. 2025, appendix A.

    >>> settings = GenerativeSettings(base="packaged:smollm2-135m-instruct")
    >>> settings.epochs, settings.batch_size, settings.max_tokens, settings.combine
    (2, 256, 700, 'interleaved')
    """

    base: CausalLMName = Field(
        description="The language model to start from: a folder, a .gguf file, a hub name, or packaged:<name>."
    )
    max_tokens: Count = Field(700, description="Of a prompt and its identifier together.")
    layers: Count | None = Field(
        None,
        description="Of the base's layers the first so many, for CPUs: fewer train faster and know less. null: all.",
    )
    epochs: Count = Field(2, description="Times that every example is trained on.")
    batch_size: Count = Field(256, description="Examples of a batch, over all processes together.")
    context: bool = Field(
        True, description="Texts of documents are trained on, too, and not only queries (Context2ID)."
    )
    combine: Combination = Field(
        "interleaved",
        description=(
            "interleaved: texts and queries take turns, and the fewer of them come again and again; concatenated: each"
            " comes once an epoch."
        ),
    )
    input_weight: Weight = Field(1.0, description="Of the tokens of texts and queries in the loss; 0: none.")
    output_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="Of the tokens of identifiers in the loss.")
    beams: Count = Field(10, description="Of a search: the most documents that a query gets.")
    pack: bool = Field(
        True,
        description=(
            "Examples share rows, without seeing each other; false: each has a padded row of its own, for"
            " models that cannot tell them apart. The loss is the same."
        ),
    )
    mini_batch_tokens: Annotated[Count | None, UNHASHED] = Field(
        None,
        description=(
            "Tokens that go through the model at a time: memory grows with it, the batch does not. null: 1,024 on CPUs,"
            " 4,096 on GPUs."
        ),
    )


class PreferenceSettings(GenerativeOptimization):
    """How to rank what the first stage's model mixes up (Regularized Preference Optimization, Pang et al. 2024). The
    defaults are those of Wen et al. 2025, appendix A.

    >>> PreferenceSettings().beta, PreferenceSettings().learning_rate
    (0.5, 1e-07)
    """

    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-7, description="The highest, after the warm-up.")
    dropout: Dropout | None = Field(0.0, description="null: the model's own.")
    batch_size: Count = Field(64, description="Pairs of a batch, over all processes together.")
    mini_batch_size: Count = Field(
        8, description="Pairs that go through the model at a time, at most, in each process."
    )
    beta: Annotated[float, Field(gt=0)] = Field(0.5, description="How near the model stays to the first stage's.")
    alpha: Weight = Field(1.0, description="Weight of the likelihood of the right identifier.")
    top_k: Count = Field(10, description="So many of the model's first results can be negatives.")
    beams: Count = Field(10, description="That the model is searched with for them.")
    negatives: Literal["top", "random", "none"] = Field(
        "top",
        description=(
            "top: what the model ranks above the right one; random: as many drawn from the corpus; none: no second"
            " stage, while its queries stay out of the first (a control)."
        ),
    )

    @model_validator(mode="after")
    def _sizes_fit(self):
        if self.top_k > self.beams:
            raise ValueError(f"top_k: {self.top_k} of {self.beams} beams; raise beams")
        return self


class HitSettings(HeldOutSettings):
    """By which the best checkpoint of a generative retriever is chosen, among all identifiers.

    >>> HitSettings().metric
    'hit_rate@10'
    """

    k: Count = Field(10, description="A query counts where one of its documents is among the first so many (HIT@k).")

    @property
    def metric(self) -> str:
        """The score's name, as the log has it."""
        return f"hit_rate@{self.k}"
