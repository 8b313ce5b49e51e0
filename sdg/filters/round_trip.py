"""The round trip: a query is kept if a retriever finds its document with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, WrapValidator

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.runs import fuse, ranking
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


def name_or_retriever(value: Any, validate: Any) -> Any:
    """Validator of a field that has the name of a retriever, or any object with ``search``."""
    return value if hasattr(value, "search") else validate(value)


def positive_rank(hits: Sequence[str], positives: Sequence[str], keys: Mapping[str, str]) -> int | None:
    """The rank, from 1, of the first of ``positives`` among the IDs that were found; None if there is none.

    ``keys``: ID to ``Document.copy_key``, as a copy under another ID is as good.

    >>> positive_rank(["a", "b", "c"], ["d"], {"a": "tea", "b": "salt", "c": "oil", "d": "salt"})
    2
    """
    wanted = {keys[doc_id] for doc_id in positives}
    return next((n for n, doc_id in enumerate(hits, start=1) if keys[doc_id] in wanted), None)


class RoundTrip(Settings):
    """Promptagator's consistency filter.

    ``retriever``: its name, or any object with ``search(queries, k) -> run``. A document of the same text under another
    ID counts as the document, and of several that answer together, one is enough.

    >>> class Titles:
    ...     def search(self, queries, k):
    ...         return {"q": {"a": 2.0, "b": 1.0}}
    >>> from sharpen.evaluation.beir import Document
    >>> corpus = {"a": Document("a", "on salt"), "b": Document("b", "on tea")}
    >>> asked = [Query("q", "what of tea", {"positives": ["b"], "strategy": "document"})]
    >>> RoundTrip(Titles(), top_k=1).apply(asked, corpus).rejected[0].message
    'its document is not among the first 1 retrieved (rank 2)'
    """

    name: ClassVar[str] = "round_trip"
    first_process_only: ClassVar[bool] = False

    retriever: Annotated[Literal["bm25", "dense", "fused"], WrapValidator(name_or_retriever)] = Field(
        "fused", description="bm25, the base encoder, or both by reciprocal rank fusion."
    )
    top_k: Count = Field(10, description="A query is kept if its document is among the first top_k. Promptagator: 1.")

    def __init__(self, retriever: Any = "fused", **settings: Any) -> None:
        super().__init__(retriever=retriever, **settings)

    @property
    def needs_base(self) -> bool:
        """Whether the base encoder retrieves."""
        return isinstance(self.retriever, str) and self.retriever in ("dense", "fused")

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources | None = None) -> FilterResult:
        """Raises ``InputError`` if the base encoder retrieves and ``resources`` have none."""
        run = self._search(queries, corpus, resources)
        keys = {doc_id: document.copy_key for doc_id, document in corpus.items()}
        result = FilterResult()
        for query in queries:
            rank = positive_rank(ranking(run.get(query.id, {})), query.metadata["positives"], keys)
            if rank is not None and rank <= self.top_k:
                result.kept.append(query)
            else:
                problem = Problem(RejectionReason.NOT_RETRIEVED, rank, self.top_k)
                result.rejected.append(Rejection.of(query, self.name, problem))
        return result

    def _search(self, queries: Sequence[Query], corpus: Corpus, resources: Resources | None) -> Run:
        from sharpen.evaluation.retrievers.base import RUN_DEPTH

        texts = {query.id: query.text for query in queries}
        depth = max(RUN_DEPTH, self.top_k)
        if not isinstance(self.retriever, str):
            return self.retriever.search(texts, depth)
        runs: list[Run] = []
        if self.retriever in ("bm25", "fused"):
            from sharpen.evaluation.retrievers.bm25 import BM25

            index = resources.models.bm25(corpus) if resources else BM25(corpus)
            runs.append(index.search(texts, depth))
        if self.needs_base:
            runs.append(resources.models.index(corpus).search(texts, depth))
        return fuse(runs) if len(runs) > 1 else runs[0]
