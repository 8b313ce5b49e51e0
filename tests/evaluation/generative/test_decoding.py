"""The beam search against transformers' own with a trie of dictionaries, and against all sequences' scores."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative import search
from sharpen.evaluation.generative.decoding import beam_search, can_share
from sharpen.evaluation.generative.trie import Trie
from sharpen.evaluation.packaged_llms import locate_llm

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


SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": END, "pad_token_id": 0,
}  # fmt: skip
GPT2_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": END}


@pytest.fixture(scope="module")
def llama():
    return spread(LlamaForCausalLM(LlamaConfig(**SHAPE)))


def spread(model):
    """Random weights that are large enough for probabilities to differ, and for positions to count."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4 if "embed" not in name and "wte" not in name else 1.0)
    return model.eval()


def by_transformers(model, prompt, sequences, beams, mode="exact", end=END):
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
        return list(node) or [end]  # a beam that is no beginning of any: transformers has it where there are too few

    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=beams, num_return_sequences=beams,
        length_penalty=0.0, early_stopping="never", max_new_tokens=max(map(len, sequences)), do_sample=False,
        prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True,
        renormalize_logits=mode == "renormalised", eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    found = {}
    for tokens, score in zip(out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist(), strict=True):
        if score > -1e8:  # below are the beams that transformers fills up with
            found[tuple(tokens[: tokens.index(end) + 1] if end in tokens else tokens)] = score
    return found


def same(found, sequences, expected, tolerance=1e-4):
    ours = {tuple(sequences[leaf]): score for leaf, score in found}
    assert len(ours) == len(found)
    assert ours == pytest.approx(expected, abs=tolerance)
    assert [score for _, score in found] == sorted(ours.values(), reverse=True)


@QUICK
@given(
    sequences=SEQUENCES,
    prompts=PROMPTS,
    beams=st.integers(2, 12),
    mode=st.sampled_from(["exact", "renormalised"]),
    batch_size=st.integers(1, 4),
    full_pass=st.sampled_from([0, 40, 1000]),
)
def test_results_are_those_of_transformers(llama, sequences, prompts, beams, mode, batch_size, full_pass):
    """Whatever the batches, and however far tokens without a choice are computed ahead."""
    sequences = [[*tokens, END] for tokens in sequences]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(search.FULL_PASS, "cpu", full_pass)
        found = beam_search(llama, prompts, Trie.of(sequences), beams, mode=mode, batch_size=batch_size)
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


MODELS = {
    "gpt2": (True, lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE))),
    "mistral, sliding": (True, lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))),
    "gemma 3, sliding and full": (
        True,
        lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
        ),
    ),
    "qwen 3": (True, lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE))),
    "granite, scaled logits": (True, lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=3.0))),
    "gemma 2, capped attention": (False, lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8))),
    "mamba, recurrent": (
        False,
        lambda: MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_other_kinds(name):
    """Those whose beams can share keys and values do, and are left as they were; the others' scores are right, too."""
    shares, make = MODELS[name]
    model = spread(make())
    before = model.config._attn_implementation
    sequences = [[3, 4, END], [3, 5, 6, 1, 2, END], [3, 5, 7, END], [8, END], [9, 1, 2, 3, 4, 5, END], [9, 2, END]]
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12], [1, 2, 3]]
    found = beam_search(model, prompts, Trie.of(sequences), 3)
    assert can_share(model) == shares
    assert model.config._attn_implementation == before
    assert not model.training
    for prompt, results in zip(prompts, found, strict=True):
        scores = scored(model, prompt, sequences)
        ours = {tuple(sequences[leaf]): score for leaf, score in results}
        assert len(ours) == 3
        assert ours == pytest.approx({tokens: scores[tokens] for tokens in ours}, abs=1e-4)


def test_atomic_identifiers_are_one_step(llama):
    trie = Trie.of([[token] for token in range(10, 40)])
    found = beam_search(llama, [[1, 2, 3], [4]], trie, 5)
    for prompt, results in zip([[1, 2, 3], [4]], found, strict=True):
        with torch.no_grad():
            logp = llama(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[10:40]
        best = logp.topk(5)
        assert [leaf for leaf, _ in results] == best.indices.tolist()
        assert [score for _, score in results] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_many_children_are_thinned_without_a_loss(llama):
    """Leaves and nodes below one node, more than are sorted."""
    sequences = [[token] for token in range(1, 30)] + [[token, END] for token in range(30, 49)]
    found = beam_search(llama, [[1, 2, 3]], Trie.of(sequences), 2)[0]
    same(found, sequences, dict(list(scored(llama, [1, 2, 3], sequences).items())[:2]))


def scored(model, prompt, sequences):
    """All sequences' scores, best first."""
    scores = {}
    for tokens in sequences:
        with torch.no_grad():
            logp = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
        scores[tuple(tokens)] = sum(logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(tokens))
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))


def test_equal_scores_stand_in_the_order_of_leaves():
    model = spread(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    torch.nn.init.zeros_(model.lm_head.weight)
    sequences = [[4, 2], [3, 9], [3, 8], [1, 7], [4, 1]]
    found = beam_search(model, [[5], [6, 7]], Trie.of(sequences), 5)
    assert [[leaf for leaf, _ in results] for results in found] == [[0, 1, 2, 3, 4]] * 2
    fewer = beam_search(model, [[5]], Trie.of(sequences), 2)[0]
    assert [leaf for leaf, _ in fewer] == [2, 3]  # tokens 1 and 3 before 4, then 7 and 8 before 9


def test_results_are_in_the_order_of_prompts_and_all_are_told(llama):
    prompts = [[n] * (1 + n % 5) for n in range(1, 20)]
    trie = Trie.of([[3, 4, END], [3, 5, END], [8, 1, 1, END]])
    told = []
    together = beam_search(llama, prompts, trie, 2, batch_size=3, progress=told.append)
    assert sum(told) == len(prompts)
    for prompt, results in zip(prompts, together, strict=True):
        alone = beam_search(llama, [prompt], trie, 2)[0]
        assert dict(results) == pytest.approx(dict(alone), abs=1e-5)
    assert beam_search(llama, [], trie, 2) == []


def test_a_model_in_training_is_in_training_behind(llama):
    model = spread(LlamaForCausalLM(LlamaConfig(**SHAPE, attention_dropout=0.5))).train()
    trie = Trie.of([[3, 4, END], [3, 5, END]])
    assert beam_search(model, [[1, 2]], trie, 2) == beam_search(model, [[1, 2]], trie, 2)
    assert model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beams": 0}, "beams"),
        ({"prompts": [[1], []]}, "prompt 1 has no tokens"),
        ({"prompts": [[1], [VOCABULARY]]}, "prompt 1 has a token"),
        ({"trie": Trie.of([[VOCABULARY + 7]])}, "token 57"),
        ({"mode": "normalised"}, "normalised"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_searched_is_named(llama, change, message):
    arguments = {"prompts": [[1]], "trie": Trie.of([[3, END]]), "beams": 2, **change}
    with pytest.raises(InputError, match=message):
        beam_search(llama, **arguments)


def test_a_model_that_answers_with_nan_is_refused():
    model = spread(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(InputError, match="NaN"):
        beam_search(model, [[1]], Trie.of([[3, END], [4, END]]), 2)


def test_bfloat16_shares_keys_and_values():
    model = spread(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    with torch.no_grad():  # scores of the size that trained models give
        model.lm_head.weight.mul_(0.1)
    sequences = [[3, 4, END], [3, 5, 6, 1, 2, END], [8, END]]
    exact = dict(beam_search(model, [[5, 6, 7]], Trie.of(sequences), 3)[0])
    model = model.bfloat16()
    assert can_share(model)
    assert dict(beam_search(model, [[5, 6, 7]], Trie.of(sequences), 3)[0]) == pytest.approx(exact, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "renormalised"])
def test_a_real_model_gives_the_results_of_transformers(smollm2, mode):
    model, tokenizer = smollm2
    words = ("protein", "cell", "gene", "risk", "cancer", "growth", "mice", "blood", "vitamin", "heart", "disease")
    texts = [f" {a}, {b}, {c}" for a in words for b in words for c in words if len({a, b, c}) == 3][::7]
    sequences = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    queries = ["Vitamin D lowers the risk of heart disease.", "Which gene drives the growth of cancer cells?", "mice"]
    prompts = [tokenizer.encode(f"{query}\n=>") for query in queries]
    found = beam_search(model, prompts, Trie.of(sequences), 10, mode=mode)
    assert can_share(model)
    for prompt, results in zip(prompts, found, strict=True):
        assert len(results) == 10
        same(results, sequences, by_transformers(model, prompt, sequences, 10, mode, tokenizer.eos_token_id))


@pytest.fixture(scope="module")
def smollm2():
    gguf = locate_llm("smollm2-135m-instruct")
    named = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **named)
    return model.eval(), AutoTokenizer.from_pretrained(gguf.parent, **named)
