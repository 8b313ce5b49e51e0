import shutil

import pytest
from filelock import FileLock

from sharpen.sdg.llm.settings import JOURNAL
from tests.browsers import chromium
from tests.conftest import make_dataset, make_recipe
from tests.processes import sharpen

PLAIN = """# Tune the smallest encoder on twelve documents, without an LLM.
name: plain
runs: {runs}
seed: 3
corpus: {{source: {data}}}
queries: {{strategies: [{{kind: harvested, per_document: 2}}]}}
negatives: {{per_query: 1, miners: [{{kind: bm25, ranks: [1, 5]}}]}}
training: {{base: "packaged:tiny-bert", batch_size: 4, epochs: 2, learning_rate: 1.0e-4, dropout: 0}}
evaluation: {{data: {data}, others: []}}
"""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, worker_id):
    """One finished run that several tests look at. The LLM answers the first worker that asks; the others are given its
    journal."""
    tmp_path, base = tmp_path_factory.mktemp("run"), tmp_path_factory.getbasetemp()
    recipe_file = make_recipe(tmp_path, make_dataset(tmp_path / "topics"))
    answers = (base if worker_id == "master" else base.parent) / JOURNAL
    with FileLock(f"{answers}.lock"):
        if answers.exists():
            (tmp_path / "runs").mkdir()
            shutil.copy(answers, tmp_path / "runs" / JOURNAL)
        result = sharpen("run", str(recipe_file), cwd=tmp_path, process=True)
        assert result.returncode == 0, result.stderr + result.stdout
        shutil.copy(tmp_path / "runs" / JOURNAL, answers)
    return tmp_path, recipe_file, result


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The folder of a finished run that asked no LLM, below ``runs`` beside its recipe ``plain.yaml``."""
    tmp_path = tmp_path_factory.mktemp("plain")
    data = make_dataset(tmp_path / "topics")
    (tmp_path / "plain.yaml").write_text(PLAIN.format(runs=tmp_path / "runs", data=data))
    result = sharpen("run", "plain.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    return tmp_path / "runs" / "plain"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started
