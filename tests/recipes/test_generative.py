"""A generative retriever from documents to a verdict, with a language model of a few thousand weights."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifier, read_identifiers
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages import check_recipe
from sharpen.recipes.stages.generative import ExamplesPart
from sharpen.training.generative.examples import Example
from tests.conftest import TOPICS, write_rows
from tests.processes import kill_when, sharpen, start_sharpen
from tests.support.tiny_lms import language_model

PARTS = (
    "llm=null",
    "filters={}",
    "negatives={}",
    "split={by: query, dev: 0}",
    "training={base: 'packaged:tiny-bert'}",
)
STRATEGIES = (
    "queries={strategies: [{kind: harvested, name: first, kinds: [title, sentence], per_document: 3},"
    " {kind: harvested, name: second, kinds: [lead], per_document: 1}]}"
)
SECOND = {"strategies": ["second"], "batch_size": 4, "mini_batch_size": 2, "learning_rate": 1e-4}


def _part(folder: Path, **more) -> str:
    if not (folder / "lm").exists():
        text = " ".join(f"{title} {text}" for title, text in TOPICS.values())
        language_model(folder / "lm", words=" ".join(["=", ">", ",", *re.findall(r"\w+|[^\w\s]", text)]))
    part = {
        "base": str(folder / "lm"),
        "identifiers": {"kind": "text", "keywords": 2},
        "max_tokens": 80,
        "epochs": 30,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "float32",
    }
    return f"generative={json.dumps(part | more)}"


def _run(recipe_file: Path, folder: Path, *more: str) -> Path:
    result = sharpen("run", str(recipe_file), *PARTS, STRATEGIES, *more, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "topics"


def test_documents_to_a_verdict_in_two_stages(recipe_file, tmp_path, dataset):
    run = _run(recipe_file, tmp_path, _part(tmp_path, preferences=SECOND))
    identifiers = read_identifiers(run / "identifiers" / "identifiers.jsonl")
    assert set(identifiers) == set(TOPICS)
    AutoModelForCausalLM.from_pretrained(run / "model")  # by transformers alone
    AutoTokenizer.from_pretrained(run / "model")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["names"] == ["base encoder", "generative retriever"] and metrics["queries"] == 6
    assert metrics["memory"]["first"] > 0.9 and metrics["memory"]["documents"] == 12
    assert set(metrics["systems"]) == {
        "BM25",
        "base encoder",
        "base + BM25",
        "generative + BM25",
        "generative + base",
    }
    counts = json.loads((run / "training" / "manifest.json").read_text())["counts"]
    assert counts["contexts"] == 12 and counts["queries"] > 12
    report = (run / "report.md").read_text()
    assert "Beside other systems" in report and "Context2ID" in report
    # the folder is a system of its own, and finds what the run found
    result = sharpen("evaluate", f"generative:{run / 'model'}", "--data", str(dataset), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = next(tmp_path.glob("runs/evaluate-*/*/*/run.trec")).read_text().split("\n")
    assert [line.split()[:5] for line in found] == [
        line.split()[:5] for line in (run / "after" / "after.trec").read_text().split("\n")
    ]
    few = ("--data", str(dataset), "--beams", "2", "--out", "few")
    assert sharpen("evaluate", f"generative:{run / 'model'}", *few, cwd=tmp_path).returncode == 0
    of_two = next(tmp_path.glob("few/*/*/run.trec")).read_text().splitlines()
    assert max(Counter(line.split()[0] for line in of_two).values()) == 2
    both = sharpen("evaluate", f"hybrid:generative:{run / 'model'}", "--data", str(dataset), cwd=tmp_path)
    assert both.returncode == 0, both.stderr
    fused = sharpen("evaluate", f"fused:0.3:generative:{run / 'model'}", "--data", str(dataset), cwd=tmp_path)
    assert fused.returncode == 2 and "hybrid:" in fused.stderr
    shown = sharpen("search", str(run), "ice flowing downhill", "-n", "3", cwd=tmp_path).stdout
    assert "generative, " in shown and "generative + BM25" in shown and "What moved from base to tuned" in shown


def test_new_documents_are_learnt_with_a_replay_of_the_old(recipe_file, tmp_path, dataset):
    rows = [{"_id": i, "title": title, "text": text} for i, (title, text) in TOPICS.items()]
    write_rows(tmp_path / "old.jsonl", rows[:9])
    data = "evaluation.unknown_documents=drop"
    run = _run(recipe_file, tmp_path, _part(tmp_path), f"corpus.source={tmp_path / 'old.jsonl'}", data, "name=topics")
    old = run.rename(tmp_path / "runs" / "old")
    more = _part(tmp_path, base=str(old / "model"), replay={"run": str(old), "fraction": 0.5})
    run = _run(recipe_file, tmp_path, more)
    before, after = (read_identifiers(r / "identifiers" / "identifiers.jsonl") for r in (old, run))
    assert {i: after[i] for i in before} == before and len(after) == 12
    counts = json.loads((run / "training" / "manifest.json").read_text())["counts"]
    assert counts["contexts"] == 6  # three new documents, and three of the nine old ones
    memory = json.loads((run / "diagnosis" / "diagnosis.json").read_text())
    assert memory["documents"] == memory["texts"] == 12  # what was not replayed may have been forgotten
    other = _part(tmp_path, replay={"run": str(old), "fraction": 0.5})
    refused = sharpen("run", str(recipe_file), *PARTS, STRATEGIES, other, "name=other", cwd=tmp_path)
    assert refused.returncode == 2 and f"generative.base={old / 'model'}" in refused.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: c["queries"] for name, c in metrics["documents"].items()} == {"there before": 5, "new or changed": 1}


def _examples_part() -> ExamplesPart:
    return ExamplesPart(unit="document", second=("question_answer",), replay=None, seed=1)


def test_what_a_query_of_the_second_stage_was_reworded_to_is_not_in_the_first():
    made_of = {
        "a": ("document", None),
        "question_answer:a/0": ("question_answer", None),
        "p1": ("paraphrase", "a"),
        "p2": ("paraphrase", "question_answer:a/0"),
        "p3": ("back_translation", "p2"),
        "p4": ("paraphrase", "question_answer:gone/0"),
        "p5": ("paraphrase", "gone"),
    }
    queries = {
        i: Query(i, f"what is {i}", {"strategy": strategy, "positives": ["d"]} | ({"of": of} if of else {}))
        for i, (strategy, of) in made_of.items()
    }
    inputs = SimpleNamespace(queries=lambda: queries, train_queries=lambda: queries, corpus=lambda: {})
    identifiers = {"d": Identifier("d", "bread", "title")}
    stages = [{e.key for e in _examples_part().queries(inputs, identifiers, second)} for second in (False, True)]
    assert stages == [{"a", "p1", "p5"}, {"question_answer:a/0", "p2", "p3", "p4"}]


def test_what_may_answer_a_query_is_no_negative_of_it_in_the_second_stage(tmp_path):
    texts = {"p": "Bread", "copy": "Bread", "also": "Dough", "near": "Breads", "held": "Salt", "other": "Ice"}
    corpus = {i: Document(i, text) for i, text in texts.items()}
    metadata = {"positives": ["p"], "also_answers": ["also", "gone"], "near_duplicates": ["near"]}
    rows = [{"_id": i, "split": "test" if i == "held" else "train"} for i in corpus]
    (tmp_path / "split.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = SimpleNamespace(
        corpus=lambda: corpus, train_queries=lambda: {"q": Query("q", "what", metadata)}, folder=lambda _: tmp_path
    )
    may_be = _examples_part().allowed_negatives(inputs)(Example("what", "p", "query", "q"))
    assert [i for i in corpus if may_be(i)] == ["other"]


@pytest.mark.slow
def test_killed_in_either_stage_it_ends_with_the_same_model(recipe_file, tmp_path):
    more = _part(tmp_path, preferences=SECOND | {"checkpoint_steps": 1}, checkpoint_steps=5)
    run = _run(recipe_file, tmp_path, more)
    weights = (run / "model" / "model.safetensors").read_bytes()
    for stage in ("training", "model"):
        for made in ("training", "model", "after", "diagnosis") if stage == "training" else ("model", "after"):
            shutil.rmtree(run / made, ignore_errors=True)
        arguments = ("run", str(recipe_file), *PARTS, STRATEGIES, more)
        process = start_sharpen(*arguments, cwd=tmp_path)
        kill_when(process, lambda stage=stage: list((run / f".{stage}.work").glob("*/checkpoint-*")))
        assert stage == "training" or list((run / ".model.work").glob("*/pairs.json"))  # not searched for again
        _run(recipe_file, tmp_path, more)
        assert (run / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"preferences": {"strategies": ["third"]}}, "there is no strategy 'third'"),
        ({"preferences": {"strategies": ["first", "second"]}}, "no strategy is left for the first stage"),
        ({"identifiers": {"kind": "keywords"}}, "asks an LLM"),
        ({"beem": 3}, "beams"),
    ],
)
def test_what_does_not_fit(recipe_file, tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        load_recipe(str(recipe_file), [*PARTS, STRATEGIES, _part(tmp_path, **more)])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.data=null", "split={by: query, dev: 0.3}"], "generative.validation: the generated queries of"),
        (["split={by: query, dev: 0}"], "split.dev is 0"),
        (
            ["split={by: query, dev: 0.3}", "generative.validation.data={data}", "generative.validation.split=test"],
            "end",
        ),
    ],
)
def test_what_is_compared_on_chooses_nothing(recipe_file, tmp_path, dataset, overrides, message):
    overrides = [override.replace("{data}", str(dataset)) for override in overrides]
    with pytest.raises(InputError, match=message):
        load_recipe(str(recipe_file), [*PARTS, STRATEGIES, _part(tmp_path, validation={"k": 1}), *overrides])


def test_without_bm25_and_without_texts(recipe_file, tmp_path):
    more = _part(tmp_path, context=False, epochs=2, identifiers={"kind": "atomic"})
    run = _run(recipe_file, tmp_path, more, "evaluation.bm25=false")
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["systems"]) == {"base encoder", "generative + base"} and not metrics["memory"]["trained"]
    assert "It was not trained on its documents" in metrics["why"]
    assert "the recipe trains none" in (run / "report.md").read_text()


def test_settings_without_effect_are_refused(recipe_file, tmp_path):
    for override, message in (
        ("training.loss=gist", r"training\.loss: has no effect"),
        ("reranker={base: 'packaged:tiny-bert'}", "--rerank"),
        ("negatives.per_query=3", r"negatives\.per_query: has no effect"),
        ("evaluation.others=[{data: scifact}]", "nothing to measure elsewhere"),
    ):
        with pytest.raises(InputError, match=message):
            load_recipe(str(recipe_file), [*PARTS, STRATEGIES, _part(tmp_path), override])
    # read it is, as studies wrote it into the recipes of their runs
    loaded = load_recipe(str(recipe_file), [*PARTS, STRATEGIES, _part(tmp_path), "evaluation.systems=false"])
    with pytest.raises(InputError, match=r"evaluation\.systems: has no effect with generative"):
        check_recipe(loaded.recipe)


@pytest.mark.slow
def test_arms_are_compared(recipe_file, tmp_path):
    (tmp_path / "compare.yaml").write_text(f"""\
recipe: {recipe_file.name}
seeds: [1, 2]
baseline: texts and queries
overrides: {json.dumps([*PARTS, STRATEGIES, _part(tmp_path, epochs=2, preferences=SECOND)])}
arms:
  texts and queries: [generative.preferences.negatives=none]
  no Context2ID: [generative.context=false, generative.preferences.negatives=none]
  top 10: []
""")
    result = sharpen("compare", "compare.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (table,) = tmp_path.glob("runs/*/comparison.md")
    assert all(f"| {arm} |" in table.read_text() for arm in ("texts and queries", "no Context2ID", "top 10"))
    # arms of one seed share the first stage
    first, last = (
        json.loads(next(tmp_path.glob(f"runs/*/topics/{arm}-1/pairs/manifest.json")).read_text())["fingerprint"]
        for arm in ("texts-and-queries", "top-10")
    )
    assert first["sha256"] == last["sha256"]
