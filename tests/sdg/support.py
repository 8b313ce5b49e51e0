"""What tests of several parts of the package share: random corpora, and an example of a bundle."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query

MULTI_HOP_EXAMPLE = {
    "segments": ["The ferry ran until the harbour fell dry.", "It fell dry in 1961."],
    "artifacts": {"entities": ["ferry"]},
    "pairs": [
        {
            "hop_contexts": [{"segment_ids": [1]}, {"segment_ids": [2]}],
            "question": "When did the ferry stop?",
            "answer": "1961",
            "query_type": "multi_hop",
            "question_complexity": 2,
        }
    ],
}


@st.composite
def corpora(draw, words: Sequence[str], fewest: int = 0):
    """Documents of ``fewest`` to four words, many with equal texts, some of them chunks of one document, and queries
    for some."""
    texts = st.lists(st.sampled_from(words), min_size=fewest, max_size=4).map(" ".join)
    contents = draw(st.lists(texts, min_size=2, max_size=25))
    corpus = {}
    for n, text in enumerate(contents):
        metadata = {"chunk_of": f"parent{n // 3}"} if draw(st.booleans()) else {}
        corpus[f"d{n}"] = Document(f"d{n}", text, title=f"file {n}" if n % 2 else "", metadata=metadata)
    chosen = draw(st.lists(st.sampled_from(sorted(corpus)), min_size=1, max_size=8, unique=True))
    queries = [Query(f"q{i}", draw(texts), {"positives": [doc_id]}) for i, doc_id in enumerate(chosen)]
    return corpus, queries
