"""The beam search against transformers' own with a trie of dictionaries, and against all sequences' scores."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from sharpen.evaluation.generative.decoding import beam_search
from sharpen.evaluation.generative.trie import Trie

VOCABULARY = 50
END = 49
TOKENS = st.integers(1, 6)
PROMPTS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=4)
SEQUENCES = st.lists(st.lists(TOKENS, max_size=7), min_size=1, max_size=60, unique_by=tuple)
QUICK = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure is to be told now, not shrunk for minutes
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Of tiny models' many small products, two threads make the slower work where another process is busy, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llama():
    return spread(LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=END, pad_token_id=0,
    )))  # fmt: skip


def spread(model):
    """Random weights that are large enough for probabilities to differ, and for positions to count."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4 if "embed" not in name and "wte" not in name else 1.0)
    return model.eval()


def by_transformers(model, prompt, sequences, beams, mode="exact"):
    """Results of ``generate`` with GENRE's kind of trie, as sequences to scores."""
    trie: dict = {}
    for tokens in sequences:
        node = trie
        for token in tokens:
            node = node.setdefault(token, {})

    def allowed(_batch, tokens):
        node = trie
        for token in tokens[len(prompt) :].tolist():
            node = node.get(token, {})
        return list(node) or [END]  # a beam that is no beginning of any: transformers has it where there are too few

    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=beams, num_return_sequences=beams,
        length_penalty=0.0, early_stopping="never", max_new_tokens=max(map(len, sequences)), do_sample=False,
        prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True,
        renormalize_logits=mode == "renormalised", eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    found = {}
    for tokens, score in zip(out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist(), strict=True):
        if score > -1e8:  # below are the beams that transformers fills up with
            found[tuple(tokens[: tokens.index(END) + 1] if END in tokens else tokens)] = score
    return found


def same(found, sequences, expected, tolerance=1e-4):
    ours = {tuple(sequences[leaf]): score for leaf, score in found}
    assert len(ours) == len(found)
    assert ours == pytest.approx(expected, abs=tolerance)
    assert [score for _, score in found] == sorted(ours.values(), reverse=True)


@QUICK
@given(sequences=SEQUENCES, prompts=PROMPTS, beams=st.integers(2, 12), mode=st.sampled_from(["exact", "renormalised"]))
def test_results_are_those_of_transformers(llama, sequences, prompts, beams, mode):
    sequences = [[*tokens, END] for tokens in sequences]
    found = beam_search(llama, prompts, Trie.of(sequences), beams, mode=mode)
    for prompt, results in zip(prompts, found, strict=True):
        assert len(results) == min(beams, len(sequences))
        same(results, sequences, by_transformers(llama, prompt, sequences, beams, mode))


@QUICK
@given(
    sequences=st.lists(st.lists(TOKENS, min_size=4, max_size=4), min_size=1, max_size=60, unique_by=tuple),
    prompts=PROMPTS,
    mode=st.sampled_from(["exact", "renormalised"]),
)
def test_with_a_beam_for_each_sequence_all_are_found(llama, sequences, prompts, mode):
    """Without end tokens, as atomic identifiers are; scores against a plain pass over each whole sequence."""
    found = beam_search(llama, prompts, Trie.of(sequences), len(sequences), mode=mode)
    for prompt, results in zip(prompts, found, strict=True):
        assert {leaf for leaf, _ in results} == set(range(len(sequences)))
        scores = torch.tensor([score for _, score in results])
        if mode == "renormalised":
            assert scores.exp().sum().item() == pytest.approx(1, abs=1e-5)
        else:
            rows = torch.tensor([prompt + sequences[leaf] for leaf, _ in results])
            with torch.no_grad():
                logp = llama(rows).logits.log_softmax(-1)[:, len(prompt) - 1 : -1]
            expected = logp.gather(2, rows[:, len(prompt) :, None]).sum((1, 2))
            assert torch.allclose(scores, expected, atol=1e-4)
