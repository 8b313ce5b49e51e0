"""A user's own filter of negatives, from a file beside the recipe or an installed package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Queries
from sharpen.evaluation.custom import Custom
from sharpen.sdg.negatives.base import FilteredRows
from sharpen.sdg.negatives.record import MinedRows

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class CustomNegativeFilter(Custom):
    """``use`` names a class (or a function) that, called with ``options``, gives an object with the method
    ``apply(rows, queries, corpus, resources, seed)``, which returns the rows (miner to query ID to ``Negative``) or a
    ``FilteredRows``."""

    uses_base: bool = Field(
        False, description="Whether it uses the base encoder (resources.models), and is to run anew for another base."
    )

    def needs_base(self) -> bool:
        return self.uses_base

    def apply(self, rows: MinedRows, queries: Queries, corpus: Corpus, resources: Resources, seed: int) -> FilteredRows:
        """What the user's ``apply`` gives. Raises ``InputError`` if it cannot be imported or takes other options."""
        result = self.make().apply(rows, queries, corpus, resources, seed)
        return result if isinstance(result, FilteredRows) else FilteredRows(result)
