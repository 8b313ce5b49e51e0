"""Real queries: where a label of a document goes that was cut, and how real and generated ones are mixed."""

import json
from pathlib import Path

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.labelled import LabelledSettings, label_queries, read_labelled
from sharpen.sdg.mixing import labelled_of_split, mix_labelled

CORPUS = {
    "whole": Document("whole", "beans are soaked"),
    "cut#0": Document("cut#0", "the kiln is fired", metadata={"chunk_of": "cut"}),
    "cut#1": Document("cut#1", "glaze needs a second firing", metadata={"chunk_of": "cut"}),
}
QUERIES = {
    q: Query(q, text)
    for q, text in {"1": "soaking beans", "2": "second firing of glaze", "3": "Which, then?", "4": "nothing"}.items()
}
QRELS = {"1": {"whole": 2, "cut": 0}, "2": {"cut": 1, "whole": 1, "gone": 1}, "3": {"cut": 1}, "4": {"gone": 1}}


def test_a_label_of_a_document_that_was_cut_goes_to_its_best_chunk():
    labelled = label_queries(QUERIES, QRELS, CORPUS, evaluated=["which then"])
    assert {q.id: q.metadata["positives"] for q in labelled.kept} == {
        "labelled-1": ["whole"],
        "labelled-2": ["cut#1", "whole"],
    }
    assert labelled.left_out() == {"without_document": 1, "evaluated_on": 1}


def test_labelled_data_is_read_and_none_left_is_an_error(tmp_path: Path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": q, "text": QUERIES[q].text}) + "\n" for q in QUERIES)
    )
    rows = "".join(f"{q}\t{d}\t{g}\n" for q, grades in QRELS.items() for d, g in grades.items())
    (tmp_path / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    settings = LabelledSettings(data=str(tmp_path), unknown_documents="drop")
    assert [q.id for q in read_labelled(settings, CORPUS).kept] == ["labelled-1", "labelled-2", "labelled-3"]
    with pytest.raises(InputError, match="'gone' is not in the corpus"):
        read_labelled(LabelledSettings(data=str(tmp_path)), CORPUS)
    with pytest.raises(InputError, match="no query is left of 4: 1 have no relevant document in the corpus, 3 are"):
        read_labelled(settings, CORPUS, [q.text for q in QUERIES.values()])


@pytest.mark.parametrize(
    ("real", "generated", "fraction", "most", "expected"),
    [
        (20, 100, 0.5, None, (20, 20)),
        (100, 30, 0.25, None, (10, 30)),
        (20, 100, 0.2, 50, (10, 40)),
        (20, 0, 1.0, None, (20, 0)),
        (0, 10, 0.5, None, (0, 10)),
        (0, 10, 0.5, 4, (0, 4)),
    ],
)
def test_real_and_generated_queries_are_mixed_at_a_ratio(real, generated, fraction, most, expected):
    parts = [[Query(f"{kind}{n}", "x") for n in range(number)] for kind, number in (("r", real), ("g", generated))]
    mixed = [q.id for q in mix_labelled(*parts, fraction, most, seed=3)]
    assert (sum(i[0] == "r" for i in mixed), sum(i[0] == "g" for i in mixed)) == expected
    assert mixed == sorted(mixed, key=[q.id for part in parts for q in part].index)
    assert mixed == [q.id for q in mix_labelled(*parts, fraction, most, seed=3)]


def test_positives_that_are_held_out_are_none_in_training():
    queries = [Query(name, "x", {"positives": ids}) for name, ids in {"a": ["1", "2"], "b": ["2"]}.items()]
    (kept,) = labelled_of_split(queries, {"1": "train", "2": "dev"})
    assert (kept.id, kept.metadata["positives"]) == ("a", ["1"])
