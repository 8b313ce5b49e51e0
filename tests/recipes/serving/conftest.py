"""A small finished run with everything that can be looked at, and a server of it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sharpen.recipes.serving.app import Looking, make_server, open_socket
from sharpen.recipes.serving.systems import RunSystems
from tests.conftest import make_dataset
from tests.processes import sharpen

RECIPE = """
name: small
runs: {folder}/runs
seed: 3
corpus: {{source: {dataset}}}
queries: {{strategies: [{{kind: harvested}}]}}
filters: {{round_trip: {{retriever: dense, top_k: 1}}}}
negatives:
  per_query: 1
  miners: [{{kind: dense, ranks: [1, 8]}}]
  filters: [{{kind: absolute, scorer: bm25, max: 0.3}}]
training: {{base: "packaged:tiny-bert", batch_size: 4, epochs: 2, learning_rate: 1.0e-3, dropout: 0}}
reranker: {{base: "packaged:tiny-bert", negatives: 1, depth: 6, learning_rate: 1.0e-4}}
evaluation: {{data: {dataset}, others: []}}
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that is only looked at."""
    folder = tmp_path_factory.mktemp("finished")
    dataset = make_dataset(folder / "topics")
    (folder / "small.yaml").write_text(RECIPE.format(folder=folder, dataset=dataset))
    result = sharpen("run", str(folder / "small.yaml"), cwd=folder)
    assert result.returncode == 0, result.stderr + result.stdout
    return folder / "runs" / "small"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(finished, tmp_path / "small", copy_function=os.link)  # what changes takes the place of a link
    return tmp_path / "small"


@dataclass(frozen=True)
class Served:
    run: Path
    address: str

    @property
    def port(self) -> int:
        return int(self.address.split(":")[2].split("/")[0])

    @property
    def token(self) -> str:
        return self.address.partition("#token=")[2]


@pytest.fixture(scope="module")
def served(finished: Path, tmp_path_factory) -> Iterator[Served]:
    """A copy of the run with a server, which the tests of a module share."""
    run = tmp_path_factory.mktemp("served") / "small"
    shutil.copytree(finished, run, copy_function=os.link)
    with open_socket(0) as listening:
        server, address = make_server(Looking(RunSystems(run), "Anna"), listening)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield Served(run, address)
        server.should_exit = True
        thread.join(10)
