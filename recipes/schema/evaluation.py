"""What is compared, and on which queries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.settings import Count, Settings

AT_HAND = "at_hand"
"""In place of a collection's name: one that needs no network."""


class OtherPart(Settings):
    """Queries of another collection, which is searched as it is."""

    data: str = Field(
        description=(
            "A folder in BEIR layout with its corpus.jsonl; the name of a dataset of BEIR or NanoBEIR; python-docs:"
            " questions about Python, which come with sharpen; or at_hand: these, or, where the recipe uses them"
            " itself, scifact or cranfield if it is found without a network."
        )
    )
    split: str = Field("test", description="qrels/<split>.tsv of data.")
    documents: Count | None = Field(
        None,
        description=(
            "So many at most: those that are judged, and others drawn by seed. null: all; of at_hand 1,000 short ones"
            " or 500 abstracts, which take less than a minute on two cores."
        ),
    )


class ReservedPart(Settings):
    """Judged queries of another set."""

    data: str = Field(description="As evaluation.data.")
    split: str = Field("test", description="qrels/<split>.tsv of data.")


class EvaluationPart(Settings):
    data: str | None = Field(
        None,
        description=(
            "Queries and qrels: a folder in BEIR layout (without corpus.jsonl, the recipe's corpus is searched), the"
            " name of a dataset of BEIR or NanoBEIR, or a CSV or JSONL file with question and document (an ID). null:"
            " the generated queries of the documents that split holds out."
        ),
    )
    split: str = Field(
        "test", description="qrels/<split>.tsv of data; of generated queries test (dev, where split.test is 0) or dev."
    )
    bm25: bool = Field(True, description="Show BM25 beside the two.")
    systems: bool = Field(
        True,
        description=(
            "Measure BM25, the base and the tuned model, each fused with BM25, reranked, cut (training.matryoshka) and"
            " quantised (int8, binary), too, and say which one to deploy and what it costs: chosen on the validation's"
            " queries or else on generated ones, confirmed on these. No effect with generative."
        ),
    )
    unknown_documents: Literal["error", "drop"] = Field(
        "error", description="What to do with qrels of documents that the corpus lacks."
    )
    approximate: bool = Field(
        False,
        description=(
            "Search only the cells of a k-means that are nearest to a query (FAISS), for many millions of"
            " documents; false: all are compared."
        ),
    )
    others: tuple[OtherPart, ...] = Field(
        (OtherPart(data=AT_HAND),),
        description=(
            "Other collections on which the base and the tuned model are compared, too: what the tuning loses"
            " elsewhere. Default: [{data: at_hand}]; [] or null: none."
        ),
    )
    reserved: tuple[ReservedPart, ...] = Field(
        (),
        description=(
            "Further sets whose queries are not trained on or chosen by, as those of data: sets that the same model is"
            " compared on in other runs. sharpen compare names those of all its datasets, so that they share a"
            " training."
        ),
    )

    @field_validator("others", "reserved", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any) -> Any:
        return () if value is None else value

    @model_validator(mode="after")
    def _others_differ(self):
        if len({(other.data, other.split) for other in (self, *self.others)}) <= len(self.others):
            raise ValueError("others: each split of a collection is named once, and evaluation.data is none of them")
        return self
