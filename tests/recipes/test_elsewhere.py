"""What tuning loses on other collections: those that a recipe names, and by default one that is at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sharpen.evaluation.datasets import load_task
from sharpen.recipes.load import load_recipe
from sharpen.recipes.schema.evaluation import EvaluationPart
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.stages.elsewhere import PYTHON_QUESTIONS, Elsewhere
from tests.processes import sharpen

DEFAULT = "evaluation.others=[{data: at_hand}]"


def _found(recipe_file: Path, *more: str) -> dict[str, Elsewhere]:
    return Elsewhere.all_of(load_recipe(str(recipe_file), more).recipe)


@pytest.fixture
def at_hand(dataset: Path, tmp_path: Path, monkeypatch) -> Path:
    """A place for datasets, with a cranfield in it."""
    monkeypatch.setenv("SHARPEN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SHARPEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(dataset, tmp_path / "data" / "cranfield"))


def test_by_default_it_is_the_questions_about_python_and_of_a_recipe_about_these_what_is_here(recipe_file, at_hand):
    assert [other.data for other in EvaluationPart().others] == ["at_hand"]
    ((name, python),) = _found(recipe_file, DEFAULT).items()
    assert name == "python-docs, split test, 1,000 documents" and python.of_python
    for uses_python in (
        ["corpus.source=python-docs"],
        [f"training.validation={{data: '{PYTHON_QUESTIONS}', split: dev}}"],
        [f"labelled={{data: '{PYTHON_QUESTIONS}', split: dev}}"],
    ):
        ((name, other),) = _found(recipe_file, *uses_python, DEFAULT).items()
        assert name == "cranfield, split test, 500 documents" and other.judged.data == str(at_hand)
    shutil.rmtree(at_hand)
    assert not _found(recipe_file, "corpus.source=python-docs", DEFAULT)
    for nothing in ("[]", "null"):
        assert not _found(recipe_file, f"evaluation.others={nothing}")


def test_what_is_named_is_all_searched_and_known_by_its_files_alone(recipe_file, at_hand):
    ((name, other),) = _found(recipe_file, f"evaluation.others=[{{data: '{at_hand}'}}]").items()
    assert name == "cranfield, split test" and len(other.task().corpus) == 12
    assert other.fingerprint() == Judged(data=str(at_hand), split="test").fingerprint()
    few = _found(recipe_file, f"evaluation.others=[{{data: '{at_hand}', documents: 8}}]")
    ((name, other),) = few.items()
    assert name == "cranfield, split test, 8 documents" and len(other.task().corpus) == 8
    assert len(other.task().qrels) == 6  # every judged document is among them
    seeded = _found(recipe_file, f"evaluation.others=[{{data: '{at_hand}', documents: 8}}]", "seed=4")
    assert next(iter(seeded.values())).fingerprint() != other.fingerprint()


def test_the_questions_about_python_are_asked_of_so_many_documents(recipe_file):
    (python,) = _found(recipe_file, "evaluation.others=[{data: python-docs, documents: 600}]").values()
    task = python.task()
    assert len(task.corpus) == 600 and len(task.qrels) > 200
    assert all(i in task.corpus for grades in task.qrels.values() for i in grades)
    assert list(task.corpus) == list(python.task().corpus)
    assert "at most" in python.fingerprint() and python.fingerprint()["documents"].startswith("python 3.")


def test_of_fewer_documents_than_are_judged_queries_are_left_out(dataset):
    task = load_task(str(dataset))
    few = task.with_documents(3, seed=1)
    assert len(few.corpus) == 3 and len(few.qrels) == 3 == len(few.queries)
    assert {i for grades in few.qrels.values() for i in grades} == set(few.corpus)
    assert few.qrels == task.with_documents(3, seed=1).qrels != task.with_documents(3, seed=2).qrels
    assert task.with_documents(12, seed=1) is task


def test_a_study_does_without_it(recipe_file, at_hand, tmp_path):
    from sharpen.recipes.study import runs_of
    from sharpen.recipes.study_file import read_study

    text = recipe_file.read_text()
    recipe_file.write_text(text.replace(", others: []", ""))
    study = tmp_path / "study.yaml"
    study.write_text(f"# A study.\nrecipe: {recipe_file}\nseeds: [1]\narms: {{a: [training.epochs=1]}}\n")
    (run,) = runs_of(read_study(study), study)
    assert not run.loaded.recipe.evaluation.others and "others: []" in run.loaded.resolved_yaml
    recipe_file.write_text(text.replace("others: []", f"others: [{{data: '{at_hand}'}}]"))
    (run,) = runs_of(read_study(study), study)
    assert len(run.loaded.recipe.evaluation.others) == 1


@pytest.mark.slow
def test_a_run_says_what_was_lost_elsewhere_and_that_nothing_was_at_hand(recipe_file, tmp_path):
    recipe_file.write_text(recipe_file.read_text().replace(", others: []", ""))
    given = ["llm=null", "queries={strategies: [{kind: harvested}]}", "training.learning_rate=1e-2"]
    result = sharpen("run", str(recipe_file), *given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder, name = tmp_path / "runs" / "topics", "python-docs, split test, 1,000 documents"
    other = json.loads((folder / "metrics.json").read_text())["others"][name]
    lost = -other["delta"]["ndcg@10"]["value"]
    assert other["queries"] > 200 and lost > 0.005
    said = f"Elsewhere it lost {lost:.4f} on {name} ("
    shown = sharpen("show", str(folder), cwd=tmp_path)
    assert said in result.stdout and said in shown.stdout and f"{other['queries']} queries of {name}" in shown.stdout
    report, card = (folder / "report.md").read_text(), (folder / "model" / "README.md").read_text()
    verdict = f"**Elsewhere it lost** {lost:.4f}"
    assert verdict in report.partition("\n## ")[0] and verdict in card and said in (folder / "report.html").read_text()
    assert "## On other collections" in report and "`training.base_weight`" in report
    nothing = sharpen("run", str(recipe_file), *given, "evaluation.others=[{data: at_hand, split: none}]", cwd=tmp_path)
    assert nothing.returncode == 0 and "✓ training   unchanged" in nothing.stdout
    assert "no other collection is at hand" in nothing.stdout
    assert "no other collection is at hand" in (folder / "report.md").read_text()
    assert "others" not in json.loads((folder / "metrics.json").read_text())
