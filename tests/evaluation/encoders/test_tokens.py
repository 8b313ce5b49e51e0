import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.encoders import batching
from sharpen.evaluation.encoders.encode import encode, score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.encoders.tokens import is_right_padded_text, join, split

TEXTS = [
    "x9 q7 z3 k1 j8 v2",  # few characters, many tokens
    "international understanding",
    "a guitar is tuned by its strings",
    "",
    "piano " * 300,
    "tune",
    "the quick brown fox jumps over the lazy dog",
]


@given(st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 8))
def test_what_is_split_is_joined_again(rows, step):
    tokens = [
        {
            "input_ids": torch.tensor(ids, dtype=torch.int32),
            "attention_mask": torch.ones(len(ids), dtype=torch.int32),
            "prompt_length": 2,
        }
        for ids in rows
    ]
    joined = join(tokens, 7, step)
    assert (
        joined["input_ids"].shape[1] % step == 0
        and joined["input_ids"].dtype == torch.int64
        and joined["prompt_length"] == 2
    )
    assert is_right_padded_text(joined) and (joined["input_ids"][joined["attention_mask"] == 0] == 7).all()
    assert [row["input_ids"].tolist() for row in split(joined)] == rows


@given(st.lists(st.integers(0, 60)), st.integers(1, 5), st.none() | st.integers(1, 7))
def test_texts_are_taken_in_runs_of_so_many_or_so_many_characters(lengths, most, first):
    texts = ["x" * length for length in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "CHARACTERS_EACH", 50)
        runs = [texts[run] for run in batching.slices_by_size(texts, most, first)]
    assert [text for run in runs for text in run] == texts
    for i, run in enumerate(runs):
        limit = most if i or not first else min(most, first)
        assert 1 <= len(run) <= limit and sum(map(len, run[:-1])) < 50 * limit
        assert len(run) == limit or sum(map(len, run)) >= 50 * limit or i == len(runs) - 1


@pytest.mark.parametrize("at_once", [2, 3, 100])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_vectors_are_those_of_sentence_transformers_in_the_order_of_the_texts(monkeypatch, at_once, padding_side):
    monkeypatch.setattr(batching, "SORTED_AT_ONCE", at_once)
    monkeypatch.setattr(batching, "TOKENISED_AT_ONCE", 2)
    model = load_encoder("packaged:tiny-bert", device="cpu")
    plain = SentenceTransformer(model[0].auto_model.name_or_path, device="cpu")
    model.tokenizer.padding_side = padding_side
    assert is_right_padded_text(model.preprocess(TEXTS)) == (padding_side == "right")
    done = []
    result = encode(model, TEXTS, prompt="query: ", progress=done.append)
    expected = plain.encode([f"query: {text}" for text in TEXTS], batch_size=1, normalize_embeddings=True)
    assert sum(done) == len(TEXTS)
    if padding_side == "right":
        assert (result * expected).sum(1).min() > 0.999
    else:  # BERT counts positions from the left, padding too: near, and still each text's own
        assert (result @ expected.T).argmax(1).tolist() == list(range(len(TEXTS)))


def test_scores_of_pairs_are_those_of_sentence_transformers(monkeypatch):
    monkeypatch.setattr(batching, "SORTED_AT_ONCE", 3)
    torch.manual_seed(0)
    model = load_cross_encoder("packaged:tiny-bert", device="cpu", new_head=True)
    torch.nn.init.normal_(model.model.classifier.weight, std=1.0)
    pairs = [(a, b) for a in TEXTS[:3] for b in TEXTS]
    result = score_pairs(model, pairs)
    expected = model.predict(pairs, batch_size=1, activation_fn=torch.nn.Identity())
    assert np.ptp(expected) > 0.5 and np.abs(np.array(result) - expected).max() < 0.05 * np.ptp(expected)
