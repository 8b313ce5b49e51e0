"""What the comparison of systems is measured by."""

from __future__ import annotations

from pathlib import Path

from sharpen.evaluation.models import Models
from sharpen.evaluation.partitions.kept import Partitions
from sharpen.evaluation.partitions.local import LocalEngine
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages.systems import BASE, TUNED, SystemsStage, indexes_of


def test_a_sample_that_is_timed_is_encoded_anew_whatever_is_kept(plain: Path, tmp_path: Path):
    inputs, part = Inputs(plain), SystemsStage.of(load_recipe(str(plain)).recipe)
    corpus, kept = inputs.corpus(), tmp_path / "partitions"
    indexes = indexes_of(part, inputs, Models(partitions=Partitions(LocalEngine(), kept)), [corpus])
    sample = dict(list(corpus.items())[:4])
    for name in (BASE, TUNED):
        assert indexes[name](sample, False).ids == list(sample)
    assert not kept.exists()
    assert indexes[BASE](corpus, False).ids == list(corpus)
    assert len(list(kept.rglob("*.parquet"))) == 1
