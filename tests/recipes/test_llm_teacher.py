"""Recipes whose teacher is an LLM: alone or in a mixture, measured beforehand, within a budget, and paid for once."""

from __future__ import annotations

import io
import json
import re
import threading

import pytest
from rich.console import Console

from sharpen.evaluation.files import InputError
from sharpen.recipes.engine import run_stages
from sharpen.recipes.load import load_recipe
from sharpen.recipes.preview import estimate_recipe
from sharpen.recipes.report import _cost, counts_line
from sharpen.recipes.run import prepare_run, run_recipe
from sharpen.recipes.stages import STAGES, stages_of
from sharpen.recipes.teachers import recipe_teachers
from sharpen.sdg.filters.settings import FiltersSettings
from sharpen.training.lists import CandidateLists
from tests.conftest import TOPICS
from tests.servers import chat_answer, logprobs_answer, serve_replies

QUIET = Console(quiet=True)
HARVESTED = [
    "queries={strategies: [{kind: harvested}]}",
    "split={dev: 0.2}",
    "training.loss=kl",
    "training.base_weight=0",
    "training.dropout=0",
]
LISTS = [*HARVESTED, "training.candidates=4"]
RERANKER = ["training.loss=mnrl", "training.candidates=null", "reranker.base=packaged:tiny-bert"]
RERANKER += ["reranker.loss=distillation"]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


class Reader:
    """A server of a model that finds a document the better the more of the query's words it has, and that counts."""

    def __init__(self):
        self.prompts, self._lock = [], threading.Lock()

    def __call__(self, path, body, headers):
        prompt = body["messages"][0]["content"]
        with self._lock:
            self.prompts.append(prompt)
        query = _words(re.search(r"^Query: (.+)$", prompt, re.M).group(1))
        if body.get("logprobs"):
            text = re.search(r"^Document: (.+)$", prompt, re.M).group(1)
            return logprobs_answer({"No": -1.0, "Yes": -6.0 + 5 * len(query & _words(text)) / len(query)})
        texts = re.findall(r"^\[\d+\] (.+)$", prompt, re.M)
        order = sorted(range(len(texts)), key=lambda n: -len(query & _words(texts[n])))
        return chat_answer(json.dumps({"ranking": [n + 1 for n in order]}))


def _llm(url: str, more: str = "") -> str:
    return f"llm={{base_url: '{url}', model: reader, max_retries: 0{more}}}"


def _scored(recipe_file, *overrides: str, until: str = "teacher"):
    recipe = load_recipe(str(recipe_file), [*overrides]).recipe
    run = prepare_run(recipe, QUIET)
    return run, run_stages(run, until=until)


def test_lists_are_scored_by_a_mixture_with_an_llm_and_a_change_elsewhere_asks_nothing(recipe_file):
    reader = Reader()
    with serve_replies(reader) as url:
        teacher = "training.teacher={base: 1, bm25: 0.3, llm: 1}"
        run, manifests = _scored(recipe_file, *LISTS, _llm(url), teacher)
        counts = manifests["teacher"]["counts"]
        asked = len(reader.prompts)
        assert counts["llm"]["answers"] == asked == 4 * len(run.inputs().train_queries())
        assert counts["llm"]["unread"] == 0 and counts["llm"]["prompt_tokens"] == 15 * asked
        lists = CandidateLists.read(run.folder / "teacher" / "training.parquet")
        assert lists.size == 4 and len(lists) == counts["training_lists"]
        # other weights are another teacher of the same documents and answers, or of a few others
        _, other = _scored(recipe_file, *LISTS, _llm(url), "training.teacher={base: 1, bm25: 0.3, llm: 2}")
        assert len(reader.prompts) == asked and other["teacher"]["fingerprint"] != manifests["teacher"]["fingerprint"]
        # and a shorter document is another question
        _scored(recipe_file, *LISTS, _llm(url), teacher, "llm_reranker.max_document_words=5")
        assert len(reader.prompts) > asked


def test_rows_do_not_show_which_document_is_the_positive(recipe_file):
    reader = Reader()
    rows = [*HARVESTED, "negatives={per_query: 2, miners: [{kind: bm25, ranks: [1, 8]}], too_few: random}"]
    rows += ["training.loss=margin_mse"]
    with serve_replies(reader) as url:
        run, manifests = _scored(recipe_file, *rows, _llm(url), "training.teacher='llm:listwise'")
    assert manifests["teacher"]["counts"]["llm:listwise"]["answers"] == len(reader.prompts) > 10
    scores: dict[str, dict[str, float]] = {}
    for row in map(json.loads, (run.folder / "teacher" / "training.jsonl").open()):
        scores.setdefault(row["query_id"], {})[row["doc_id"]] = row["score"]
    assert all(sorted(of_query.values()) == [float(n) for n in range(len(of_query))] for of_query in scores.values())
    for prompt in reader.prompts:
        texts = re.findall(r"^\[\d+\] (.+)$", prompt, re.M)
        shown = [next(i for i, (title, _) in TOPICS.items() if text.startswith(title)) for text in texts]
        assert len(shown) > 1 and shown == sorted(shown)


def test_a_budget_stops_the_stage_and_a_larger_one_asks_only_for_the_rest(recipe_file):
    reader, teacher = Reader(), "training.teacher={bm25: 1, llm: 1}"
    prices = ", prices: {input: 1000, output: 1000}, concurrency: 1"
    with serve_replies(reader) as url:
        with pytest.raises(InputError, match=r"llm\.budget: \d+ of \d+ questions of llm were not asked"):
            _scored(recipe_file, *LISTS, _llm(url, f"{prices}, budget: 1.0"), teacher)
        paid = len(reader.prompts)
        run, manifests = _scored(recipe_file, *LISTS, _llm(url, f"{prices}, budget: 100"), teacher)
    counts = manifests["teacher"]["counts"]["llm"]
    assert 0 < paid < counts["answers"] == len(reader.prompts)  # none was asked twice
    assert counts["money"] == f"{0.016 * counts['answers']:.2f} USD spent of 100.00 USD"
    assert (run.folder / "teacher" / "training.parquet").exists()


def test_all_stages_share_the_budget_those_that_are_reused_too(recipe_file):
    reader = Reader()

    def reply(path, body, headers):
        prompt = body["messages"][0]["content"]
        if "relevant" not in str(body.get("response_format")):
            return reader(path, body, headers)
        shown = len(re.findall(r"^Document \d+: ", prompt, re.M))
        return chat_answer(json.dumps({"relevant": [False] * shown}))

    judged = (
        "negatives={per_query: 1, miners: [{kind: bm25, ranks: [1, 4]}], filters: [{kind: judge}], too_few: random}"
    )
    given = [*HARVESTED, judged, "training.loss=margin_mse", "training.teacher=llm"]
    with serve_replies(reply) as url:
        given.append(_llm(url, ", prices: {input: 1000, output: 1000}, budget: 100"))
        _, manifests = _scored(recipe_file, *given, until="negatives")
        (before,) = manifests["negatives"]["spent"].items()
        _, manifests = _scored(recipe_file, *given)
    (after,) = manifests["teacher"]["spent"].items()
    assert before[0] == after[0] == "reader, 100 USD" and float(before[1]) > 0 < float(after[1])
    in_all = float(before[1]) + float(after[1])
    assert manifests["teacher"]["counts"]["llm"]["money"] == (
        f"{float(after[1]):.2f} USD spent here, {in_all:.2f} USD of 100.00 USD in all"
    )


def test_time_and_cost_counts_what_every_stage_asked_of_every_llm(recipe_file):
    """Judges of queries and negatives, and two teachers that are one LLM."""
    reader, judged = Reader(), []

    def reply(path, body, headers):
        prompt, form = body["messages"][0]["content"], str(body.get("response_format"))
        if not ("'scores'" in form or "'relevant'" in form):
            return reader(path, body, headers)
        judged.append(body["model"])
        if "'relevant'" in form:
            return chat_answer(json.dumps({"relevant": [False] * len(re.findall(r"^Document \d+: ", prompt, re.M))}))
        points = dict.fromkeys(("relevance", "factual_accuracy", "context_support", "clarity", "overall"), 9)
        return chat_answer(json.dumps({"scores": [points] * len(re.findall(r"^Query \d+: ", prompt, re.M))}))

    def costs(manifests):
        return re.search(r"; (the language model.*)\.$", _cost(manifests)).group(1)

    negatives = "{per_query: 1, miners: [{kind: bm25, ranks: [1, 4]}], filters: [{kind: judge}], too_few: random}"
    given = [*HARVESTED, f"negatives={negatives}", "training.loss=margin_mse", "training.teacher={llm: 1, base: 1}"]
    given += ["reranker={base: packaged:tiny-bert, loss: distillation, teacher: 'llm:listwise', negatives: 2}"]
    with serve_replies(reply) as url:
        own = f"{{base_url: '{url}', model: careful, prices: {{input: 1, output: 1, currency: EUR}}}}"
        given += [_llm(url, ", prices: {input: 1000, output: 1000}"), f"filters.judge={{llm: {own}}}"]
        _, manifests = _scored(recipe_file, *given)
        _, again = _scored(recipe_file, *given)
    careful, others = judged.count("careful"), judged.count("reader")
    pointwise = sum(bool(re.search(r"^Document: ", prompt, re.M)) for prompt in reader.prompts)
    chats = others + len(reader.prompts) - pointwise
    assert min(careful, others, pointwise, chats - others) > 0
    read, wrote = 11 * chats + 15 * pointwise, 5 * chats + pointwise
    assert manifests["pairs"]["counts"]["prompt_tokens"] == 11 * careful
    assert f"money {16e-6 * careful:.6f} EUR spent" in counts_line(manifests["pairs"]["counts"])
    paid, in_euros = f"{16 * (chats + pointwise) / 1000:.2f} USD", f"{16e-6 * careful:.6f} EUR"
    cached = 4 * (chats + careful)
    assert (
        costs(manifests)
        == costs(again)
        == (
            f"the language models read {read + 11 * careful:,} tokens ({cached:,} of them cached) and wrote"
            f" {wrote + 5 * careful:,}, for {in_euros} and {paid}: `careful` read {11 * careful:,} tokens"
            f" ({4 * careful:,} of them cached) and wrote {5 * careful:,}, for {in_euros};"
            f" `reader` read {read:,} tokens ({4 * chats:,} of them cached) and wrote {wrote:,}, for {paid}"
        )
    )
    assert costs({name: m for name, m in manifests.items() if name != "pairs"}) == (
        f"the language model read {read:,} tokens ({4 * chats:,} of them cached) and wrote {wrote:,}, for {paid}"
    )


def test_teachers_says_what_an_llm_will_cost_and_has_cost(recipe_file, dataset, capsys):
    reader = Reader()
    with serve_replies(reader) as url:
        recipe = load_recipe(str(recipe_file), [*LISTS, _llm(url), "training.teacher={base: 1, llm: 1}"]).recipe
        console = Console(width=160)
        teachers = recipe_teachers(recipe, console, ["llm:listwise"])
        out = capsys.readouterr().out
    assert {row.scorer for row in teachers.alone} == {"bm25", "base", "llm", "llm:listwise"}
    assert teachers.best[1] >= max(row.value for row in teachers.alone)
    pointwise = len([prompt for prompt in reader.prompts if prompt.startswith("Document: ")])
    listwise = len(reader.prompts) - pointwise
    assert listwise == teachers.queries and pointwise == 12 * teachers.queries  # all documents of so few
    assert out.index("scorer") < out.index("nDCG@10:")  # the table of costs comes first
    assert f"llm: {pointwise} answers, 0 of them from the journal; {15 * pointwise:,} tokens of prompts" in out
    assert f"llm:listwise: {listwise} answers, 0 of them from the journal; {11 * listwise:,} tokens of prompts" in out
    with pytest.raises(InputError, match="--scorer llm: it asks an LLM, and the recipe has none; give the part llm"):
        recipe_teachers(
            load_recipe(str(recipe_file), [*LISTS, "llm=null", "training.teacher=bm25"]).recipe, QUIET, ["llm"]
        )


def test_an_estimate_counts_what_teachers_ask(recipe_file):
    llm = _llm("http://localhost:1/v1", ", prices: {input: 1, output: 1}")
    more = ["training.teacher=[base, bm25, llm, 'llm:listwise']", "training.candidates=64"]
    rows = estimate_recipe(load_recipe(str(recipe_file), [*LISTS, llm, *more]).recipe, QUIET)
    calls = {row.strategy: row.calls for row in rows}
    queries = calls["llm, training"] // 64
    assert queries > 20 and calls["llm:listwise, training"] == 6 * queries
    fitted_on = min(500, queries)
    assert calls["llm, fitting"] == 30 * fitted_on and calls["llm:listwise, fitting"] == 2 * fitted_on
    assert all(row.prompt_tokens > 30 and row.completion_tokens >= 1 for row in rows)
    both = [llm, "training.loss=margin_mse", "training.teacher=llm", "reranker.base=packaged:tiny-bert"]
    both += ["reranker.loss=distillation", "reranker.teacher='llm:listwise'", "reranker.negatives=3"]
    rows = estimate_recipe(load_recipe(str(recipe_file), both).recipe, QUIET)
    calls = {row.strategy: row.calls for row in rows}
    assert calls == {"document": 24, "llm, training": 24 * 2, "llm:listwise, reranker": 24}


def test_an_estimate_counts_judges_and_what_writes_negatives(recipe_file):
    console = Console(record=True, width=200, file=io.StringIO())
    llm = _llm("http://localhost:1/v1", ", prices: {input: 1000, output: 1000}, budget: 15")
    other = "{base_url: 'http://localhost:2/v1', model: other, prices: {input: 1, output: 1, currency: EUR}}"
    more = ["filters.judge={per_prompt: 2}", "training.epochs=2"]
    filters = f"[{{kind: judge, per_prompt: 3}}, {{kind: judge, llm: {other}}}]"
    miners = "[{kind: bm25, ranks: [2, 8]}, {kind: llm, negatives: 2}, {kind: dense}]"
    more.append(f"negatives={{miners: {miners}, filters: {filters}, refresh: true}}")
    recipe = load_recipe(str(recipe_file), [llm, *more]).recipe
    rows = estimate_recipe(recipe, console)
    assert [(row.strategy, row.calls) for row in rows] == [
        ("document", 24),
        ("judge of queries", (24 + 12) // 2),  # a document may have an odd number
        ("negatives, llm", 24),
        ("judge of negatives", 24 * (3 + 1 + 2 * 4)),
        ("judge of negatives", 24 * (2 + 1 + 2 * 3)),
    ]
    assert all(row.prompt_tokens > 30 and 1 <= row.completion_tokens <= row.max_tokens for row in rows)
    prices = recipe.llm.prices
    assert sum(row.cost(prices) for row in rows[:1]) < 15 < sum(row.cost(prices) for row in rows[:4])
    out = console.export_text()
    assert "asked of other" in out and "EUR" in out and "more than the budget of 15.00 USD" in out
    assert "Of judge of queries, negatives, llm, judge of negatives, judge of negatives: at most, as if all 24" in out
    own = FiltersSettings(custom=[{"use": "filters.py:Mine"}])
    assert len(estimate_recipe(recipe.model_copy(update={"filters": own}), console)) == 4
    assert "filters.custom: what a part of one's own asks of an LLM is not counted" in console.export_text()


def test_recipes_without_an_llm_teacher_have_the_fingerprints_of_before(recipe_file):
    recipe = load_recipe(str(recipe_file), [*LISTS, "training.teacher=fused"]).recipe
    part = next(part for stage, part in stages_of(recipe) if stage.name == "teacher")
    assert not [key for key in part.fingerprint() if key.startswith("llm")] and STAGES["teacher"].version == 4
    asking = load_recipe(str(recipe_file), [*LISTS, "training.teacher={bm25: 1, llm: 1}"]).recipe
    part = next(part for stage, part in stages_of(asking) if stage.name == "teacher")
    assert {"llm", "llm_reranker"} < set(part.fingerprint())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["llm=null", "training.teacher={base: 1, llm: 1}"],
            "training.teacher: llm asks an LLM, and the recipe has none",
        ),
        (["llm=null", "training.teacher=['bm25', 'llm:listwise']"], "training.teacher: llm:listwise asks an LLM"),
        ([*RERANKER, "llm=null", "reranker.teacher=llm"], "reranker.teacher: llm asks an LLM"),
        (["training.teacher=bm25", "llm_reranker.step=20"], "step: it must be smaller than window"),
    ],
)
def test_what_does_not_fit_is_said_when_the_recipe_is_read(recipe_file, overrides, said):
    with pytest.raises(InputError) as caught:
        load_recipe(str(recipe_file), [*LISTS, *overrides])
    assert said in str(caught.value)


def test_a_filter_of_negatives_is_referred_to_the_judge(recipe_file):
    filters = "negatives={per_query: 1, miners: [{kind: bm25, ranks: [1, 5]}], filters: [{kind: margin, scorer: llm}]}"
    recipe = load_recipe(str(recipe_file), [filters]).recipe
    part = next(part for stage, part in stages_of(recipe) if stage.name == "negatives")
    with pytest.raises(InputError, match=r"llm is a scorer for teachers only.*kind judge"):
        part.check()


@pytest.mark.slow
def test_retriever_and_reranker_learn_from_an_llm_and_nothing_is_asked_to_explain(recipe_file):
    reader = Reader()
    both = [*HARVESTED, "training.loss=margin_mse", "training.teacher={base: 1, llm: 1}", "reranker.negatives=2"]
    both += ["reranker={base: packaged:tiny-bert, loss: distillation, teacher: 'llm:listwise', negatives: 2}"]
    both += ["negatives={per_query: 2, miners: [{kind: bm25, ranks: [1, 8]}], too_few: random}"]
    with serve_replies(reader) as url:
        loaded = load_recipe(str(recipe_file), [*both, _llm(url)])
        run = prepare_run(loaded.recipe, QUIET)
        run_stages(run, until="teacher")
        asked = len(reader.prompts)
        run_recipe(loaded, QUIET, run)
        assert len(reader.prompts) == asked
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["verdict"] in ("better", "worse", "not distinguishable") and "reranker" in metrics
    assert "teacher" not in json.loads((run.folder / "diagnosis" / "diagnosis.json").read_text())
