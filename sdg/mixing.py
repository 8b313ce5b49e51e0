"""Real and synthetic queries in one training set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sharpen.evaluation.beir import Query
from sharpen.sdg.drawing import drawn


def mix_labelled(
    labelled: Sequence[Query],
    generated: Sequence[Query],
    fraction: float,
    max_queries: int | None = None,
    seed: int = 13,
) -> list[Query]:
    """As many queries as there can be of which ``fraction`` are labelled; of what there is more of, some are drawn,
    each by its ID, so that few are others where queries come and go.

    ``fraction`` 1: labelled ones only. ``max_queries``: at most so many in all. Without labelled queries all, or
    ``max_queries``, of the generated ones. Labelled ones come first, each part in its order.

    >>> real, synthetic = ([Query(f"{kind}{n}", "text") for n in range(8)] for kind in "rs")
    >>> [q.id[0] for q in mix_labelled(real[:2], synthetic, fraction=0.5)]
    ['r', 'r', 's', 's']
    >>> len(mix_labelled(real, synthetic, fraction=0.25)), len(mix_labelled([], synthetic, 0.5, max_queries=3))
    (10, 3)
    """
    wanted = fraction if labelled else 0.0
    total = min(
        len(generated) / (1 - wanted) if wanted < 1 else math.inf,
        len(labelled) / wanted if wanted else math.inf,
        max_queries or math.inf,
    )
    of_labelled = round(math.floor(total) * wanted)
    chosen: set[str] = set()
    for members, number in ((generated, math.floor(total) - of_labelled), (labelled, of_labelled)):
        chosen.update(sorted((query.id for query in members), key=lambda i: drawn(seed, "mixing", i))[:number])
    return [query for query in [*labelled, *generated] if query.id in chosen]


def labelled_of_split(labelled: Sequence[Query], sides: Mapping[str, str | None], split: str = "train") -> list[Query]:
    """Labelled queries with those of their positives that are in a split; queries with none are left out. Of held-out
    splits those have all their positives there, as a query is in one of them only.

    >>> query = Query("q", "text", {"positives": ["a", "b"]})
    >>> labelled_of_split([query], {"a": "dev", "b": "train"})[0].metadata
    {'positives': ['b']}
    >>> labelled_of_split([query], {"a": "dev", "b": "train"}, "dev")
    []
    """
    found = []
    for query in labelled:
        ids = [doc_id for doc_id in query.metadata["positives"] if sides[doc_id] == split]
        if ids and (split == "train" or len(ids) == len(query.metadata["positives"])):
            found.append(replace(query, metadata=query.metadata | {"positives": ids}))
    return found
