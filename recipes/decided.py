"""What people decided on a run, where its stages find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharpen.evaluation.contents import content
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.settings import Settings
from sharpen.recipes.engine import StagePart
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.decisions import Decisions, NegativeDecision, PairDecision, read_decisions

DECISIONS = "decisions.jsonl"
"""Of a run's folder: decisions on its queries and negatives, a line each. The next run in this folder goes by them."""


class Elsewhere(Settings):
    """The ``file`` with decisions on another run that a recipe names. ``here``: the sum of the run's own file, which
    may take them back; empty where there is none."""

    file: str
    here: str

    @classmethod
    def of(cls, recipe: Recipe) -> Elsewhere | None:
        own = _own(recipe)
        here = sha256_file(own) if own.is_file() else ""
        return cls(file=recipe.decisions, here=here) if recipe.decisions else None

    def check(self) -> None:
        if not Path(self.file).is_file():
            raise InputError(f"decisions: {self.file}: no such file")


class DecidedPart(StagePart):
    """A part with ``decisions`` of people. ``elsewhere``: None where all of them are the run's own."""

    decisions: tuple[PairDecision, ...] | tuple[NegativeDecision, ...] = ()
    elsewhere: Elsewhere | None = None

    def fingerprint(self) -> dict[str, Any]:
        """The decisions themselves, wherever they were read. Of a run that was carried away from the other one, what
        stood for them when the stage was made, as long as nothing else was decided in its own folder."""
        values = super().fingerprint()
        values.pop("elsewhere", None)
        if self.elsewhere:
            kind = f"decisions beside {self.elsewhere.here[:16] or 'none'}, of"
            if found := content(kind, self.elsewhere.file, self._found):
                values["decisions"] = found
        return values

    def check(self) -> None:
        if self.elsewhere:
            self.elsewhere.check()
        super().check()

    def _found(self) -> list[Any]:
        self.elsewhere.check()
        return [decision.fingerprint() for decision in self.decisions]


def decisions_of(recipe: Recipe) -> Decisions:
    """Those in the run's folder, which count more than those of another run that the recipe names; none where nobody
    has decided anything. Raises ``InputError`` as ``read_decisions`` does."""
    others = [Path(recipe.decisions)] if recipe.decisions else []
    return read_decisions(*others, _own(recipe))


def _own(recipe: Recipe) -> Path:
    return Path(recipe.runs) / recipe.name / DECISIONS
