"""Evaluating models and run files without a recipe, and comparing two runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ValidationError
from rich.console import Console

from sharpen.evaluation.before_after import report_of
from sharpen.evaluation.beir import Corpus, Run, read_corpus
from sharpen.evaluation.datasets import CQADUPSTACK, Task, load_task, load_tasks
from sharpen.evaluation.encoders.families import load_any, probe_any
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.files import InputError, slug, write_json, write_text
from sharpen.evaluation.metrics import METRICS, PRIMARY, PerQuery, evaluate, parse_metric
from sharpen.evaluation.mteb import task_name, task_result, write_result
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.report.comparison import Comparison, make_comparison
from sharpen.evaluation.retrievers.base import RUN_DEPTH, Retriever, search_task
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.encoders import encoder_index
from sharpen.evaluation.retrievers.fused import Fused
from sharpen.evaluation.retrievers.hybrid import Hybrid
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import read_run, write_run
from sharpen.evaluation.significance import estimate
from sharpen.evaluation.truncation import collect_truncations
from sharpen.recipes.finished import task_of
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.resources import show_progress
from sharpen.recipes.run import print_comparison

HYBRID = "hybrid:"
GENERATIVE = "generative:"
FUSED = re.compile(r"fused:(\d+(?:\.\d+)?):(.+)")
RUN_FILES = (".trec", ".run", ".txt")


@dataclass(frozen=True)
class EvaluationOptions:
    """How systems search and are scored; prompts, length and precision as in a recipe's ``training``.

    ``rerank``: a cross-encoder that puts the first 100 in order. ``corpus``: a corpus.jsonl to search, where the data
    has none. ``beams``: of a generative retriever, and the most documents that a query gets from it (default: the
    model's own number). ``seed``: of intervals and tests.
    """

    split: str = "test"
    corpus: Path | None = None
    metrics: Sequence[str] = METRICS
    rerank: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_seq_length: int | None = None
    precision: Precision = "auto"
    approximate: bool = False
    beams: int | None = None
    seed: int = 13

    @property
    def all_metrics(self) -> list[str]:
        return list(dict.fromkeys([PRIMARY, *self.metrics]))

    def check(self) -> None:
        """Raise ``InputError`` for a metric that there is not."""
        for metric in self.metrics:
            try:
                parse_metric(metric)
            except ValueError as error:
                raise InputError(f"--metrics: {error}") from None


class EvaluationRecord(BaseModel):
    """``evaluation.json`` beside a run file: what was evaluated on what."""

    system: str
    data: str
    split: str
    corpus: str | None = None
    metrics: dict[str, float]


@dataclass(frozen=True)
class SystemPair:
    """Two systems on the same queries: the first and the second."""

    names: tuple[str, str]
    runs: tuple[Run, Run]
    scores: tuple[PerQuery, PerQuery]


def evaluate_systems(
    systems: Sequence[str],
    data: Sequence[str],
    out: Path,
    console: Console,
    options: EvaluationOptions | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate one system, or two against each other, on one or more collections.

    A system is ``bm25``, a model, ``hybrid:<model>`` (both by reciprocal rank fusion), ``fused:0.3:<model>`` (both by
    z-scores, with this weight of BM25), ``generative:<folder>``, or a TREC run file. ``data`` is as ``load_task`` takes
    it. Writes, below ``out``, a folder for each collection with run file, metrics, scores by query and, of two, the
    report; and in ``mteb`` the results as MTEB has them. Returns system to metric to mean over the collections. Raises
    ``InputError``.
    """
    options = options or EvaluationOptions()
    options.check()
    documents = read_corpus(options.corpus) if options.corpus else None
    means: dict[str, dict[str, list[float]]] = {}
    names = _names(systems)
    for name in data:
        evaluation = _Evaluation(name, systems, out, console, options)
        for task in _tasks(name, options.split, documents):
            evaluation.run(task)
        for system, row in evaluation.finish().items():
            for metric, value in row.items():
                means.setdefault(system, {}).setdefault(metric, []).append(value)
    result = {system: {metric: fmean(values) for metric, values in rows.items()} for system, rows in means.items()}
    if len(data) > 1:
        for system, row in result.items():
            _print_row(f"mean of {len(data)} collections, {names[system]}", row, console)
    console.print(f"\nwritten to {out}", highlight=False, soft_wrap=True)
    return result


@dataclass
class _Evaluation:
    """Systems on one collection, which may have parts (CQADupStack's twelve)."""

    name: str
    systems: Sequence[str]
    out: Path
    console: Console
    options: EvaluationOptions
    _means: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    _compared: list[tuple[Task, PerQuery, PerQuery]] = field(default_factory=list)

    @property
    def _names(self) -> dict[str, str]:
        return _names(self.systems)

    def run(self, task: Task) -> None:
        """Search, score and write one part; compare, where there are two systems."""
        with collect_truncations() as truncations:
            runs = {system: _run_of(system, task, self.options, self.console) for system in self.systems}
        scores = {system: evaluate(task.qrels, run, self.options.all_metrics) for system, run in runs.items()}
        if not process_state().is_main_process:
            return
        for found in truncations.all():
            self.console.print(f"[yellow]![/] {found.sentence()}", highlight=False, soft_wrap=True)
        for system in self.systems:
            self._write(task, system, runs[system], scores[system])
        if len(self.systems) == 1:
            _print_means(self.systems[0], task, scores[self.systems[0]], self.console, self.options.seed)
            return
        second, first = self.systems
        names = (self._names[first], self._names[second])
        pair = SystemPair(names, (runs[first], runs[second]), (scores[first], scores[second]))
        compare_runs(task, pair, self.out / slug(task.name), self.console, self.options.seed)
        self._compared.append((task, scores[first], scores[second]))

    def finish(self) -> dict[str, dict[str, float]]:
        """The means over the parts, printed where there are several."""
        if len(self._compared) > 1:
            names = (self._names[self.systems[1]], self._names[self.systems[0]])
            overall = _averaged(self.name, self._compared, names, self.options.seed)
            write_json(self.out / slug(self.name) / "metrics.json", overall.model_dump(mode="json"))
            print_comparison(overall, self.console)
        result = {}
        for system, rows in self._means.items():
            result[system] = {metric: fmean(row[metric] for row in rows) for metric in self.options.all_metrics}
            if len(rows) > 1:
                title = f"{self.name}, mean of its {len(rows)} parts, {self._names[system]}"
                _print_row(title, result[system], self.console)
        return result

    def _write(self, task: Task, system: str, run: Run, scores: PerQuery) -> None:
        means = {metric: fmean(values.values()) for metric, values in scores.items()}
        self._means.setdefault(system, []).append(means)
        folder = self.out / slug(task.name) / slug(system)
        write_run(folder / "run.trec", run, tag=slug(system))
        write_json(folder / "queries.json", scores)
        split, corpus = self.options.split, self.options.corpus
        source = task.name.removesuffix(f", split {split}") if self.name == CQADUPSTACK else self.name
        record = EvaluationRecord(
            system=system, data=source, split=split, corpus=str(corpus) if corpus else None, metrics=means
        )
        write_json(folder / "evaluation.json", record.model_dump(mode="json"))
        mteb = task_result(task, task_name(task.name.removesuffix(f", split {split}")), split, means)
        write_result(self.out / "mteb", self._names[system], mteb)


def default_folder(systems: Sequence[str]) -> Path:
    return Path("runs") / f"evaluate-{'-'.join(map(slug, _names(systems).values()))}"


def diff_runs(
    first: Path,
    second: Path,
    console: Console,
    *,
    data: str | None = None,
    split: str = "test",
    out: Path | None = None,
    seed: int = 13,
) -> Comparison:
    """Compare two runs of the same queries: folders of runs of recipes (by their tuned models) or of ``sharpen
    evaluate``, or TREC run files, for which ``data`` says what is right. Raises ``InputError`` if they were not
    evaluated on the same."""
    (task, run), (other_task, other_run) = _read(first, data, split), _read(second, data, split)
    if task.qrels != other_task.qrels:
        raise InputError(
            f"{first} was evaluated on {task.name} and {second} on {other_task.name}, or their judgments differ;"
            " compare runs of the same queries"
        )
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    pair = SystemPair(names, (run, other_run), (evaluate(task.qrels, run), evaluate(task.qrels, other_run)))
    target = out or second.parent / f"diff-{slug(first.name)}-{slug(second.name)}"
    return compare_runs(task, pair, target, console, seed)


def compare_runs(task: Task, pair: SystemPair, out: Path, console: Console, seed: int) -> Comparison:
    """Print and write what differs: ``metrics.json``, ``report.md`` and ``report.html`` in ``out``."""
    report = report_of(task, pair.runs, pair.scores, seed=seed, names=pair.names)
    write_json(out / "metrics.json", report.to_dict())
    write_text(out / "report.md", report.to_markdown())
    path = report.to_html(out / "report.html")
    print_comparison(report.comparison, console)
    console.print(f"\nreport   {path}", highlight=False, soft_wrap=True)
    return report.comparison


def _averaged(
    name: str, compared: Sequence[tuple[Task, PerQuery, PerQuery]], names: tuple[str, str], seed: int
) -> Comparison:
    """Of the mean of the parts' means: a query counts by as much as its part has fewer of them."""
    total = sum(len(task.queries) for task, *_ in compared)
    weighted: tuple[PerQuery, PerQuery] = ({}, {})
    groups = {f"{task.name}/{q}": f"{task.name}/{group}" for task, *_ in compared for q, group in task.groups.items()}
    for task, *sides in compared:
        weight = total / (len(compared) * len(task.queries))
        for into, scores in zip(weighted, sides, strict=True):
            for metric, values in scores.items():
                into.setdefault(metric, {}).update({f"{task.name}/{q}": value * weight for q, value in values.items()})
    return make_comparison(
        *weighted, seed=seed, queries_of=f"queries of {name}, mean of {len(compared)} parts", groups=groups, names=names
    )


def _tasks(name: str, split: str, documents: Corpus | None) -> list[Task]:
    return load_tasks(name, split) if documents is None else [load_task(name, split, documents)]


def _read(path: Path, data: str | None, split: str) -> tuple[Task, Run]:
    if path.is_file():
        if data is None:
            raise InputError(f"{path}: a run file does not say what is right; give --data")
        task = load_task(data, split)
        return task, read_run(path, task.queries, task.known)
    if (path / "evaluation.json").is_file():
        try:
            record = EvaluationRecord.model_validate_json((path / "evaluation.json").read_text(encoding="utf-8"))
        except ValidationError as error:
            raise InputError(
                f"{path / 'evaluation.json'}: not what `sharpen evaluate` writes ({error.errors()[0]['msg']})"
            ) from None
        task = load_task(record.data, record.split, read_corpus(Path(record.corpus)) if record.corpus else None)
        return task, read_run(path / "run.trec", task.queries, task.known)
    if (path / "after" / "after.trec").is_file():
        task = task_of(load_recipe(str(path / "recipe.yaml")).recipe, Inputs(path))
        return task, read_run(path / "after" / "after.trec", task.queries, task.known)
    raise InputError(
        f"{path}: neither a run file, nor the folder of a finished run or of a system that `sharpen evaluate` wrote"
    )


def _run_of(system: str, task: Task, options: EvaluationOptions, console: Console) -> Run:
    path = Path(system).expanduser()
    if path.suffix in RUN_FILES:
        return read_run(path, task.queries, task.known)
    retriever = _retriever(system, task, options, console)
    if options.rerank is None:
        return search_task(task, retriever)
    model = load_cross_encoder(options.rerank)
    with show_progress(console, "reranking", len(task.queries) * RUN_DEPTH) as advance:
        reranked = Reranked(retriever, task.corpus, model, RUN_DEPTH, advance, precision=options.precision)
        return search_task(task, reranked)


def _retriever(system: str, task: Task, options: EvaluationOptions, console: Console) -> Retriever:
    if system == "bm25":
        return BM25(task.corpus)
    if system.startswith(GENERATIVE):
        return _generative(system.removeprefix(GENERATIVE), task, options.beams, console)
    if system.startswith(HYBRID):
        return Hybrid(BM25(task.corpus), _retriever(system.removeprefix(HYBRID), task, options, console))
    if weighted := FUSED.fullmatch(system):
        if weighted[2].startswith((HYBRID, GENERATIVE)):
            kind = weighted[2].partition(":")[0]
            raise InputError(
                f"{system}: scores of all documents are fused, and {kind} has none of most; give a model after"
                f" fused:{weighted[1]}:, or fuse ranks by hybrid:"
            )
        members = {"dense": _retriever(weighted[2], task, options, console), "bm25": BM25(task.corpus)}
        return Fused(members, {"bm25": float(weighted[1])})
    model = load_any(system, max_seq_length=options.max_seq_length)
    probe_any(model, system)
    with show_progress(console, f"encoding with {_short(system)}", len(task.corpus)) as advance:
        return encoder_index(
            task.corpus,
            model,
            options.query_prompt,
            options.document_prompt,
            options.precision,
            progress=advance,
            approximate=options.approximate,
        )


def _generative(folder: str, task: Task, beams: int | None, console: Console) -> Retriever:
    # loads a language model's classes
    from sharpen.evaluation.generative.model import load_generative
    from sharpen.evaluation.retrievers.generative import Generative

    model = load_generative(Path(folder).expanduser())
    retriever = Generative(model, task.corpus, beams)
    if unknown := len(retriever.unknown):
        console.print(
            f"[yellow]![/] {unknown:,} of the {len(model.identifiers):,} documents that the model knows are not in the"
            " corpus",
            highlight=False,
            soft_wrap=True,
        )
    return retriever


def _print_row(title: str, row: Mapping[str, float], console: Console) -> None:
    values = ", ".join(f"{metric} {value:.4f}" for metric, value in row.items())
    console.print(f"{title}: {values}", highlight=False, soft_wrap=True)


def _print_means(system: str, task: Task, scores: PerQuery, console: Console, seed: int) -> None:
    console.print(f"{_short(system)} on {task.name}, {len(task.queries):,} queries", highlight=False, soft_wrap=True)
    for metric, values in scores.items():
        mean = estimate(values, seed, task.groups)
        console.print(
            f"{metric:13} {mean.value:.4f}   95 % interval {mean.interval[0]:.4f} to {mean.interval[1]:.4f}",
            highlight=False,
        )


def _short(system: str) -> str:
    """A path by its last name; that of a run's model, which are all called model, by the run's, too."""
    path = Path(system)
    if not (path.is_absolute() or system.startswith((".", "~"))):
        return system
    return "/".join(path.parts[-2:]) if path.name == "model" else path.name


def _names(systems: Sequence[str]) -> dict[str, str]:
    """What each is called: in short, as long as that tells them apart."""
    short = {system: _short(system) for system in systems}
    return short if len(set(short.values())) == len(short) else {system: system for system in systems}
