"""What a filter of queries is, and how several are applied one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.rejections import Rejection

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

GENERATED = "generated"
"""In ``FilterResult.passed``: what came in."""


@dataclass
class FilterResult:
    """``kept`` queries in their order, and the ``rejected`` ones with their reasons.

    ``passed``: filter to strategy to the number of queries that were left after it; under ``generated``, what came in.
    ``spending``: tokens and money of the LLMs that filters asked.
    """

    kept: list[Query] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    passed: dict[str, dict[str, int]] = field(default_factory=dict)
    spending: list[Spending] = field(default_factory=list)


class QueryFilter(Protocol):
    """What keeps some queries and rejects the others. A user's filter is any object with these three.

    ``name``: stands with what it rejects. ``first_process_only``: under ``accelerate launch`` the first process applies
    it and gives the others the result (right for whatever asks an LLM); else every process applies it, as whatever
    encodes or scores must, since the processes share that work.

    >>> from sharpen.sdg.rejections import Problem, RejectionReason
    >>> class Questions:
    ...     name, first_process_only = "questions", True
    ...     def apply(self, queries, corpus, resources):
    ...         result = FilterResult()
    ...         for query in queries:
    ...             if query.text.endswith("?"):
    ...                 result.kept.append(query)
    ...             else:
    ...                 problem = Problem(RejectionReason.OTHER, detail="no question")
    ...                 result.rejected.append(Rejection.of(query, self.name, problem))
    ...         return result
    >>> asked = [Query(t, t, {"positives": ["d"], "strategy": "document"}) for t in ("why?", "because")]
    >>> result = filter_queries(asked, {}, [Questions()])
    >>> [q.text for q in result.kept], result.rejected[0].message, result.passed["questions"]
    (['why?'], 'no question', {'document': 1})
    """

    name: str
    first_process_only: bool

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources) -> FilterResult: ...


def filter_queries(
    queries: Iterable[Query],
    corpus: Corpus,
    filters: Iterable[QueryFilter],
    resources: Resources | None = None,
) -> FilterResult:
    """Send ``queries`` through ``filters``, in the order given; cheap ones first pay off.

    ``corpus``: ID to document, with the documents of ``query.metadata["positives"]``. ``resources``: the base encoder,
    for filters that use one, and the LLM of a judge that names none. Under ``accelerate launch`` every process must
    call this. Raises ``InputError`` if a filter needs what ``resources`` lack.
    """
    if resources is None:
        from sharpen.sdg.resources import Resources  # loads torch

        resources = Resources()
    left = list(queries)
    result = FilterResult(passed={GENERATED: _by_strategy(left)})
    for query_filter in filters:
        applied = _apply(query_filter, left, corpus, resources)
        left = applied.kept
        result.rejected += applied.rejected
        result.spending += applied.spending
        result.passed[query_filter.name] = _by_strategy(left)
    result.kept = left
    return result


def _apply(query_filter: QueryFilter, queries: Sequence[Query], corpus: Corpus, resources: Resources) -> FilterResult:
    if getattr(query_filter, "first_process_only", True):
        from sharpen.evaluation.processes import on_main  # loads torch

        return on_main(lambda: query_filter.apply(queries, corpus, resources))
    return query_filter.apply(queries, corpus, resources)


def _by_strategy(queries: Iterable[Query]) -> dict[str, int]:
    return dict(Counter(str(q.metadata.get("strategy", "unknown")) for q in queries))
