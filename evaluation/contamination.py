"""Are texts of the evaluation among those of training? Exact copies and near copies."""

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
    """How many of the test side's texts are in training, too."""

    of: int
    """Texts on the test side."""
    exact: int
    """Those that are equal to a train text after case, width and white space are folded."""
    near: int
    """Others with a Jaccard similarity of 0.8 or more of their character 4-grams to a train text."""
    examples: list[tuple[str, str]]
    """Test ID and train ID of some."""


def overlap(test: Mapping[str, str], train: Mapping[str, str], threshold: float = NEAR) -> Overlap:
    """Which texts of ``test`` (ID to text) are in ``train``, as exact or near copies.

    All pairs are compared, by products of sparse matrices, 256 test texts at a time. ``threshold``: the least Jaccard
    similarity of near copies.

    >>> overlap({"a": "How to bake  BREAD"}, {"b": "how to bake bread", "c": "ice"}).exact
    1
    """
    keys = {text_key(text): i for i, text in train.items()}
    exact = {i: keys[key] for i, text in test.items() if (key := text_key(text)) in keys}
    rest = {i: text for i, text in test.items() if i not in exact and text.strip()}
    near: dict[str, str] = {}
    train_ids, test_ids = [i for i, text in train.items() if text.strip()], list(rest)
    if rest and train_ids:
        grams = CountVectorizer(analyzer="char_wb", ngram_range=(4, 4), binary=True, dtype=np.float32)
        train_grams = grams.fit_transform([train[i] for i in train_ids])
        test_grams = grams.transform(list(rest.values()))
        # with grams that no train text has: the vocabulary is that of train
        analyze = grams.build_analyzer()
        test_sizes = np.array([len(set(analyze(text))) for text in rest.values()], dtype=np.float32)
        train_sizes = np.asarray(train_grams.sum(axis=1)).ravel()
        for start in range(0, len(test_ids), BLOCK):
            common = (test_grams[start : start + BLOCK] @ train_grams.T).tocoo()
            rows, columns = common.coords
            similarity = common.data / (test_sizes[start + rows] + train_sizes[columns] - common.data)
            is_near = similarity >= threshold
            for row, column in zip(rows[is_near], columns[is_near], strict=True):
                near.setdefault(test_ids[start + row], train_ids[column])
    return Overlap(of=len(test), exact=len(exact), near=len(near), examples=[*exact.items(), *near.items()][:EXAMPLES])
