"""What a finished run's systems find, and what is said of it."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import pytest
import torch

from sharpen.evaluation.beir import Document, read_queries
from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.evaluation.files import InputError
from sharpen.evaluation.runs import ranking, read_run
from sharpen.recipes.serving.app import Looking, MarkRequest, SearchRequest
from sharpen.recipes.serving.systems import RunSystems
from sharpen.recipes.serving.why import common_words, moves, segments
from tests.processes import sharpen


@pytest.fixture(scope="module")
def systems(finished: Path) -> RunSystems:
    return RunSystems(finished)


def test_what_is_found_is_what_the_run_measured(systems):
    assert list(systems.systems) == ["bm25", "base", "tuned", "fused", "reranked"]
    measured = {"bm25": "before/bm25", "base": "before/before", "tuned": "after/after", "reranked": "reranked/reranked"}
    close = 2e-3 if has_bf16(torch.device("cpu")) else 1e-4
    queries = read_queries(Path(systems.recipe.evaluation.data) / "queries.jsonl")
    for name, file in measured.items():
        run = read_run(systems.folder / f"{file}.trec")
        for query in queries.values():
            found = systems.search(query.text, [name])[name]
            expected = run.get(query.id, {})
            assert list(found.scores) == ranking(found.scores) and found.seconds > 0
            assert found.scores == pytest.approx(expected, abs=close)
            in_turn = [expected[doc_id] for doc_id in found.scores]
            assert all(later <= earlier + 2 * close for earlier, later in itertools.pairwise(in_turn))
    assert systems.search("ice", ["base"])["base"].scores != systems.search("ice", ["tuned"])["tuned"].scores


def test_documents_are_encoded_once_and_anew_where_what_was_kept_is_not_whole(run):
    first = RunSystems(run).search("how ice flows")
    files = sorted((run.parent / ".partitions").glob("vectors-*/*.parquet"))
    made = [file.stat().st_ino for file in files]
    assert len(files) == 2  # of the base and of the tuned model
    again = RunSystems(run).search("how ice flows")
    assert {name: found.scores for name, found in again.items()} == {n: found.scores for n, found in first.items()}
    assert [file.stat().st_ino for file in files] == made
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-100])
    assert RunSystems(run).search("how ice flows")["base"].scores == pytest.approx(first["base"].scores, abs=1e-5)
    assert files[0].stat().st_size > len(whole) - 100


def test_what_moved_is_said_with_ranks_scores_words_and_training(systems):
    number = 0
    for query in ("ice flowing downhill", "beans per litre", "flat tire what now", "first moves", "strings"):
        found = systems.search(query)
        changed = moves(systems, query, found, k=3)
        number += len(changed)
        for move in changed:
            before, after = (found[name].ranks[move.document] for name in ("base", "tuned"))
            assert (move.base.rank, move.tuned.rank) == (before, after) and before != after and min(before, after) <= 3
            right = "entered" if before > 3 else "left" if after > 3 else "up" if after < before else "down"
            assert move.kind == right and "standard deviations" in move.sentence
            assert move.base.score == found["base"].scores[move.document]
            assert move.words == common_words(query, systems.corpus[move.document])
        kinds = [move.kind in ("up", "down") for move in changed]
        assert kinds == sorted(kinds)  # those that entered or left first
        same = dict.fromkeys(("base", "tuned"), found["base"])
        assert moves(systems, query, same, k=3) == []
    assert number
    negatives = [row.doc_id for row in systems.inputs.negatives() if row.verdict == "kept"]
    of_positive = sum("glacier" in grades for grades in systems.inputs.qrels("train").values())
    assert systems.trained_on["glacier"] == (of_positive, negatives.count("glacier"))


def test_a_run_that_was_made_anew_is_not_searched_by_what_was_loaded_before(run):
    looking = Looking(RunSystems(run), "Anna")
    asked = SearchRequest(query="ice", systems=["bm25"])
    assert looking.search(asked)["systems"]["bm25"]["hits"]
    for stage in ("corpus", "model", "reranker"):
        manifest = run / stage / "manifest.json"
        before = manifest.stat()
        os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        for ask in (
            lambda: looking.search(asked),
            lambda: looking.mark(MarkRequest(query="ice", document="glacier", relevant=True)),
        ):
            with pytest.raises(InputError, match="made anew since then"):
                ask()
        os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not (run / "marks").exists()


def test_words_in_common_in_any_script():
    thai = Document("d", "ประเทศไทยมีภูเขา", metadata={"language": "th"})
    assert common_words("ภูเขา", thai) == ("ภูเขา",)
    assert segments("ภูเขา", thai.text, thai) == [("ประเทศไทยมี", False), ("ภูเขา", True)]
    assert segments("x", "a 😀  ice\n" * 300, thai, shown=20)[0][0].endswith("…")
    assert common_words("the of", Document("d", "the of")) == ()


@pytest.mark.parametrize(
    ("lacks", "said"), [("recipe.yaml", "no run there"), ("model/manifest.json", "`sharpen run {run}` goes on to it")]
)
def test_a_folder_that_is_no_finished_run_is_named(run, lacks: str, said: str):
    (run / lacks).unlink()
    with pytest.raises(InputError, match=said.format(run=run).replace("`", ".")):
        RunSystems(run)
    result = sharpen("search", str(run), "ice", cwd=run)
    assert result.returncode == 2 and str(run) in result.stderr


def test_the_terminal_shows_all_systems_and_takes_marks(run, monkeypatch):
    corpus = run / "corpus" / "corpus.jsonl"
    rows = corpus.read_text().replace("How glaciers move", "\\u001b]0;title\\u0007How glaciers move")
    corpus.unlink()
    corpus.write_text(rows)
    shown = sharpen("search", str(run), "ice flowing downhill", "-n", "2", cwd=run).stdout
    for text in ("BM25", "base", "tuned", "tuned + ", "BM25, reranked", "moved", "How glaciers move"):
        assert text in shown
    assert "�]0;title�" in shown and "\x1b" not in shown  # nothing that a terminal takes for a command
    monkeypatch.setattr("sys.stdin", io.StringIO("ice flowing downhill\n+1 -2\n+99\nchess [bold]\n=1\n\n"))
    asked = sharpen("search", str(run), "--as", "Ben", cwd=run)
    assert asked.returncode == 0, asked.stderr
    assert "2 marks of 1 queries" in asked.stdout and "+99: there is no such document" in asked.stdout
    log = (run / "marks" / "marks.jsonl").read_text().splitlines()
    assert len(log) == 3 and all('"who": "Ben"' in line for line in log)
    empty = sharpen("search", str(run), "  ", cwd=run)
    assert empty.returncode == 2 and "QUERY" in empty.stderr
