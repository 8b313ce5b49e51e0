"""Comparing ways of making negatives, or of anything else in a recipe: a matrix of arms, seeds and datasets."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.files import InputError, sha256_file, slug, write_json, write_text
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.charts import arms_chart
from sharpen.evaluation.significance import LEVEL, Groups, Seeded, SeededDifference, compare_seeds, holm, seed_variance
from sharpen.recipes.engine import Context, run_stages
from sharpen.recipes.load import LoadedRecipe, load_recipe
from sharpen.recipes.run import run_recipe
from sharpen.recipes.stages import check_inputs, stages_of
from sharpen.recipes.stages.comparison import read_evaluation, read_scores
from sharpen.recipes.stages.model import triplets

WEIGHTS = ("training", "model", "reranker")
"""Stages whose folders hold models, which a matrix would fill a disk with."""


class Prepared(BaseModel):
    """A run that comes before the arms, say one that trains the reranker that some of them mine with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overrides: tuple[str, ...] = ()
    until: str = Field(description="The stage that it ends with.")


class Matrix(BaseModel):
    """What a comparison's file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str = Field(description="The recipe that all arms share.")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (13, 14, 15)
    overrides: tuple[str, ...] = Field((), description="For all arms, as on the command line.")
    arms: Annotated[dict[str, tuple[str, ...] | None], Field(min_length=1)] = Field(description="Name to overrides.")
    baseline: str | None = Field(
        None, description="The arm that the others are compared with. null: each is compared with the untuned model."
    )
    datasets: dict[str, tuple[str, ...] | None] = Field({}, description="Name to overrides; empty: the recipe's own.")
    prepare: Prepared | None = Field(
        None, description="A run of each dataset that the arms make use of; {prepared} in an override is its folder."
    )
    equal_triplets: bool = Field(
        True, description="All arms train on as many rows as the one that has fewest, drawn by query."
    )
    keep_models: bool = Field(False, description="Leave the models in the runs' folders.")
    published: dict[str, float] = Field(
        {}, description="Arm to nDCG@10 on average, as somebody else has found it; shown beside."
    )

    @model_validator(mode="after")
    def _arms_are_there(self):
        for name in (self.baseline, *self.published):
            if name is not None and name not in self.arms:
                raise ValueError(f"there is no arm {name!r}; there are {', '.join(self.arms)}")
        slugs = [slug(name, "arm") for name in self.arms]
        if len(set(slugs)) < len(slugs):
            raise ValueError(
                "two arms differ in signs only, and would have the same folder; name one of them otherwise"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        return self


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of the matrix."""

    arm: str
    dataset_key: str
    """As in the matrix."""
    dataset: str
    """As it is shown."""
    seed: int
    loaded: LoadedRecipe
    folder: Path

    prepared: Prepared | None = None

    @cached_property
    def digest(self) -> str:
        """What the scores depend on: the recipe with what its variables stand for, the files that it names, and the
        stages."""
        recipe = self.loaded.recipe
        pools = [s.pool for s in recipe.queries.all_strategies()] + [
            m.pool for m in recipe.negatives.miners if m.kind == "llm" and m.pool
        ]
        parts = [
            recipe.model_dump(mode="json"),
            [(s.name, s.version) for s in stages_of(recipe)],
            self.prepared and self.prepared.model_dump(),
            [sha256_file(Path(pool)) for pool in pools],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Scores(BaseModel):
    """What is kept of a run: nDCG@10 by query before and after, and what it took."""

    recipe: str
    triplets: int
    available: int
    """Rows that the arm could have trained on."""
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    """Of the stages that the arm does not share with the first one: mining, teaching, training."""
    money: str | None = None
    filtered: float | None = None
    """Share of the candidates that filters took for relevant."""


class ArmResult(BaseModel):
    """A line of the table."""

    arm: str
    by_dataset: dict[str, float]
    mean: float
    gain: SeededDifference
    """Against the untuned model."""
    difference: SeededDifference | None = None
    """Against the baseline; p is Holm's."""
    rank: int
    triplets: float
    minutes: float
    money: str | None = None
    filtered: float | None = None
    by_seed: list[float]


def read_matrix(path: Path) -> Matrix:
    """Raises ``InputError`` that names the file and the key."""
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        return Matrix.model_validate(raw)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a comparison, as recipes/study_small/compare.yaml") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def cells_of(matrix: Matrix, path: Path, more: Sequence[str] = ()) -> list[Cell]:
    """Every run, dataset by dataset and seed by seed; ``more``: overrides for all of them. Raises ``InputError`` that
    names the arm."""
    cells = []
    for before in prepared_cells(matrix, path, more):
        for seed in matrix.seeds:
            for arm, overrides in matrix.arms.items():
                own = [override.replace("{prepared}", str(before.folder)) for override in overrides or ()]
                cells.append(
                    _cell(
                        matrix,
                        path,
                        before.dataset_key,
                        arm,
                        [*own, f"seed={seed}"],
                        more,
                        seed,
                        f"{slug(arm, 'arm')}-{seed}",
                    )
                )
    return cells


def prepared_cells(matrix: Matrix, path: Path, more: Sequence[str] = ()) -> list[Cell]:
    """What runs before the arms of each dataset, with the first seed; nothing has to be run of it where the matrix does
    not say so."""
    own = matrix.prepare.overrides if matrix.prepare else ()
    return [
        _cell(matrix, path, dataset, "prepared", [*own, f"seed={matrix.seeds[0]}"], more, matrix.seeds[0], "prepared")
        for dataset in matrix.datasets or {"": None}
    ]


def _cell(
    matrix: Matrix,
    path: Path,
    dataset: str,
    arm: str,
    overrides: Sequence[str],
    more: Sequence[str],
    seed: int,
    folder: str,
) -> Cell:
    near = path.parent / matrix.recipe
    try:
        loaded = load_recipe(
            str(near) if near.is_file() else matrix.recipe,
            [*matrix.overrides, *(matrix.datasets.get(dataset) or ()), *overrides, f"name={_name(path)}", *more],
        )
    except InputError as error:
        raise InputError(f"{path}: {arm}{f', {dataset}' if dataset else ''}: {error}") from None
    shown = dataset or Path(loaded.recipe.evaluation.data or "generated").name
    return Cell(
        arm,
        dataset,
        shown,
        seed,
        loaded,
        Path(loaded.recipe.runs) / _name(path) / slug(shown, "arm") / folder,
        matrix.prepare,
    )


def compare_arms(path: Path, console: Console, more: Sequence[str] = ()) -> list[ArmResult]:
    """Run what is not done of a matrix, print its table and write ``comparison.md``, ``comparison.json`` and
    ``comparison.svg`` into its folder.

    Stages that runs have in common are done once. A run that is done stays so: a killed matrix goes on where it was.
    Raises ``InputError`` for a file, a recipe or data that is not as it should be, before anything runs.
    """
    matrix = read_matrix(path)
    cells = cells_of(matrix, path, more)
    before = prepared_cells(matrix, path, more) if matrix.prepare else []
    if any(cell.loaded.recipe.evaluation.data is None for cell in cells):
        raise InputError(
            f"{path}: evaluation.data: arms are compared on the same queries, and each seed would hold out others of"
            " its own; name data to evaluate on"
        )
    cache: dict[str, Any] = {}
    siblings = [cell.folder for cell in (*before, *cells)]
    for cell in before:
        check_inputs(cell.loaded.recipe)
        stages = stages_of(cell.loaded.recipe)
        last = next((n for n, stage in enumerate(stages) if stage.name == matrix.prepare.until), None)
        if last is None:
            raise InputError(
                f"{path}: prepare.until: no stage {matrix.prepare.until!r}; there are"
                f" {', '.join(stage.name for stage in stages)}"
            )
        console.print(f"preparing {cell.dataset}", highlight=False, soft_wrap=True)
        run_stages(
            stages[: last + 1],
            Context(cell.loaded.recipe, Console(quiet=True), cache, place=cell.folder, siblings=siblings),
        )
    for cell in cells:
        if cell.seed == matrix.seeds[0]:
            check_inputs(cell.loaded.recipe)
    done: dict[tuple[str, str, int], Scores] = {}
    for seed in matrix.seeds:
        for cell, scores in _finished(matrix, [cell for cell in cells if cell.seed == seed], siblings, cache, console):
            done[cell.arm, cell.dataset, seed] = scores
            console.print(
                f"{cell.dataset}, seed {cell.seed}, {cell.arm}: {PRIMARY} {fmean(scores.before.values()):.4f} before,"
                f" {fmean(scores.after.values()):.4f} after, {scores.triplets:,} triplets",
                highlight=False,
                soft_wrap=True,
            )
    groups = {cell.dataset: _groups(cell) for cell in reversed(cells)}
    results = tabulate(matrix, done, groups)
    target = cells[0].folder.parents[1]
    lines = table(matrix, results)
    write_json(target / "comparison.json", [r.model_dump(mode="json") for r in results])
    write_text(target / "comparison.md", "\n".join(lines) + "\n")
    write_text(
        target / "comparison.svg",
        arms_chart(
            [
                (r.arm, (r.difference or r.gain).value, (r.difference or r.gain).interval)
                for r in results
                if r.arm != matrix.baseline
            ],
            matrix.baseline or "the untuned model",
        ),
    )
    console.print("\n" + "\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nwritten to {target}", highlight=False, soft_wrap=True)
    return results


def _finished(
    matrix: Matrix, cells: Sequence[Cell], siblings: Sequence[Path], cache: dict[str, Any], console: Console
) -> Iterator[tuple[Cell, Scores]]:
    """The runs of one seed, with what each scored."""
    quiet = Console(quiet=True)
    kept = {cell: _kept(cell) for cell in cells}
    available = {cell: scores.available for cell, scores in kept.items() if scores}
    if len(available) < len(cells):
        for cell in cells:  # all are mined before any is trained, to know how many rows there are for each
            context = Context(cell.loaded.recipe, quiet, cache, place=cell.folder, siblings=siblings)
            stages = stages_of(cell.loaded.recipe)
            mined = next(n for n, stage in enumerate(stages) if stage.name == "negatives")
            console.print(f"mining {cell.dataset}, seed {cell.seed}, {cell.arm}", highlight=False, soft_wrap=True)
            run_stages(stages[: mined + 1], context)
            available[cell] = len(
                triplets(context, cell.loaded.recipe.negatives.per_query, cell.loaded.recipe.training.triplets)[0]
            )
            if not available[cell]:
                raise InputError(
                    f"{cell.arm}, seed {cell.seed}: no row to train on is left; see"
                    f" {context.stage_folder('negatives') / 'manifest.json'}"
                )
    earlier_arm: list[Cell] = []
    for arm in matrix.arms:
        own = [cell for cell in cells if cell.arm == arm]
        for cell in own:
            least = min(rows for other, rows in available.items() if other.dataset == cell.dataset)
            number = least if matrix.equal_triplets else available[cell]
            if (earlier := kept[cell]) and earlier.triplets == number:
                yield cell, earlier
                continue
            console.print(f"running {cell.dataset}, seed {cell.seed}, {cell.arm}", highlight=False, soft_wrap=True)
            recipe = cell.loaded.recipe
            if number < available[cell]:
                recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"triplets": number})})
            run_recipe(
                LoadedRecipe(cell.loaded.path, recipe, cell.loaded.resolved_yaml),
                quiet,
                Context(recipe, quiet, cache, place=cell.folder, siblings=siblings),
            )
            yield cell, _keep(cell, number, available[cell])
        # an arm that differs in what comes after the training takes the model of the one before it
        _remove_weights(matrix, earlier_arm)
        earlier_arm = own
    _remove_weights(matrix, earlier_arm)


def _remove_weights(matrix: Matrix, cells: Sequence[Cell]) -> None:
    for folder in (cell.folder / name for cell in cells for name in WEIGHTS if not matrix.keep_models):
        shutil.rmtree(folder, ignore_errors=True)


def _keep(cell: Cell, number: int, rows: int) -> Scores:
    context = Context(cell.loaded.recipe, Console(quiet=True), place=cell.folder)
    manifests = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in cell.folder.glob("*/manifest.json")
    }
    before, after = (read_scores(context, stage, stage)[PRIMARY] for stage in ("before", "after"))
    counts = manifests["negatives"]["counts"]
    filters = [values for name, values in counts.items() if name.startswith("filter ")]
    given = sum(n for name, n in filters[0].items() if name.endswith(": candidates")) if filters else 0
    taken = sum(n for values in filters for name, n in values.items() if not name.endswith(": candidates"))
    scores = Scores(
        recipe=cell.digest,
        triplets=number,
        available=rows,
        before=before,
        after=after,
        seconds=sum(
            manifests[name]["seconds"]
            for name in ("negatives", "reranker", "teacher", "training", "model")
            if name in manifests
        ),
        money=counts.get("money"),
        filtered=taken / given if given else None,
    )
    write_json(_scores_file(cell), scores.model_dump(mode="json"))
    return scores


def _kept(cell: Cell) -> Scores | None:
    try:
        scores = Scores.model_validate_json(_scores_file(cell).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    return scores if scores.recipe == cell.digest else None


def _scores_file(cell: Cell) -> Path:
    return cell.folder / "scores.json"


def _groups(cell: Cell) -> Groups:
    part = cell.loaded.recipe.evaluation
    context = Context(cell.loaded.recipe, Console(quiet=True), place=cell.folder)
    own = context.stage_folder("corpus") / "corpus.jsonl"
    return (
        read_evaluation(context).groups
        if own.exists()
        else load_task(part.data, part.split, None, part.unknown_documents).groups
    )


def tabulate(matrix: Matrix, done: dict[tuple[str, str, int], Scores], groups: dict[str, Groups]) -> list[ArmResult]:
    """Means over seeds and datasets, differences with both kinds of error, and Holm over the arms that are compared
    with the baseline."""
    datasets, seeds = list(groups), matrix.seeds
    runs = {arm: {d: [done[arm, d, s] for s in seeds] for d in datasets} for arm in matrix.arms}
    means = {
        arm: [fmean(fmean(runs[arm][d][n].after.values()) for d in datasets) for n in range(len(seeds))]
        for arm in matrix.arms
    }
    # three seeds of two arms say little of what seeds do, those of all arms more
    pooled = seed_variance(list(means.values())) if len(matrix.arms) > 2 else None
    sides = lambda arm, side: {d: [getattr(run, side) for run in runs[arm][d]] for d in datasets}  # noqa: E731

    def against(first, second, seeds):
        return compare_seeds([Seeded(first[d], second[d], groups[d]) for d in datasets], seeds)

    gains = {arm: against(sides(arm, "before"), sides(arm, "after"), None) for arm in matrix.arms}
    others = [arm for arm in matrix.arms if arm != matrix.baseline]
    differences = (
        {arm: against(sides(matrix.baseline, "after"), sides(arm, "after"), pooled) for arm in others}
        if matrix.baseline
        else {}
    )
    tested = differences or gains
    for arm, p in zip(tested, holm([d.p for d in tested.values()]), strict=True):
        d = tested[arm]
        tested[arm] = d.model_copy(update={"p": p, "verdict": d.verdict if p < 1 - LEVEL else "not distinguishable"})
    order = sorted(matrix.arms, key=lambda arm: -fmean(means[arm]))
    all_runs = {arm: [run for own in runs[arm].values() for run in own] for arm in matrix.arms}
    return [
        ArmResult(
            arm=arm,
            by_dataset={d: fmean(fmean(run.after.values()) for run in runs[arm][d]) for d in datasets},
            mean=fmean(means[arm]),
            gain=gains[arm],
            difference=differences.get(arm),
            rank=order.index(arm) + 1,
            triplets=fmean(run.triplets for run in all_runs[arm]),
            minutes=fmean(run.seconds for run in all_runs[arm]) / 60,
            money=next((run.money for run in all_runs[arm] if run.money), None),
            filtered=(
                fmean(shares)
                if (shares := [run.filtered for run in all_runs[arm] if run.filtered is not None])
                else None
            ),
            by_seed=means[arm],
        )
        for arm in matrix.arms
    ]


def table(matrix: Matrix, results: Sequence[ArmResult]) -> list[str]:
    """Lines of Markdown."""
    datasets = list(results[0].by_dataset)
    several = len(datasets) > 1
    head = [
        "arm",
        *datasets,
        *(["mean"] if several else []),
        f"difference to {matrix.baseline}" if matrix.baseline else "gain",
        "95 % interval",
        "p (Holm)",
        "verdict",
        "rank",
        "by seed",
        "triplets",
        "minutes",
    ]
    extra = [
        ("dropped by filters", lambda r: "" if r.filtered is None else f"{r.filtered:.0%}"),
        ("money", lambda r: r.money or ""),
        ("published", lambda r: f"{matrix.published[r.arm]:.3f}" if r.arm in matrix.published else ""),
    ]
    extra = [(name, cell) for name, cell in extra if any(cell(r) for r in results)]
    lines = ["| " + " | ".join([*head, *(name for name, _ in extra)]) + " |", "| --- " * (len(head) + len(extra)) + "|"]
    for r in results:
        d = r.difference if matrix.baseline else r.gain
        told = (
            ["", "", "", "the baseline"]
            if d is None
            else [
                f"{d.value:+.4f}",
                f"{d.interval[0]:+.4f} to {d.interval[1]:+.4f}",
                "< 0.001" if d.p < 0.001 else f"{d.p:.3f}",
                d.verdict,
            ]
        )
        cells = [
            r.arm.replace("|", "¦"),
            *(f"{value:.4f}" for value in r.by_dataset.values()),
            *([f"{r.mean:.4f}"] if several else []),
            *told,
            str(r.rank),
            ", ".join(f"{v:.4f}" for v in r.by_seed),
            f"{r.triplets:,.0f}",
            f"{r.minutes:.1f}",
        ]
        lines.append("| " + " | ".join([*cells, *(cell(r) for _, cell in extra)]) + " |")
    first = results[0].gain
    return [
        *lines,
        "",
        f"nDCG@10, the mean of {len(matrix.seeds)} seed{'s' * (len(matrix.seeds) > 1)}. Intervals and p have both what"
        " another draw of queries (by document) and what other seeds would change"
        + ("." if first.seeds > 1 else ", of which one seed says nothing."),
    ]


def _name(path: Path) -> str:
    """Of the matrix: that of its file; of several in a folder of their own, that of the folder, too."""
    folder = path.parent.resolve().name
    return slug(
        (
            folder
            if path.stem == "compare"
            else f"{folder}-{path.stem}"
            if (path.parent / "compare.yaml").exists()
            else path.stem
        ),
        "arm",
    )
