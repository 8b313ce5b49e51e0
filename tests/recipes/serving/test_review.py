"""Decisions of people on queries and negatives, and the next run that goes by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from sharpen.evaluation.beir import read_queries
from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.recipes.load import load_recipe
from sharpen.recipes.serving.review import GROUPS, Review
from sharpen.recipes.stages import stages_of
from sharpen.sdg.negatives.record import read_negatives
from sharpen.sdg.rejections import read_rejections
from tests.processes import sharpen, start


def _sums(run: Path, *stages: str) -> dict[str, dict]:
    manifests = {stage: json.loads((run / stage / "manifest.json").read_text()) for stage in stages}
    return {stage: {"made": m["fingerprint"]["sha256"], **m["outputs"]} for stage, m in manifests.items()}


def _mine(run: Path) -> str:
    result = sharpen("mine", str(run), cwd=run)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def _table(file: Path) -> list[dict]:
    return parquet.read_table(file).to_pylist()


def test_the_next_run_goes_by_what_was_decided_on_queries_and_back_when_it_is_taken_back(run):
    before, review = _sums(run, "pairs", "negatives"), Review(run)
    accepted, rejected = review.items("accepted"), [*review.items("borderline"), *review.items("rejected")]
    assert len(accepted) > 4 and len(rejected) > 1
    out, better, back = accepted[0], accepted[1], rejected[0]
    decided = review.decide(out.key, "reject", None, "Anna")
    assert (decided.decision, decided.key) == ("reject", out.key)
    review.decide(better.key, "correct", " What is asked better? ", "Anna")
    review.decide(back.key, "accept", None, "Ben")
    row = json.loads((run / "decisions.jsonl").read_text().splitlines()[0])
    assert row["who"] == "Anna" and row["when"].endswith("+00:00") and row["query"] == out.query.text
    printed = _mine(run)
    assert [line.split()[1] for line in printed.splitlines() if "unchanged, reused" in line] == ["corpus", "queries"]
    queries = read_queries(run / "pairs" / "queries.jsonl")
    assert out.query.id not in queries and back.query.id in queries
    assert queries[better.query.id].text == "What is asked better?"
    reasons = {r.query: r.message for r in read_rejections(run / "pairs" / "rejected.jsonl")}
    assert reasons[out.query.id] == "a person rejected it" and back.query.id not in reasons
    assert len(queries) == len(accepted)
    manifest = json.loads((run / "pairs" / "manifest.json").read_text())
    assert (manifest["counts"]["decided"], manifest["counts"]["decisions_of_other_queries"]) == (3, 0)
    # another run of the same recipe takes them from here
    other = sharpen("mine", str(run), "name=other", "decisions=decisions.jsonl", cwd=run)
    assert other.returncode == 0, other.stderr
    assert read_queries(run.parent / "other" / "pairs" / "queries.jsonl") == queries
    again = Review(run)  # what was corrected, and rejected, can be decided on again
    corrected = next(item for item in again.items("accepted") if item.key == better.key)
    assert (corrected.decision, corrected.text, corrected.query.text) == ("correct", *["What is asked better?"] * 2)
    assert next(item for item in again.items("rejected") if item.key == out.key).decision == "reject"
    for key in (out.key, better.key, back.key):
        assert again.decide(key, None, None, "Ben").decision is None
    _mine(run)
    assert _sums(run, "pairs", "negatives") == before and again.number_decided() == 0


def test_the_next_run_goes_by_what_was_decided_on_negatives_alone(run):
    before, review = _sums(run, "pairs", "negatives"), Review(run)
    kept, dropped = review.items("negatives"), review.items("dropped")
    assert len(kept) > 2 and dropped
    one, two = kept[0], next(item for item in kept if item.query.id != kept[0].query.id)
    three = next(i for i in dropped if i.query.id not in (one.query.id, two.query.id) and "a positive" not in i.why)
    review.decide(one.key, "reject", None, "Anna")
    review.decide(two.key, "relevant", None, "Anna")
    review.decide(three.key, "accept", None, "Anna")
    printed = _mine(run)
    assert "pairs      unchanged, reused" in printed and _sums(run, "pairs")["pairs"] == before["pairs"]
    rows = {(n.query_id, n.doc_id): n for n in read_negatives(run / "negatives" / "negatives.jsonl")}
    for item, verdict, message in (
        (one, "dropped", "a person: no negative"),
        (two, "relabelled", "a person: relevant"),
        (three, "kept", "a person: a negative"),
    ):
        row = rows[item.query.id, item.document.id]
        assert (row.verdict, row.message) == (verdict, message)
    counts = json.loads((run / "negatives" / "manifest.json").read_text())["counts"]
    assert counts["decided"] == 3 and "! negatives: decisions" not in printed  # it is no threshold
    exported = run.parent / "exported"
    assert sharpen("export", str(run), "--layout", "datasets", "--to", str(exported), cwd=run).returncode == 0
    judged = {(row["query-id"], row["corpus-id"]) for row in _table(exported / "qrels" / "train.parquet")}
    assert (two.query.id, two.document.id) in judged and (one.query.id, one.document.id) not in judged
    assert "No person judged them" not in (exported / "README.md").read_text()
    (run / "decisions.jsonl").unlink()
    _mine(run)
    assert _sums(run, "pairs", "negatives") == before


def test_a_decision_on_what_was_made_anew_since_then_does_not_count(run):
    review = Review(run)
    item, negative = review.items("accepted")[0], review.items("negatives")[0]
    review.decide(item.key, "reject", None, "Anna")
    review.decide(negative.key, "reject", None, "Anna")
    path = run / "decisions.jsonl"
    path.write_text(path.read_text().replace(item.query.text, "another text").replace(negative.document.copy_key, "0"))
    _mine(run)
    assert item.query.id in read_queries(run / "pairs" / "queries.jsonl")
    counts = json.loads((run / "pairs" / "manifest.json").read_text())["counts"]
    assert (counts["decided"], counts["decisions_of_other_queries"]) == (0, 1)
    assert json.loads((run / "negatives" / "manifest.json").read_text())["counts"]["decided"] == 0


def test_a_decision_on_a_negative_is_of_the_query_that_it_was_mined_for(run):
    review = Review(run)
    negative = next(
        i for i in review.items("negatives") if f"pair/{i.query.id}" in {a.key for a in review.items("accepted")}
    )
    review.decide(f"pair/{negative.query.id}", "correct", "What is asked better?", "Anna")
    review.decide(negative.key, "relevant", None, "Anna")  # of the text that was generated
    _mine(run)
    rows = {(n.query_id, n.doc_id): n.message for n in read_negatives(run / "negatives" / "negatives.jsonl")}
    assert "a person: relevant" not in rows.values()
    corrected = next(i for i in Review(run).items("negatives") if i.query.id == negative.query.id)
    assert (corrected.query.text, corrected.decision) == ("What is asked better?", None)
    decided = Review(run).decide(corrected.key, "reject", None, "Anna")
    assert decided.decision == "reject"
    _mine(run)
    rows = {(n.query_id, n.doc_id): n.message for n in read_negatives(run / "negatives" / "negatives.jsonl")}
    assert rows[decided.query.id, decided.document.id] == "a person: no negative"


def test_decisions_of_another_run_lie_beside_the_recipe_and_are_missed_where_they_are_not(run, tmp_path):
    recipe = tmp_path / "recipes" / "other.yaml"
    recipe.parent.mkdir()
    recipe.write_text((run / "recipe.yaml").read_text().replace("decisions:\n", "decisions: of_small.jsonl\n"))
    arguments = ("mine", str(recipe), "name=other", f"runs={tmp_path}")
    without = sharpen(*arguments, cwd=tmp_path)
    assert without.returncode == 2 and "decisions: of_small.jsonl: no such file" in without.stderr
    review = Review(run)
    out, negative = review.items("accepted")[0], review.items("negatives")[0]
    review.decide(out.key, "reject", None, "Anna")
    review.decide(negative.key, "reject", None, "Anna")
    (run / "decisions.jsonl").rename(recipe.parent / "of_small.jsonl")
    made = sharpen(*arguments, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert out.query.id not in read_queries(tmp_path / "other" / "pairs" / "queries.jsonl")
    # a run that was carried away from them stays as it is, until it is decided on anew
    (recipe.parent / "of_small.jsonl").unlink()
    said = _mine(tmp_path / "other")
    assert said.count("unchanged, reused") == 4 and "of_small.jsonl: not here; what was made of it before" in said
    Review(tmp_path / "other").decide(review.items("accepted")[1].key, "reject", None, "Ben")
    anew = sharpen("mine", str(tmp_path / "other"), cwd=tmp_path)
    assert anew.returncode == 2 and "of_small.jsonl: no such file" in anew.stderr


def test_without_decisions_a_fingerprint_is_what_it_was_and_who_and_when_are_not_in_it(run):
    def parts() -> dict:
        return {stage.name: part.fingerprint() for stage, part in stages_of(load_recipe(str(run)).recipe)}

    before = parts()
    assert not any("decisions" in part for part in before.values())
    review = Review(run)
    key = review.items("accepted")[0].key
    review.decide(key, "reject", None, "Anna")
    by_anna = parts()
    assert {name for name in before if before[name] != by_anna[name]} == {"pairs"}
    path = run / "decisions.jsonl"
    path.write_text(path.read_text().replace("Anna", "Ben"))
    assert parts() == by_anna and "Ben" not in json.dumps(by_anna)


def test_there_are_groups_that_words_narrow_down(run):
    review = Review(run)
    counts = review.counts()
    assert tuple(counts) == GROUPS and all(len(review.items(group)) == counts[group] for group in GROUPS)
    some = review.items("accepted", "GLACIERS ice")
    assert some and all("glaciers" in f"{i.query.text} {i.document.content}".lower() for i in some)
    assert review.items("accepted", "no document has this") == []


def test_what_cannot_be_decided_is_said(run):
    review = Review(run)
    pair, negative = review.items("accepted")[0].key, review.items("negatives")[0].key
    for given, said in (
        (("pair/nothing", "accept", None), "nothing of this name"),
        ((pair, "relevant", None), "there are accept, reject, correct"),
        ((negative, "correct", "x"), "there are accept, reject, relevant"),
        ((pair, "correct", " "), "comes with the query's new text"),
        ((pair, "accept", "x"), "comes with the query's new text"),
    ):
        with pytest.raises(InputError, match=said):
            review.decide(*given, "Anna")
    assert not (run / "decisions.jsonl").exists()
    (run / "decisions.jsonl").write_text('{"kind": "pair"}\n')
    result = sharpen("mine", str(run), cwd=run)
    assert result.returncode == 2 and "decisions.jsonl, line 1: not a decision (pair.query_id" in result.stderr
    with pytest.raises(InputError, match="no pairs there yet"):
        Review(run / "pairs")


def _decide_all(run: str, who: str, places: range) -> None:
    review = Review(Path(run))
    items = review.items("accepted")
    for place in places:
        review.decide(items[place].key, "reject", None, who)


def test_decisions_of_several_windows_are_all_there(run):
    processes = [start(_decide_all, str(run), who, range(n, 6, 2)) for n, who in enumerate(("Anna", "Ben"))]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    rows = [row for _, row in read_jsonl(run / "decisions.jsonl")]
    assert len(rows) == 6 == Review(run).number_decided() and {row["who"] for row in rows} == {"Anna", "Ben"}
