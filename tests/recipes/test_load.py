import re
import subprocess
import sys
from pathlib import Path

import pytest

from sharpen.evaluation.files import InputError
from sharpen.recipes.keys import BEGIN, END, README, keys_markdown
from sharpen.recipes.load import FOLDER, first_line, load_recipe, part_files, recipe_files, with_values
from sharpen.sdg.strategies.pools import read_pool
from sharpen.sdg.strategies.settings import asks_llm


def _error(*arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("path", recipe_files(), ids=lambda p: p.stem)
def test_every_recipe_is_valid_and_opens_with_what_it_does_needs_and_how_to_run_it(path: Path):
    loaded = load_recipe(str(path))
    opening = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert all(part in opening for part in ("What it does:", "What it needs:", "How to run it:", "How to change it:"))
    assert f"sharpen run recipes/{path.relative_to(FOLDER)}" in opening and first_line(path).endswith(".")
    queries = loaded.recipe.queries
    assert len(read_pool(Path(queries.pool))) >= 20 if queries.pool else loaded.recipe.llm is None


def test_the_resolved_recipe_is_a_recipe_and_says_the_same(recipe_file: Path, tmp_path: Path):
    loaded = load_recipe(str(recipe_file), ["training.epochs=3", "queries.task=a: b"][:1])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(loaded.resolved_yaml)
    again = load_recipe(str(resolved))
    assert again.recipe == loaded.recipe and again.recipe.training.epochs == 3
    assert "learning_rate: 0.0001" in loaded.resolved_yaml and "warmup: 0.1" in loaded.resolved_yaml


def test_files_of_a_recipe_lie_beside_it_and_those_of_an_override_here(recipe_file: Path, tmp_path: Path, monkeypatch):
    here = tmp_path / "elsewhere"
    for folder in (here, tmp_path):
        (folder / "questions").mkdir(parents=True)
    monkeypatch.chdir(here)
    loaded = load_recipe(str(recipe_file), ["evaluation.data=questions"])
    assert loaded.recipe.evaluation.data == str(here / "questions")
    assert loaded.recipe.queries.pool == str(tmp_path / "pool.yaml")
    # the copy beside the results has a folder `corpus` of its own there
    (here / "run" / "corpus").mkdir(parents=True)
    (here / "corpus").mkdir()
    loaded = load_recipe(str(recipe_file), ["corpus.source=corpus"])
    (here / "run" / "recipe.yaml").write_text(loaded.resolved_yaml)
    assert load_recipe("run/recipe.yaml").recipe == loaded.recipe


def _with(recipe_file: Path, old: str, new: str) -> str:
    text = recipe_file.read_text()
    assert old in text
    recipe_file.write_text(text.replace(old, new))
    return str(recipe_file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "sead: 3", ["line 4", "unknown key 'sead'", "did you mean 'seed'?"]),
        ("batch_size: 4", "batchsize: 4", ["line 10", "'training.batchsize'", "did you mean 'batch_size'?"]),
        ("batch_size: 4", "batch_size: many", ["line 10", "training.batch_size", "found 'many'"]),
        ("batch_size: 4", "batch_size: 1", ["line 10", "greater than or equal to 2"]),
        ("seed: 3", "seed: 3\nseed: 4", ["line 5", "not valid YAML", "duplicate key"]),
        ("seed: 3", "seed: [3", ["not valid YAML"]),
        ("seed: 3", "seed: ${NO_SUCH_VARIABLE}", ["line 4", "NO_SUCH_VARIABLE is not set"]),
        (
            "llm: embedded",
            "llm: {embedded: x, base_url: 'http://y'}",
            ["line 6", "one of embedded, base_url and endpoints"],
        ),
        ("llm: embedded", "llm: {base_url: 'http://x/v1'}", ["line 6", "need model"]),
        ("llm: embedded", "llm: {embedded: gemma-3-270m, budget: 5}", ["line 6", "budget needs prices"]),
        ("name: topics", "name: ../up", ["line 2", "name"]),
        ("ranks: [1, 5]", "ranks: [5, 1]", ["line 9", "negatives.miners.0.ranks", "first rank"]),
        ("ranks: [1, 5]", "rank: [1, 5]", ["line 9", "unknown key 'negatives.miners.0.rank'", "did you mean 'ranks'?"]),
        ("kind: bm25", "kind: bm52", ["line 9", "negatives.miners.0.kind", "did you mean 'bm25'?"]),
        ("kind: bm25, ", "", ["line 9", "negatives.miners.0.kind: missing", "cross_encoder"]),
        ("kind: bm25", "kind: cross_encoder", ["line 9", "'negatives.miners.0.model' is missing", "A reranker"]),
        (
            "kind: bm25",
            "kind: llm, pool: pools/none.yaml, temperature: hot",
            ["line 9", "negatives.miners.0.temperature", "found 'hot'"],
        ),
        ("retriever: fused", "retriever: bm52", ["line 8", "filters.round_trip.retriever", "'bm25'"]),
    ],
)
def test_mistakes_are_named_with_line_and_key(recipe_file: Path, old: str, new: str, said: list[str]):
    message = _error(_with(recipe_file, old, new))
    assert str(recipe_file) in message
    assert all(part in message for part in said), message


def test_all_mistakes_at_once_and_missing_keys(recipe_file: Path):
    message = _error(_with(recipe_file, "corpus:", "korpus:"))
    assert "'corpus' is missing" in message and "did you mean 'corpus'?" in message


def test_overrides(recipe_file: Path):
    recipe = load_recipe(
        str(recipe_file),
        [
            "llm.base_url=http://h/v1",
            "llm.model=m",
            "negatives.miners=[{kind: bm25, ranks: [2, 9]}]",
            "corpus.chunk=null",
        ],
    ).recipe
    assert (recipe.llm.base_url, recipe.llm.embedded, recipe.negatives.miners[0].ranks, recipe.corpus.chunk) == (
        "http://h/v1",
        None,
        (2, 9),
        None,
    )
    assert load_recipe(str(recipe_file), ["negatives.miners.0.ranks=[3, 4]"]).recipe.negatives.miners[0].ranks == (3, 4)
    message = _error(str(recipe_file), ["negatives.miners=[{kind: bm25, rank: [3, 4]}]"])
    assert (
        message.startswith("override 'negatives.miners=[{kind: bm25, rank: [3, 4]}]'")
        and "did you mean 'ranks'?" in message
        and len(message.splitlines()) == 1
    )
    assert "no place with keys below it" in _error(
        str(recipe_file), ["training.matryoshka=[64, 32]", "training.matryoshka.0.x=1"]
    )
    assert "no place in a list of 1" in _error(str(recipe_file), ["negatives.miners.1.ranks=[3, 4]"])
    assert "override 'training.epoch=1'" in _error(str(recipe_file), ["training.epoch=1"])
    assert "expected key.path=value" in _error(str(recipe_file), ["training.epochs"])
    assert "not valid YAML" in _error(str(recipe_file), ["seed=[1"])


def test_environment_references_are_used_but_never_written(recipe_file: Path, monkeypatch):
    monkeypatch.setenv("LLM_TOKEN", "s3cr3t")
    path = _with(
        recipe_file,
        "llm: embedded",
        "llm: {base_url: 'http://user:${LLM_TOKEN}@host/v1', model: '${LLM_MODEL:-small}'}",
    )
    loaded = load_recipe(path)
    assert loaded.recipe.llm.base_url == "http://user:s3cr3t@host/v1" and loaded.recipe.llm.model == "small"
    assert "s3cr3t" not in loaded.resolved_yaml and "${LLM_TOKEN}" in loaded.resolved_yaml
    monkeypatch.setenv("LLM_MODEL", "x")
    assert "s3cr3t" not in _error(path, ["llm.timeout=soon", "llm.api_key_env=[1]"])


def test_what_a_run_was_made_from_does_not_hang_on_a_variable(recipe_file: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "docs").mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("LAST_RUN", "runs/first")
    monkeypatch.setenv("DOCS", str(tmp_path / "docs"))
    given = ["training/continued", "corpus.source=${DOCS}", "evaluation.others=[]"]
    loaded = load_recipe(str(recipe_file), given)
    (tmp_path / "resolved.yaml").write_text(loaded.resolved_yaml)
    monkeypatch.setenv("LAST_RUN", "runs/another")
    monkeypatch.delenv("DOCS")
    assert load_recipe(str(tmp_path / "resolved.yaml")).recipe == loaded.recipe
    assert loaded.recipe.training.base == "runs/first/model"


def test_what_a_study_changes_stands_in_the_text_too(recipe_file: Path, tmp_path: Path):
    loaded = with_values(load_recipe(str(recipe_file)), "training", triplets=7)
    (tmp_path / "resolved.yaml").write_text(loaded.resolved_yaml)
    assert load_recipe(str(tmp_path / "resolved.yaml")).recipe == loaded.recipe
    assert loaded.recipe.training.triplets == 7


@pytest.mark.parametrize("how", ["moved", "linked", "deeper", "of its own"])
def test_a_run_keeps_its_journal_wherever_its_folder_is(how: str, recipe_file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / ("study/set/arm" if how == "deeper" else "mine")
    run.mkdir(parents=True)
    journal = tmp_path / ("own/answers.sqlite" if how == "of its own" else "runs/llm_answers.sqlite")
    journal.parent.mkdir(exist_ok=True)
    journal.touch()
    own = [f"journal={journal}"] if how == "of its own" else []
    (run / "recipe.yaml").write_text(load_recipe(str(recipe_file), ["runs=runs", *own]).resolved_yaml)
    assert load_recipe(str(run)).recipe.journal_file.resolve() == journal
    if how == "moved":
        (tmp_path / "archive").mkdir()
        run = run.rename(tmp_path / "archive" / "mine")
    elif how == "linked":
        (tmp_path / "latest").symlink_to(run)
        run = Path("latest")
    loaded = load_recipe(str(run))
    assert loaded.recipe.journal_file.resolve() == journal and Path(loaded.recipe.runs) == run.parent
    (run / "recipe.yaml").write_text(loaded.resolved_yaml)
    assert load_recipe(str(run)).recipe == loaded.recipe


def test_names_and_pools(recipe_file: Path):
    assert load_recipe("quickstart").recipe.name == "quickstart"
    assert "did you mean quickstart?" in _error("quikstart")
    pool = recipe_file.parent / "pool.yaml"
    pool.write_text(pool.read_text() + "- {document: x}\n")
    with pytest.raises(InputError, match=r"pool\.yaml, line 4: an example has the keys document and query"):
        read_pool(pool)


@pytest.mark.parametrize("path", part_files(), ids=lambda p: p.stem)
def test_every_part_says_how_it_is_run_and_is_valid_with_that_recipe(path: Path):
    opening = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert all(
        part in opening for part in ("What it does:", "What it needs:", "How to run it:", "How to change it:")
    ) and first_line(path).endswith(".")
    recipe, overrides = re.search(r"sharpen run (recipes/\S+\.yaml) (.+)", opening).groups()
    assert f"{path.parent.name}/{path.stem}" in overrides.split()
    loaded = load_recipe(str(Path(__file__).parents[2] / recipe), overrides.split()).recipe
    for strategy in filter(asks_llm, loaded.queries.all_strategies()):
        fewest = {"multi_hop": 6, "simulated_user": 15}.get(strategy.kind, 20)
        assert len(strategy.example_answers()) >= fewest


def test_parts_take_the_place_of_what_they_name_and_keep_their_files_and_lines(recipe_file: Path, tmp_path: Path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own.yaml").write_text("- {document: a b, query: c d}\n")
    part = tmp_path / "here" / "part.yaml"
    part.write_text(
        "# A part.\nqueries:\n  temperature: 0.1\n  strategies:\n    - {kind: sentence, pool: own.yaml}\ntraining:"
        " {epochs: 7}\n"
    )
    recipe = load_recipe(str(recipe_file), [str(part), "training.epochs=9"]).recipe
    assert (recipe.queries.temperature, recipe.training.epochs, recipe.training.batch_size) == (0.1, 9, 4)
    (strategy,) = recipe.queries.all_strategies()
    assert (strategy.kind, strategy.pool, strategy.max_tokens) == ("sentence", str(tmp_path / "here" / "own.yaml"), 32)
    part.write_text(
        "# A part.\nqueries:\n  strategies:\n    - {kind: document}\n    - {kind: sentence, fields: [author]}\n"
    )
    assert (
        "part.yaml, line 5" in (message := _error(str(recipe_file), [str(part)]))
        and "that belongs to metadata" in message
    )
    part.write_text("queries:\n  strategies:\n    - {kind: document, per_documnt: 2}\n")
    assert (
        "part.yaml, line 3" in (message := _error(str(recipe_file), [str(part)]))
        and "did you mean 'per_document'" in message
    )


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        ("[{kind: metadata}]", "give fields, of the documents' metadata, or extract"),
        ("[{kind: document}, {kind: document}]", "different names"),
        ("[{kind: paraphrase}]", "no pool of examples for paraphrase"),
        ("[{kind: back_translation, pool: x.yaml}]", "cannot be the first"),
        ("[{kind: multi_hop, task: Ask.}]", "has no task"),
        ("[{kind: multi_hop, bundle: {hops: [3, 2]}}]", "must not be greater"),
        ("[{bundle: {documents: 2}}]", "belongs to multi_hop"),
        ("[{name: labelled}]", "real queries"),
        ("[{}, {kind: paraphrase, pool: x.yaml, documents: 5}]", "has no documents"),
        ("[{kind: multi_hop, pool: x.yaml, bundle: {segments: 2, hops: [3, 4]}}]", "least number of hops"),
        ("[{kind: question_answer, form: line}]", "no room for an answer"),
        ("[{kind: document, queries: 2, form: line}]", "room for one query"),
        ("[]", "at least 1"),
        ("[{kind: dokument}]", "'document'"),
    ],
)
def test_strategies_that_make_no_sense(recipe_file: Path, strategies: str, said: str):
    assert said in _error(str(recipe_file), [f"queries.strategies={strategies}"])


def test_what_a_strategy_does_not_say_it_takes_from_queries_or_by_kind(recipe_file: Path):
    strategies = "[{kind: document}, {kind: question_answer, queries: 3, temperature: 1.0}]"
    one, three = load_recipe(str(recipe_file), [f"queries.strategies={strategies}"]).recipe.queries.all_strategies()
    assert (one.form, one.temperature, one.per_document, one.name) == ("line", 0.5, 2, "document")
    assert (three.form, three.temperature, three.max_tokens, three.pool) == (
        "json",
        1.0,
        330,
        one.pool,
    ) and "the answer" in three.task


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("training.base_share=0.5", "it is called base_weight now"),
        ("labelled={data: x, share: 0.5}", "it is called fraction now"),
        ("negatives.miners=[{kind: bm25, share: 2}]", "called weight now"),
        ("filters={copying: {max_share: 0.5}}", "it is called max_fraction now"),
        ("filters.at_most=5", "it is called max_queries now"),
        ("reranker={base: x, first_stage_share: 0.5}", "it is called first_stage_weight now"),
    ],
)
def test_keys_that_were_renamed_are_refused_with_their_new_names(recipe_file: Path, part: str, said: str):
    assert said in _error(str(recipe_file), [part])


def test_the_page_of_keys_is_what_the_schema_says():
    text = README.read_text(encoding="utf-8")
    assert f"{BEGIN}\n\n{keys_markdown()}\n{END}" in text, "run: python -m sharpen.recipes.keys"


def test_reading_a_recipe_loads_no_heavy_library(recipe_file: Path):
    program = (
        "import sys; from sharpen.recipes.load import load_recipe; load_recipe(sys.argv[1]);"
        "print(sorted({'torch', 'openai', 'datasets', 'faiss', 'sentence_transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program, str(recipe_file)], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
