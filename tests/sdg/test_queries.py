import random
from pathlib import Path

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.filters.text import copied_fraction, text_problem
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.queries import Generation, generate_queries, sample_documents
from sharpen.sdg.rejections import Rejection, RejectionReason, read_rejections, write_rejections
from sharpen.sdg.strategies import document
from sharpen.sdg.strategies.base import Unit
from sharpen.sdg.strategies.metadata import Metadata
from sharpen.sdg.strategies.pools import Example
from sharpen.sdg.strategies.rewrite import Paraphrase
from sharpen.sdg.strategies.sentence import Sentence
from sharpen.sdg.typos import with_typo
from tests.sdg.recorded import Recorded

POOL = [
    Example(f"Thing {n}: about {n}.", (f"What is {n}?", f"Which is {n}?"), (f"it is {n}", f"that is {n}"))
    for n in range(20)
]
DOCUMENT = Document("d", "Mix flour, water, salt and yeast and knead the dough for ten minutes.", "Baking bread")
NUMBERS = [Document(f"d{n}", f"the number {n} is explained here at length") for n in range(6)]


def _whole(**settings):
    return document.Document(**{"task": "t", "pool": POOL, "examples_per_prompt": 2} | settings).resolve()


def _generate(documents, llm, strategies, **settings):
    generation = Generation(documents, llm, 1, **settings)
    for strategy in strategies:
        generation.run(strategy)
    return generation.result


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("how long must it rest", None),
        ("", "empty"),
        ("?!", "no_words"),
        ("bread", "too_short"),
        ("word " * 33, "too_long"),
        ("what does the passage say about flour", "self_reference"),
        ("why does document 7 mention salt", "self_reference"),
        ("what is salt in the context of baking", None),
        ("how is the document parsed", None),
        ("what does the text say about yeast", "self_reference"),
        ("which flour is best according to the document", "self_reference"),
        ("salt and yeast and knead the dough for ten", "copied_from_document"),
        ("baking bread", "copied_from_document"),
    ],
)
def test_what_is_wrong_with_a_text(query: str, reason: str | None):
    problem = text_problem(query, DOCUMENT)
    assert (problem and problem.reason) == reason


def test_a_document_for_which_the_same_was_asked_stands_with_the_query_that_is_kept():
    labelled = [Query("real", "what about five", {"positives": ["elsewhere"]})]
    answers = ["why zero", "Why zero?", "why zero", "what about three", "", "what about five?"]
    generated = _generate(NUMBERS, Recorded([Answer(text) for text in answers]), [_whole()], labelled=labelled)
    assert [(q.text, q.metadata["positives"], q.metadata.get("also_answers")) for q in generated] == [
        ("why zero", ["d0"], ["d1", "d2"]),
        ("what about three", ["d3"], None),
    ]
    assert generated.also_answers == {"real": ["d5"]} and "also_answers" not in labelled[0].metadata
    assert generated.counts()["rejected"] == {"duplicate": 3, "empty": 1}


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
    strategy = _whole(task="Write a query.", examples_per_prompt=8, example_draws=1)
    units = [
        Unit(d.id, f"{d.title}: {d.text}".removeprefix(": "), d, (d.id,)) for d in (DOCUMENT, Document("e", "Bake it."))
    ]
    prompts = [strategy.request(unit, seed=1, chat=False).prompt for unit in units]
    prefix = strategy.shared_prefix(units[0], seed=1, chat=False).prompt
    assert prefix.count("Query") == 8 and prefix.startswith("Write a query.\n\nDocument 1: Thing ")
    assert prompts[1] == prefix + " Bake it.\nQuery 9:" and prompts[0].startswith(prefix + " Baking bread: Mix")
    several = _whole(task="Write a query.", examples_per_prompt=8)
    others = {several.shared_prefix(Unit(f"u{n}", "t", DOCUMENT, ()), seed=1).prompt for n in range(300)}
    assert len(others) == several.example_draws == 12 and len({p[:40] for p in others}) > 1


def test_a_server_of_one_prefix_cache_is_warmed_where_that_would_hold_anything_else():
    starts = ("Bake it", "Boil it", "Boil them", "Sow them", "Tune it")
    documents = [Document(f"d{n}", f"{text} for a very long time.") for n, text in enumerate(starts)]
    llm = Recorded([Answer(f"what about {n}") for n in range(5)], warm_up=True)
    _generate(documents, llm, [_whole(example_draws=1)])
    # the first one; and the two whose beginning is longer alike than the examples: "B" and "Boil"
    assert [r.warm_up is not None for r in llm.requests] == [True, True, True, False, False]
    assert len({r.warm_up.prompt for r in llm.requests[:3]}) == 1


def test_every_answer_is_kept_or_rejected_with_a_reason(tmp_path: Path):
    answers = [
        Answer("why is zero there"),
        Answer(" Why is zero there? "),
        Answer(""),
        Answer("", error="BadRequestError: 400 for d3"),
        Answer("a cut off", "length"),
        Answer("what about five", "stop", 10, 4, 3),
    ]
    llm = Recorded(answers, warm_up=True)
    generated = _generate(NUMBERS, llm, [_whole(example_draws=1)])
    assert [q.metadata["positives"] for q in generated.kept] == [["d0"], ["d5"]]
    assert generated.counts() == {
        "asked": 6,
        "kept": 2,
        "rejected": {"duplicate": 1, "empty": 1, "llm_error": 1, "truncated": 1},
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 3,
    }
    assert {q.metadata["model"] for q in generated} == {"recorded"} and len({q.id for q in generated}) == 2
    assert generated.stats["document"].tokens == {"prompt": 10, "cached": 4, "completion": 3}
    assert len({r.parameters["seed"] for r in llm.requests}) == 6
    error = generated.rejected[2]
    assert (error.reason, error.message, error.unit) == ("llm_error", "LLM error: BadRequestError", "d3/0")
    write_rejections(tmp_path / "rejected.jsonl", generated.rejected)
    assert read_rejections(tmp_path / "rejected.jsonl") == generated.rejected


def test_a_query_that_the_model_talked_on_after_is_whole(tmp_path: Path):
    answers = [Answer("why is zero there\nThis query asks about", "length"), Answer("why is the one", "length")]
    generated = _generate(NUMBERS[:2], Recorded(answers), [_whole(example_draws=1)])
    assert [q.text for q in generated.kept] == ["why is zero there"]
    assert generated.counts()["rejected"] == {"truncated": 1}


def test_every_reason_has_a_message():
    rows = [{"reason": reason, "value": 3.0, "limit": 2.0, "detail": "x"} for reason in RejectionReason]
    who = {"text": "t", "document": "d", "strategy": "s", "step": "generation"}
    messages = [Rejection.from_row(row | who).message for row in rows]
    assert all(messages) and len(set(messages)) == len(rows)


def test_an_outage_in_the_midst_is_no_smaller_result():
    llm = Recorded([Answer("what about zero")] * 5 + [Answer("", error="timeout: 120 s")])
    with pytest.raises(InputError, match=r"1 of 6 requests failed.*run again"):
        _generate(NUMBERS, llm, [_whole(example_draws=1)])


def test_documents_are_drawn_and_settings_resolved_by_the_verb():
    corpus = {d.id: d for d in [*NUMBERS, Document("tiny", "no")]}
    llm = Recorded([Answer(f"what about {word}") for word in ("one", "two", "three")])
    generated = generate_queries(corpus, llm, [document.Document(pool=POOL)], seed=1, documents=3)
    drawn = [d.id for d in sample_documents(NUMBERS, 3, 1)]
    assert [q.metadata["positives"][0] for q in generated] == drawn
    with pytest.raises(InputError, match="no document has the 5 words"):
        generate_queries({"tiny": corpus["tiny"]}, llm, [document.Document(pool=POOL)])
    with pytest.raises(InputError, match="no pool of examples for paraphrase"):
        generate_queries(corpus, llm, [Paraphrase()])


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


def test_units_have_stable_keys_and_say_which_document_answers():
    whole = list(_whole(per_document=2).units(CORPUS))
    assert [u.key for u in whole] == ["a/0", "a/1", "b/0", "b/1"]
    assert whole[0].text.startswith("Pottery: The kiln") and whole[2].positives == ("b",)
    sentences = list(Sentence(pool=POOL, sentences=2).resolve().units(CORPUS))
    assert [(u.key, u.text, u.metadata) for u in sentences[:2]] == [
        ("sentence:a/0", "The kiln is fired to 1,000 degrees for nine hours.", {"sentence": 0}),
        ("sentence:a/1", "Then it cools for two days.", {"sentence": 1}),
    ]
    constrained = list(Metadata(pool=POOL, fields=("author", "category")).resolve().units(CORPUS))
    assert [(u.text[:22], u.metadata["constraints"]) for u in constrained] == [
        ("[author: M. Ito] The k", {"author": "M. Ito"}),
        ("[category: vegetables]", {"category": "vegetables"}),
    ]
    with pytest.raises(
        InputError, match=r"metadata fields publisher; those that there are: author, category, title, year"
    ):
        list(Metadata(pool=POOL, fields=("publisher",)).resolve().units(CORPUS))


def test_several_queries_of_a_prompt_add_up_whatever_came():
    answers = [
        Answer("- how hot is the oven\n- pottery\n- how long until I may look\n- one too many"),
        Answer("- soaking time", "length", 10, 0, 5),
    ]
    generated = _generate(CORPUS, Recorded(answers), [_whole(queries=3, form="list", name="list")])
    assert [q.text for q in generated.kept] == ["how hot is the oven", "how long until I may look"]
    assert len({q.id for q in generated.kept}) == 2 and {q.metadata["strategy"] for q in generated.kept} == {"list"}
    stats = generated.stats["list"]
    assert stats.asked == 6 == stats.kept + stats.rejected.total() and stats.prompts == 2
    assert stats.rejected == {"too_short": 1, "truncated": 1, "missing": 2}


def test_metadata_queries_must_name_some_and_say_which():
    strategy = Metadata(task="t", pool=POOL, fields=("author", "category"), examples_per_prompt=2).resolve()
    llm = Recorded([Answer("what does M. Ito say on firing"), Answer("how long to boil them")])
    generated = _generate(CORPUS, llm, [strategy])
    assert generated.kept[0].metadata["constraints"] == {"author": "M. Ito"}
    assert generated.stats["metadata"].rejected == {"no_metadata": 1}
    unclear = _generate(CORPUS, Recorded([Answer("firing"), Answer("")]), [strategy])
    assert unclear.stats["metadata"].rejected == {"too_short": 1, "empty": 1}  # the text's own fault comes first


def test_broken_json_gets_one_more_attempt():
    strategy = _whole(queries=2, form="json", name="json")
    answers = [Answer("I would rather not"), Answer('{"queries": ["soaking time of beans", "boiled with which herb"]}')]
    repaired = [Answer('{"queries": ["how hot is the oven", "when may I look"]}')]
    llm = Recorded(answers, repaired)
    generated = _generate(CORPUS, llm, [strategy])
    assert generated.counts() == {"asked": 4, "kept": 4, "rejected": {}, "repaired": 1}
    assert "I would rather not\n\nThat cannot be read (no JSON object" in llm.requests[0].prompt
    generated = _generate(CORPUS, Recorded(answers, [Answer("no")]), [strategy])
    assert generated.counts()["kept"] == 2 and generated.counts()["rejected"] == {"unreadable": 2}


def test_paraphrases_are_of_the_queries_before_and_keep_their_documents():
    strategies = [_whole(), Paraphrase(task="t", pool=POOL, examples_per_prompt=2).resolve()]
    llm = Recorded(
        [Answer("how hot is the oven"), Answer("soaking time of beans")],
        [Answer("oven temperature for clay"), Answer("soaking time of beans")],
    )
    generated = _generate(CORPUS, llm, strategies)
    paraphrase = generated.kept[2]
    assert paraphrase.metadata["positives"] == ["a"] and paraphrase.metadata["of"] == generated.kept[0].id
    assert generated.stats["paraphrase"].rejected == {"duplicate": 1}
    assert "Question 3: how hot is the oven" in llm.requests[0].prompt


def test_an_example_of_the_prompt_is_no_query():
    generated = _generate(CORPUS, Recorded([Answer("which is 7"), Answer("how long")]), [_whole()])
    assert generated.counts()["rejected"] == {"copied_from_example": 1}


def test_typing_errors_are_drawn_by_seed_one_to_a_query():
    rng = random.Random(3)
    typed = {with_typo("restart the kiln", rng) for _ in range(40)}
    assert len(typed) > 10 and "restart the kiln" not in typed and all(t.split()[1] == "the" for t in typed)
    assert with_typo("a b c", rng) == "a b c"
    answers = [Answer("how hot is the oven"), Answer("soaking time of beans")]
    runs = [_generate(CORPUS, Recorded(answers), [_whole(typos=1.0)]).kept for _ in range(2)]
    assert runs[0] == runs[1]
    assert [q.metadata["typed_for"] for q in runs[0]] == ["how hot is the oven", "soaking time of beans"]
    assert all(q.text != q.metadata["typed_for"] for q in runs[0])


def test_how_much_is_copied_and_which_language_it_is():
    beans = Document("d", "Beans are soaked overnight and boiled for an hour.")
    texts = ("beans are soaked overnight", "are beans soaked overnight", "soaked beans", "beans", "?")
    assert [copied_fraction(text, beans) for text in texts] == [1.0, 0.0, 0.0, 1.0, 0.0]
    german = "Wie lange müssen die Bohnen im Wasser liegen?"
    problem = text_problem(german, beans, "en")
    assert (problem.reason, problem.message) == ("wrong_language", "not in the language en")
    assert text_problem(german, beans, "de") is None
    assert text_problem("bean soak time", beans, "en") is None


def test_only_json_is_held_to_a_schema():
    unit = Unit("d", "x", DOCUMENT, ("d",))
    asked = {form: _whole(form=form).request(unit, seed=1).parameters for form in ("line", "list", "json")}
    assert "response_format" in asked["json"]
    assert not {"response_format", "extra_body"} & (asked["line"].keys() | asked["list"].keys())
