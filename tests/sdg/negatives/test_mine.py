"""The verb that joins miners, filters and draw, and its settings."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.negatives import (
    Absolute,
    BM25Miner,
    CrossEncoderMiner,
    CustomMiner,
    DenseMiner,
    Guide,
    HybridMiner,
    JudgeNegatives,
    LLMMiner,
    NegativesSettings,
    Percentage,
    RandomMiner,
    Reason,
    kept_negatives,
    mine_negatives,
    mine_with_settings,
    read_negatives,
    write_negatives,
    write_rejected_passages,
)
from sharpen.sdg.negatives.mine import TooFewWarning
from sharpen.sdg.resources import Resources
from tests.sdg.negatives.support import RecordedLLM, RecordedResources, kept

QUERIES = {
    "q1": Query("q1", "ice and snow on water", {"positives": ["glacier"]}),
    "q2": Query("q2", "beans and water", {"positives": ["coffee"]}),
}


class ByTitle:
    """A user's own miner, with nothing but the method."""

    def mine(self, queries, corpus, depth, resources, seed):
        ranked = sorted(corpus.values(), key=lambda d: d.title)[:depth]
        return {q.id: {d.id: 1.0 / n for n, d in enumerate(ranked, 1)} for q in queries}


def test_miners_by_name_and_a_users_own(corpus):
    mined = mine_negatives(
        QUERIES, corpus, {"words": BM25Miner(weight=3, ranks=(1, 5)), "mine": ByTitle()}, per_query=4
    )
    assert {n.miner for n in kept(mined)} == {"words", "mine"}
    assert {q: len(rows) for q, rows in mined.kept.items()} == {"q1": 4, "q2": 4}
    assert sum(n.miner == "words" for n in kept(mined)) == 6  # by weight: 3 of 4
    assert mined.counts["by_miner"] == {"words": 6, "mine": 2} and mined.counts["negatives"] == 8
    assert list(mined) == mined.rows and len(mined) == len(mined.rows)
    again = mine_negatives(
        list(QUERIES.values()), corpus, {"words": BM25Miner(weight=3, ranks=(1, 5)), "mine": ByTitle()}
    )
    assert again.rows == mined.rows
    listed = mine_negatives(QUERIES, corpus, [RandomMiner(), ByTitle()])
    assert {n.miner for n in kept(listed)} == {"random", "ByTitle"}
    with pytest.raises(ValueError, match="the miners are named bm25, bm25"):
        mine_negatives(QUERIES, corpus, [BM25Miner(), BM25Miner()])


def test_a_custom_miner_of_a_recipe_mines(tmp_path, corpus):
    settings = NegativesSettings.model_validate(
        {"per_query": 2, "miners": [{"kind": "custom", "use": f"{__name__}:ByTitle", "name": "titles"}]}
    )
    assert isinstance(settings.miners[0], CustomMiner)
    mined = mine_with_settings(QUERIES, corpus, settings)
    assert {n.miner for n in kept(mined)} == {"titles"} and len(kept(mined)) == 4
    with pytest.raises(InputError, match="use: nothing:Here"):
        NegativesSettings(miners=[CustomMiner(use="nothing:Here")]).miners[0].check()


def test_held_out_documents_are_no_negatives_and_more_are_drawn_after_the_first(corpus):
    settings = NegativesSettings(per_query=2, miners=[RandomMiner()])
    first = mine_with_settings(QUERIES, corpus, settings, held_out={"bread", "chess"}, seed=1)
    more = mine_with_settings(QUERIES, corpus, settings, held_out={"bread", "chess"}, more=3, seed=1)
    for q in QUERIES:
        assert [n.doc_id for n in more.kept[q]][:2] == [n.doc_id for n in first.kept[q]]
        assert len(more.kept[q]) == 5 and not {n.doc_id for n in more.kept[q]} & {"bread", "chess"}
    assert {n.doc_id for n in more.rows if n.reason == Reason.HELD_OUT} <= {"bread", "chess"}


@pytest.mark.parametrize("too_few", ["others", "random"])
def test_a_document_for_which_the_same_was_asked_is_no_negative(corpus, too_few):
    corpus = corpus | {
        "copy": Document("copy", corpus["bread"].text, "Another title"),
        "coffee#1": Document("coffee#1", "Grind the beans first.", metadata={"chunk_of": "coffee"}),
    }
    asked = Query("q", "ice and snow on water", {"positives": ["glacier"], "also_answers": ["bread", "coffee", "gone"]})
    settings = NegativesSettings(per_query=20, miners=[RandomMiner(), BM25Miner()], too_few=too_few)
    mined = mine_with_settings([asked], corpus, settings)
    assert {n.doc_id for n in kept(mined)} == set(corpus) - {"glacier", "bread", "copy", "coffee", "coffee#1"}
    reasons = {n.doc_id: n.reason for n in mined.rows if n.verdict == "dropped"}
    assert reasons["glacier"] == Reason.POSITIVE and "the same was asked for it" in mined.counts["dropped"]
    assert {reasons[i] for i in ("bread", "copy", "coffee", "coffee#1")} == {Reason.ALSO_ANSWERS}
    # drawn at random, where no miner has ranked it
    few = NegativesSettings(per_query=20, miners=[BM25Miner(ranks=(1, 1))], too_few="random")
    drawn = {n.doc_id for n in kept(mine_with_settings([asked], corpus, few))}
    assert drawn == {n.doc_id for n in kept(mined)}


def test_a_near_duplicate_of_a_positives_document_is_no_negative(corpus):
    corpus = corpus | {"bread#1": Document("bread#1", "Of rye.", metadata={"chunk_of": "bread"})}
    asked = Query("q", "ice and snow on water", {"positives": ["glacier"], "near_duplicates": ["bread", "gone"]})
    mined = mine_with_settings(
        [asked], corpus, NegativesSettings(per_query=20, miners=[RandomMiner()], too_few="random")
    )
    assert {n.doc_id for n in kept(mined)} == set(corpus) - {"glacier", "bread", "bread#1"}
    assert {n.doc_id for n in mined.rows if n.reason == Reason.NEAR_DUPLICATE} == {"bread", "bread#1"}


def test_without_negatives_nothing_is_mined(corpus):
    class Refuses:
        def mine(self, *_arguments):
            raise AssertionError("not asked for")

    mined = mine_negatives(QUERIES, corpus, {"none": Refuses()}, [Guide()], per_query=0)
    assert mined.rows == [] and mined.counts["negatives"] == 0 and mined.counts["queries"] == 2


def test_warnings_are_values_and_are_given_to_the_person(corpus):
    messages = []
    settings = NegativesSettings(per_query=3, miners=[BM25Miner(ranks=(1, 2))])
    mined = mine_with_settings(QUERIES, corpus, settings, resources=Resources(warn=messages.append))
    assert mined.warnings == [TooFewWarning(2, 2, "leave_out")]
    assert messages == [
        "negatives: 2 of 2 queries have fewer than wanted and are left out of the training (negatives.too_few)."
    ]
    strict = mine_negatives(
        QUERIES,
        corpus,
        {"a": BM25Miner(), "b": BM25Miner()},
        [Absolute(scorer="bm25", max=0.0)],
        resources=Resources(warn=messages.append),
    )
    warning = strict.warnings[0]
    assert (warning.kind, warning.miners, warning.warning.fraction) == ("absolute", ("a", "b"), 1.0)
    assert "negatives.filters: absolute takes 100% of the candidates" in messages[1] and messages[1].endswith("(a, b).")


def test_what_llms_write_and_judge_is_counted(corpus):
    text = "A long passage about snow that melts early in the year."
    llm = RecordedLLM(
        [Answer(json.dumps({"negatives": [text, "short"]})), Answer(json.dumps({"negatives": [text + " Twice."]}))],
        [Answer("[true]"), Answer("[false]")],
    )
    mined = mine_negatives(
        QUERIES,
        corpus,
        {"writer": LLMMiner(negatives=2)},
        [JudgeNegatives()],
        per_query=1,
        resources=RecordedResources(llm),
    )
    assert set(mined.written) == {"written:writer:q1:1", "written:writer:q2:1"}
    assert [n.doc_id for n in kept(mined)] == ["written:writer:q2:1"]
    assert [r.message for r in mined.rejected] == ["too short", "missing from the answer"]
    assert mined.counts["rejected"] == {"too short": 1, "missing from the answer": 1}
    assert mined.counts["prompt_tokens"] > 0 and "money" not in mined.counts
    assert mined.counts["filter 1, judge"] == {"writer: candidates": 2, "writer: dropped": 1}


def test_rows_are_read_back(tmp_path, corpus):
    mined = mine_negatives(QUERIES, corpus, [BM25Miner()], per_query=2)
    write_negatives(tmp_path / "n.jsonl", mined)
    assert read_negatives(tmp_path / "n.jsonl") == mined.rows
    assert kept_negatives(tmp_path / "n.jsonl") == {q: [n.doc_id for n in rows] for q, rows in mined.kept.items()}
    first = json.loads((tmp_path / "n.jsonl").read_text().splitlines()[0])
    assert first["reason"] == "positive" and first["verdict"] == "dropped" and first["miner"] == "bm25"
    (tmp_path / "n.jsonl").write_text(json.dumps(first | {"reason": "unheard of"}))
    with pytest.raises(InputError, match=r"n\.jsonl, line 1: not a negative"):
        read_negatives(tmp_path / "n.jsonl")
    write_rejected_passages(tmp_path / "r.jsonl", mined.rejected)
    assert (tmp_path / "r.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("part", "needs_base", "scorers"),
    [
        (NegativesSettings(), False, []),
        (NegativesSettings(miners=[DenseMiner()]), True, []),
        (NegativesSettings(miners=[HybridMiner(model="some/encoder")]), False, []),
        (NegativesSettings(miners=[CrossEncoderMiner(model="some/reranker")]), False, []),
        (NegativesSettings(miners=[CrossEncoderMiner(model="some/reranker", of="hybrid")]), True, []),
        (NegativesSettings(miners=[CustomMiner(use="a:b", uses_base=True)]), True, []),
        (NegativesSettings(filters=[Percentage(), Absolute()]), True, ["base"]),
        (NegativesSettings(filters=[Guide(model="e"), Absolute(scorer="bm25")]), False, ["encoder:e", "bm25"]),
        (NegativesSettings(filters=[Absolute(scorer="fused"), JudgeNegatives()]), True, ["fused"]),
    ],
)
def test_settings_say_what_they_need(part, needs_base, scorers):
    assert part.needs_base() is needs_base and part.scorers() == scorers


def test_settings_name_who_asks_an_llm():
    part = NegativesSettings(miners=[LLMMiner(), BM25Miner()], filters=[JudgeNegatives(), Guide()])
    assert part.llm_parts() == [LLMMiner(), JudgeNegatives()]
    assert [m.seed for m in part.with_llm_seed(3).miners if isinstance(m, LLMMiner)] == [3]
    given = NegativesSettings(miners=[LLMMiner(seed=2)])
    assert given.with_llm_seed(3) == given


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"miners": []}, "at least 1 item"),
        ({"miners": [{"kind": "bm25"}, {"kind": "bm25"}]}, "the miners are named bm25, bm25"),
        ({"refresh": True}, "refresh: it takes a dense or hybrid miner"),
        ({"refresh": True, "miners": [{"kind": "dense", "model": "m"}]}, "refresh: it takes a dense or hybrid miner"),
        ({"too_few": "others"}, "others are there only with several miners"),
        ({"miners": [{"kind": "bm25", "share": 2}]}, "called weight now"),
        ({"miners": [{"kind": "bm25", "language": "slovak"}]}, "String should match pattern"),
        ({"filters": [{"kind": "percentage", "max": 0}]}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        NegativesSettings.model_validate(values)


def test_defaults_of_a_recipe():
    part = NegativesSettings.model_validate({"miners": [{"kind": "bm25"}, {"kind": "random", "name": "chance"}]})
    assert (part.per_query, part.mix, part.too_few, part.refresh) == (1, "instance", "leave_out", False)
    assert list(part.by_name()) == ["bm25", "chance"]
    assert part.miners == (BM25Miner(), RandomMiner(name="chance"))


def test_a_fingerprint_has_the_content_of_models_and_pools(tmp_path):
    pool = tmp_path / "pool.yaml"
    pool.write_text("- {query: a, document: b, negatives: [c]}")
    part = NegativesSettings(
        miners=[DenseMiner(model="packaged:tiny-bert"), LLMMiner(pool=str(pool))], filters=[Guide(model=None)]
    )
    before = part.fingerprint()
    assert before["miners"][0]["model"] != "packaged:tiny-bert" and str(pool) not in json.dumps(before)
    pool.write_text("- {query: a, document: b, negatives: [d]}")
    assert part.fingerprint() != before
    assert NegativesSettings(per_query=2).fingerprint() != NegativesSettings().fingerprint()
    with pytest.raises(InputError, match="model: no/such"):
        DenseMiner(model="no/such/folder").check()
