"""`sharpen init` looks at documents and writes a recipe that holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sharpen.recipes.beginning import Looked
from sharpen.recipes.load import first_line
from tests.conftest import TOPICS
from tests.processes import sharpen

GERMAN = (
    "Der Mieter zahlt die Miete am dritten Werktag eines jeden Monats im Voraus. Kommt er damit mehr als zwei Monate"
    " in Verzug, so kann der Vermieter das Mietverhältnis außerordentlich und fristlos kündigen."
)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name, (title, text) in TOPICS.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {title}\n\n{text}\n")
    (tmp_path / "questions.csv").write_text("question,document\nflat tire what now,bicycle.md\n")
    return tmp_path


def _recipe(documents: Path, *arguments: str, source: str = "docs") -> tuple[dict, str]:
    result = sharpen("init", source, "--out", "mine.yaml", *arguments, cwd=documents)
    assert result.returncode == 0, result.stderr
    valid = sharpen("validate", "mine.yaml", cwd=documents)
    assert valid.returncode == 0, valid.stderr
    return YAML(typ="safe").load((documents / "mine.yaml").read_text()), result.stdout


def test_without_an_llm(documents):
    recipe, said = _recipe(documents, "--llm", "none", "--questions", "questions.csv", "--minutes", "2", "--yes")
    assert "12 documents in 12 files: markdown 12" in said and "English 12" in said
    assert recipe["corpus"]["source"] == "docs" and recipe["corpus"]["language"] == "en"
    assert recipe["corpus"]["chunk"] is None and "llm" not in recipe
    assert recipe["queries"]["strategies"] == [{"kind": "harvested", "limit": 1600}]
    assert recipe["evaluation"] == {"data": "questions.csv"} and recipe["training"]["loss"] == "kl"
    assert recipe["training"]["candidates"] == 6  # of 12 documents, a fifth held out
    text = (documents / "mine.yaml").read_text()
    assert first_line(documents / "mine.yaml") == "Tune an encoder on docs: 12 documents, English."
    for part in (
        "# What it does:",
        "# What it needs:",
        "# How to run it:    sharpen run mine.yaml",
        "# How to change it",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 120


def test_with_an_endpoint_and_long_german_documents(documents, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-of-nobody")
    for n in range(4):
        (documents / "docs" / f"gesetz{n}.txt").write_text(GERMAN * 30)
    for name in TOPICS:
        (documents / "docs" / f"{name}.md").unlink()
    endpoint = ("--llm", "http://localhost:8000/v1", "--model", "qwen", "--api-key-env", "MY_KEY", "--minutes", "5")
    recipe, said = _recipe(documents, *endpoint, "--yes")
    assert "German 4" in said and recipe["corpus"] == {"source": "docs", "chunk": {"max_tokens": 200}, "language": "de"}
    assert recipe["llm"] == {"base_url": "http://localhost:8000/v1", "model": "qwen", "api_key_env": "MY_KEY"}
    assert recipe["training"]["base"] == "packaged:multilingual-e5-small"
    assert recipe["training"]["query_prompt"] == "query: "
    assert recipe["queries"]["documents"] == 1000 and (documents / "mine_pool.yaml").exists()
    assert max(map(len, (documents / "mine.yaml").read_text().splitlines())) <= 120


def test_a_second_language_is_found_wherever_it_lies(documents):
    for language, number, text in (("de", 1200, GERMAN), ("en", 800, TOPICS["bread"][1])):
        (documents / "wiki" / language).mkdir(parents=True)
        for n in range(number):
            (documents / "wiki" / language / f"{n}.txt").write_text(f"{text} {n}")
    recipe, said = _recipe(documents, "--llm", "none", "--yes", source="wiki")
    assert "looked at 1,000 of the documents in 2,000 files: text 1,000" in said
    german, english = map(int, re.search(r"^languages: German (\d+), English (\d+)$", said, re.M).groups())
    assert german + english == 1000 and 350 < english < 450
    assert "language" not in recipe["corpus"] and recipe["training"]["base"] == "packaged:multilingual-e5-small"
    assert first_line(documents / "mine.yaml").endswith("wiki: more than 1,000 documents, German and English.")


def test_some_of_many_other_languages_take_a_base_that_knows_them():
    some = {"en": 94} | dict.fromkeys(("de", "fr", "it"), 2)
    assert not Looked(100, False, 100, 9, 9, some).is_english
    assert Looked(100, False, 100, 9, 9, {"en": 95, "de": 5}).is_english


def test_it_asks_three_questions_at_most(documents, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("http://localhost:1/v1 small\nquestions.csv\n7\n"))
    recipe, _ = _recipe(documents)
    assert recipe["llm"]["model"] == "small" and recipe["evaluation"] == {"data": "questions.csv"}
    assert recipe["queries"]["documents"] == 1400
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    stopped = sharpen("init", "docs", "--out", "other.yaml", cwd=documents)
    assert stopped.returncode != 0 and not (documents / "other.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such file or folder"),
        (["docs", "--llm", "http://localhost:1/v1"], "give --model, too"),
        (["docs", "--llm", "qwen"], "give none, embedded, or a URL"),
        (["docs", "--llm", "none", "--questions", "none.csv"], "none.csv: no such file"),
        (["docs", "--llm", "none", "--out", "questions.csv"], "is there already"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(documents, arguments, said):
    before = sorted(documents.iterdir())
    result = sharpen("init", *arguments, "--yes", cwd=documents)
    assert result.returncode == 2 and said in result.stderr and sorted(documents.iterdir()) == before
