"""Keeping libraries quiet."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Our own progress bars say what goes on; those of the libraries would write over them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("httpx", "openai", "sentence_transformers", "bm25s"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # that it lacks kernels which nothing here asks for
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.disable_progress_bar()
