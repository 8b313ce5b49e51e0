"""Documents as people have them: folders of many formats, tables, archives, mailboxes, BEIR corpora."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "reading": ["iter_documents", "read_documents"],
        "settings": ["PYTHON_DOCS", "ReadingSettings"],
        "skipping": ["ReadingLog", "Skipped"],
    },
)
