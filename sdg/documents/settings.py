"""What of a folder is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sharpen.evaluation.settings import Settings

PYTHON_DOCS = "python-docs"
"""The source that is the documentation of the running Python."""


class ReadingSettings(Settings):
    """Which files are documents, and what becomes of those that are none."""

    file_pattern: str | None = Field(
        None,
        description=(
            "Of a folder's files only those that match, as *.md (the name) or manual/**/*.md (the path). Default: all."
        ),
    )
    file_extensions: tuple[str, ...] | None = Field(
        None,
        description=(
            "Of a folder's files only those with one of these endings, as [.md, .txt]; what has no reader of its own is"
            " read as text. Default: all that can be read."
        ),
    )
    min_text_length: Annotated[int, Field(ge=0)] = Field(
        0, description="Characters; shorter documents are skipped and counted."
    )
    strict: bool = Field(False, description="true: a file that cannot be read is an error.")
    boilerplate: Literal["keep", "drop"] = Field(
        "keep",
        description=(
            "Of lines that repeat in half of the documents or more (where there are 10 or more): keep and name them, or"
            " drop them."
        ),
    )

    def has_extension(self, suffix: str) -> bool:
        """Whether ``file_extensions`` names a suffix, with or without its dot; "" stands for names without one."""
        return suffix.lower().lstrip(".") in {e.lower().lstrip(".") for e in self.file_extensions or ()}
