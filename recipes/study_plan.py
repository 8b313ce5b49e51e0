"""What a comparison is made of: its stages as a tree, each of which runs once, whatever number of runs shares it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.tree import Tree

from sharpen.evaluation.contents import Names
from sharpen.recipes.engine import made_stages
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.stages import stages_of
from sharpen.recipes.study_runs import StudyRun
from sharpen.sdg.llm.settings import LLMSettings

ROOT = ""


@dataclass(eq=False)
class Node:
    """One execution of a stage. ``key``: what it is known by in the plan; ``runs``: those that share it, of which the
    first makes it and the others take it over; ``children``: what is made from it, and from what it was made from."""

    key: str
    stage: str
    runs: list[StudyRun] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @cached_property
    def shape(self) -> tuple:
        """Equal for nodes whose trees look alike."""
        return self.stage, tuple(sorted(child.shape for child in self.children))


@dataclass(frozen=True)
class StageKey:
    """``key``: what a stage of a run is known by: two with the same are the same; two with different ones may still
    turn out to be the same, when what they read does. ``reads``: stages. ``asks``: an LLM may be asked."""

    key: str
    reads: tuple[str, ...]
    asks: bool


def stage_keys(run: StudyRun) -> dict[str, StageKey]:
    """A run's stages in the order in which they run. Models, files and datasets stand for themselves by name, so that
    nothing has to be there."""
    keys: dict[str, StageKey] = {}
    with Names().in_use():
        for stage, part in stages_of(run.loaded.recipe):
            reads = part.reads()
            parts = [stage.name, stage.version, part.fingerprint(), [keys[name].key for name in reads]]
            digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
            keys[stage.name] = StageKey(digest[:16], reads, asks_llm(part))
    return keys


def asks_llm(part: Any) -> bool:
    """Whether a stage may ask an LLM, given its part."""
    if isinstance(part, LLMSettings):
        return True
    if isinstance(part, tuple | list):
        return any(map(asks_llm, part))
    return any(asks_llm(getattr(part, name)) for name in getattr(type(part), "model_fields", ()))


def plan_tree(runs: Iterable[StudyRun]) -> Node:
    """The executions of all runs as a tree, whose root is none of them. A stage hangs on the last that it reads."""
    nodes = {ROOT: Node(ROOT, ROOT)}
    for run in runs:
        stages = stage_keys(run)
        order = list(stages)
        for name, stage in stages.items():
            if stage.key not in nodes:
                nodes[stage.key] = Node(stage.key, name)
                parent = stages[max(stage.reads, key=order.index)].key if stage.reads else ROOT
                nodes[parent].children.append(nodes[stage.key])
            nodes[stage.key].runs.append(run)
    return nodes[ROOT]


def executions(node: Node) -> list[Node]:
    """All below a node, each before what is made from it."""
    return [n for child in node.children for n in (child, *executions(child))]


@dataclass(frozen=True)
class StagePlan:
    """``runs``: that need the stage; ``executions``: that it takes; ``done``: of these, those that are there.
    ``seconds``: that one took on average, of those that are there; None where none is."""

    stage: str
    runs: int
    executions: int
    done: int
    seconds: float | None

    @property
    def left(self) -> float | None:
        """Seconds, one execution after the other."""
        return (self.executions - self.done) * self.seconds if self.seconds is not None else None


def plan_table(root: Node, done: Mapping[StudyRun, Collection[str]]) -> list[StagePlan]:
    """The stages in order, each in all its executions. ``done``: stages of each run that are made."""
    rows: dict[str, list[Node]] = {}
    for node in executions(root):
        rows.setdefault(node.stage, []).append(node)
    table = []
    for stage, nodes in rows.items():
        made = [node for node in nodes if any(stage in done.get(run, ()) for run in node.runs)]
        manifests = (Inputs(run.folder).manifest(stage) for node in made for run in node.runs[:1])
        seconds = [manifest["seconds"] for manifest in manifests if manifest]
        runs = sum(len(node.runs) for node in nodes)
        table.append(StagePlan(stage, runs, len(nodes), len(made), fmean(seconds) if seconds else None))
    return table


def made_of(run: StudyRun, has_scores: bool) -> set[str]:
    """The stages of a run that would be reused. ``has_scores``: it is done, though its models may have been removed."""
    stages = stages_of(run.loaded.recipe)
    if has_scores:
        return {stage.name for stage, _ in stages}
    return made_stages(run.folder, stages)


def print_plan(
    path: Path, runs: Sequence[StudyRun], done: Mapping[StudyRun, Collection[str]], console: Console
) -> None:
    """The tree, with stages below which all looks alike in one line, and the table."""
    root = plan_tree(runs)
    tree = Tree(f"{path}: {len(runs):,} runs")
    _add(tree, [root])
    console.print(tree, highlight=False)
    table = Table("stage", *(Column(name, justify="right") for name in ("runs", "executions", "done", "each", "left")))
    for row in plan_table(root, done):
        times = ("" if seconds is None else f"{seconds:,.0f} s" for seconds in (row.seconds, row.left))
        table.add_row(row.stage, *(f"{n:,}" for n in (row.runs, row.executions, row.done)), *times)
    console.print(table)


def _add(tree: Tree, alike: Sequence[Node]) -> None:
    groups: dict[tuple, list[Node]] = {}
    for child in (child for node in alike for child in node.children):
        groups.setdefault(child.shape, []).append(child)
    for nodes in groups.values():
        runs = [run for node in nodes for run in node.runs]
        named = {"arm": {r.arm for r in runs}, "dataset": {r.dataset for r in runs}, "seed": {r.seed for r in runs}}
        numbers = ", ".join(f"{len(found)} {name}{'s' * (len(found) > 1)}" for name, found in named.items())
        _add(tree.add(f"{nodes[0].stage} × {len(nodes):,}  [dim]{numbers}[/]"), nodes)
