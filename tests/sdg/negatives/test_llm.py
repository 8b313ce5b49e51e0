"""Negatives that an LLM writes: what is asked, and what becomes of the answers."""

from __future__ import annotations

from collections import Counter

import pytest

from sharpen.evaluation.beir import Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives import LLMMiner, NegativesExample, NegativesSettings, PassageProblem, read_negatives_pool
from sharpen.sdg.negatives.candidates import candidates
from sharpen.sdg.negatives.llm import parse_passages
from sharpen.sdg.resources import Resources
from tests.sdg.negatives.support import RecordedLLM, RecordedResources

QUERIES = [
    Query("q1", "how long does dough rest", {"positives": ["bread"]}),
    Query("q2", "ice", {"positives": ["glacier"]}),
]
GOOD = "Dough for noodles needs no yeast and is rolled out at once with a pin."


@pytest.fixture
def pool(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_text(
        "".join(
            f"- {{query: query {n}, document: passage {n} that answers, negatives: [negative {n} a, negative {n} b]}}\n"
            for n in range(4)
        )
    )
    return path


def _first_answer(corpus):
    texts = (GOOD, "too short", GOOD.upper(), corpus["bread"].text, corpus["chess"].text)
    return Answer("\n- ".join(texts), "stop")


@pytest.mark.parametrize(
    ("text", "cut_off", "passages"),
    [
        ('{"negatives": ["one two", " three\\nfour "]}', False, ["one two", "three four"]),
        ('```json\n["one", "two", 3]\n```', False, ["one", "two"]),
        ('{"negatives": ["one", "two", "thr', True, ["one", "two"]),
        ("one two three\n- four\n* five\n\nQuery: next\n- not this", False, ["one two three", "four", "five"]),
        ("one\n- two\n- three\n- four\n- five\n- six", False, ["one", "two", "three", "four", "five"]),
        ("one that never", True, ["one that never"]),
        ("", False, []),
        ('{"other": 1}', False, []),
    ],
)
def test_passages_are_read_from_what_models_write(text, cut_off, passages):
    assert parse_passages(text, 5, cut_off) == passages


def test_written_negatives_are_new_texts_with_ids_and_the_rest_has_a_reason(corpus, pool):
    llm = RecordedLLM([_first_answer(corpus), Answer("", error="BadRequestError: what")])
    result = LLMMiner(pool=str(pool), examples=2).mine(QUERIES, corpus, 9, RecordedResources(llm, chat=False), 7)
    assert {i: d.text for i, d in result.written.items()} == {"written:llm:q1:1": GOOD}
    assert result.run == {"q1": {"written:llm:q1:1": 1.0}, "q2": {}}
    assert result.spending is llm.spending
    assert Counter(r.reason for r in result.rejected if r.query_id == "q1") == {
        PassageProblem.TOO_SHORT: 1,
        PassageProblem.REPEATED: 1,
        PassageProblem.COPY_OF_POSITIVE: 1,
        PassageProblem.IN_CORPUS: 1,
    }
    failed = [r for r in result.rejected if r.query_id == "q2"]
    assert [r.message for r in failed] == ["LLM error: BadRequestError"] * 5
    rows = candidates(QUERIES, result.run, corpus | result.written, set(), "llm", (1, 5), 0)
    assert [n.doc_id for n in rows["q1"]] == ["written:llm:q1:1"] and rows["q2"] == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("over budget: 1 USD spent", r"llm\.budget: 1 of 2 negatives of queries .* or take the miner llm out"),
        ("RateLimitError: later", "1 of 2 requests failed"),
    ],
)
def test_a_budget_that_ends_and_an_outage_stop_the_mining(corpus, error, said):
    llm = RecordedLLM([_first_answer(corpus), Answer("", error=error)])
    with pytest.raises(InputError, match=said):
        LLMMiner().mine(QUERIES, corpus, 9, RecordedResources(llm), 7)


def test_an_answer_with_fewer_passages_has_a_row_for_each_that_is_missing(corpus):
    llm = RecordedLLM([Answer('{"negatives": []}')])
    result = LLMMiner(negatives=3).mine(QUERIES[:1], corpus, 9, RecordedResources(llm), 7)
    assert [(r.reason, r.text) for r in result.rejected] == [(PassageProblem.MISSING, '{"negatives": []}')] * 3


def test_prompts_to_continue_share_a_beginning_that_is_sent_ahead(corpus, pool):
    llm = RecordedLLM([_first_answer(corpus), Answer("")])
    resources = RecordedResources(llm, chat=False, embedded=True)
    LLMMiner(pool=str(pool), examples=2).mine(QUERIES, corpus, 9, resources, 7)
    first, second = llm.requests
    assert first.prompt.startswith(first.warm_up.prompt.removesuffix("Query:")) and first.warm_up == second.warm_up
    assert first.prompt.count("Not answered by:") == 3 and first.prompt.rstrip().endswith("-")
    assert corpus["bread"].text[:40] in first.prompt
    assert first.parameters["seed"] != second.parameters["seed"]
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 1024, "extra_body": {"top_k": 20}}
    assert sampling.items() <= first.parameters.items()
    assert first.parameters["stop"] == ["\n\n", "\nQuery:"]


def test_by_chat_a_schema_is_asked_for_and_the_positive_can_be_left_out(corpus):
    llm = RecordedLLM([Answer('{"negatives": []}')] * 2)
    LLMMiner(sees_positive=False, top_k=None).mine(QUERIES, corpus, 9, RecordedResources(llm), 7)
    first = llm.requests[0]
    assert "Answered by" not in first.prompt and first.warm_up is None
    assert first.parameters["response_format"]["json_schema"]["name"] == "negatives"
    assert "extra_body" not in first.parameters


def test_passages_of_two_llms_have_different_ids_and_a_seed_of_the_miner_comes_first(corpus):
    written, seeds = [], []
    for name, seed in (("llm", None), ("larger", None), ("larger", 7)):
        llm = RecordedLLM([Answer(f'{{"negatives": ["{GOOD}"]}}')])
        result = LLMMiner(name=name, seed=seed).mine(QUERIES[:1], corpus, 9, RecordedResources(llm), 8)
        written.append(set(result.written))
        seeds.append(llm.requests[0].parameters["seed"])
    assert written == [{"written:llm:q1:1"}, {"written:larger:q1:1"}, {"written:larger:q1:1"}]
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_model_that_continues_a_text_needs_a_pool(corpus, pool):
    embedded = LLMSettings(embedded="gemma-3-270m", chat=False)
    settings = NegativesSettings(miners=[LLMMiner(name="writer")])
    with pytest.raises(InputError, match=r"negatives\.miners: writer has an LLM that continues a text"):
        settings.prompts(embedded)
    assert settings.prompts(LLMSettings(base_url="http://localhost:1/v1", model="m"))["writer"].chat
    with_pool = NegativesSettings(miners=[LLMMiner(pool=str(pool), llm=embedded)])
    assert len(with_pool.prompts()["llm"].pool) == 4
    with pytest.raises(InputError, match="no LLM is given"):
        LLMMiner().mine(QUERIES, corpus, 9, Resources(), 7)


def test_a_pool_is_read_with_white_space_folded(pool):
    pool.write_text("- query: a query\n  document: |\n    an\n    answer\n  negatives: [no  answer]\n")
    assert read_negatives_pool(pool) == [NegativesExample("a query", "an answer", ("no answer",))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {query: a, document: b, negatives: [c]}\n- {query: a, document: b}", "line 2: an example has the keys"),
        ("- {query: a, document: b, negatives: []}", "line 1: an example has the keys"),
        ("- {query: a, document: b, negatives: [1]}", "line 1: an example has the keys"),
        ("- {query: a, document: b, negatives: c}", "line 1: an example has the keys"),
        ("query: a", "expected a list of examples"),
        ("- {query: [", "not valid YAML"),
    ],
)
def test_a_bad_pool_is_refused_with_its_line(pool, text, message):
    pool.write_text(text)
    with pytest.raises(InputError, match=message):
        read_negatives_pool(pool)
    with pytest.raises(InputError, match=message):
        LLMMiner(pool=str(pool)).check()


def test_a_pool_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"pool: .*none\.yaml: no such file"):
        LLMMiner(pool=str(tmp_path / "none.yaml")).check()


def test_a_template_of_ones_own_takes_the_place_of_the_prompt(corpus, tmp_path):
    path = tmp_path / "wording.j2"
    path.write_text(
        "{{ count }} wrong answers, please{% if positive %}, unlike {{ positive }}{% endif %}: {{ query }}\n"
    )
    llm = RecordedLLM(
        [_first_answer(corpus), Answer('["Ice is what water becomes in winter, outside and inside."]', "stop")]
    )
    miner = LLMMiner(negatives=4, words=3, prompt_file=str(path), sees_positive=False)
    miner.check()
    miner.mine(QUERIES, corpus, 4, RecordedResources(llm), 13)
    assert [request.prompt for request in llm.requests] == [
        "4 wrong answers, please: how long does dough rest",
        "4 wrong answers, please: ice",
    ]
    assert "prompt_file" not in LLMMiner().fingerprint()
    first = miner.fingerprint()
    path.write_text("{{ count }} answers: {{ query }}")
    assert miner.fingerprint() != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% if query %}\n{{ query }", "wording.j2, line 2"),
        ("{{ question }}", "'question' is undefined; there are chat, count, examples"),
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", "wording.j2: access to attribute"),
    ],
)
def test_a_bad_template_is_told_before_anything_is_asked(tmp_path, text, said):
    path = tmp_path / "wording.j2"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        LLMMiner(prompt_file=str(path)).check()
    with pytest.raises(InputError, match="gone"):
        LLMMiner(prompt_file=str(tmp_path / "gone.j2")).check()
