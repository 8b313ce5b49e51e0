"""A user's own miner, from a file beside the recipe or an installed package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.custom import Custom
from sharpen.sdg.negatives.base import MinerSettings, MiningResult

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class CustomMiner(MinerSettings, Custom):
    """``use`` names a class (or a function) that, called with ``options``, gives an object with the method
    ``mine(queries, corpus, depth, resources, seed)``, which returns a run (query ID to document ID to score) or a
    ``MiningResult``."""

    uses_base: bool = Field(
        False, description="Whether it uses the base encoder (resources.models), and is to run anew for another base."
    )

    def needs_base(self) -> bool:
        return self.uses_base

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """What the user's ``mine`` gives. Raises ``InputError`` if it cannot be imported or takes other options."""
        result = self.make().mine(queries, corpus, depth, resources, seed)
        return result if isinstance(result, MiningResult) else MiningResult(result)
