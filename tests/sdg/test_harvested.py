"""Queries that no LLM writes: which texts documents carry, which of them are drawn, and what is said of them."""

from __future__ import annotations

from collections import Counter

import pytest

from sharpen import sdg
from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.filters.text import Copying
from sharpen.sdg.harvesting import carried_texts, stands_in
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.strategies.harvested import Harvested
from sharpen.sdg.strategies.settings import QueriesSettings
from tests.sdg.recorded import Recorded

POOL = [{"document": "Boil eggs for six minutes.", "query": "how long to boil an egg"}]
MARKDOWN = '''The kiln is fired to a thousand
degrees for nine hours. A **raku kiln** is a small oven that heats up fast. See [the glaze chart](glaze.md).

## Opening the [kiln](kiln.md) safely ##

- Wait two days before you
  open the door.
- In this order:

```python
def heat(kiln):
    """Raise the temperature by one degree."""
    # Not a heading at all
    return kiln
```

A low- and mid-range firing
takes less time.

Figure 3: Temperature over nine hours.

![A pot that cracked in the fire](pot.png)

Choosing the right clay
=======================

| clay | degrees of firing it |
| --- | --- |
| stoneware body number one | 1,250 |

    indented code stands here, too
'''


def test_what_a_document_carries_without_its_code_tables_and_marks():
    texts = carried_texts(Document("d", MARKDOWN, "Firing pottery at home"))
    assert texts == {
        "title": ["Firing pottery at home"],
        "heading": ["Opening the kiln safely", "Choosing the right clay"],
        "definition": ["A raku kiln is a small oven that heats up fast."],
        "docstring": ["Raise the temperature by one degree."],
        "caption": ["A pot that cracked in the fire", "Temperature over nine hours."],
        "link": ["the glaze chart", "kiln"],
        "lead": ["The kiln is fired to a thousand degrees for nine hours."],
        "sentence": [
            "See the glaze chart.",
            "Wait two days before you open the door.",
            "A low- and mid-range firing takes less time.",
        ],
    }
    # a later chunk repeats the title, and has no lead
    later = carried_texts(Document("d#1", "It cools for two days.", "Firing pottery"), opens=False)
    assert later == {"sentence": ["It cools for two days."]}


def test_a_chunk_from_within_a_code_block_is_code_until_the_fence():
    chunk = Document("d#1", "compute everything at once here\n```\n\nThen let the oven cool down slowly.")
    assert carried_texts(chunk, opens=False) == {"sentence": ["Then let the oven cool down slowly."]}
    assert "compute everything at once here" in str(carried_texts(chunk, opens=True))


@pytest.mark.parametrize(
    ("sentence", "is_definition"),
    [
        ("A ferry is a boat that carries cars.", True),
        ("Granulomas are one of the signs of tuberculosis.", True),
        ("This is a boat that carries cars.", False),
        ("Return true if the argument is a boat.", False),
        ("The arguments are the same as those of open.", False),
    ],
)
def test_definitions(sentence: str, is_definition: bool):
    texts = carried_texts(Document("d", f"{sentence}"))
    assert texts == {"definition" if is_definition else "lead": [sentence]}


def test_headings_of_restructured_text_with_and_without_overline():
    text = "===\nUsing pip at work\n===\n\nRead this.\n\nInstalling a package\n~~~~~~~~~~~~\n\n`the index <x>`_\n"
    texts = carried_texts(Document("d", text))
    assert texts["heading"] == ["Using pip at work", "Installing a package"] and texts["link"] == ["the index"]


def test_verbatim_says_whether_the_text_stands_in_the_content():
    corpus = {"d": Document("d", MARKDOWN, "Firing pottery at home")}
    units = {u.text: u.metadata for u in Harvested(per_document=50).resolve().harvest(corpus)}
    assert units["Firing pottery at home"] == {"harvested": "title", "verbatim": True}
    assert units["The kiln is fired to a thousand degrees for nine hours."]["verbatim"]  # over a line break
    assert units["A raku kiln is a small oven that heats up fast."]["verbatim"]  # but for its marks
    # the target of the link stands between its words
    assert units["Opening the kiln safely"] == {"harvested": "heading", "verbatim": False}
    assert units["See the glaze chart."]["verbatim"]  # here it stands behind them
    for text, metadata in units.items():
        assert metadata["verbatim"] == stands_in(text, corpus["d"].content)


def _corpus(n: int) -> dict[str, Document]:
    sentences = (
        "Item {n} is kept in hall {n}. Its door {n} opens at noon. Nobody at all has seen key {n} today. Ask at desk"
        " {n}."
    )
    return {f"d{i}": Document(f"d{i}", sentences.format(n=i), f"Storage of item {i}") for i in range(n)}


def test_the_draw_hangs_on_seed_and_document_alone():
    corpus = _corpus(40)
    strategy = Harvested(per_document=2).resolve()

    def drawn(documents, seed=13, strategy=strategy):
        return {(u.positives[0], u.text) for u in strategy.harvest(documents, seed)}

    everything = drawn(corpus)
    assert Counter(i for i, _ in everything) == dict.fromkeys(corpus, 2)
    assert drawn(dict(reversed(corpus.items()))) == everything != drawn(corpus, seed=14)
    half = {i: corpus[i] for i in list(corpus)[::2]}
    assert drawn(half) == {(i, text) for i, text in everything if i in half}
    assert everything < drawn(corpus, strategy=Harvested(per_document=3).resolve())
    # not the same kinds, nor the same sentence, of every document
    kinds = Counter(u.metadata["harvested"] for u in strategy.harvest(corpus))
    assert set(kinds) == {"title", "lead", "sentence"} and min(kinds.values()) > 10


def test_limits_are_drawn_and_grow_by_what_is_added():
    corpus = _corpus(40)

    def texts(**settings):
        return {u.text for u in Harvested(**settings).resolve().harvest(corpus)}

    few, many = texts(limit=10), texts(limit=30)
    assert len(few) == 10 and len(many) == 30 and few < many < texts()
    some = Harvested(documents=5).resolve().harvest(corpus)
    assert {u.document.id for u in some} == {d.id for d in sdg.sample_documents(list(corpus.values()), 5, 13)}
    assert texts(kinds=("title",)) == {d.title for d in corpus.values()}
    assert texts(kinds=("sentence",), min_words=7) == {f"Nobody at all has seen key {n} today." for n in range(40)}
    assert not texts(max_words=2, min_words=1, kinds=("lead",))


def test_chunks_give_their_documents_title_once():
    documents = [
        Document(
            "guide",
            "First soak all the beans overnight. Then boil them for an hour. Serve them warm.",
            "Beans and how to cook them",
        )
    ]
    corpus = sdg.chunk(documents, max_words=6)
    assert len(corpus) == 3
    units = Harvested(per_document=9).resolve().harvest(dict(reversed(corpus.items())))
    titles = [u for u in units if u.metadata["harvested"] == "title"]
    assert [u.positives for u in titles] == [("guide#0",)]
    assert {u.positives[0] for u in units if u.metadata["harvested"] == "lead"} == {"guide#0"}


def test_harvested_queries_need_no_llm_and_add_up():
    corpus = _corpus(6) | {
        "same": Document("same", "Ask at desk 3. Opening hours are on the door of it."),
        "copy": Document("copy", _corpus(6)["d0"].text, "A copy of it"),
        "tiny": Document("tiny", "One two."),
    }
    labelled = [Query("t", "storage of item 1!", {"positives": ["d1"]})]
    generated = sdg.generate_queries(corpus, llm=None, strategies=[Harvested(per_document=9)], labelled=labelled)
    stats = generated.stats["harvested"]
    assert stats.asked == stats.kept + stats.rejected.total() and stats.prompts == 0 and not stats.tokens
    # labelled, and said by two documents: then it is neither's
    assert sorted(r.text for r in generated.rejected) == ["Ask at desk 3.", "Ask at desk 3.", "Storage of item 1"]
    assert generated.counts() == {"asked": stats.asked, "kept": stats.kept, "rejected": {"duplicate": 3}}
    sources = {q.metadata["positives"][0] for q in generated}
    assert len(sources & {"d0", "copy"}) == 1 and "tiny" not in sources
    assert len({q.id for q in generated}) == len(generated)
    query = generated.kept[0]
    assert set(query.metadata) == {"positives", "strategy", "harvested", "verbatim"}
    assert query.text in corpus[query.metadata["positives"][0]].content


def test_texts_in_another_language_are_rejected():
    text = "Die Bohnen müssen über Nacht im Wasser liegen und werden danach eine Stunde lang gekocht."
    corpus = {"d": Document("d", f"{text} The beans are soaked overnight and boiled for about an hour.")}
    generated = sdg.generate_queries(corpus, None, [Harvested(language="en")])
    assert [q.text for q in generated] == ["The beans are soaked overnight and boiled for about an hour."]
    assert generated.counts()["rejected"] == {"wrong_language": 1}
    settings = QueriesSettings(language="de", strategies=[{"kind": "harvested"}])
    assert [s.language for s in settings.all_strategies()] == ["de"]


def test_beside_an_llm_all_documents_are_harvested_and_none_of_that_is_rewritten():
    corpus = _corpus(20)
    llm = Recorded(
        [Answer("where do I find the first one"), Answer("when does it open")],
        [Answer("its place"), Answer("its hours")],
    )
    strategies = [Harvested(per_document=1), sdg.Document(pool=POOL), sdg.Paraphrase(pool=POOL)]
    generated = sdg.generate_queries(corpus, llm, strategies, documents=2)
    assert {name: s.kept for name, s in generated.stats.items()} == {"harvested": 20, "document": 2, "paraphrase": 2}
    assert [len(asked) for asked in llm.asked] == [2, 2]
    # the documents themselves in place of a number
    chosen = [corpus["d7"], corpus["d3"]]
    llm = Recorded([Answer("where do I find the first one"), Answer("when does it open")])
    generated = sdg.generate_queries(corpus, llm, strategies[:2], documents=chosen)
    written = [q for q in generated if q.metadata["strategy"] == "document"]
    assert [q.metadata["positives"] for q in written] == [["d7"], ["d3"]]
    assert generated.stats["harvested"].kept == 20


def test_who_asks_needs_an_llm():
    with pytest.raises(InputError, match="llm: none is given, and the strategy document asks one"):
        sdg.generate_queries(_corpus(2), None, [Harvested(), sdg.Document(pool=POOL)])


def test_the_copying_filter_lets_pass_what_is_a_copy_on_purpose():
    corpus = _corpus(3)
    generated = sdg.generate_queries(corpus, None, [Harvested()])
    written = Query("w", "Its door 1 opens at noon", {"positives": ["d1"], "strategy": "document"})
    filtered = sdg.filter_queries([*generated.kept, written], corpus, [Copying()])
    assert filtered.kept == generated.kept and [r.query for r in filtered.rejected] == ["w"]
    splits = sdg.split(generated.kept, corpus, dev=0.3, test=0.3, near_duplicates=None)
    sides = {name: {q.metadata["positives"][0] for q in members} for name, members in splits.items()}
    assert sum(map(len, sides.values())) == 3  # no document in two


def test_settings_that_do_not_fit_and_what_stands_in_a_fingerprint():
    with pytest.raises(ValueError, match="min_words must not be greater"):
        Harvested(min_words=9, max_words=8)
    with pytest.raises(ValueError, match="kinds"):
        Harvested(kinds=("poem",))
    with pytest.raises(ValueError, match="temperature"):
        QueriesSettings(strategies=[{"kind": "harvested", "temperature": 1}])

    def fingerprint(**settings):
        return QueriesSettings(strategies=[{"kind": "harvested"} | settings]).fingerprint()

    known = fingerprint()
    assert fingerprint(name="harvested", per_document=4) == known != fingerprint(per_document=3)
    assert fingerprint(kinds=["lead", "title"]) == fingerprint(kinds=["title", "lead"]) != known
