"""The documents."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from pydantic import Field

from sharpen.evaluation.contents import content
from sharpen.evaluation.files import sha256_tree
from sharpen.evaluation.settings import LanguageCode, Settings
from sharpen.sdg.chunking import ChunkSettings
from sharpen.sdg.documents import PYTHON_DOCS


class CorpusPart(Settings):
    source: str = Field(
        description=(
            "A folder of .txt/.md/.rst/.html files, a .jsonl file, a folder in BEIR layout, the name of a BEIR"
            " dataset, or python-docs."
        )
    )
    language: LanguageCode | None = Field(
        None,
        description=(
            "Two-letter code of the language of all documents, by which words and sentences are found and stemmed, and"
            " which queries are in; null: found for each document."
        ),
    )
    chunk: ChunkSettings | None = Field(ChunkSettings(), description="null: documents are not cut.")

    def digest(self, runs: str) -> str:
        """What stands for the documents in a fingerprint; what lies below ``runs`` is none of them."""
        return content("source", self.source, lambda: self._digest(runs))

    def _digest(self, runs: str) -> str:
        from sharpen.evaluation.datasets import find_dataset
        from sharpen.sdg.documents import text_files

        if self.source == PYTHON_DOCS:
            return f"python {platform.python_version()}"
        path = Path(self.source).expanduser()
        if not path.exists() or (path / "corpus.jsonl").exists():
            path = find_dataset(self.source) / "corpus.jsonl"
        return sha256_tree(path, text_files(path, Path(runs)) if path.is_dir() else None)

    def check(self) -> None:
        """Raise ``InputError`` if the source is neither there nor the name of a dataset."""
        from sharpen.evaluation.datasets import find_dataset

        if self.source != PYTHON_DOCS and not Path(self.source).expanduser().exists():
            find_dataset(self.source)

    def fingerprint(self) -> Any:
        """Of how the documents are cut; the documents themselves are in by ``digest``."""
        return {"chunk": self.chunk and self.chunk.fingerprint(), "language": self.language}
