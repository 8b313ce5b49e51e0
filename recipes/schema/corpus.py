"""The documents."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from pydantic import Field

from sharpen.evaluation.contents import content
from sharpen.evaluation.settings import Count, LanguageCode
from sharpen.sdg.chunking import ChunkSettings
from sharpen.sdg.documents.settings import PYTHON_DOCS, ReadingSettings


class CorpusPart(ReadingSettings):
    source: str = Field(
        description=(
            "A folder of documents of any format (sdg/README.md lists them), one such file, a .jsonl file, a folder in"
            " BEIR layout, the name of a BEIR dataset, or python-docs."
        )
    )
    language: LanguageCode | None = Field(
        None,
        description=(
            "Two-letter code of the language of all documents, by which words and sentences are found and stemmed, and"
            " which queries are in; null: found for each document."
        ),
    )
    documents: Count | None = Field(
        None,
        description=(
            "At most so many documents, to try a recipe on a part: those that evaluation.data judges first, all else"
            " drawn by ID. null: all."
        ),
    )
    chunk: ChunkSettings | None = Field(ChunkSettings(), description="null: documents are not cut.")

    def digest(self, runs: str) -> Any:
        """What stands for the documents in a fingerprint; what lies below ``runs`` is none of them."""
        return content("source", self.source, lambda: self._digest(runs))

    def _digest(self, runs: str) -> Any:
        if self.source == PYTHON_DOCS:
            return f"python {platform.python_version()}"
        from sharpen.sdg.documents.reading import source_digest

        return source_digest(self.source, self.reading(), Path(runs))

    def reading(self) -> ReadingSettings:
        return ReadingSettings.of_fields(self)

    def check(self) -> None:
        """Raise ``InputError`` if the source is neither there nor the name of a dataset."""
        from sharpen.evaluation.datasets import find_dataset

        if self.source != PYTHON_DOCS and not Path(self.source).expanduser().exists():
            find_dataset(self.source)

    def fingerprint(self) -> Any:
        """Of how the documents are cut; the documents themselves are in by ``digest``."""
        return {
            "chunk": self.chunk and self.chunk.fingerprint(),
            "language": self.language,
            "reading": self.reading().fingerprint(),
            **({"documents": self.documents} if self.documents else {}),
        }
