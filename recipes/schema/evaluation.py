"""What is compared, and on which queries."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sharpen.evaluation.settings import Settings


class OtherPart(Settings):
    """Queries of another collection, which is searched as it is."""

    data: str = Field(description="A folder in BEIR layout with its corpus.jsonl, or the name of a BEIR dataset.")
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
            "Measure BM25, the base and the tuned model, each fused with BM25 and reranked, too, and say which is best"
            " to serve: chosen on the validation's queries or else on generated ones, confirmed on these."
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
        (),
        description=(
            "Other collections on which the base and the tuned model are compared, too: what the tuning does elsewhere."
        ),
    )

    @model_validator(mode="after")
    def _others_differ(self):
        if len({(other.data, other.split) for other in (self, *self.others)}) <= len(self.others):
            raise ValueError("others: each split of a collection is named once, and evaluation.data is none of them")
        return self

    def others_by_name(self) -> dict[str, OtherPart]:
        """Under names for people: the last folder's, or the whole path where two end alike."""
        last = [Path(other.data).name for other in self.others]
        return {
            f"{name if last.count(name) == 1 else other.data}, split {other.split}": other
            for name, other in zip(last, self.others, strict=True)
        }
