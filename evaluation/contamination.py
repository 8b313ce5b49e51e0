"""Is what is evaluated on among what was trained on? Exact copies, and nearly equal texts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel
from sklearn.feature_extraction.text import CountVectorizer

from sharpen.evaluation.beir import text_key

NEAR = 0.8
BLOCK = 256
EXAMPLES = 5


class Overlap(BaseModel):
    """Of ``of`` texts on the test side, so many are in training."""

    of: int
    exact: int
    """The same after case, width and white space are folded."""
    near: int
    """Others with a Jaccard similarity of 0.8 or more of their runs of four characters."""
    examples: list[tuple[str, str]]
    """Test ID and train ID of some."""


def overlap(test: Mapping[str, str], train: Mapping[str, str], threshold: float = NEAR) -> Overlap:
    """Which texts of ``test`` (ID to text) have their like in ``train``.

    Every pair is looked at, by products of sparse matrices, 256 test texts at a time.
    """
    keys = {text_key(text): i for i, text in train.items()}
    exact = {i: keys[key] for i, text in test.items() if (key := text_key(text)) in keys}
    rest = {i: text for i, text in test.items() if i not in exact and text.strip()}
    near: dict[str, str] = {}
    names = [i for i, text in train.items() if text.strip()]
    if rest and names:
        runs = CountVectorizer(analyzer="char_wb", ngram_range=(4, 4), binary=True, dtype=np.float32)
        theirs = runs.fit_transform([train[i] for i in names])
        own = runs.transform(list(rest.values()))
        # those that no train text has count, too: the vocabulary is train's
        build = runs.build_analyzer()
        sizes = np.array([len(set(build(text))) for text in rest.values()], dtype=np.float32)
        their_sizes = np.asarray(theirs.sum(axis=1)).ravel()
        ids = list(rest)
        for start in range(0, len(ids), BLOCK):
            common = (own[start : start + BLOCK] @ theirs.T).tocoo()
            rows, columns = common.coords
            similar = common.data / (sizes[start + rows] + their_sizes[columns] - common.data)
            for row, column in zip(rows[similar >= threshold], columns[similar >= threshold], strict=True):
                near.setdefault(ids[start + row], names[column])
    return Overlap(of=len(test), exact=len(exact), near=len(near), examples=[*exact.items(), *near.items()][:EXAMPLES])
