"""Searches of the first process of ``accelerate launch``, which all of them compute."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from sharpen.evaluation.beir import Run
from sharpen.evaluation.processes import from_main, process_state
from sharpen.evaluation.retrievers.base import Retriever


class SharedSearch:
    """A retriever for the first process alone, where one that encodes needs all of them.

    A block that every process enters: on the first one it yields itself, whose ``search`` may be called or not, as
    often as need be; the others wait at its beginning, take part in each search, and go on when the first one leaves
    it.

    >>> class Everything:
    ...     def search(self, queries, k):
    ...         return {q: {"d": 1.0} for q in queries}
    >>> with SharedSearch(Everything()) as retriever:
    ...     retriever.search({"q": "text"}, k=10)
    {'q': {'d': 1.0}}
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The ``k`` best documents of each query."""
        from_main((dict(queries), k))
        return self.retriever.search(queries, k)

    def __enter__(self) -> Self:
        if not process_state().is_main_process:
            while (asked := from_main(None)) is not None:
                self.retriever.search(*asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if process_state().is_main_process:
            from_main(None)
