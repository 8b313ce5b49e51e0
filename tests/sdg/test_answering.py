"""Questions with their answers, what an LLM is asked about them, and what is read from what a judge writes."""

import json

import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.answering.asking import MAX_WORDS, GivenAnswer, answer_request, shows_answer
from sharpen.sdg.answering.judging import Judgement
from sharpen.sdg.answering.questions import AnsweredQuestion, read_answered
from sharpen.sdg.asking import _half
from sharpen.sdg.llm.messages import Answer
from tests.conftest import write_rows

CORPUS = {i: Document(i, text) for i, text in {"a": "The tower is 46  metres high.", "b": "Ice flows."}.items()}
QUESTION = AnsweredQuestion("q", "How high is the tower?", ("46 metres", "46 m"), ("a",))


def test_an_answer_beyond_what_is_shown_of_a_document_is_not_shown():
    within, beyond = (Document("d", f"{'word ' * n}46 metres") for n in (MAX_WORDS - 2, MAX_WORDS - 1))
    assert shows_answer(QUESTION, [within], "en") and not shows_answer(QUESTION, [beyond], "en")
    assert not shows_answer(QUESTION, [], "en")


def test_squads_questions_find_their_paragraph_and_those_without_an_answer_are_left_out(tmp_path):
    path = tmp_path / "squad.json"
    rows = [
        {
            "id": "1",
            "question": "How high?",
            "answers": [{"text": "46 metres", "answer_start": 13}, {"text": "46 metres"}],
        },
        {"id": "2", "question": "Who built it?", "answers": []},
    ]
    other = [
        {"id": "3", "question": "Where?", "answers": [{"text": "here"}]},
        {"id": "4", "question": "x", "answers": [{"text": "y"}]},
    ]
    paragraphs = [{"context": "The tower is 46 metres high.", "qas": rows}, {"context": "Elsewhere.", "qas": other}]
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    assert read_answered(path, CORPUS, {"3": {"b": 1, "a": 0}}) == [
        AnsweredQuestion("1", "How high?", ("46 metres",), ("a",)),
        AnsweredQuestion("3", "Where?", ("here",), ("b",)),
        AnsweredQuestion("4", "x", ("y",)),
    ]


def test_lines_may_have_one_answer_or_several_and_documents(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": "How high?", "answer": "46 metres", "document": "a"},
        {"_id": "x", "text": "What flows?", "answers": ["ice", "Ice"], "documents": ["b", "a"]},
        {"query": "Why?", "metadata": {"answer": "so"}},
    ]
    write_rows(path, rows)
    assert read_answered(path, CORPUS) == [
        AnsweredQuestion("line-1", "How high?", ("46 metres",), ("a",)),
        AnsweredQuestion("x", "What flows?", ("ice", "Ice"), ("b", "a")),
        AnsweredQuestion("line-3", "Why?", ("so",)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", '{"question": "How high?"}\n', "q.jsonl, line 1: no answer"),
        ("q.jsonl", '{"answer": "x"}\n', "line 1: no question"),
        ("q.jsonl", '{"_id": 1, "text": "a", "answer": "x"}\n' * 2, "line 2: the ID '1' stands on an earlier line"),
        ("q.jsonl", "", "no question with an answer"),
        ("q.json", "{", "not in SQuAD's layout"),
        ("q.json", '{"data": [{"paragraphs": [{"qas": []}]}]}', "no question with an answer"),
        ("q.json", '{"data": [{"paragraphs": [{"qas": [{"id": 1}]}]}]}', "not in SQuAD's layout"),
    ],
)
def test_what_is_wrong_in_a_file_of_questions_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_answered(tmp_path / name, CORPUS)


@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_has_the_documents_in_their_order_and_without_any_it_speaks_of_none(chat):
    how = {"chat": chat, "embedded": False}
    shown = answer_request("How\nhigh?", [*CORPUS.values()], **how)
    assert "Document 1: The tower is 46 metres high.\nDocument 2: Ice flows.\nQuestion: How high?" in shown.prompt
    none = answer_request("How high?", None, **how)
    assert "ocument" not in none.prompt and "Question: How high?" in none.prompt
    assert all("write: I don't know" in request.prompt for request in (shown, none))
    assert shown.prompt.endswith("Question: How high?" if chat else "Question: How high?\nAnswer:")
    assert shown.parameters["temperature"] == 0 and ("stop" in shown.parameters) is not chat
    assert none.shorter is None


def test_documents_are_halved_for_a_short_context_until_little_is_left():
    request, lengths = answer_request("Why?", [Document("d", "word " * 500)], chat=True, embedded=False), []
    while request:
        lengths.append(request.prompt.count("word "))
        request = request.shorter and request.shorter()
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 190 and 5 < lengths[-1] < 20


def test_of_an_answer_the_first_line_counts():
    assert GivenAnswer.of(Answer("\n Answer: 46 metres \nQuestion: next?")).text == "46 metres"
    assert GivenAnswer.of(Answer("")).text == ""


def test_a_judge_is_asked_for_what_can_be_judged_and_held_to_it():
    of_answer, of_documents, alone = (
        Judgement(QUESTION, [CORPUS["a"]], "46 yards"),
        Judgement(QUESTION, [CORPUS["a"]]),
        Judgement(QUESTION, None, "46 yards"),
    )
    requests = [j.request(chat=True, embedded=False) for j in (of_answer, of_documents, alone)]
    assert "46 yards" in requests[0].prompt and "46 metres / 46 m" in requests[0].prompt
    assert "46 yards" not in requests[1].prompt and "ocument 1" not in requests[2].prompt
    schemas = [r.parameters["response_format"]["json_schema"]["schema"]["required"] for r in requests]
    assert schemas == [
        ["faithfulness", "answer_correctness"],
        ["context_relevance", "context_recall"],
        ["answer_correctness"],
    ]
    read = of_answer.read(Answer('Sure: {"faithfulness": 10, "answer_correctness": 3}'))
    assert read == {"faithfulness": 1.0, "answer correctness": 0.3}


@pytest.mark.parametrize(
    "text",
    ["", "seven", '{"faithfulness": 10}', '{"faithfulness": 11, "answer_correctness": 3}', "[1, 2]",
     '{"faithfulness": true, "answer_correctness": 3}', '{"faithfulness": "7", "answer_correctness": 3}'],
)  # fmt: skip
def test_a_judgement_without_all_of_its_scores_says_nothing(text):
    assert Judgement(QUESTION, [CORPUS["a"]], "x").read(Answer(text)) == {}


def test_half_of_a_text_without_blanks_is_half_of_it():
    chinese = "第一章 " + "水从山上流下来" * 200
    assert _half(chinese) == chinese[: len(chinese) // 2]
    assert _half("four words stand here and") == "four words"  # "stand" would be cut
