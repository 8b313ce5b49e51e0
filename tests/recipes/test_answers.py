"""``sharpen answers`` on a real run, with a server that answers by rules."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest

from tests.conftest import TOPICS, make_dataset, make_recipe, write_rows
from tests.processes import sharpen
from tests.servers import chat_answer, serve_replies

ANSWERS = {
    "bread": "ten minutes",
    "bicycle": "levers",
    "tomato": "March",
    "glacier": "downhill",
    "coffee": "sixty grams",
    "chess": "castle early",
}

HOSTILE = "<script>window.owned = 1</script>"


class Reader:
    """An LLM that knows the answers that stand in what it is shown, and a judge that compares texts; it keeps what it
    is asked."""

    def __init__(self, answers=ANSWERS, fails_after=None):
        self.prompts, self.answers, self.fails_after, self._lock = [], answers, fails_after, threading.Lock()

    def __call__(self, _path, body, _headers):
        prompt = body["messages"][0]["content"]
        with self._lock:
            self.prompts.append(prompt)
            if self.fails_after is not None and len(self.prompts) > self.fails_after:
                return 400, {}, b'{"error": {"message": "out of order", "type": "invalid_request_error"}}'
        if "You judge" in prompt:
            return chat_answer(json.dumps(self._judged(prompt)))
        documents = "".join(re.findall(r"^Document \d+: (.*)$", prompt, re.M))
        question = re.search(r"^Question: about (\w+)", prompt, re.M).group(1)
        found = self.answers[question] if self.answers[question] in documents else "I don't know."
        return chat_answer(found)

    def _judged(self, prompt):
        right = re.search(r"^The right answer: (.*)$", prompt, re.M).group(1)
        if given := re.search(r"^The answer to judge: (.*)$", prompt, re.M):
            score = 10 if given.group(1) == right else 1
            return {"faithfulness": 10, "answer_correctness": score}
        found = 10 if right in prompt.split("Question:")[0] else 0
        return {"context_relevance": 5, "context_recall": found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the tiniest model, and questions with their answers."""
    tmp_path = tmp_path_factory.mktemp("answers")
    recipe = make_recipe(tmp_path, make_dataset(tmp_path / "topics"))
    more = ("llm=null", "queries={strategies: [{kind: harvested}]}", "training.epochs=1", "evaluation.systems=false")
    result = sharpen("train", str(recipe), *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [
        {"_id": i, "question": f"about {i}: {TOPICS[i][0]} {HOSTILE}", "answer": a, "document": i}
        for i, a in ANSWERS.items()
    ]
    write_rows(tmp_path / "questions.jsonl", rows)
    return tmp_path


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """The same, to be written into."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "topics"


def _answers(run: Path, url: str, *more: str, questions: str = "questions.jsonl"):
    llm = f"llm={{base_url: {url}, model: m, max_retries: 0, prices: {{input: 1, output: 2}}}}"
    given = ("--questions", str(run.parents[1] / questions)) if questions else ()
    return sharpen("answers", str(run), llm, *given, *more, cwd=run.parents[1])


def _calls(table: str) -> int:
    return int(re.search(r"^│ all +│ +(\d+)", table, re.M).group(1))


def test_answers_from_each_context_are_compared_by_question_and_judged(run):
    reader = Reader()
    with serve_replies(reader) as url:
        result = _answers(run, url, "--top-k", "2", "--judge")
    assert result.returncode == 0, result.stderr
    folder = run / "answers"
    rows = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    by_place = {(row["system"], row["question_id"]): row for row in rows}
    assert len(rows) == len(by_place) == 4 * 6
    for question in ANSWERS:
        assert by_place["none", question]["documents"] is None and by_place["none", question]["refused"]
        assert by_place["gold", question]["documents"] == [question]
        assert by_place["gold", question]["scores"] | {"context relevance": 0.5} == {
            "exact match": 1.0,
            "token F1": 1.0,
            "answered": 1.0,
            "answer in context": 1.0,
            "context relevance": 0.5,
            "context recall": 1.0,
            "faithfulness": 1.0,
            "answer correctness": 1.0,
        }
        for system in ("base", "tuned"):
            row = by_place[system, question]
            assert len(row["documents"]) == 2
            assert (
                row["scores"]["exact match"] == float(question in row["documents"]) == row["scores"]["context recall"]
            )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["questions"] == 6 and metrics["unread"] == 0
    assert metrics["systems"]["none"]["answered"]["value"] == 0
    assert metrics["systems"]["none"]["answer correctness"]["value"] == 0  # of refusals, without asking
    comparison = metrics["comparison"]
    assert comparison["primary"] == "token F1" and comparison["queries"] == 6
    assert comparison["delta"]["token F1"]["value"] == pytest.approx(
        metrics["systems"]["tuned"]["token F1"]["value"] - metrics["systems"]["base"]["token F1"]["value"]
    )
    assert metrics["against"]["gold"]["delta"]["token F1"]["losses"] == 0
    # what two systems are shown alike is asked once
    assert len(reader.prompts) == len(set(reader.prompts))
    assert "The tuned model is" in result.stdout and "token F1" in result.stdout and "USD spent" in result.stdout
    report = (folder / "report.md").read_text()
    assert "## Answers by context" in report and "## The judge" in report and "| right documents |" in report
    html = (folder / "report.html").read_text()
    assert "token F1 of each query" in html and "nDCG@10 of each" not in html
    assert "window.owned" in html and HOSTILE not in html
    assert "the same model, which may favour what it writes itself" in report and metrics["llms"] == ["m", "m"]


def test_who_was_stopped_goes_on_and_nothing_is_asked_twice(run):
    broken = Reader(fails_after=9)
    with serve_replies(broken) as url:
        _answers(run, url)
    again, third = Reader(), Reader()
    with serve_replies(again) as url:
        result = _answers(run, url)
    assert result.returncode == 0, result.stderr
    assert not set(broken.prompts[:9]) & set(again.prompts) and again.prompts
    with serve_replies(third) as url:
        same = _answers(run, url)
    assert not third.prompts and same.stdout == result.stdout


def test_an_estimate_asks_nothing_and_counts_what_is_not_known_yet(run):
    reader = Reader()
    with serve_replies(reader) as url:
        estimated = _answers(run, url, "--judge", "--estimate")
        assert estimated.returncode == 0, estimated.stderr
        assert not reader.prompts and not (run / "answers").exists()
        calls = _calls(estimated.stdout)
        _answers(run, url, "--judge")
        after = _answers(run, url, "--judge", "--estimate")
    # of what is judged, refusals are not known before
    refused = sum(json.loads(line)["refused"] for line in (run / "answers" / "answers.jsonl").open())
    assert len(reader.prompts) <= calls <= len(reader.prompts) + refused
    assert _calls(after.stdout) == 0


def test_a_budget_that_does_not_suffice_ends_it_and_what_was_paid_is_used(run):
    reader = Reader()
    with serve_replies(reader) as url:
        # enough for any prompt without documents, and for none with five
        result = _answers(run, url, "llm.budget=0.0008", "--systems", "none,base")
        assert result.returncode == 2 and "llm.budget: " in result.stderr and "raise it and run again" in result.stderr
        paid = len(reader.prompts)
        assert paid > 0 and _answers(run, url, "llm.budget=1", "--systems", "none,base").returncode == 0
    assert len(reader.prompts) == len(set(reader.prompts)) > paid


def test_without_a_known_document_gold_is_refused_and_the_others_are_not(run):
    rows = [{"question": f"about {i}", "answer": a} for i, a in ANSWERS.items()]
    write_rows(run.parents[1] / "bare.jsonl", rows)
    with serve_replies(Reader()) as url:
        refused = _answers(run, url, questions="bare.jsonl")
        assert refused.returncode == 2 and "gold shows the documents that answer" in refused.stderr
        fine = _answers(run, url, "--systems", "bm25,base", "-n", "4", questions="bare.jsonl")
    assert fine.returncode == 0, fine.stderr
    metrics = json.loads((run / "answers" / "metrics.json").read_text())
    assert metrics["questions"] == 4 and list(metrics["systems"]) == ["bm25", "base"]
    assert metrics["comparison"]["names"] == ["BM25", "base"]


def test_long_references_need_a_judge_and_are_compared_by_it(run):
    long = {i: f"{text} " * 3 for i, (_, text) in TOPICS.items() if i in ANSWERS}
    rows = [{"question": f"about {i}", "answer": a, "document": i} for i, a in long.items()]
    write_rows(run.parents[1] / "long.jsonl", rows)
    reader = Reader()
    with serve_replies(reader) as url:
        refused = _answers(run, url, questions="long.jsonl")
        assert refused.returncode == 2 and "give --judge" in refused.stderr and not reader.prompts
        fine = _answers(run, url, "--judge", questions="long.jsonl")
    assert fine.returncode == 0, fine.stderr
    metrics = json.loads((run / "answers" / "metrics.json").read_text())
    assert metrics["comparison"]["primary"] == "answer correctness" and metrics["agreement"] is None
    assert "exact match" not in metrics["systems"]["base"]


def test_what_cannot_be_answered_is_told(run):
    assert "its recipe has no llm" in sharpen("answers", str(run), cwd=run).stderr
    with serve_replies(Reader()) as url:
        assert "no query of the run has an answer" in _answers(run, url, questions="").stderr
        assert "--systems: no 'tunde'" in _answers(run, url, "--systems", "base,tunde").stderr
    shutil.rmtree(run / "model")
    assert "no model there yet" in sharpen("answers", str(run), "llm=embedded", cwd=run).stderr


def test_when_the_model_is_another_the_answers_are_gone(run):
    with serve_replies(Reader()) as url:
        assert _answers(run, url, "--systems", "none").returncode == 0
        alone = _answers(run, url, "--systems", "base")
    assert (run / "answers" / "report.md").exists() and not (run / "answers" / "report.html").exists()
    assert re.search(r"^report +\S+/answers/report\.md$", alone.stdout, re.M)
    result = sharpen("train", str(run), "training.learning_rate=5.0e-5", cwd=run.parents[1])
    assert result.returncode == 0, result.stderr
    assert not any((run / "answers").glob("*"))
