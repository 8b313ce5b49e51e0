"""Queries that people judged: named by their data and split, known by the sums of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sharpen.evaluation.contents import content
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.settings import Settings

if TYPE_CHECKING:
    from sharpen.recipes.schema.recipe import Recipe


class Judged(Settings):
    """``qrels/<split>.tsv`` of ``data``, with its queries, and its corpus where it has one."""

    data: str
    split: str

    @classmethod
    def of(cls, part: Any) -> Judged | None:
        """Of a part with the keys data and split; None where it names no data."""
        return cls(data=part.data, split=part.split) if part and part.data else None

    def fingerprint(self) -> Any:
        """The sum of each of the files. Raises ``InputError`` if none is there."""
        return content(f"judged {self.split}", self.data, self._sums)

    def _sums(self) -> dict[str, str]:
        from sharpen.evaluation.datasets import judged_files

        files = judged_files(self.data, self.split).values()
        if not (sums := {file.name: sha256_file(file) for file in files if file.exists()}):
            raise InputError(f"{self.data}: no such file")
        return sums

    def texts(self) -> list[str]:
        """The queries' texts. Raises ``InputError`` as ``read_judged`` does."""
        from sharpen.evaluation.datasets import read_judged

        queries, qrels = read_judged(self.data, self.split)
        return [queries[q].text for q in qrels]

    def check(self) -> None:
        """Raises ``InputError`` as ``read_judged`` does."""
        from sharpen.evaluation.datasets import read_judged

        read_judged(self.data, self.split)


class Evaluated(Settings):
    """What a recipe compares on at the end, or another arm of the same study: nothing is trained on these queries or
    chosen by them, under whatever name they come."""

    judged: tuple[Judged, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        part = recipe.evaluation
        # in an order of their own: whichever of a study's sets is compared on, the training is the same
        named = {(other.data, other.split): other for p in (part, *part.reserved) if (other := Judged.of(p))}
        return cls(judged=tuple(named[key] for key in sorted(named)))

    def fingerprint(self) -> Any:
        """One set stands for itself."""
        found = [judged.fingerprint() for judged in self.judged]
        return found if len(found) > 1 else found[0] if found else None

    def texts(self) -> list[str]:
        """The queries' texts. Raises ``InputError`` as ``read_judged`` does."""
        return [text for judged in self.judged for text in judged.texts()]

    def keys(self) -> set[str]:
        """What the queries are recognised by, whatever their IDs."""
        from sharpen.sdg.filters.text import query_key

        return {query_key(text) for text in self.texts()}
