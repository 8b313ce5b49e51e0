"""Mining gives the same rows and counts as the code of commit cca6b94 did, for the same corpus and seed; where an LLM
judges, as since each document is shown once for all miners."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from sharpen.evaluation.models import Models
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives import NegativesSettings, mine_with_settings
from sharpen.sdg.resources import Resources
from tests.sdg.negatives.golden import (
    HELD_OUT,
    PARTS,
    SEED,
    GoldenLLM,
    golden_corpus,
    golden_queries,
    golden_score,
    sums,
)

EXPECTED = json.loads((Path(__file__).parent / "golden.json").read_text())


class GoldenModels(Models):
    def score(self, scorer, pairs, queries, corpus):
        if scorer == "bm25":
            return super().score(scorer, pairs, queries, corpus)
        return golden_score(scorer, pairs, queries)


class GoldenResources(Resources):
    @contextmanager
    def open_llm(self, other=None):
        yield GoldenLLM()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_rows_and_counts_as_before(name):
    part, more = name.rsplit("/", 1)
    corpus = golden_corpus()
    llm = LLMSettings(base_url="http://localhost:1/v1", model="golden")
    messages = []
    mined = mine_with_settings(
        golden_queries(corpus),
        corpus,
        NegativesSettings.model_validate(PARTS[part]),
        held_out=HELD_OUT,
        more=int(more),
        resources=GoldenResources(GoldenModels(), llm, warn=messages.append),
        seed=SEED,
    )
    assert sums(mined.rows) == tuple(EXPECTED[name]["sums"])
    assert mined.counts == EXPECTED[name]["counts"]
    assert messages == EXPECTED[name]["warnings"] == [w.message for w in mined.warnings]
    assert len(mined.written) == EXPECTED[name]["written"]


def test_every_part_was_recorded():
    assert {name.rsplit("/", 1)[0] for name in EXPECTED} == set(PARTS)
