import random
from pathlib import Path

import pytest
from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.filters.text import copied_share, reject_reason
from sharpen.sdg.llm.client import Answer
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.queries import generate_queries, sample_documents, with_typo
from sharpen.sdg.strategies.base import Example, Strategy, Unit

from tests.sdg.recorded import Recorded

POOL = [
    Example(f"Thing {n}: about {n}.", (f"What is {n}?", f"Which is {n}?"), (f"it is {n}", f"that is {n}"))
    for n in range(20)
]
DOCUMENT = Document("d", "Mix flour, water, salt and yeast and knead the dough for ten minutes.", "Baking bread")


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
        ("what is salt in the context of baking", None),
        ("how is the document parsed", None),
        ("what does the text say about yeast", "refers to the document itself"),
        ("which flour is best according to the document", "refers to the document itself"),
        ("salt and yeast and knead the dough for ten", "copied from the document"),
        ("baking bread", "copied from the document"),
    ],
)
def test_reject_reason(query: str, reason: str | None):
    assert reject_reason(query, DOCUMENT) == reason


def test_samples_are_drawn_by_seed_and_grow_by_appending():
    documents = [Document(f"d{n}", f"some words about the number {n}") for n in range(50)] + [
        Document("copy", "Some words  about the number 3"),
        Document("tiny", "no"),
    ]
    few, many = sample_documents(documents, 10, 1), sample_documents(documents, 40, 1)
    assert many[:10] == few
    assert few != sample_documents(documents, 10, 2)
    everything = {d.id for d in sample_documents(documents, None, 1)}
    assert len(everything) == 50 and "tiny" not in everything


def test_prompts_of_a_group_share_exactly_the_examples():
    strategy = Strategy("Write a query.", POOL, examples=8, chat=False)
    units = [
        Unit(d.id, f"{d.title}: {d.text}".removeprefix(": "), d, (d.id,)) for d in (DOCUMENT, Document("e", "Bake it."))
    ]
    prompts = [strategy.request(unit, POOL[:8], n).prompt for unit, n in ((units[0], 9), (units[1], 10), (None, 8))]
    shared = prompts[0][: prompts[0].index("Document 9:")]
    assert shared.count("Query") == 8 and shared.endswith("What is 7?\n\n")
    assert prompts[1] == shared + "Document 10: Bake it.\nQuery 10:"
    assert prompts[2] == shared + "Document 8:"
    # what follows the shared part differs in its first digit, so a prefix cache holds the same tokens whoever came
    # before
    assert len({p[len(shared) + len("Document ")] for p in prompts}) == 3


def test_every_answer_is_kept_or_rejected_with_a_reason():
    documents = [Document(f"d{n}", f"the number {n} is explained here at length") for n in range(6)]
    answers = [
        Answer("why is zero there"),
        Answer(" Why is zero there? "),
        Answer(""),
        Answer("", error="BadRequestError: 400 for d3"),
        Answer("a cut off", "length"),
        Answer("what about five", "stop", 10, 4, 3),
    ]
    llm = Recorded(answers)
    generated = generate_queries(documents, llm, [Strategy("t", POOL, examples=2, group=3)], seed=1, warm_up=True)
    assert [q.metadata["positives"] for q in generated.kept] == [["d0"], ["d5"]]
    assert generated.counts() == {
        "asked": 6,
        "kept": 2,
        "rejected": {
            "duplicate of another query": 1,
            "empty": 1,
            "LLM error: BadRequestError": 1,
            "cut off at max_tokens": 1,
        },
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 3,
    }
    assert {q.metadata["model"] for q in generated.kept} == {"recorded"} and len({q.id for q in generated.kept}) == 2
    assert generated.tallies["document"].tokens == {"prompt": 10, "cached": 4, "completion": 3}
    assert [r.warm_up is not None for r in llm.requests] == [True, False, False, True, False, False]  # once a group
    assert len({r.parameters["seed"] for r in llm.requests}) == 6


def test_an_outage_in_the_midst_is_no_smaller_result():
    documents = [Document(f"d{n}", f"the number {n} is explained here at length") for n in range(6)]
    llm = Recorded([Answer("what about zero")] * 5 + [Answer("", error="timeout: 120 s")])
    with pytest.raises(InputError, match=r"1 of 6 requests failed.*run again"):
        generate_queries(documents, llm, [Strategy("t", POOL, examples=2, group=3)], seed=1)


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


CORPUS = [
    Document(
        "a",
        "The kiln is fired to 1,000 degrees for nine hours. Then it cools for two days. Nobody opens it before. Glaze"
        " needs a second firing.",
        "Pottery",
        {"author": "M. Ito", "year": 1998},
    ),
    Document(
        "b",
        "Beans are soaked overnight and boiled for an hour with a bay leaf.",
        "Beans",
        {"author": "", "category": "vegetables"},
    ),
]


def test_units_of_every_kind_have_stable_keys_and_say_which_document_answers():
    def units(**settings):
        return list(Strategy("t", POOL, **settings).units(CORPUS))

    whole = units(samples=2)
    assert (
        [u.key for u in whole] == ["a/0", "a/1", "b/0", "b/1"]
        and whole[0].text.startswith("Pottery: The kiln")
        and whole[2].positives == ("b",)
    )
    sentences = units(kind="sentence", name="sentence", sentences=2)
    assert [(u.key, u.text, u.metadata) for u in sentences[:2]] == [
        ("sentence:a/0", "The kiln is fired to 1,000 degrees for nine hours.", {"sentence": 0}),
        ("sentence:a/1", "Then it cools for two days.", {"sentence": 1}),
    ]
    constrained = units(kind="metadata", name="metadata", fields=("author", "category"))
    assert [(u.text[:22], u.metadata["constraints"]) for u in constrained] == [
        ("[author: M. Ito] The k", {"author": "M. Ito"}),
        ("[category: vegetables]", {"category": "vegetables"}),
    ]
    with pytest.raises(
        InputError, match=r"metadata fields publisher; those that there are: author, category, title, year"
    ):
        units(kind="metadata", fields=("publisher",))


def test_several_queries_of_a_prompt_add_up_whatever_came():
    strategy = Strategy("t", POOL, count=3, form="list", examples=2, name="list")
    answers = [
        Answer("- how hot is the oven\n- pottery\n- how long until I may look\n- one too many"),
        Answer("- soaking time", "length", 10, 0, 5),
    ]
    generated = generate_queries(CORPUS, Recorded(answers), [strategy], seed=1)
    assert [q.text for q in generated.kept] == ["how hot is the oven", "how long until I may look"]
    assert len({q.id for q in generated.kept}) == 2 and {q.metadata["strategy"] for q in generated.kept} == {"list"}
    tally = generated.tallies["list"]
    assert tally.asked == 6 == tally.kept + tally.rejected.total() and tally.prompts == 2
    assert tally.rejected == {"too short": 1, "cut off at max_tokens": 1, "missing from the answer": 2}


def test_metadata_queries_must_name_some_and_say_which():
    strategy = Strategy("t", POOL, kind="metadata", name="metadata", fields=("author", "category"), examples=2)
    generated = generate_queries(
        CORPUS,
        Recorded([Answer("what does M. Ito say on firing"), Answer("how long to boil them")]),
        [strategy],
        seed=1,
    )
    assert generated.kept[0].metadata["constraints"] == {"author": "M. Ito"} and generated.tallies[
        "metadata"
    ].rejected == {"names none of the metadata": 1}


def test_broken_json_gets_one_more_attempt():
    strategy = Strategy("t", POOL, count=2, form="json", examples=2, name="json")
    answers = [Answer("I would rather not"), Answer('{"queries": ["soaking time of beans", "boiled with which herb"]}')]
    repaired = [Answer('{"queries": ["how hot is the oven", "when may I look"]}')]
    llm = Recorded(answers, repaired)
    generated = generate_queries(CORPUS, llm, [strategy], seed=1)
    assert (
        generated.counts() == {"asked": 4, "kept": 4, "rejected": {}, "repaired": 1}
        and "I would rather not" in llm.requests[0].prompt
    )
    generated = generate_queries(CORPUS, Recorded(answers, [Answer("no")]), [strategy], seed=1)
    assert generated.counts()["asked"] == 4 == generated.counts()["kept"] + 2 and "not readable" in next(
        iter(generated.counts()["rejected"])
    )


def test_paraphrases_are_of_the_queries_before_and_keep_their_documents():
    strategies = [
        Strategy("t", POOL, examples=2),
        Strategy("t", POOL, kind="paraphrase", name="paraphrase", examples=2),
    ]
    llm = Recorded(
        [Answer("how hot is the oven"), Answer("soaking time of beans")],
        [Answer("oven temperature for clay"), Answer("soaking time of beans")],
    )
    generated = generate_queries(CORPUS, llm, strategies, seed=1)
    paraphrase = generated.kept[2]
    assert paraphrase.metadata["positives"] == ["a"] and paraphrase.metadata["of"] == generated.kept[0].id
    assert generated.tallies["paraphrase"].rejected == {"duplicate of another query": 1}
    assert "Question 3: how hot is the oven" in llm.requests[0].prompt


def test_typing_errors_are_drawn_by_seed_one_to_a_query():
    rng = random.Random(3)
    typed = {with_typo("restart the kiln", rng) for _ in range(40)}
    assert len(typed) > 10 and "restart the kiln" not in typed and all(t.split()[1] == "the" for t in typed)
    assert with_typo("a b c", rng) == "a b c"
    strategy = Strategy("t", POOL, examples=2, typos=1.0)
    runs = [
        generate_queries(
            CORPUS, Recorded([Answer("how hot is the oven"), Answer("soaking time of beans")]), [strategy], seed=1
        ).kept
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and [q.metadata["typed_for"] for q in runs[0]] == [
        "how hot is the oven",
        "soaking time of beans",
    ]


def test_how_much_is_copied_and_which_language_it_is():
    document = Document("d", "Beans are soaked overnight and boiled for an hour.")
    assert (
        copied_share("beans are soaked overnight", document) == 1.0
        and copied_share("are beans soaked overnight", document) == 0.0
    )
    assert (
        copied_share("soaked beans", document) == 0.0
        and copied_share("beans", document) == 1.0
        and copied_share("?", document) == 0.0
    )
    assert reject_reason("Wie lange müssen die Bohnen im Wasser liegen?", document, "en") == "not in the language en"
    assert reject_reason("Wie lange müssen die Bohnen im Wasser liegen?", document, "de") is None
    assert reject_reason("bean soak time", document, "en") is None


def test_only_json_is_held_to_a_schema():
    asked = {
        form: Strategy("t", POOL, form=form).request(Unit("d", "x", DOCUMENT, ("d",)), POOL[:1], 2).parameters
        for form in ("line", "list", "json")
    }
    assert "response_format" in asked["json"] and not {"response_format", "extra_body"} & (
        asked["line"].keys() | asked["list"].keys()
    )
