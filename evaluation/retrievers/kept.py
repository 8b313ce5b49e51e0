"""Vectors of documents, kept in a folder: a search that starts anew does not encode the corpus again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.files import atomic_file
from sharpen.evaluation.retrievers.dense import Dense

KEPT = 4
"""Files of vectors that stay in a folder, those that were used last: of a base and a tuned model, and of two others."""


def kept_dense(folder: Path, key: str, corpus: Corpus, make: Callable[[Corpus], Dense]) -> Dense:
    """``make(corpus)``, with its vectors in a file of ``folder``, which is mapped. ``key``: stands for the documents
    and all that makes vectors of them. Where the file is there, and whole, only ``make({})`` is called. The first of
    several processes encodes, and the others wait for it.

    >>> import tempfile
    >>> from sharpen.evaluation.beir import Document
    >>> from sharpen.evaluation.encoders.load import load_encoder
    >>> model, asked = load_encoder("packaged:tiny-bert"), []
    >>> def make(corpus):
    ...     asked.append(len(corpus))
    ...     return Dense(corpus, model)
    >>> corpus = {"a": Document("a", "Bake the bread."), "b": Document("b", "Ice flows downhill.")}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = [list(kept_dense(Path(folder), "k", corpus, make).search({"q": "ice"}, 1)["q"]) for _ in range(2)]
    >>> found, asked
    ([['b'], ['b']], [2, 0, 0])
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"dense-{key}.npy"
    with FileLock(folder / ".lock"):
        vectors = _mapped(path, len(corpus))
        if vectors is None:
            with atomic_file(path) as partial, partial.open("wb") as file:
                np.save(file, make(corpus).vectors)
            vectors = _mapped(path, len(corpus))
        path.touch()
        used = sorted(folder.glob("dense-*.npy"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for other in used[KEPT:]:
            other.unlink(missing_ok=True)
    return make({}).with_documents(list(corpus), vectors)


def _mapped(path: Path, rows: int) -> np.ndarray | None:
    """None: it is not there, or not whole."""
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == rows and vectors.dtype == np.float32 else None
