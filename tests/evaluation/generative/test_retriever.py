"""A generative retriever over a corpus: which documents its identifiers stand for."""

import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.model import GenerativeModel, load_causal_lm
from sharpen.evaluation.retrievers.generative import Generative, search_identifiers
from tests.support.tiny_lms import identifiers, language_model


@pytest.fixture
def model(tmp_path):
    lm, tokenizer = load_causal_lm(str(language_model(tmp_path / "base")))
    return GenerativeModel(lm, tokenizer, identifiers(12), 40, beams=5)


def test_what_the_corpus_lacks_takes_no_beam_and_changes_no_score(model):
    texts = {"q1": "bread is made of flour", "q2": "ice melts"}
    everything = search_identifiers(model, texts, 12)
    corpus = {f"d{n}": Document(f"d{n}", "text") for n in (1, 4, 7, 8, 9, 11)}
    retriever = Generative(model, corpus, beams=6)  # as many as there are, so that none is pruned
    assert retriever.unknown == ["d0", "d2", "d3", "d5", "d6", "d10"]
    for query, scores in retriever.search(texts, 100).items():
        known = {i: s for i, s in everything[query].items() if i in corpus}
        assert list(scores) == list(known)
        assert scores == pytest.approx({i: known[i] for i in scores}, abs=1e-4)
    assert len(retriever.search(texts, 2)["q1"]) == 2 and len(Generative(model, corpus).search(texts, 9)["q1"]) == 5


def test_a_document_that_was_cut_is_found_by_its_first_chunk(model):
    corpus = {f"d3#{n}": Document(f"d3#{n}", "text", metadata={"chunk_of": "d3"}) for n in (0, 1)}
    assert set(Generative(model, corpus).search({"q": "ice"}, 5)["q"]) == {"d3#0"}


def test_a_corpus_of_other_documents(model):
    with pytest.raises(InputError, match="none of them is in the corpus"):
        Generative(model, {"x": Document("x", "text")})
