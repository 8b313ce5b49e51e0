"""How texts become vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sharpen.evaluation.contents import content
from sharpen.evaluation.settings import Count, EncoderName, Marker, Settings

Family = Literal["dense", "sparse", "multi_vector"]
"""A vector a text, a number a word of the vocabulary, a vector a token."""
Precision = Literal["float32", "bf16", "auto"]
"""``auto``: bf16 where the hardware multiplies in it, float32 elsewhere."""


def _precision_digest(precision: Precision) -> str:
    from sharpen.evaluation.encoders.precision import precision_digest  # loads torch

    return precision_digest(precision)


PrecisionSetting = Annotated[Precision, Marker(_precision_digest, of_machine=True)]
"""In a fingerprint, what the machine computes in and by what stands for it."""


class EncoderOptions(Settings):
    """What holds for the base, for the model that is tuned from it, and for queries and documents alike."""

    max_seq_length: Count | None = Field(None, description="Tokens a text is cut to; null: the model's own limit.")
    query_prompt: str | None = Field(
        None, description='Put before every query, as "query: " for e5; null: the model\'s own.'
    )
    document_prompt: str | None = Field(None, description="Put before every document; null: the model's own.")
    attention: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2"] | None
    ) = Field(None, description="null: the model's own. flash_attention_2 leaves padding out, on GPUs that have it.")
    precision: PrecisionSetting = Field(
        "auto", description="What models compute in: float32, bf16, or auto (bf16 where the hardware multiplies in it)."
    )


class Encoder(EncoderOptions):
    """A bi-encoder by name, with its options.

    ``family``: what a model is taken for whose files do not say what it is, as a bare one of transformers; of others it
    has no effect.

    >>> Encoder(model="intfloat/e5-small-v2", query_prompt="query: ", document_prompt="passage: ").max_seq_length
    """

    LATER: ClassVar[tuple[str, ...]] = ("family",)

    model: EncoderName = Field(description="A folder, a hub name, or packaged:<name>; safetensors only.")
    family: Family = "dense"

    def as_it_is(self) -> Encoder:
        """The same, with the family that the model has."""
        from sharpen.evaluation.encoders.families import own_family  # loads torch

        return self.model_copy(update={"family": own_family(self.model, self.family)})

    def fingerprint(self) -> Any:
        """As of all settings, with the family where it has an effect."""
        values = super().fingerprint()
        if self.family != "dense":
            own = content("family", f"{self.model} as {self.family}", lambda: self.as_it_is().family)
            values |= {"family": own}
            if own == "dense":
                del values["family"]
        return values

    def checker(self, name: str, marker: Marker) -> Callable[[Any], None]:
        if name == "model" and self.family != "dense":
            from sharpen.evaluation.encoders.checks import check_any  # loads torch

            return partial(check_any, family=self.family)
        return super().checker(name, marker)
