"""Documents as people have them: folders of many formats, tables, archives, mailboxes, BEIR corpora."""

from sharpen.sdg.documents.reading import PYTHON_DOCS, iter_documents, read_documents
from sharpen.sdg.documents.settings import ReadingSettings
from sharpen.sdg.documents.skipping import ReadingLog, Skipped

__all__ = ["PYTHON_DOCS", "ReadingLog", "ReadingSettings", "Skipped", "iter_documents", "read_documents"]
