"""Pairs: which queries pass the filters, and in which split they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, ClassVar, Literal, Self

from sharpen.evaluation.beir import Corpus, Query, read_queries, write_qrels, write_queries
from sharpen.evaluation.encoders.settings import Encoder, PrecisionSetting
from sharpen.evaluation.files import InputError, link_or_copy, write_json
from sharpen.evaluation.processes import on_main, process_state
from sharpen.evaluation.settings import UNHASHED
from sharpen.recipes.decided import DecidedPart, Elsewhere, decisions_of
from sharpen.recipes.engine import Counts, Folder, Stage
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.schema.training import ReplaySettings
from sharpen.sdg.decisions import PairDecision, decide_queries
from sharpen.sdg.filters.base import FilterResult, filter_queries
from sharpen.sdg.filters.settings import FiltersSettings
from sharpen.sdg.filters.text import query_key
from sharpen.sdg.llm.budget import spending_counts
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.mixing import labelled_of_split, mix_labelled
from sharpen.sdg.queries import LABELLED
from sharpen.sdg.rejections import count_reasons, write_rejections
from sharpen.sdg.replay import replayed, unchanged
from sharpen.sdg.resources import Resources
from sharpen.sdg.splitting import (
    SPLITS,
    SplitName,
    Splits,
    SplitSettings,
    bundles_of,
    name_near_duplicates,
    read_split,
    split_by_query,
    split_with_settings,
    write_split,
)


class PairsStage(DecidedPart):
    """``fraction``: of the queries trained on, labelled ones (None: there are none). ``compared_on``: the split that
    the run is compared on; None where it is other queries. ``llm``, ``encoder``: of the filters that name none.
    ``replay``: None unless the run goes on from an earlier one. ``decisions``: of people on queries. ``chosen_by_dev``:
    whether a state is chosen by what ``split.dev`` holds out."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "queries")
    LATER: ClassVar[tuple[str, ...]] = ("replay", "decisions", "elsewhere")

    filters: FiltersSettings
    split: SplitSettings
    fraction: float | None
    compared_on: Literal["dev", "test"] | None
    llm: LLMSettings | None
    encoder: Encoder | None
    precision: PrecisionSetting
    seed: int
    replay: ReplaySettings | None
    decisions: tuple[PairDecision, ...] = ()
    chosen_by_dev: Annotated[bool, UNHASHED] = False

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        validation = (recipe.generative or recipe.training).validation
        judge, custom = recipe.filters.judge, bool(recipe.filters.custom)
        return cls(
            filters=recipe.filters,
            split=recipe.split,
            fraction=recipe.labelled.fraction if recipe.labelled else None,
            compared_on=None if recipe.evaluation.data else recipe.generated_split,
            # a user's own filter may use either
            llm=recipe.llm if custom or (judge and judge.llm is None) else None,
            encoder=recipe.training.encoder if custom or recipe.filters.needs_base else None,
            precision=recipe.training.precision,
            seed=recipe.seed,
            replay=recipe.replay,
            decisions=decisions_of(recipe).pairs,
            chosen_by_dev=validation is not None and validation.data is None,
            elsewhere=Elsewhere.of(recipe),
        )


def make_pairs(part: PairsStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    corpus = inputs.corpus()
    queries = list(read_queries(inputs.folder("queries") / "queries.jsonl").values())
    labelled = [q for q in queries if q.metadata["strategy"] == LABELLED]
    generated = [q for q in queries if q.metadata["strategy"] != LABELLED]
    filtered = filter_queries(generated, corpus, part.filters.in_order(), resources)
    number = 0
    if part.decisions:
        filtered, number = decide_queries(filtered, generated, part.decisions)
        of_labelled, more = decide_queries(FilterResult(labelled), labelled, part.decisions)
        labelled, number = of_labelled.kept, number + more
        filtered.rejected += of_labelled.rejected
    bundles = bundles_of(generated)  # whether or not their query passed the filters
    if part.fraction == 1:  # a query with documents on both sides could not be held out
        bundles += [query.metadata["positives"] for query in labelled]
    # labelled ones last, as a person may have corrected them
    splits: Splits = on_main(lambda: _split(part, filtered.kept, corpus, bundles, [*queries, *labelled]))
    filtered.passed["split"] = dict(Counter(q.metadata["strategy"] for _, members in splits.items() for q in members))
    _check_splits(part, splits, filtered, len(generated))
    real = labelled_of_split(labelled, splits.sides)
    if part.fraction == 1:  # there are no generated ones to hold out
        splits.dev, splits.test = (labelled_of_split(labelled, splits.sides, name) for name in ("dev", "test"))
    _check_held_out(part, splits)
    available = len(real) + len(splits.train)
    splits.train = mix_labelled(real, splits.train, part.fraction or 0.0, part.filters.max_queries, part.seed)
    _check_train(part, splits, labelled, real, available, resources)
    all_of_train = len(splits.train)
    if part.replay:
        splits.train = _replayed(part, part.replay, splits.train, corpus)
    splits.train = name_near_duplicates(splits.train, corpus, splits.alike)
    if process_state().is_main_process:
        _write(folder, inputs, splits, filtered)
    counts = _counts(part, splits, filtered, labelled, real, available - all_of_train + len(splits.train))
    if part.decisions:
        counts |= {"decided": number, "decisions_of_other_queries": len(part.decisions) - number}
    return counts | ({"not_replayed": all_of_train - len(splits.train)} if part.replay else {})


def _split(
    part: PairsStage, queries: list[Query], corpus: Corpus, bundles: list[Sequence[str]], every: list[Query]
) -> Splits:
    """``every``: those that ``queries`` were made of, too."""
    if part.split.by == "document":
        known = read_split(Inputs.of_earlier(part.replay).folder("pairs") / "split.jsonl") if part.replay else None
        return split_with_settings(queries, corpus, part.split, part.seed, bundles, known)
    known_queries = _known_queries(part.replay) if part.replay else {}
    # labelled ones are trained on, and so is what was made of them
    known_queries |= {query_key(query.text): "train" for query in every if query.metadata["strategy"] == LABELLED}
    return split_by_query(queries, corpus, part.split, part.seed, known_queries, every)


def _known_queries(replay: ReplaySettings) -> dict[str, SplitName]:
    """Of the earlier run."""
    earlier, sides = Inputs.of_earlier(replay), {}
    queries = earlier.queries()
    for name in SPLITS:
        with suppress(InputError):  # no query is in this split
            sides |= {query_key(queries[q].text): name for q in earlier.qrels(name)}
    return sides


def _replayed(part: PairsStage, replay: ReplaySettings, train: list[Query], corpus: Corpus) -> list[Query]:
    old = unchanged(corpus, Inputs.of_earlier(replay).corpus())
    if all(i in old for query in train for i in query.metadata["positives"]):
        raise InputError(
            f"replay: no query that is trained on is of a document that is new or has changed since"
            f" {replay.run}; there is nothing to go on with (or raise queries.documents)"
        )
    return replayed(train, old, replay.fraction, part.seed)


def _check_splits(part: PairsStage, splits: Splits, filtered: FilterResult, generated: int) -> None:
    rejected = [*filtered.rejected, *splits.rejected]
    if not splits.train and part.fraction != 1:
        raise InputError(
            f"filters: no query of {generated} is left to train on ({len(rejected)} were rejected:"
            f" {count_reasons(rejected)}, {len(splits.dev)} are dev, {len(splits.test)} test). Loosen that filter, or"
            " raise queries.documents; if most are dev or test, bundles or split.near_duplicates tie too many documents"
            " together"
        )


def _check_held_out(part: PairsStage, splits: Splits) -> None:
    if part.compared_on and not getattr(splits, part.compared_on):
        raise InputError(
            f"evaluation: no query is held out to compare on. Raise split.{part.compared_on} or queries.documents, or"
            " give evaluation.data"
        )
    if part.chosen_by_dev and not splits.dev:
        raise InputError(
            "validation: no query is held out to choose a state by. Raise split.dev or queries.documents, or give"
            " validation.data"
        )


def _check_train(
    part: PairsStage, splits: Splits, labelled: list[Query], real: list[Query], available: int, resources: Resources
) -> None:
    if not splits.train:
        raise InputError(
            f"labelled: none of {len(labelled)} queries is left to train on: the documents of all are held out"
            " (split.dev, split.test)"
        )
    if available > 2 * len(splits.train) and not part.filters.max_queries:
        resources.warn(
            f"labelled.fraction: {len(splits.train):,} queries are trained on, at {part.fraction:.0%} real ones of"
            f" {len(real):,}; {available - len(splits.train):,} others are not drawn."
        )


def _write(folder: Folder, inputs: Inputs, splits: Splits, filtered: FilterResult) -> None:
    # a BEIR folder of its own: the corpus is a link to the one beside it where the file system allows
    link_or_copy(inputs.folder("corpus") / "corpus.jsonl", folder.path / "corpus.jsonl")
    write_queries(folder.path / "queries.jsonl", [q for _, members in splits.items() for q in members])
    write_split(folder.path / "split.jsonl", splits.sides)
    for name, members in splits.items():
        qrels = {q.id: dict.fromkeys(q.metadata["positives"], 1) for q in members}
        write_qrels(folder.path / "qrels" / f"{name}.tsv", qrels)
    write_rejections(folder.path / "rejected.jsonl", [*filtered.rejected, *splits.rejected])
    write_json(folder.path / "filters.json", filtered.passed)


def _counts(
    part: PairsStage,
    splits: Splits,
    filtered: FilterResult,
    labelled: list[Query],
    real: list[Query],
    available: int,
) -> Counts:
    counts: Counts = {name: len(members) for name, members in splits.items() if members or name != "test"}
    counts["rejected"] = count_reasons([*filtered.rejected, *splits.rejected])
    if part.fraction is not None:
        counts["labelled_in_train"] = sum(q.metadata["strategy"] == LABELLED for q in splits.train)
        held_out = len(splits.dev) + len(splits.test) if part.fraction == 1 else 0
        counts["labelled_held_out"] = len(labelled) - len(real) - held_out
    if not_drawn := available - len(splits.train):
        counts["not_drawn"] = not_drawn
    return counts | spending_counts(filtered.spending)


STAGE = Stage("pairs", 9, PairsStage, make_pairs, shared=True)
