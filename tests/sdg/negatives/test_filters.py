"""Filters of negatives: calibrated limits, an LLM as judge, one verdict for all miners."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models, no_progress
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.negatives import (
    Absolute,
    CrossEncoderLimit,
    FilterCounts,
    FilteredRows,
    Guide,
    JudgeNegatives,
    Margin,
    Percentage,
    Reason,
    calibrate,
    filter_counts,
    resolve_verdicts,
    threshold_warning,
)
from sharpen.sdg.negatives.filters.calibration import positive_pairs, random_pairs
from sharpen.sdg.negatives.filters.scores import drop_above
from sharpen.sdg.negatives.filters.verdicts import ThresholdProblem
from sharpen.sdg.resources import Resources
from tests.sdg.negatives.support import RecordedLLM, RecordedResources, row


def _dropped(rows):
    return {(n.query_id, n.doc_id) for of_query in rows.values() for n in of_query if n.verdict == "dropped"}


def test_calibrated_limits_do_not_depend_on_a_models_scale():
    """The same scores on another scale, as other models have them, drop the same candidates."""
    queries = [Query(f"q{n}", "x", {"positives": [f"p{n}"]}) for n in range(40)]
    # 0: random, 1: the positive
    places = {(q.id, f"d{k}"): (k + n / 40) / 9 for n, q in enumerate(queries) for k in range(10)}
    rows = {q.id: [row(q.id, f"d{k}", rank=k + 1) for k in range(10)] for q in queries}
    by_filter = {}
    for low, high in ((0.05, 0.6), (0.75, 0.9), (-8.0, 6.0)):
        scores = {pair: low + place * (high - low) for pair, place in places.items()}
        scores |= {(q.id, f"p{n}"): high + n / 4000 * (high - low) for n, q in enumerate(queries)}
        calibration = calibrate(queries, scores, [low] * 10)
        for each in (Percentage(), Margin(), Absolute()):
            dropped = _dropped(drop_above(rows, scores, *each.limit(calibration)))
            by_filter.setdefault(each.kind, []).append(dropped)
    for dropped in by_filter.values():
        assert dropped[0] == dropped[1] == dropped[2]
        assert 0 < len(dropped[0]) < 100


@pytest.mark.parametrize(
    ("each", "scorer", "dropped", "detail"),
    [
        (Absolute(scorer="bm25", max=0.5), "bm25", {"near", "high"}, "absolute: above 0.5"),
        (Margin(min=0.3), "base", {"near", "high"}, "margin: less than 0.3 below the positive"),
        (Percentage(max=0.75), "base", {"near", "high"}, "percentage: above 0.75 of the positive's score"),
        (CrossEncoderLimit(model="some/reranker", max=0.85), "some/reranker", {"high"}, "cross_encoder: above 0.85"),
        (Guide(), "base", {"high"}, "guide: above the positive"),
        (Guide(model="some/encoder"), "encoder:some/encoder", {"high"}, "guide: above the positive"),
    ],
)
def test_a_filter_by_score_drops_what_is_above_its_limit(each, scorer, dropped, detail):
    values = {"p": 0.8, "low": 0.2, "near": 0.7, "high": 0.9}
    asked = []

    class Given(Models):
        def score(self, scorer, pairs, queries, corpus):
            asked.append(scorer)
            return {(q, i): values[i] for q, i in pairs}

    corpus = {i: Document(i, f"text of {i}") for i in values}
    queries = {"q": Query("q", "x", {"positives": ["p"]})}
    before = {"m": {"q": [row("q", i, rank=n) for n, i in enumerate(("low", "near", "high"), 1)]}}
    after = each.apply(before, queries, corpus, Resources(Given()), 0).rows
    assert asked == [scorer] and each.scored_by() == scorer
    assert {n.doc_id for n in after["m"]["q"] if n.verdict == "dropped"} == dropped
    assert {(n.reason, n.detail) for n in after["m"]["q"] if n.verdict == "dropped"} == {(Reason.SCORE, detail)}
    # what is no candidate is not looked at again, and without candidates nobody is asked
    assert each.apply({"m": {"q": [row("q", "high", verdict="relabelled")]}}, queries, corpus, Resources(Given()), 0)
    assert len(asked) == 1


def test_a_percentage_of_a_negative_score_is_below_it():
    """As cross-encoders' logits are."""
    scores = {("q", "p"): -4.0, ("q", "better"): -3.9, ("q", "near"): -4.1, ("q", "far"): -4.3}
    rows = {"q": [row("q", i, rank=n) for n, i in enumerate(("better", "near", "far"), 1)]}
    calibration = calibrate([Query("q", "x", {"positives": ["p"]})], scores, [-9.0])
    dropped = drop_above(rows, scores, *Percentage(max=0.95).limit(calibration))
    assert _dropped(dropped) == {("q", "better"), ("q", "near")}
    above = drop_above(rows, scores, *Percentage(max=1.05).limit(calibration))  # whoever wants a little more
    assert not _dropped(above)


def test_limits_are_calibrated_with_positives_and_random_documents_by_seed(corpus):
    queries = {f"q{n}": Query(f"q{n}", "x", {"positives": [i]}) for n, i in enumerate(corpus)}
    pairs = random_pairs(queries, corpus, 3)
    assert pairs == random_pairs(queries, corpus, 3) != random_pairs(queries, corpus, 4)
    assert {q for q, _ in pairs} == set(queries)
    assert not set(pairs) & set(positive_pairs(queries.values()))
    assert positive_pairs(queries.values()) == [(q, queries[q].metadata["positives"][0]) for q in queries]


def test_a_filter_that_takes_most_or_nearly_nothing_is_warned_of():
    most = threshold_warning(FilterCounts(10, 6))
    assert (most.kind, most.fraction) == (ThresholdProblem.TAKES_MOST, pytest.approx(0.6)) and "60%" in most.message
    least = threshold_warning(FilterCounts(1000, 4))
    assert (least.kind, least.fraction) == (ThresholdProblem.TAKES_NEARLY_NOTHING, pytest.approx(0.004))
    assert "nearly nothing" in str(least)
    assert "55%" in threshold_warning(FilterCounts(100, 5, 50)).message
    assert threshold_warning(FilterCounts(100, 20)) is None and threshold_warning(FilterCounts(0, 0)) is None


JUDGED = {
    q.id: q for q in (Query("q1", "ice", {"positives": ["glacier"]}), Query("q2", "tea", {"positives": ["coffee"]}))
}
ANSWERS = [
    Answer('{"relevant": [true, false]}'),
    Answer("[false]"),
    Answer('{"relevant": [true]}'),
    Answer("", error="BadRequestError: what"),
]


def _to_judge():
    return {"m": {q: [row(q, i, rank=n) for n, i in enumerate(("bread", "chess", "piano"), 1)] for q in JUDGED}}


def test_an_llm_judges_candidates_and_an_answer_that_fits_nothing_drops_them(corpus):
    recorded = RecordedLLM(ANSWERS)
    result = JudgeNegatives(per_prompt=2).apply(_to_judge(), JUDGED, corpus, RecordedResources(recorded), 0)
    verdicts = {
        (n.query_id, n.doc_id): (n.verdict, n.reason, n.message)
        for of_query in result.rows["m"].values()
        for n in of_query
    }
    mismatch = ("dropped", Reason.JUDGE_FAILED, "judge: its answer does not match its documents")
    assert verdicts == {
        ("q1", "bread"): ("dropped", Reason.JUDGED_RELEVANT, "judge: relevant"),
        ("q1", "chess"): ("candidate", None, ""),
        ("q1", "piano"): ("candidate", None, ""),
        ("q2", "bread"): mismatch,
        ("q2", "chess"): mismatch,
        ("q2", "piano"): ("dropped", Reason.JUDGE_FAILED, "judge: LLM error: BadRequestError"),
    }
    assert result.spending.tokens["prompt"] == 40
    first = recorded.requests[0]
    schema = first.parameters["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["relevant"]["maxItems"] == 2
    assert "Document 2: Opening a game of chess" in first.prompt
    assert "typed this into a search engine: ice" in first.prompt


def test_what_a_judge_calls_relevant_can_become_a_positive(corpus):
    resources = RecordedResources(RecordedLLM(ANSWERS))
    judge = JudgeNegatives(action="relabel", per_prompt=2)
    rows = _to_judge()
    judged = judge.apply(rows, JUDGED, corpus, resources, 0).rows["m"]
    assert judged["q1"][0].verdict == "relabelled" and judged["q1"][0].reason == Reason.JUDGED_RELEVANT
    counts = filter_counts(rows["m"], judged)
    assert counts == FilterCounts(candidates=6, dropped=3, relabelled=1)
    assert counts.to_dict() == {"candidates": 6, "dropped": 3, "relabelled": 1}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("over budget: 1 USD spent", r"llm\.budget: 1 of 4 judgements of negatives"),
        ("timeout: 120 s", "1 of 4 requests"),
    ],
)
def test_a_budget_that_ends_and_an_outage_stop_the_judge(corpus, error, said):
    llm = RecordedLLM([*ANSWERS[:3], Answer("", error=error)])
    with pytest.raises(InputError, match=said):
        JudgeNegatives(per_prompt=2).apply(_to_judge(), JUDGED, corpus, RecordedResources(llm), 0)


def test_a_judge_is_asked_once_for_what_several_miners_offer(corpus):
    ids = {"a": ("bread", "chess", "piano"), "b": ("chess", "bread", "guitar"), "c": ("guitar",)}
    rows = {miner: {"q1": [row("q1", i, miner, n) for n, i in enumerate(of, 1)]} for miner, of in ids.items()}
    rows["c"]["q1"].append(row("q1", "chess", "c", 2, "dropped", Reason.SCORE))
    rows["c"]["q2"] = [row("q2", "bread", "c")]
    # bread, chess, piano, guitar; and bread for the other query
    recorded = RecordedLLM(
        [Answer('{"relevant": [true, false]}'), Answer('{"relevant": [false, true]}'), Answer("[false]")]
    )
    totals = []

    def progress(label, total):
        totals.append(total)
        return no_progress(label, total)

    resources = RecordedResources(recorded, progress=progress)
    judged = JudgeNegatives(per_prompt=2).apply(rows, JUDGED, corpus, resources, 0).rows
    assert len(recorded.requests) == 3 and totals == [3]
    assert {(miner, *pair) for miner, of_miner in judged.items() for pair in _dropped(of_miner)} == {
        ("a", "q1", "bread"),
        ("b", "q1", "bread"),
        ("b", "q1", "guitar"),
        ("c", "q1", "guitar"),
        ("c", "q1", "chess"),
    }
    assert judged["c"]["q1"][1] == rows["c"]["q1"][1]
    assert {m: [n.doc_id for n in of["q1"]] for m, of in judged.items() if m != "c"} == {m: list(ids[m]) for m in "ab"}


def test_a_judge_of_its_own_is_asked(corpus):
    other = {"base_url": "http://localhost:2/v1", "model": "judge"}
    judge = JudgeNegatives(llm=other, per_prompt=5)
    resources = RecordedResources(RecordedLLM([Answer("[false, false, false]")] * 2))
    judge.apply(_to_judge(), JUDGED, corpus, resources, 0)
    assert [llm.model for llm in resources.opened] == ["judge"]


def test_one_verdict_for_a_query_and_a_text_whichever_miner_offers_it(corpus):
    corpus = corpus | {"copy": Document("copy", corpus["chess"].text, "Another title")}
    judged = {"reason": Reason.JUDGED_RELEVANT}
    rows = {
        "a": {
            "q": [
                row("q", "chess", "a", verdict="relabelled", **judged),
                row("q", "bread", "a", verdict="dropped", **judged),
                row("q", "piano", "a"),
            ]
        },
        "b": {"q": [row("q", i, "b") for i in ("chess", "copy", "bread", "guitar")]},
        "c": {"q": [row("q", "chess", "c", verdict="relabelled", **judged)]},
    }
    settled = resolve_verdicts(rows, corpus)
    assert settled["a"] == rows["a"]
    assert [(n.doc_id, n.verdict, n.reason) for n in settled["b"]["q"]] == [
        ("chess", "dropped", Reason.COPY_OF_POSITIVE),
        ("copy", "dropped", Reason.COPY_OF_POSITIVE),
        ("bread", "dropped", Reason.JUDGED_RELEVANT),
        ("guitar", "candidate", None),
    ]
    assert [n.verdict for n in settled["c"]["q"]] == ["dropped"]


class DropsOdd:
    """A user's own filter."""

    def __init__(self, every=2):
        self.every = every

    def apply(self, rows, queries, corpus, resources, seed):
        return {
            miner: {
                q: [
                    replace(n, verdict="dropped", reason=Reason.CUSTOM, detail="odd rank") if n.rank % self.every else n
                    for n in of_query
                ]
                for q, of_query in of_miner.items()
            }
            for miner, of_miner in rows.items()
        }


def test_a_users_filter_may_return_rows(corpus):
    from sharpen.sdg.negatives import CustomNegativeFilter

    custom = CustomNegativeFilter(use=f"{__name__}:DropsOdd", options={"every": 2})
    result = custom.apply(_to_judge(), JUDGED, corpus, None, 0)
    assert isinstance(result, FilteredRows)
    assert [n.verdict for n in result.rows["m"]["q1"]] == ["dropped", "candidate", "dropped"]
