"""A model and its pairs go to a server that speaks as much of the hub's API as it takes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from ruamel.yaml import YAML

from sharpen.evaluation.generative.analysis import Memory
from sharpen.evaluation.report.comparison import Comparison
from sharpen.recipes.card import model_card
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.generative import _card as generative_card
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.outcome import settings_of
from sharpen.recipes.push import _without_places
from sharpen.recipes.schema.recipe import Recipe
from tests.conftest import TOPICS
from tests.processes import sharpen

SECRET = "hf_of_nobody"


class Hub(BaseHTTPRequestHandler):
    """Repositories, commits and large files, kept in memory by the class made for a test."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = urlsplit(self.path).path
        if self.headers["Authorization"] != f"Bearer {SECRET}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            return self._answer(200, {"url": f"{self.address}/me/{asked['name']}", "name": f"me/{asked['name']}"})
        if "/preupload/" in path:
            rows = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".parquet")) else "regular",
                }
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": [row | {"shouldIgnore": False} for row in rows]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.address}/large/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                elif row["key"] == "lfsFile":
                    self.files[row["value"]["path"]] = self.large[row["value"]["oid"]]
            repo = path.removeprefix("/api/").removeprefix("models/").partition("/commit/")[0]
            oid = hashlib.sha1(body, usedforsecurity=False).hexdigest()
            return self._answer(
                200, {"commitUrl": f"{self.address}/{repo}/commit/{oid}", "commitOid": oid, "hookOutput": ""}
            )
        return self._answer(200, {})

    def do_PUT(self):
        self.large[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {})

    def do_GET(self):
        if (path := urlsplit(self.path).path).startswith(("/api/models/me/", "/api/datasets/me/")) and path.count(
            "/"
        ) == 4:
            public = self.is_public or self.created[-1]["visibility"] == "public"
            return self._answer(200, {"id": path.partition("s/")[2], "private": not public, "siblings": []})
        return self._answer(404, {})

    def _answer(self, status: int, value: dict) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub():
    handler = type("OneHub", (Hub,), {"files": {}, "created": [], "large": {}, "is_public": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield handler
    server.shutdown()
    server.server_close()


def _push(hub, *arguments: str, token: str = SECRET) -> subprocess.CompletedProcess:
    variables = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "sharpen.recipes", "push", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_model_and_its_card_arrive_whole_and_private(plain, hub):
    result = _push(hub, str(plain), "me/topics-retriever")
    assert result.returncode == 0, result.stderr
    assert [(c["name"], c["visibility"]) for c in hub.created] == [("topics-retriever", "private")]
    model = plain / "model"
    assert hub.files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert {"config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"} <= set(hub.files)
    assert not {"manifest.json", "choice.json"} & set(hub.files)
    card = ModelCard(hub.files["README.md"].decode())
    assert 'SentenceTransformer("me/topics-retriever")' in card.text
    metrics = json.loads((plain / "metrics.json").read_text())
    results = {r.metric_type: r for r in card.data.eval_results}
    assert results["ndcg_at_10"].metric_value == pytest.approx(metrics["after"]["ndcg@10"]["value"], abs=1e-4)
    assert results["ndcg_at_10"].dataset_split == "test" and card.data.language == ["en"]
    recipe = YAML(typ="safe").load(hub.files["recipe.yaml"].decode())
    assert recipe["corpus"]["source"] == "topics" and recipe["training"]["base"] == "packaged:tiny-bert"
    # the run's own are as they were
    assert (
        str(plain.parent) in (model / "recipe.yaml").read_text() and "this folder" in (model / "README.md").read_text()
    )
    whole = b"".join(hub.files.values())
    assert SECRET.encode() not in whole and str(plain.parent).encode() not in whole
    readable = b"".join(c for name, c in hub.files.items() if name.endswith((".md", ".yaml", ".json")))
    assert not [title for title, text in TOPICS.values() if text.encode() in readable]


def test_pairs_arrive_as_a_dataset_that_datasets_reads(plain, hub, tmp_path):
    result = _push(hub, str(plain), "me/topics-pairs", "--pairs", "--public")
    assert result.returncode == 0, result.stderr
    assert [(c["type"], c["visibility"]) for c in hub.created] == [("dataset", "public")]
    for name, content in hub.files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    card = DatasetCard(hub.files["README.md"].decode())
    assert card.data.task_categories == ["text-retrieval"] and "harvested" in card.text
    corpus = load_dataset(str(tmp_path / "got"), "corpus", cache_dir=str(tmp_path / "cache"))["corpus"]
    assert set(corpus["_id"]) == set(TOPICS)


def test_a_dry_run_lists_files_and_sizes_and_connects_to_nobody(plain, tmp_path):
    result = sharpen("push", str(plain), "me/topics", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    size = (plain / "model" / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in result.stdout and "would push" in result.stdout
    assert "as a private model to me/topics" in result.stdout


def test_what_keeps_it_from_being_pushed_is_one_line(plain, hub, tmp_path, monkeypatch):
    wrong = _push(hub, str(plain), "topics", token="hf_wrong")
    assert wrong.returncode == 2 and "topics: not pushed: " in wrong.stderr and "hf_wrong" not in wrong.stderr
    monkeypatch.delenv("HF_TOKEN", raising=False)
    without = sharpen("push", str(plain), "topics", cwd=tmp_path)
    assert without.returncode == 2 and "HF_TOKEN is not set" in without.stderr
    assert "no finished model there" in sharpen("push", str(tmp_path), "topics", cwd=tmp_path).stderr


def test_no_folder_of_this_machine_stands_in_cards_recipes_and_settings(plain):
    values = YAML(typ="safe").load((plain / "recipe.yaml").read_text())
    values["training"] |= {"base": f"{plain}/model", "documents": "kept", "loss": "kl", "candidates": 4}
    values["training"]["teacher"] = {"bm25": 0.3, f"encoder:{plain}/model": 1.0}
    recipe, inputs = Recipe.model_validate(values), Inputs(plain)
    manifests = {stage: inputs.manifest(stage) for stage in ("corpus", "training")}
    comparison = Comparison.model_validate(json.loads((plain / "metrics.json").read_text()))
    card = model_card(FinishedRun(recipe, inputs, manifests), comparison, {})
    assert "`model`, tuned with" in card and "# by model, as they are" in card
    settings, pushed = settings_of(recipe), _without_places(recipe.model_dump(mode="json"))
    assert settings["training.teacher.encoder:model"] == pushed["training"]["teacher"]["encoder:model"] == 1.0
    assert not [text for text in (card, str(settings), str(pushed)) if str(plain) in text]


def test_no_folder_of_this_machine_stands_in_the_card_of_a_generative_model(plain):
    values = YAML(typ="safe").load((plain / "recipe.yaml").read_text())
    values |= {"training": {"base": values["training"]["base"]}, "negatives": {}}
    values["generative"] = {"base": f"{plain}/model.gguf", "identifiers": {"kind": "text"}}
    run = SimpleNamespace(
        recipe=Recipe.model_validate(values), manifests={"identifiers": {"counts": {"identifiers": 12}}}
    )
    comparison = Comparison.model_validate(json.loads((plain / "metrics.json").read_text()))
    memory = Memory(texts=9, first=0.4, found=0.6, documents=9, unreached=[], failures={}, queries=5)
    card = generative_card(run, comparison, memory)
    assert "`model.gguf`, tuned with" in card and str(plain) not in card


SAID = "Our contract with ACME ends in May"
OTHER = "The stamp of ACME is in the safe"


def test_examples_in_the_recipe_are_pushed_only_when_asked_for(plain, hub, tmp_path):
    values = YAML(typ="safe").load((plain / "recipe.yaml").read_text())
    pool, own = [{"document": SAID, "query": "when does it end"}], {"document": SAID, "query": OTHER, "answer": SAID}
    strategies = [{"kind": "question_answer", "pool": [own, own]}, {"kind": "sentence"}]
    strategies.append({"kind": "custom", "use": "mine.py:Own", "options": {"shots": {"first": [SAID, OTHER]}}})
    values |= {"llm": {"base_url": "http://localhost:1/v1", "model": "m"}}
    values["queries"] = {"pool": pool, "strategies": strategies, "examples_per_prompt": 1}
    values["negatives"]["miners"] = [{"kind": "llm", "pool": "shots.yaml"}]
    recipe = Recipe.model_validate(values).model_dump(mode="json")
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    comparison = Comparison.model_validate(json.loads((plain / "metrics.json").read_text()))
    manifests = {stage: Inputs(plain).manifest(stage) for stage in ("corpus", "training")}
    asking = Recipe.model_validate(values | {"queries": {"pool": pool, "strategies": strategies[:2]}})
    (model / "README.md").write_text(model_card(FinishedRun(asking, Inputs(plain), manifests), comparison, {}))
    (model / "recipe.yaml").write_text(json.dumps(recipe))  # which is YAML, too
    assert _push(hub, str(tmp_path / "run"), "me/topics").returncode == 0
    assert set(hub.files) == {"README.md", "recipe.yaml"} and b"ACME" not in b"".join(hub.files.values())
    queries = YAML(typ="safe").load(hub.files["recipe.yaml"].decode())["queries"]
    assert queries["pool"] == "1 example, left out" and queries["examples_per_prompt"] == 1
    assert [row.get("pool") for row in queries["strategies"]] == ["2 examples, left out", None, None]
    assert queries["strategies"][2]["options"] == {"shots": {"first": "2 examples, left out"}}
    assert b"pool: shots.yaml" in hub.files["recipe.yaml"]
    assert _push(hub, str(tmp_path / "run"), "me/topics", "--texts").returncode == 0
    assert YAML(typ="safe").load(hub.files["recipe.yaml"].decode())["queries"] == recipe["queries"]


def test_a_repository_that_is_public_already_takes_nothing_unless_it_may(plain, hub):
    hub.is_public = True
    refused = _push(hub, str(plain), "me/topics-retriever")
    assert refused.returncode == 2 and "public; --public pushes into it" in refused.stderr and not hub.files
    assert _push(hub, str(plain), "me/topics-retriever", "--public").returncode == 0 and hub.files


def test_a_server_that_nobody_reaches_is_one_line(plain, hub):
    hub.address = "http://127.0.0.1:9"
    result = _push(hub, str(plain), "me/topics")
    assert result.returncode == 2 and "me/topics: not pushed: " in result.stderr, result.stderr[-500:]


def test_a_generative_models_identifiers_are_pushed_when_asked_for(tmp_path: Path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    for name in ("README.md", "identifiers.jsonl"):
        (tmp_path / "run" / "model" / name).write_text("{}\n")
    refused = sharpen("push", "run", "me/topics", "--dry-run", cwd=tmp_path)
    assert refused.returncode == 2 and "holds words of your documents" in refused.stderr
    assert "identifiers.jsonl" in sharpen("push", "run", "me/topics", "--dry-run", "--texts", cwd=tmp_path).stdout
