import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import PROMPT_END, prompt_tokens
from sharpen.evaluation.generative.model import load_causal_lm
from sharpen.training.generative import loss as loss_module
from sharpen.training.generative.examples import Example
from sharpen.training.generative.loss import check_loss, joint_loss
from sharpen.training.generative.packing import Tokenized, TokenSequence, packed, padded, prompt_room
from tests.support.tiny_lms import KINDS, identifiers, language_model

SEQUENCES = [
    TokenSequence([(5 * n + k) % 23 for k in range(length)], [0.0] + [0.5] * (length - 4) + [1.0] * 3)
    for n, length in enumerate((30, 7, 12, 25, 9, 16, 5, 21))
]


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    return load_causal_lm(str(language_model(tmp_path_factory.mktemp("lm") / "m", request.param)))[0]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 200))
def test_every_sequence_is_in_one_row_and_rows_fit(lengths, limit):
    sequences = [TokenSequence([n + 1] * length, [0.0] + [1.0] * (length - 1)) for n, length in enumerate(lengths)]
    for batches, widest in ((packed(sequences, limit, 40), 48), (padded(sequences, limit), 48)):
        counts = torch.cat([b.tokens.flatten() for b in batches]).bincount(minlength=len(lengths) + 1)[1:]
        assert counts.tolist() == lengths
        assert sum(len(b.targets) for b in batches) == sum(lengths) - len(lengths)
        for batch in batches:
            assert batch.tokens.shape[1] <= widest and (batch.tokens.numel() <= limit or len(batch.tokens) == 1)
            # each sequence lies in one piece of its row, and its positions begin at 0
            assert torch.equal(batch.tokens.flatten()[batch.places], batch.targets)
    singles = padded(sequences, limit)
    assert all((b.positions == torch.arange(b.positions.shape[1])).all() for b in singles)


def test_logits_of_a_packed_row_are_those_of_single_texts(model):
    (batch,) = packed(SEQUENCES, 1000, 128)
    with torch.no_grad():
        together = model(input_ids=batch.tokens, position_ids=batch.positions, use_cache=False).logits
        for sequence in SEQUENCES:
            tokens = torch.tensor([sequence.tokens])
            row, start = next(
                (row, start)
                for row, found in enumerate(batch.tokens)
                for start in range(len(found) - len(sequence.tokens) + 1)
                if batch.positions[row, start] == 0
                and torch.equal(found[start : start + len(sequence.tokens)], tokens[0])
            )
            alone = model(input_ids=tokens).logits[0]
            assert torch.allclose(together[row, start : start + len(sequence.tokens)], alone, atol=1e-4)


@pytest.mark.parametrize("blocks", [2**24, 60])
def test_loss_and_gradients_are_those_of_the_equation(model, blocks, monkeypatch):
    monkeypatch.setattr(loss_module, "BLOCK_LOGITS", blocks)
    results = []
    for batches in (packed(SEQUENCES, 128, 64), padded(SEQUENCES, 100)):
        model.zero_grad()
        loss = sum(joint_loss(model, batch) for batch in batches)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    model.zero_grad()
    expected = sum(
        cross_entropy(
            model(input_ids=torch.tensor([s.tokens])).logits[0, :-1], torch.tensor(s.tokens[1:]), reduction="none"
        )
        @ torch.tensor(s.weights[1:])
        for s in SEQUENCES
    )
    expected.backward()
    for loss, gradients in results:
        assert torch.allclose(loss, expected, rtol=1e-5)
        for found, parameter in zip(gradients, model.parameters(), strict=True):
            assert torch.allclose(found, parameter.grad, rtol=1e-3, atol=1e-3)


def test_only_what_is_learnt_goes_through_the_output_layer(model, monkeypatch):
    sizes, layer = [], model.get_output_embeddings()
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        loss_module.nn.functional,
        "linear",
        lambda x, w, b=None: (
            sizes.append(len(x)) if len(w) == len(layer.weight) and x.dim() == 2 else None,
            linear(x, w, b),
        )[1],
    )
    sequences = [TokenSequence(s.tokens, [0.0] * (len(s.tokens) - 3) + [1.0] * 3) for s in SEQUENCES]
    rows = padded(sequences, 1000)
    joint_loss(model, rows[0])
    assert sizes == [3 * len(SEQUENCES)]


def test_weights_are_those_of_the_two_sides_and_nothing_between(tmp_path):
    _, tokenizer = load_causal_lm(str(language_model(tmp_path / "m")))
    given = identifiers(3)
    sequence = Tokenized(given, tokenizer, 40, 0.25, 2.0)(Example("bread is made of flour", "d1", "context", "c"))
    prompt = prompt_tokens("bread is made of flour", tokenizer, 40)
    end = len(tokenizer.encode(PROMPT_END, add_special_tokens=False))
    answer = len(sequence.tokens) - len(prompt)
    assert sequence.tokens[: len(prompt)] == prompt and sequence.tokens[-1] == tokenizer.eos_token_id
    # the first token is the one before all texts
    assert sequence.weights == [0.0] + [0.25] * (len(prompt) - end - 1) + [0.0] * end + [2.0] * answer
    assert prompt_room(given, tokenizer, 64, "training") == 64 - max(
        len(tokenizer.encode(f" {row.text}")) + 1 for row in given.values()
    )


def test_a_model_that_sees_across_texts_is_refused(model, monkeypatch):
    check_loss(model, pack=True)
    module = __import__(type(model).__module__, fromlist=["create_causal_mask"])
    for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
        if hasattr(module, name):
            whole = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *a, f=whole, **kw: f(*a, **(kw | {"position_ids": None})))
    check_loss(model, pack=False)
    with pytest.raises(InputError, match="sees across the texts of a row; set pack: false"):
        check_loss(model, pack=True)


def test_capped_logits_are_capped_here_too(tmp_path):
    folder = language_model(tmp_path / "m", "Gemma3", final_logit_softcapping=1.5)
    model, _ = load_causal_lm(str(folder))
    check_loss(model, pack=True)
    assert model(input_ids=torch.tensor([SEQUENCES[0].tokens])).logits.abs().max() <= 1.5
