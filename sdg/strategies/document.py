"""Queries for a whole document or chunk."""

from __future__ import annotations

from typing import ClassVar, Literal

from sharpen.sdg.strategies.few_shot import StrategySettings


class Document(StrategySettings):
    """Queries for a whole document or chunk, as in Promptagator.

    >>> from sharpen.evaluation import beir
    >>> pool = [{"document": "Boil eggs for six minutes.", "query": "how long to boil an egg"}]
    >>> strategy = Document(pool=pool, task="Queries for documents.").resolve()
    >>> unit, = strategy.units([beir.Document("d", "Soak beans overnight.", "Beans")])
    >>> print(strategy.request(unit, chat=False).prompt)
    Queries for documents.
    <BLANKLINE>
    Document 1: Boil eggs for six minutes.
    Query 1: how long to boil an egg
    <BLANKLINE>
    Document 2: Beans: Soak beans overnight.
    Query 2:
    """

    kind: Literal["document"] = "document"

    worded: ClassVar[bool] = True
    default_task: ClassVar[str] = (
        "Each document stands with a question that somebody typed into a search box and that the document answers. "
        "The questions are short and in the words of somebody who has not read the document."
    )
