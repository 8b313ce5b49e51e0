"""Identifiers of documents: what they are made from, that no two are the same, and that they stay when others come."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifier, read_identifiers, write_identifiers
from sharpen.sdg import IdentifierSettings, make_identifiers
from sharpen.sdg.estimate import CostEstimator
from sharpen.sdg.identifiers.keywords import EXAMPLES, Keywords, parse_keywords
from sharpen.sdg.identifiers.making import documents_of, estimate_identifiers
from sharpen.sdg.identifiers.unique import make_unique, same_key
from sharpen.sdg.identifiers.words import CharacteristicWords
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.settings import LLMSettings, known_answers
from sharpen.sdg.resources import Resources
from sharpen.sdg.strategies.base import Unit
from tests.servers import chat_answer, serve_replies


def _corpus(**texts: str) -> dict[str, Document]:
    return {i: Document(i, text) for i, text in texts.items()}


def _resources(base_url, tmp_path, warnings=None, **settings):
    llm = LLMSettings(base_url=base_url, model="m", max_retries=0, concurrency=1, **settings)
    said = [] if warnings is None else warnings
    return Resources(llm=llm, journal=tmp_path / "answers.sqlite", warn=said.append)


class Server:
    """Answers a prompt by the first sign that is in it, and keeps the requests."""

    def __init__(self, answers):
        self.answers, self.bodies = answers, []

    def __call__(self, path, body, headers):
        self.bodies.append(body)
        shown = body["messages"][0]["content"].partition("# Document:")[2]
        for sign, answer in self.answers.items():
            if sign in shown:
                if isinstance(answer, list):
                    answer = answer.pop(0)
                return answer if isinstance(answer, tuple) else chat_answer(answer)
        raise AssertionError(shown)


ICE = _corpus(
    a="Glaciers of the Alps lose ice each summer.",
    b="Glaciers of Norway lose ice in some winters.",
    c="Rye bread needs a sour dough.",
    d="Salt makes water boil later.",
)


# ---- keywords


def test_an_llm_writes_keywords_and_what_it_does_not_is_made_of_the_text(tmp_path):
    server = Server(
        {
            "Alps": "- glaciers\n- loss of ice",
            "Norway": "Glaciers, loss of ICE",
            "Rye": ["I cannot summarize such a short text, but I would be glad to help", "- rye bread\n- sour dough"],
            "Salt": ["", ":", ""],
        }
    )
    warnings: list[str] = []
    with serve_replies(server) as base_url:
        resources = _resources(base_url, tmp_path, warnings, prices=Prices(input=Decimal(1), output=Decimal(1)))
        result = make_identifiers(ICE, IdentifierSettings(), resources)
        again = make_identifiers(ICE, IdentifierSettings(), resources)
    rows = result.identifiers
    assert list(rows) == list("abcd") and [row.source for row in rows.values()] == ["keywords"] * 3 + ["text"]
    assert {rows["a"].text, rows["b"].text} in (
        {"glaciers, loss of ice, Alps", "Glaciers, loss of ICE"},
        {"glaciers, loss of ice", "Glaciers, loss of ICE, Norway"},
    )
    assert rows["c"].text == "rye bread, sour dough" and rows["d"].text == "Salt, makes, water, boil, later"
    counts = result.counts()
    assert counts == {
        "identifiers": 4,
        "asked": 4,
        "repaired": 1,
        "fallback": 1,
        "made_unique": 1,
        "money": "0.000096 USD spent",
        "prompt_tokens": 66,
        "cached_tokens": 24,
        "completion_tokens": 30,
    }
    assert "1 of 4 answers of the LLM have no keyword" in warnings[0]
    # what was answered is in the journal; what came without a text is asked for again
    assert again.identifiers == rows and len(server.bodies) == 6 + 1
    prompt = server.bodies[0]["messages"][0]["content"]
    assert "at most 8 keywords" in prompt and prompt.endswith("Alps lose ice each summer.\n\n# Keywords:")
    assert server.bodies[0]["temperature"] == 0 and {body["temperature"] for body in server.bodies} == {0, 0.7}


def test_earlier_identifiers_stay_and_only_new_documents_are_asked_about(tmp_path):
    rows = [Identifier("a", "Glaciers, loss of ice", "keywords"), Identifier("gone", "rye bread", "keywords")]
    (tmp_path / "run" / "identifiers").mkdir(parents=True)
    write_identifiers(tmp_path / "run" / "identifiers" / "identifiers.jsonl", rows)
    server = Server({"Norway": "- glaciers\n- loss of ice", "Rye": "- Rye bread", "Salt": "- salt"})
    settings = IdentifierSettings(known=str(tmp_path / "run"))
    settings.check()
    with serve_replies(server) as base_url:
        result = make_identifiers(ICE, settings, _resources(base_url, tmp_path))
    assert len(server.bodies) == 3 and (result.known, result.made_unique) == (1, 2)
    assert [row.text for row in result.identifiers.values()] == [
        "Glaciers, loss of ice",
        "glaciers, loss of ice, Norway",  # a word that the known one does not have either
        "Rye bread, needs",  # that of a document which is gone names it for ever
        "salt",
    ]
    assert result.identifiers["b"].added == "Norway" and result.identifiers["a"] == rows[0]
    write_identifiers(tmp_path / "all.jsonl", result.identifiers.values())
    assert read_identifiers(tmp_path / "all.jsonl") == result.identifiers
    # nothing is left to ask, so no LLM is needed
    again = make_identifiers(ICE, IdentifierSettings(known=str(tmp_path / "all.jsonl")))
    assert again.identifiers == result.identifiers and (again.asked, again.known) == (0, 4)


def test_of_copies_one_is_asked_about(tmp_path):
    corpus = ICE | _corpus(e=ICE["a"].text, f=ICE["a"].text)
    server = Server({"Alps": "- ice", "Norway": "- fjord", "Rye": "- rye", "Salt": "- salt"})
    with serve_replies(server) as base_url:
        resources = _resources(base_url, tmp_path)
        result = make_identifiers(corpus, IdentifierSettings(), resources)
    assert len(server.bodies) == 4 == result.asked and len(result.identifiers) == 6
    assert {result.identifiers[i].text for i in "aef"} == {"ice", "ice, 2", "ice, 3"} and result.made_unique == 2
    more = corpus | _corpus(g="Tea.", h="Tea leaves.")
    # what was answered is found by an estimate, which then goes by the server's counts
    with known_answers(resources.llm, resources.journal) as known:
        (row,) = estimate_identifiers(more, IdentifierSettings(), CostEstimator(len, known))
        assert (row.calls, row.measured) == (6, 0)  # of too few no mean is made
        strategy = Keywords.of(IdentifierSettings())
        found = [known(strategy.request(unit)) for unit in strategy.units(list(more.values()))]
    assert [answer is not None for answer in found] == [True] * 6 + [False] * 2


def test_earlier_identifiers_of_other_documents_are_refused(tmp_path):
    write_identifiers(tmp_path / "identifiers.jsonl", [Identifier("a#0", "ice", "text")])
    with pytest.raises(InputError, match=r"has 'a#0', and the corpus 'a': none of its documents is there"):
        make_identifiers(ICE, IdentifierSettings(kind="text", known=str(tmp_path)))


def test_no_money_no_answers_and_no_llm_are_errors(tmp_path):
    with pytest.raises(InputError, match="asks an LLM, and none is given"):
        make_identifiers(ICE, IdentifierSettings(), Resources())
    with serve_replies(Server({"": "no"})) as base_url:
        poor = {"prices": Prices(input=Decimal(1)), "budget": Decimal("0.0000001")}
        with pytest.raises(InputError, match=r"llm.budget: 4 of 4 documents were not asked about"):
            make_identifiers(ICE, IdentifierSettings(), _resources(base_url, tmp_path, **poor))
    for answer, message in (
        (". . .", r"of 4 answers none has a keyword; the last was '. . .' \(not readable: no keyword in it\)"),
        (chat_answer("<think>well", "length"), "none has a keyword.*thoughts took all of max_tokens"),
        ((500, {}, b"{}"), "4 of 4 requests failed"),
    ):
        (tmp_path / "answers.sqlite").unlink()
        with serve_replies(Server({"": answer})) as base_url, pytest.raises(InputError, match=message):
            make_identifiers(ICE, IdentifierSettings(), _resources(base_url, tmp_path))


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("- ice\n- salt", ["ice", "salt"]),
        ("Here is the list:\n\n* ice\n* **Salt**\n\nLet me know if you need more!", ["ice", "Salt"]),
        ("1. ice\n2) salt\n(3) tea", ["ice", "salt", "tea"]),
        ("• ice • salt", ["ice", "salt"]),
        ("-ice\n-salt", ["ice", "salt"]),
        ("Keywords: ice, salt; tea.", ["ice", "salt", "tea"]),
        ("Keywords:\nice\nsalt", ["ice", "salt"]),
        ("- ice\n- Ice.\n- 'ice'\n- salt", ["ice", "salt"]),
        ("- Ice sheet: what lies on the land for years\n- SN 2: model", ["Ice sheet", "SN 2: model"]),
        ("- ice – frozen water that floats\n- twenty-one", ["ice", "twenty-one"]),
        ('```json\n{"keywords": ["ice", "salt"]}\n```', ["ice", "salt"]),
        ('["ice", "salt"]', ["ice", "salt"]),
        ("- 冰川、盐", ["冰川", "盐"]),
        ("- 1,252 yards\n- C++\n- don't", ["1,252 yards", "C++", "don't"]),
        ("- this is a whole sentence about ice and not a keyword\n- ice", ["ice"]),
        ("I cannot do that, I am sorry about this and that today", ["I cannot do that"]),
        ("", []),
        ("- \n-\n***\n...", []),
    ],
)
def test_keywords_are_read_from_whatever_form_they_come_in(text, keywords):
    assert parse_keywords(text) == keywords


@given(st.text(max_size=300))
@example("[" * 5000)
@example('{"a": {}}')
@example("**")
def test_whatever_an_llm_says_keywords_are_words_on_one_line(text):
    for keyword in parse_keywords(text):
        assert keyword and keyword == keyword.strip() and not re.search(r"[\n\r\t]", keyword)


def _parsed(text: str, content: str, language: str = "en", keywords: int = 8) -> list[str]:
    document = Document("d", content, metadata={"language": language})
    answer = Keywords.of(IdentifierSettings(keywords=keywords)).parse(text, Unit("u", content, document, ("d",)))
    return [query.query for query in answer.queries]


def test_keywords_are_of_their_document():
    shown = EXAMPLES[1].queries[0]
    assert _parsed(f"- {shown}\n- ice", "Ice is cold.") == ["ice"]  # copied from an example
    assert _parsed(f"- {shown}\n- ice", f"Ice for a {shown}.") == [shown, "ice"]
    assert _parsed("- wheat bread\n- breads\n- bread\n- wheat\n- bread oven", "x") == ["wheat bread", "bread oven"]
    assert _parsed("- a\n- b\n- c", "x", keywords=2) == ["a", "b"]
    german = "Gletscher verlieren im Sommer Eis, und die Bäche darunter führen mehr Wasser."
    english = "- glaciers that are losing ice\n- more water in the streams below\n- Gletscher"
    assert _parsed(english, german, "de") == ["Gletscher"]
    assert _parsed("- Gletscher\n- Schmelzwasser im Sommer", german, "de") == ["Gletscher", "Schmelzwasser im Sommer"]


def test_a_keyword_that_was_cut_off_is_left_out(tmp_path):
    answer = chat_answer("- glaciers\n- loss of ic", "length")
    with serve_replies(Server({"": answer})) as base_url:
        result = make_identifiers(_corpus(a=ICE["a"].text), IdentifierSettings(), _resources(base_url, tmp_path))
    assert result.identifiers["a"].text == "glaciers"


def test_models_that_continue_a_text_are_shown_examples_and_all_share_them():
    strategy = Keywords.of(IdentifierSettings(max_document_words=3))
    units = [Unit(i, d.text, d, (i,)) for i, d in ICE.items()]
    requests = [strategy.request(unit, seed=1, chat=False) for unit in units]
    prefixes = {strategy.shared_prefix(unit, seed=1, chat=False).prompt for unit in units}
    assert len(prefixes) == 1 and all(r.prompt.startswith(next(iter(prefixes))) for r in requests)
    assert requests[0].prompt.endswith("Document 6: Glaciers of the\nKeywords 6:")
    assert requests[0].parameters["stop"] == ["\nDocument", "\n\n"]
    german = Document("g", "Salz", metadata={"language": "de"})
    for chat in (True, False):
        assert "Answer in German." in strategy.request(Unit("g", "Salz", german, ("g",)), seed=1, chat=chat).prompt
        prefix = strategy.shared_prefix(units[0], seed=1, chat=chat).prompt
        assert strategy.request(units[0], seed=1, chat=chat).prompt.startswith(prefix)


def test_the_examples_are_keywords_as_they_are_wanted():
    for shown in EXAMPLES:
        assert parse_keywords("".join(f"\n- {keyword}" for keyword in shown.queries)) == list(shown.queries)


# ---- of the text


def test_characteristic_words_are_those_that_others_do_not_have():
    words = CharacteristicWords(ICE)
    assert words.of("a")[:2] == ["Alps", "each"] and words.of("a")[-3:] == ["Glaciers", "lose", "ice"]
    assert CharacteristicWords(_corpus(a="The and of")).of("a") == ["the", "and", "of"]
    cased = CharacteristicWords(_corpus(a="Floods. The floods of NASA, floods, Flood 7."))
    assert cased.of("a") == ["floods", "NASA"]
    for language, texts, word in (
        ("de", ("Der Gletscher und die Gletschern", "Der Bach"), "Gletscher"),
        ("zh", ("冰川融化", "融化"), "冰川"),
    ):
        documents = {str(n): Document(str(n), t, metadata={"language": language}) for n, t in enumerate(texts)}
        assert CharacteristicWords(documents).of("0")[0] == word


def test_titles_are_taken_where_there_are_any(tmp_path):
    corpus = {
        "a": Document("a", "Ice flows.", "Ice\n sheets"),
        "b": Document("b", "Bread rises.", "ice sheets"),
        "c": Document("c", "Salt dissolves.", "  "),
        "d": Document("d", "", "One two three four five six seven"),
    }
    warnings: list[str] = []
    result = make_identifiers(corpus, IdentifierSettings(kind="title", max_words=5), Resources(warn=warnings.append))
    texts = [row.text for row in result.identifiers.values()]
    assert texts in (
        ["Ice sheets", "ice sheets, Bread", "Salt, dissolves", "One two three four five"],
        ["Ice sheets, flows", "ice sheets", "Salt, dissolves", "One two three four five"],
    )
    assert [row.source for row in result.identifiers.values()] == ["title", "title", "text", "title"]
    assert result.fallback == 1 and "1 of 4 documents have no title" in warnings[0]
    with pytest.raises(InputError, match=r"identifiers.kind: title, and no document has one"):
        make_identifiers(ICE, IdentifierSettings(kind="title"))


def test_chunks_share_the_identifier_of_their_document_or_have_one_each():
    chunks = {
        f"d#{n}": Document(f"d#{n}", text, "Ice", {"chunk_of": "d", "language": "en"})
        for n, text in enumerate(["Ice flows.", "It melts."])
    }
    corpus = chunks | _corpus(e="Salt dissolves.")
    document = documents_of(corpus, IdentifierSettings())["d"]
    assert (document.text, document.title, document.metadata) == ("Ice flows.\nIt melts.", "Ice", {"language": "en"})
    assert list(make_identifiers(corpus, IdentifierSettings(kind="text")).identifiers) == ["d", "e"]
    each = make_identifiers(corpus, IdentifierSettings(kind="title", unit="chunk")).identifiers
    assert list(each) == ["d#0", "d#1", "e"] and len({row.text for row in each.values()}) == 3


def test_a_document_without_a_word_is_named():
    with pytest.raises(InputError, match=r"document 'b' has neither a word of text nor a title \(1 of 2 have none\)"):
        make_identifiers(_corpus(a="Ice.", b=" ... "), IdentifierSettings(kind="text"))


# ---- no two the same


def test_copies_are_told_apart_by_numbers_and_others_by_words_that_the_rest_lacks():
    made = {i: Identifier(i, "ferry", "title") for i in "abcd"}
    texts = {"a": ["ferry"], "b": ["ferry"], "c": ["ferry", "oslo", "bergen"], "d": ["oslo", "ferry", "rhine"]}
    rows = make_unique(made, texts.__getitem__)
    added = {i: row.added for i, row in rows.items()}
    assert len({row.text for row in rows.values()}) == 4
    assert added["c"] in ("", "bergen") and added["d"] in ("", "rhine")
    assert set(added.values()) >= {"2"} or {added["a"], added["b"]} == {"", "2"}
    many = make_unique({str(n): Identifier(str(n), "ferry", "text") for n in range(3000)}, lambda _: ["ferry"])
    assert {row.added for row in many.values()} == {"", *map(str, range(2, 3001))}
    with_known = make_unique(made, lambda i: texts.get(i, []), [Identifier("k", "FERRY", "title")])
    assert {row.added for row in with_known.values()} == {"2", "3", "bergen", "rhine"}


WORDS = st.lists(st.sampled_from(["ice", "Ice", "salt", "tea", "rye", "2"]), min_size=1, max_size=3)
TEXTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), WORDS, min_size=1, max_size=15)


@given(TEXTS, TEXTS, st.sampled_from([1, 2, 3]), st.randoms())
def test_identifiers_are_unique_and_stay_when_others_come(first, more, size, random):
    """Every document has one and no two the same; known ones stay; the order does not matter; a document that collides
    with none keeps its own whatever else there is."""

    def make(texts, known=()):
        made = {i: Identifier(i, ", ".join(words[:size]), "keywords") for i, words in texts.items()}
        kept = {row.id for row in known}
        return make_unique({i: r for i, r in made.items() if i not in kept}, lambda i: texts.get(i, []), list(known))

    rows = make(first)
    assert list(rows) == list(first) and len({same_key(row.text) for row in rows.values()}) == len(first)
    for i, row in rows.items():
        assert row.text == ", ".join(first[i][:size]) + (f", {row.added}" if row.added else "")
    shuffled = list(first)
    random.shuffle(shuffled)
    assert make({i: first[i] for i in shuffled}) == rows
    every = {**more, **first}
    bare = [same_key(", ".join(words[:size])) for words in every.values()]
    together = make(every)
    for i, row in together.items():
        if bare.count(same_key(", ".join(every[i][:size]))) == 1:
            assert not row.added and (i not in rows or rows[i] == row)
    added = make(every, list(rows.values()))
    assert not added.keys() & rows.keys()
    assert len({same_key(row.text) for row in (*added.values(), *rows.values())}) == len(every)


# ---- tokens


def test_atomic_identifiers_are_tokens_that_stay_and_no_text_has(tmp_path):
    settings = IdentifierSettings(kind="atomic")
    rows = make_identifiers(ICE, settings).identifiers
    assert [row.text for row in rows.values()] == ["<doc:0>", "<doc:1>", "<doc:2>", "<doc:3>"]
    assert {row.source for row in rows.values()} == {"atomic"}
    write_identifiers(tmp_path / "identifiers.jsonl", list(rows.values())[2:])
    known = settings.model_copy(update={"known": str(tmp_path / "identifiers.jsonl")})
    result = make_identifiers(_corpus(z="New.") | ICE, known)
    assert {i: row.text for i, row in result.identifiers.items()} == {
        "z": "<doc:4>",
        "a": "<doc:5>",
        "b": "<doc:6>",
        "c": "<doc:2>",
        "d": "<doc:3>",
    }
    quoting = _corpus(a="A token like <doc:7> or <doc_:0> in a text.", b="Another one.")
    assert [row.text for row in make_identifiers(quoting, settings).identifiers.values()] == ["<doc__:0>", "<doc__:1>"]
    with pytest.raises(InputError, match=r"document 'e' has '<doc:3>' in its text, which is the known identifier"):
        make_identifiers(ICE | _corpus(e="I say <doc:3>."), known)


def test_too_many_documents_for_tokens_and_kinds_that_do_not_mix_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"4 documents need 4 new tokens, and max_atomic is 3.*Say kind: keywords"):
        make_identifiers(ICE, IdentifierSettings(kind="atomic", max_atomic=3))
    write_identifiers(tmp_path / "identifiers.jsonl", [Identifier("a", "<doc:0>", "atomic")])
    with pytest.raises(InputError, match=r"has identifiers of kind atomic, and identifiers.kind is text"):
        make_identifiers(ICE, IdentifierSettings(kind="text", known=str(tmp_path)))
    write_identifiers(tmp_path / "identifiers.jsonl", [Identifier("a", "ice", "text")])
    with pytest.raises(InputError, match=r"has identifiers of kind text, and identifiers.kind is atomic"):
        make_identifiers(ICE, IdentifierSettings(kind="atomic", known=str(tmp_path)))


# ---- given


def _given(tmp_path, *rows) -> IdentifierSettings:
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return IdentifierSettings(kind="given", file=str(tmp_path / "mine.jsonl"))


def test_given_identifiers_come_in_the_order_of_the_corpus(tmp_path):
    settings = _given(tmp_path, {"id": "b", "text": "bread\n rises"}, {"id": "a", "text": "ice"})
    rows = make_identifiers(_corpus(a="Ice.", b="Bread."), settings).identifiers
    assert rows == {"a": Identifier("a", "ice", "given"), "b": Identifier("b", "bread rises", "given")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": "ice"}], "no identifier for 1 of 2 documents, as 'b'"),
        ([{"id": "x", "text": "ice"}], "line 1: 'x' is no document of the corpus, which has 'a'"),
        (
            [{"id": "a", "text": "Ice  sheet"}, {"id": "b", "text": "ice sheet"}],
            "lines 1 and 2: the identifier 'ice sheet'",
        ),
        ([{"id": "a", "text": "ice"}, {"id": "a", "text": "tea"}], "line 2: 'a' has an identifier in line 1 already"),
        ([{"id": "a", "text": " - "}], 'line 1: expected {"id": ..., "text": ...}'),
        ([{"id": "a"}], "line 1: expected"),
    ],
)
def test_a_file_that_does_not_fit_the_corpus_is_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make_identifiers(_corpus(a="Ice.", b="Bread."), _given(tmp_path, *rows))


# ---- settings and costs


def test_settings_that_do_not_fit_together_are_refused(tmp_path):
    for bad, message in (
        ({"kind": "given"}, "kind: given needs file"),
        ({"kind": "text", "file": "x"}, "file has no use beside kind: text"),
        ({"kind": "given", "file": "x", "known": "y"}, "known has no use beside kind: given"),
    ):
        with pytest.raises(ValueError, match=message):
            IdentifierSettings(**bad)
    with pytest.raises(InputError, match=r"file: .*nowhere.jsonl: no such file"):
        IdentifierSettings(kind="given", file=str(tmp_path / "nowhere.jsonl")).check()
    with pytest.raises(InputError, match=r"known: .*no identifiers.jsonl"):
        IdentifierSettings(known=str(tmp_path)).check()
    for stage in "ab":
        (tmp_path / stage).mkdir()
        write_identifiers(tmp_path / stage / "identifiers.jsonl", [Identifier("a", "ice", "text")])
    with pytest.raises(InputError, match="several files"):
        IdentifierSettings(known=str(tmp_path)).check()
    assert (
        IdentifierSettings(known=str(tmp_path / "a")).fingerprint()
        == IdentifierSettings(known=str(tmp_path / "b")).fingerprint()
    )


def test_what_a_kind_does_not_use_changes_no_fingerprint():
    text = IdentifierSettings(kind="text")
    assert text.fingerprint() == IdentifierSettings(kind="text", temperature=1, max_document_words=9).fingerprint()
    assert text.fingerprint() != IdentifierSettings(kind="text", keywords=3).fingerprint()
    keywords = IdentifierSettings()
    assert keywords.fingerprint() != IdentifierSettings(max_document_words=9).fingerprint() and keywords.asks_llm


def test_what_identifiers_will_cost(tmp_path):
    estimator = CostEstimator(lambda text: len(text.split()))
    (row,) = estimate_identifiers(ICE, IdentifierSettings(), estimator)
    assert (row.strategy, row.calls, row.max_tokens) == ("identifiers", 4, 80) and row.prompt_tokens > 40
    write_identifiers(tmp_path / "identifiers.jsonl", [Identifier("a", "ice", "keywords")])
    (row,) = estimate_identifiers(ICE, IdentifierSettings(known=str(tmp_path)), estimator)
    assert row.calls == 3 and estimate_identifiers(ICE, IdentifierSettings(kind="text"), estimator) == []
