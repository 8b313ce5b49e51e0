"""How the retriever is trained, beyond what the training library takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.scorers import Teacher, check_mixture, is_encoder, is_fitted, members_of
from sharpen.evaluation.settings import Count, Fraction, Marker, Settings
from sharpen.training.settings import TAUGHT, RetrieverSettings, ValidationSettings


def _run_files(run: str) -> list[Path]:
    pairs = Path(run) / "pairs"
    files = [Path(run) / "corpus" / "corpus.jsonl", pairs / "split.jsonl", pairs / "queries.jsonl"]
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the folder of a run that has got as far as its pairs")
    return files


RUN = Marker(lambda run: [sha256_file(path) for path in _run_files(run)], _run_files)
"""The folder of a run, as far as its documents and their splits are asked for."""


class ReplaySettings(Settings):
    """Going on from an earlier run, whose model ``training.base`` should name, after the corpus has changed."""

    run: Annotated[str, RUN] = Field(
        description=(
            "Its folder. Its documents (by query, its queries) stay in their splits; old and new documents are compared"
            " on separately."
        )
    )
    fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5,
        description=(
            "Of the queries trained on, those of documents that were there before, drawn by seed; all others are of"
            " documents that are new or have changed."
        ),
    )


class TrainingPart(RetrieverSettings):
    triplets: Count | None = Field(
        None,
        description="Rows to train on at most, drawn by seed and query: to compare at equal number. null: all.",
    )
    teacher: Teacher | None = Field(
        None,
        description=(
            "Whose scores margin_mse and kl learn: bm25, base, encoder:<name> for a bi-encoder's cosine, a"
            " cross-encoder's folder or hub name, reranker for the one that is trained in the same run, fused for"
            " BM25 and the base; llm for the recipe's LLM, which is asked of each document whether it answers the"
            " query (its endpoint must give logprobs), or llm:listwise, which puts 20 at a time in order; a mixture,"
            " {base: 1, bm25: 0.3}; or a list of scorers, whose weights are fitted on the validation's queries or"
            " else on generated ones. sharpen teachers shows what each is worth. embedding learns from"
            " encoders only: encoder:<name>, and base as an anchor, {encoder:<name>: 1, base: 0.5}."
        ),
    )
    mask_copies: bool = Field(
        True,
        description=(
            "Of lists (candidates): where a query stands word for word in its document, as harvested ones do, this"
            " document is left out of its list: the teacher would score a copy."
        ),
    )
    base_weight: tuple[Fraction, ...] = Field(
        (0.0,),
        description=(
            "Weight of the base in the result, as in WiSE-FT; of several the best on validation is taken, 1 is"
            " the base itself."
        ),
    )
    validation: ValidationSettings | None = None
    replay: ReplaySettings | None = Field(None, description="Train on what has changed since an earlier run.")

    @field_validator("base_weight", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else [value]

    @field_validator("teacher")
    @classmethod
    def _teacher_says_something(cls, value: Teacher | None) -> Teacher | None:
        return check_mixture(value)

    @model_validator(mode="after")
    def _teacher_and_weight_fit(self):
        if self.loss in TAUGHT and self.teacher is None:
            raise ValueError(
                f"loss: {self.loss} learns a teacher's {'vectors' if self.loss == 'embedding' else 'scores'}; give"
                " teacher"
            )
        if self.teacher and self.loss not in TAUGHT:
            raise ValueError(f"teacher: only {', '.join(TAUGHT)} have one, and loss is {self.loss}")
        if self.loss == "embedding":
            if is_fitted(self.teacher):
                raise ValueError(
                    "teacher: give weights, {encoder:<name>: 1, base: 0.5}; those of vectors are not fitted"
                )
            if others := [scorer for scorer in members_of(self.teacher) if not is_encoder(scorer)]:
                raise ValueError(f"teacher: embedding learns encoders' vectors, and {others[0]} has none")
        if self.triplets and not self.takes_negatives:
            rows = "lists, as candidates is given" if self.candidates else f"pairs for loss: {self.loss}"
            raise ValueError(f"triplets: rows are {rows}; queries.strategies say how many")
        if len(self.base_weight) > 1 and self.validation is None:
            raise ValueError("base_weight: give one, or validation to choose by")
        if not self.base_weight:
            raise ValueError("base_weight: give at least one; 0 keeps nothing of the base")
        return self
