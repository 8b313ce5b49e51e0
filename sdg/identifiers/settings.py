"""What identifiers of documents are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.generative.identifiers import IDENTIFIERS
from sharpen.evaluation.settings import FILE, Count, Marker, Settings


def identifiers_file(place: str | Path) -> Path:
    """The file of identifiers that a path names: itself, or the one in the folder of a run or of its stage.

    Raises ``InputError`` where there is none, or where a folder has several.
    """
    path = Path(place)
    if not path.is_dir():
        files = [path] if path.is_file() else []
    else:
        named = [place for place in (path, path / "identifiers") if (place / IDENTIFIERS).is_file()]
        files = [named[0] / IDENTIFIERS] if named else sorted(path.glob(f"*/{IDENTIFIERS}"))
    if len(files) != 1:
        what = f"several files {IDENTIFIERS}, name one" if files else f"no {IDENTIFIERS}"
        raise InputError(f"{path}: {what if path.is_dir() else 'no such file or folder'}")
    return files[0]


KNOWN = Marker(lambda place: sha256_file(identifiers_file(place)), identifiers_file)
"""A file of identifiers, or the folder of a run that has one; its content stands in a fingerprint."""


class IdentifierSettings(Settings):
    """What a generative retriever writes for each document.

    >>> IdentifierSettings(kind="given")
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for IdentifierSettings
      Value error, kind: given needs file, a JSONL file with id and text of each document ...
    """

    kind: Literal["keywords", "title", "text", "atomic", "given"] = Field(
        "keywords",
        description=(
            "keywords: a list of them that the LLM writes (Wen et al. 2025, 2.1). title: the document's; where it has"
            " none, as text. text: its most characteristic words by TF-IDF. atomic: one new token a document. given:"
            " those in file."
        ),
    )
    unit: Literal["document", "chunk"] = Field(
        "document", description="What has an identifier: a document, with all of its chunks, or each chunk."
    )
    keywords: Annotated[int, Field(ge=1, le=20)] = Field(8, description="Keywords, or words of text, at most.")
    max_words: Count = Field(
        24, description="Words of an identifier at most; what tells it from others comes on top. Fewer decode faster."
    )
    max_document_words: Count = Field(300, description="Words of a document that the LLM is shown.")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(
        0.0, description="Of the LLM. An answer without a keyword is asked for once more, at 0.7 or more."
    )
    file: Annotated[str, FILE] | None = Field(None, description="Of kind given: JSONL, {id, text} of each document.")
    known: Annotated[str, KNOWN] | None = Field(
        None,
        description=(
            "Earlier identifiers, which documents keep: identifiers.jsonl, or the folder of a run. Only documents"
            " without one get one."
        ),
    )
    max_atomic: Count = Field(100_000, description="Of kind atomic: documents at most, as each is a row of the model.")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "given" and self.file is None:
            raise ValueError("kind: given needs file, a JSONL file with id and text of each document")
        if self.kind == "given" and self.known is not None:
            raise ValueError("known has no use beside kind: given; put all identifiers into file")
        if self.kind != "given" and self.file is not None:
            raise ValueError(f"file has no use beside kind: {self.kind}; say kind: given")
        return self

    @property
    def asks_llm(self) -> bool:
        """Whether an LLM writes them."""
        return self.kind == "keywords"

    def fingerprint(self) -> Any:
        """What the identifiers of this kind depend on."""
        unused = {
            "keywords": {"file", "max_atomic"},
            "title": {"file", "max_atomic", "max_document_words", "temperature"},
            "text": {"file", "max_atomic", "max_document_words", "temperature"},
            "atomic": {"file", "keywords", "max_words", "max_document_words", "temperature"},
            "given": {"keywords", "max_words", "max_document_words", "temperature", "max_atomic", "known"},
        }[self.kind]
        return {key: value for key, value in super().fingerprint().items() if key not in unused}
