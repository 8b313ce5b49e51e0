"""How an LLM is asked for the scores of documents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sharpen.evaluation.settings import Count, Settings


class LLMRerankerSettings(Settings):
    """How an LLM scores documents, where it is a teacher; the window is that of RankGPT (Sun et al. 2023)."""

    max_document_words: Count = Field(
        120, description="Words of a document in the prompt; queries are written from as many."
    )
    top_logprobs: Annotated[int, Field(ge=2, le=20)] = Field(
        20, description="Of llm: likeliest first tokens that yes and no are looked for in. Some endpoints allow 5."
    )
    window: Annotated[int, Field(ge=2, le=50)] = Field(20, description="Of llm:listwise: documents in a prompt.")
    step: Count = Field(
        10, description="Of llm:listwise: how far the window moves up between two prompts, from the last to the first."
    )

    @model_validator(mode="after")
    def _windows_overlap(self):
        if self.step >= self.window:
            raise ValueError("step: it must be smaller than window, or no document could rise from one to the next")
        return self
