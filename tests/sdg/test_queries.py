from pathlib import Path

import pytest

from evaluation.data import Document
from evaluation.files import InputError
from sdg.journal import Journal
from sdg.queries import Example, FewShot, _request, clean, generate_queries, reject_reason, sample_documents

POOL = [Example(f"Thing {n}: about {n}.", f"What is {n}?") for n in range(20)]
DOCUMENT = Document("d", "Mix flour, water, salt and yeast and knead the dough for ten minutes.", "Baking bread")


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        (' "how long to knead" \n\nDocument 8:', "how long to knead"),
        ("Query 7: how long to knead?", "how long to knead?"),
        ("1. how long to knead\n2. other", "how long to knead"),
        ("Search query: knead time", "knead time"),
        ("- knead time", "knead time"),
        ("“knead time”", "knead time"),
        ("3 hours of kneading", "3 hours of kneading"),
        ("", ""),
    ],
)
def test_clean(answer: str, query: str):
    assert clean(answer) == query


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("how long must it rest", None),
        ("", "empty"),
        ("?!", "no words"),
        ("bread", "too short"),
        ("word " * 33, "too long"),
        ("what does the passage say about flour", "refers to the document itself"),
        ("why does document 7 mention salt", "refers to the document itself"),
        ("salt and yeast and knead the dough for ten", "copied from the document"),
        ("baking bread", "copied from the document"),
    ],
)
def test_reject_reason(query: str, reason: str | None):
    assert reject_reason(query, DOCUMENT) == reason


def test_samples_are_drawn_by_seed_and_grow_by_appending():
    documents = [Document(f"d{n}", f"some words about the number {n}") for n in range(50)] + [Document("copy", "Some words  about the number 3"), Document("tiny", "no")]
    few, many = sample_documents(documents, 10, 1), sample_documents(documents, 40, 1)
    assert many[:10] == few
    assert few != sample_documents(documents, 10, 2)
    everything = {d.id for d in sample_documents(documents, None, 1)}
    assert len(everything) == 50 and "tiny" not in everything


def test_prompts_of_a_group_share_exactly_the_examples():
    few_shot = FewShot("Write a query.", POOL, per_prompt=8, chat=False)
    prompts = [_request(few_shot, POOL[:8], d, n, {}).prompt for d, n in ((DOCUMENT, 9), (Document("e", "Bake it."), 10), (None, 8))]
    shared = prompts[0][: prompts[0].index("Document 9:")]
    assert shared.count("Query") == 8 and shared.endswith("What is 7?\n\n")
    assert prompts[1] == shared + "Document 10: Bake it.\nQuery 10:"
    assert prompts[2] == shared + "Document 8:"
    # what follows the shared part differs in its first digit, so a prefix cache holds the same tokens whoever came before
    assert len({p[len(shared) + len("Document ")] for p in prompts}) == 3


class _Recorded:
    """Answers as a server gave them before; what is tested is what is made of them."""

    identity = "recorded"

    def __init__(self, answers):
        self.answers, self.requests = answers, []

    def knows(self, request):
        return False

    def ask(self, requests, warm_up=(), on_answer=None):
        self.requests, self.warm_up = requests, warm_up
        return self.answers[: len(requests)]


def test_every_answer_is_kept_or_rejected_with_a_reason():
    from sdg.llm import Answer

    documents = [Document(f"d{n}", f"the number {n} is explained here at length") for n in range(6)]
    answers = [Answer("why is zero there"), Answer(" Why is zero there? "), Answer(""), Answer("", error="BadRequestError: 400 for d3"), Answer("a cut off", "length"), Answer("what about five", "stop", 10, 4, 3)]
    llm = _Recorded(answers)
    generated = generate_queries(documents, llm, FewShot("t", POOL, per_prompt=2, group=3), seed=1, warm_up=True)
    assert [q.metadata["positives"] for q in generated.kept] == [["d0"], ["d5"]]
    assert generated.counts() == {"asked": 6, "kept": 2, "rejected": {"duplicate of another query": 1, "empty": 1, "LLM error: BadRequestError": 1, "cut off at max_tokens": 1}}
    assert {q.metadata["model"] for q in generated.kept} == {"recorded"} and len({q.id for q in generated.kept}) == 2
    assert generated.tokens == {"prompt": 10, "cached": 4, "completion": 3}
    assert [w is not None for w in llm.warm_up] == [True, False, False, True, False, False]  # once a group
    assert len({r.parameters["seed"] for r in llm.requests}) == 6


def test_an_outage_in_the_midst_is_no_smaller_result():
    from sdg.llm import Answer

    documents = [Document(f"d{n}", f"the number {n} is explained here at length") for n in range(6)]
    llm = _Recorded([Answer("what about zero")] * 5 + [Answer("", error="timeout: 120 s")])
    with pytest.raises(InputError, match=r"1 of 6 requests failed.*run again"):
        generate_queries(documents, llm, FewShot("t", POOL, per_prompt=2, group=3), seed=1)


def test_the_journal_outlives_its_process_and_survives_bad_files(tmp_path: Path):
    journal = Journal(tmp_path / "j.sqlite")
    key = journal.key({"prompt": "é", "seed": 1})
    assert key == journal.key({"seed": 1, "prompt": "é"}) != journal.key({"seed": 2, "prompt": "é"})
    assert journal.get(key) is None
    journal.put(key, {"text": "ja\u2028"})
    again = Journal(tmp_path / "j.sqlite")  # the first is still open, as in another process
    assert again.get(key) == {"text": "ja\u2028"} and len(again) == 1
    (tmp_path / "bad.sqlite").write_text("not a database, " * 100)
    with pytest.raises(InputError, match=r"bad\.sqlite"):
        Journal(tmp_path / "bad.sqlite")
