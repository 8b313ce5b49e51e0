"""Suffix to reader."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sharpen.sdg.documents.archives import read_gzip, read_mail, read_mbox, read_zip
from sharpen.sdg.documents.files import Entry, InputFile
from sharpen.sdg.documents.markup import read_asciidoc, read_markdown, read_plain, read_rst
from sharpen.sdg.documents.office import (
    read_docx,
    read_epub,
    read_notebook,
    read_pdf,
    read_pptx,
    read_spreadsheet,
)
from sharpen.sdg.documents.records import read_csv, read_dataset, read_json, read_jsonl, read_parquet
from sharpen.sdg.documents.skipping import EXTRA, Skipped
from sharpen.sdg.documents.source_code import read_code, read_python
from sharpen.sdg.documents.web_pages import read_html

Reader = Callable[[InputFile], Iterator[Entry | Skipped | InputFile]]
"""Yields documents, what is none, and files within the file, which are read by their own suffix. Raises
``Unreadable``."""


@dataclass(frozen=True)
class Format:
    """``packages``: module to the distribution whose version the text depends on; ``in_extra``: they come with
    ``sharpen[documents]``."""

    name: str
    read: Reader
    packages: tuple[tuple[str, str], ...] = ()
    in_extra: bool = False
    holds_files: bool = False

    def is_installed(self) -> bool:
        return all(importlib.util.find_spec(module) for module, _ in self.packages)

    def versions(self) -> dict[str, str]:
        """Distribution to version, "" where it is not installed."""
        found = {}
        for module, distribution in self.packages:
            is_there = importlib.util.find_spec(module) is not None
            found[distribution] = importlib.metadata.version(distribution) if is_there else ""
        return found


_LXML = ("lxml", "lxml")
TEXT = Format("text", read_plain)
DATASET = Format("datasets", read_dataset)
_CODE = Format("code", read_code)
_HTML = Format("html", read_html, (_LXML,))
_SPREADSHEET = Format("spreadsheet", read_spreadsheet, (("python_calamine", "python-calamine"), _LXML), True)
FORMATS: dict[str, Format] = {
    **dict.fromkeys((".txt", ".text", ".log"), TEXT),
    **dict.fromkeys((".md", ".markdown", ".mdx", ".rmd", ".qmd"), Format("markdown", read_markdown)),
    **dict.fromkeys((".rst", ".rest"), Format("rst", read_rst)),
    **dict.fromkeys((".adoc", ".asciidoc"), Format("asciidoc", read_asciidoc)),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _HTML),
    ".pdf": Format("pdf", read_pdf, (("pypdfium2", "pypdfium2"),), True),
    ".docx": Format("docx", read_docx, (("mammoth", "mammoth"), _LXML), True),
    ".pptx": Format("pptx", read_pptx, (("pptx", "python-pptx"), _LXML), True),
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".xlsb", ".ods"), _SPREADSHEET),
    ".epub": Format("epub", read_epub, (_LXML,)),
    ".ipynb": Format("notebook", read_notebook),
    **dict.fromkeys((".py", ".pyi"), Format("code", read_python)),
    **dict.fromkeys(
        (
            *(".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".cs", ".java", ".kt", ".scala", ".swift", ".go"),
            *(".rs", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".php", ".rb", ".pl", ".lua", ".r", ".jl", ".sh", ".sql"),
            *(".m", ".mm", ".dart", ".ex", ".exs", ".hs", ".ml", ".clj", ".zig", ".sol", ".tex"),
        ),
        _CODE,
    ),
    **dict.fromkeys((".csv", ".tsv"), Format("table", read_csv)),
    **dict.fromkeys((".jsonl", ".ndjson"), Format("jsonl", read_jsonl)),
    ".json": Format("json", read_json),
    ".parquet": Format("parquet", read_parquet),
    ".zip": Format("zip", read_zip, holds_files=True),
    ".gz": Format("gzip", read_gzip, holds_files=True),
    ".eml": Format("mail", read_mail, (_LXML,), holds_files=True),
    ".mbox": Format("mail", read_mbox, (_LXML,), holds_files=True),
}


def no_reader(suffix: str) -> str:
    return f"{suffix or 'no suffix'} (no reader)"


def not_installed(suffix: str) -> str:
    return f"{suffix} ({EXTRA})"
