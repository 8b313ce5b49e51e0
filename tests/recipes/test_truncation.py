"""Nothing is cut off in silence: manifests and report count what encoder and prompt did not see."""

import json

import pytest

from tests.conftest import make_dataset, make_recipe, write_rows
from tests.processes import sharpen
from tests.servers import chat_answer, serve_replies

WORDS = " ".join(f"glacier {n}" for n in range(1000, 1700))
"""1,400 words, and more tokens than 2,000: a number has two."""


def _some_of_its_words(_path: str, body: dict, _headers: dict):
    document = body["messages"][-1]["content"].split()
    return chat_answer(" ".join(document[-40:-10:5]))


@pytest.mark.slow
def test_a_document_of_2000_tokens_is_counted_in_manifests_and_report_by_encoder_and_by_prompt(tmp_path):
    dataset = make_dataset(tmp_path / "topics")
    rows = [json.loads(line) for line in (dataset / "corpus.jsonl").read_text().splitlines()]
    write_rows(dataset / "corpus.jsonl", [*rows, {"_id": "long", "title": "", "text": WORDS}])
    recipe = make_recipe(tmp_path, dataset)
    changed = ("corpus.chunk=null", "queries.per_document=1", "queries.max_document_words=100", "training.epochs=1")
    with serve_replies(_some_of_its_words) as base_url:
        result = sharpen("run", str(recipe), *changed, f"llm={{base_url: '{base_url}', model: m}}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    folder = tmp_path / "runs" / "topics"
    manifests = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/manifest.json")}
    assert "truncated" not in manifests["corpus"]
    for stage in ("before", "pairs", "after"):
        assert manifests[stage]["counts"]["truncated_documents"] == 1
        (documents,) = (found for found in manifests[stage]["truncated"] if found["what"] == "documents")
        assert documents["texts"] == 13 and documents["limit"] == 512 and documents["longest"] > 2000
    assert manifests["queries"]["counts"]["shortened_in_prompts"] == 1
    assert manifests["queries"]["truncated"] == [
        {"what": "in_prompts", "texts": 13, "truncated": 1, "longest": 1400, "limit": 100}
    ]
    assert "1 truncated documents" in result.stdout and "1 shortened in prompts" in result.stdout
    report = (folder / "report.md").read_text()
    assert "1 of 13 documents is longer than the 512 tokens that the encoder reads (the longest: 2," in report
    assert "1 of 13 texts in prompts is longer than the 100 words that the prompt shows (the longest: 1,400)" in report
    assert "Truncated texts" in (folder / "report.html").read_text()
