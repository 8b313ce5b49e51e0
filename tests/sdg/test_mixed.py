"""Mixtures of query types: who gets which, what a prompt shows, and what is counted."""

from pathlib import Path

import pytest

from sharpen import sdg
from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.estimate import CostEstimator
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.strategies.mixed import TYPE_NAMES, members_of, mixture_name
from sharpen.sdg.strategies.pools import read_pool
from sharpen.sdg.strategies.settings import QueriesSettings
from tests.sdg.recorded import Recorded

BUNDLED = Path(__file__).parents[2] / "recipes" / "pools" / "query_types.yaml"
POOL = [
    {"document": f"Thing {n} is blue.", **{name: f"{name} example number {n}" for name in TYPE_NAMES}} for n in range(8)
]
MANY = [Document(f"d{n}", f"the number {n} is explained here at length") for n in range(4000)]
WEIGHTS = {"question": 3, "claim": 1, "keywords": 2, "title": 1, "any": 1, "as_typed": 2}


def _mixed(**settings):
    return sdg.Mixed(**{"pool": POOL} | settings).resolve()


def _types(strategy, documents, seed=1) -> dict[str, str]:
    units = [(u.document.id, u.metadata["query_type"]) for m in strategy.members(seed) for u in m.units(documents)]
    assert len(units) == len({doc_id for doc_id, _ in units})  # each document once, whatever its type
    return dict(units)


def test_weights_are_held_over_many_documents():
    drawn = _types(_mixed(query_types=WEIGHTS), MANY)
    assert len(drawn) == len(MANY)
    for name, weight in WEIGHTS.items():
        expected = weight / sum(WEIGHTS.values())
        deviation = (expected * (1 - expected) / len(MANY)) ** 0.5
        fraction = sum(t == name for t in drawn.values()) / len(MANY)
        assert abs(fraction - expected) < 4 * deviation, name
    only = _types(_mixed(query_types={"claim": 0, "title": 0.5}), MANY[:50])
    assert set(only.values()) == {"title"}


def test_a_type_depends_on_the_document_and_the_seed_alone():
    strategy = _mixed(query_types=WEIGHTS)
    drawn = _types(strategy, MANY[:300])
    assert _types(strategy, MANY[:300:-1][-150:] + MANY[100:200]).items() >= {
        (d.id, drawn[d.id]) for d in MANY[100:200]
    }
    assert _types(_mixed(query_types=dict(reversed(WEIGHTS.items()))), MANY[:300]) == drawn
    assert _types(_mixed(query_types={name: 10 * w for name, w in WEIGHTS.items()}), MANY[:300]) == drawn
    assert _types(strategy, MANY[:300], seed=2) != drawn
    # several of a document are drawn each for itself
    several = [u for m in _mixed(per_document=3).members(1) for u in m.units(MANY[:100])]
    assert len({u.key for u in several}) == 300
    assert (
        len({u.metadata["query_type"] for u in several if u.document.id == "d1"}) > 1
        or len({u.metadata["query_type"] for u in several if u.document.id == "d2"}) > 1
    )


def test_a_prompt_shows_its_type_alone_and_begins_as_its_group_does():
    for member in _mixed(examples_per_prompt=3).members(1):
        others = [name for name in TYPE_NAMES if name != member.query_type]
        units = list(member.units(MANY[:60]))
        for unit in units:
            prompt = member.request(unit, seed=1, chat=False).prompt
            assert prompt.startswith(member.shared_prefix(unit, seed=1, chat=False).prompt)
            assert prompt.count(f"{member.query_type} example number") == 3
            assert not any(f"{name} example number" in prompt for name in others)
    tasks = {member.task for member in _mixed().members(1)}
    assert len(tasks) == len(TYPE_NAMES)


def test_queries_say_their_type_and_all_that_is_asked_is_counted_by_type():
    strategy = _mixed(query_types={"claim": 1, "as_typed": 1}, typos=1.0)
    claims, typed = ([u.document.id for u in member.units(MANY[:12])] for member in strategy.members(5))
    assert claims and typed
    llm = Recorded(
        [Answer(f"a statement about {i}") for i in claims],
        [Answer(f"somethin bout {i}") for i in typed[:-1]] + [Answer("")],
    )
    corpus = {d.id: d for d in MANY[:12]}
    generated = sdg.generate_queries(corpus, llm, [sdg.Mixed(**_given(strategy))], seed=5)
    assert list(generated.stats) == ["mixed-claim", "mixed-as_typed"]
    assert [generated.stats[name].asked for name in generated.stats] == [len(claims), len(typed)]
    assert generated.stats["mixed-as_typed"].rejected == {"empty": 1} and generated.counts()["asked"] == 12
    for query in generated:
        assert query.metadata["strategy"] == f"mixed-{query.metadata['query_type']}"
        assert mixture_name(query.metadata) == "mixed"
        # nobody makes a slip in a claim that is to be checked
        assert ("typed_for" in query.metadata) == (query.metadata["query_type"] == "as_typed")
    again = Recorded(*[[Answer(f"a statement about {i}") for i in claims], [Answer("x y")] * len(typed)])
    same = sdg.generate_queries(corpus, again, [strategy], seed=5)
    assert [q.id for q in same][: len(claims)] == [q.id for q in generated][: len(claims)]
    assert [r.prompt for r in again.asked[0]] == [r.prompt for r in llm.asked[0]]


def _given(strategy) -> dict:
    return {"query_types": strategy.query_types, "typos": strategy.typos, "pool": strategy.pool}


def test_an_estimate_has_a_row_for_each_type():
    rows = CostEstimator(lambda text: len(text.split()), seed=1, chat=False).estimate([_mixed()], MANY[:200], {})
    assert [row.strategy for row in rows] == [f"mixed-{name}" for name in TYPE_NAMES]
    assert sum(row.calls for row in rows) == 200 and rows[0].completion_tokens == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_types": {"claim": 0}}, "give one type or more a weight above 0"),
        ({"query_types": {"claims": 1}}, "claim"),
        ({"query_types": {"claim": -1}}, "greater than or equal to 0"),
        ({"task": "Ask."}, "has no task"),
        ({"pool": [{"document": "d"}]}, "the key document and a query for one or more of question, claim"),
        ({"pool": [{"document": "d", "query": "q"}]}, "the key document and a query for one or more"),
        ({"pool": [{"document": "d", "claim": 7}]}, "are text"),
        ({"pool": None}, "no pool of examples for mixed: give pool in the strategy"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QueriesSettings(pool=[{"document": "d", "query": "q"}], strategies=[{"kind": "mixed", "pool": POOL} | settings])


def test_a_type_without_examples_and_a_name_that_is_taken_are_told_beforehand(tmp_path: Path):
    path = tmp_path / "pool.yaml"
    path.write_text("- {document: a b, claim: c d}\n")
    settings = QueriesSettings(strategies=[{"kind": "mixed", "pool": str(path)}])
    with pytest.raises(InputError, match=r"pool\.yaml: no example has a query of type question, which mixed asks for"):
        settings.check()
    QueriesSettings(strategies=[{"kind": "mixed", "pool": str(path), "query_types": {"claim": 1}}]).check()
    path.write_text("- {document: a b, claim: c d}\n- {document: a b, clam: c d}\n")
    with pytest.raises(InputError, match=r"pool\.yaml, line 2: an example has the key document and a query"):
        settings.check()
    mixed, pool = {"kind": "mixed", "pool": POOL}, [{"document": "d", "query": "q"}]
    claims, titles = (mixed | {"query_types": {name: 1}} for name in ("claim", "title"))
    for other in ({"name": "mixed-claim", "pool": pool}, {"name": "mixed", "pool": pool}, titles):
        with pytest.raises(ValueError, match="give those of the same kind different names"):
            QueriesSettings(strategies=[claims, other])
    QueriesSettings(strategies=[claims, titles | {"name": "headings"}])


def test_the_weights_are_in_the_fingerprint_and_other_strategies_know_nothing_of_them():
    def fingerprint(**settings):
        return QueriesSettings(strategies=[{"kind": "mixed", "pool": POOL} | settings]).fingerprint()

    assert fingerprint() == fingerprint(query_types=WEIGHTS) != fingerprint(query_types={"claim": 1})
    plain = QueriesSettings(pool=[{"document": "d", "query": "q"}]).fingerprint()["strategies"][0]
    assert "query_types" not in plain


def test_the_pool_that_comes_along_has_examples_of_every_type():
    examples = read_pool(BUNDLED, sdg.Mixed.parse_example)
    assert all(set(example.queries) == set(TYPE_NAMES) for example in examples)
    by_type = {member.query_type: member.example_texts() for member in _mixed(pool=str(BUNDLED)).members()}
    assert all(len(texts) >= 8 for texts in by_type.values())
    assert all(text.endswith("?") for text in by_type["question"])
    assert not any(text.endswith("?") for name in ("claim", "keywords", "title") for text in by_type[name])
    # as typed: lower case, and hardly a mark
    assert all(text == text.lower() for text in by_type["as_typed"])


def test_what_is_no_mixture_is_its_own_only_member():
    strategy = sdg.Document(pool=[{"document": "d", "query": "q"}]).resolve()
    assert members_of(strategy, 1) == [strategy] and mixture_name({"strategy": "document"}) is None
    assert mixture_name({"strategy": "multi_hop", "query_type": "multi_hop"}) is None
