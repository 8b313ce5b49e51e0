"""The filters of a recipe, and their order."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sharpen.evaluation.custom import Custom
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.filters.base import QueryFilter
from sharpen.sdg.filters.cross_encoder import CrossEncoderFilter
from sharpen.sdg.filters.duplicates import NearDuplicates
from sharpen.sdg.filters.judge import Judge
from sharpen.sdg.filters.round_trip import RoundTrip
from sharpen.sdg.filters.text import Copying
from sharpen.sdg.filters.top_queries import TopQueries


class FiltersSettings(Settings):
    """What a query must pass, in this order, the cheap ones first; null: not looked at.

    >>> [query_filter.name for query_filter in FiltersSettings(copying=Copying()).in_order()]
    ['copying', 'round_trip']
    """

    LATER: ClassVar[tuple[str, ...]] = ("top_queries",)

    copying: Copying | None = None
    near_duplicates: NearDuplicates | None = None
    round_trip: RoundTrip | None = RoundTrip()
    cross_encoder: CrossEncoderFilter | None = None
    top_queries: TopQueries | None = None
    custom: tuple[Custom, ...] = Field((), description="Your own filters, from a file beside the recipe or a package.")
    judge: Judge | None = None
    max_queries: Count | None = Field(
        None,
        description=(
            "Of what passes, so many queries are trained on, drawn by the recipe's seed: to compare strategies at equal"
            " number."
        ),
    )

    def in_order(self) -> list[QueryFilter]:
        """The filters to apply. Raises ``InputError`` if a custom one cannot be made."""
        customs = [custom.make() for custom in self.custom]
        scored = [self.cross_encoder, self.top_queries]
        chosen = [self.copying, self.near_duplicates, self.round_trip, *scored, *customs, self.judge]
        return [query_filter for query_filter in chosen if query_filter is not None]

    @property
    def needs_base(self) -> bool:
        """Whether a filter uses the base encoder."""
        asking = (self.round_trip, self.top_queries)
        return self.near_duplicates is not None or any(chosen is not None and chosen.needs_base for chosen in asking)
