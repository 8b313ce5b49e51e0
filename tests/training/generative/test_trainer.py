"""The first stage, on language models of a few thousand weights."""

import os
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM

from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.generative.identifiers import Identifier, prompt_tokens
from sharpen.evaluation.generative.model import load_causal_lm, load_generative
from sharpen.training.generative.examples import Example, replay
from sharpen.training.generative.loss import joint_loss
from sharpen.training.generative.packing import Tokenized, padded
from sharpen.training.generative.settings import GenerativeSettings
from sharpen.training.generative.trainer import train_generative
from sharpen.training.optimization import LoraSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.validation import Validation
from tests.processes import start
from tests.support.tiny_lms import identifiers, language_model
from tests.support.tiny_models import WORDS

NAMES = WORDS.split()
IDENTIFIERS = identifiers(20)
QUERIES = [
    Example(f"{NAMES[n]} {NAMES[(3 * n + 1) % 17]} word", document, "query", f"q{n}")
    for n, document in enumerate(IDENTIFIERS)
]
TEXTS = [Example(f"{q.text} is made of {q.text}", q.document, "context", f"c{n}") for n, q in enumerate(QUERIES[:8])]


@pytest.fixture
def base(tmp_path):
    return str(language_model(tmp_path / "base"))


def settings_of(base, **options):
    return GenerativeSettings(
        **(
            {
                "base": base,
                "epochs": 2,
                "batch_size": 10,
                "learning_rate": 1e-2,
                "max_tokens": 64,
                "precision": "float32",
            }
            | options
        )
    )


def greedy(retriever, text):
    ids = torch.tensor([prompt_tokens(text, retriever.tokenizer, retriever.max_tokens)])
    mask = torch.ones_like(ids)
    new = retriever.model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    return tuple(new.tolist())


def right(folder, queries, given=IDENTIFIERS):
    retriever = load_generative(folder)
    tokens = dict(zip(given, retriever.tokens, strict=True))
    return sum(greedy(retriever, q.text) == tokens[q.document] for q in queries)


def test_a_model_learns_identifiers_by_heart_and_goes_on_with_added_documents(tmp_path, base):
    old, new = QUERIES[:15], QUERIES[15:]
    first = {i: row for i, row in IDENTIFIERS.items() if i in {q.document for q in old}}
    done = train_generative([], old, first, settings_of(base, epochs=60), tmp_path / "m", 1)
    assert done.log[-1]["loss"] < 0.4 * done.log[0]["loss"] and done.steps == 90 and done.triplets == 15
    assert right(tmp_path / "m", old, first) >= 14
    both = replay(old, new, fraction=0.75)
    train_generative([], both, IDENTIFIERS, settings_of(str(tmp_path / "m"), epochs=30), tmp_path / "n", 1)
    assert right(tmp_path / "n", old) >= 13 and right(tmp_path / "n", new) >= 4


def test_packed_and_padded_batches_train_alike(tmp_path, base):
    weights = []
    for pack, limit in ((True, 64), (True, 500), (False, 64), (False, 500)):
        options = settings_of(base, pack=pack, mini_batch_tokens=limit, learning_rate=1e-3)
        train_generative(TEXTS, QUERIES, IDENTIFIERS, options, tmp_path / "m", 1)
        model = load_generative(tmp_path / "m").model
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert all(torch.allclose(weights[0], w, atol=2e-5) for w in weights[1:])


def test_the_log_is_the_mean_over_weighted_tokens(tmp_path, base):
    """At the first step, before anything has been learnt."""
    options = settings_of(base, batch_size=28, epochs=1, combine="concatenated", input_weight=0.5, dropout=0)
    done = train_generative(TEXTS, QUERIES, IDENTIFIERS, options, tmp_path / "m", 1)
    model, tokenizer = load_causal_lm(base)
    tokenized = Tokenized(IDENTIFIERS, tokenizer, 60, 0.5)
    rows = padded([tokenized(e) for e in (*TEXTS, *QUERIES)], 10_000)
    with torch.no_grad():
        mean = sum(joint_loss(model, r) for r in rows) / sum(r.weights.sum() for r in rows)
    assert done.log[0]["loss"] == pytest.approx(mean.item(), abs=1e-3)


def test_texts_can_be_left_out_and_interleaving_repeats_them(tmp_path, base):
    steps = {}
    for name, options in (
        ("both", {}),
        ("once", {"combine": "concatenated"}),
        ("queries", {"context": False}),
    ):
        options = settings_of(base, epochs=1, batch_size=4, **options)
        done = train_generative(TEXTS, QUERIES, IDENTIFIERS, options, tmp_path / "m", 1)
        steps[name] = done.triplets
    assert steps == {"both": 40, "once": 28, "queries": 20}


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, base):
    settings = settings_of(base, epochs=4, dropout=0.1, checkpoint_steps=2)
    whole = train_generative(TEXTS, QUERIES, IDENTIFIERS, settings, tmp_path / "whole", 1)
    process = start(_train_and_die, settings, tmp_path)
    process.join()
    assert process.exitcode == -9 and not (tmp_path / "m").exists()
    resumed = train_generative(TEXTS, QUERIES, IDENTIFIERS, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    assert resumed.resumed_from == 6 and resumed.log == whole.log
    assert sha256_file(tmp_path / "m" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")


def _train_and_die(settings, folder):
    def kill(p):
        return os.kill(os.getpid(), signal.SIGKILL) if p.step == 7 else None

    train_generative(TEXTS, QUERIES, IDENTIFIERS, settings, folder / "m", 1, TrainingRun(folder / "work", kill))


def test_the_best_state_by_a_score_is_kept(tmp_path, base):
    scores = iter((0.1, 0.9, 0.2, 0.3, 0.4))
    seen = []

    def score(model):
        seen.append(type(model).__name__)
        return next(scores)

    run = TrainingRun(tmp_path / "work", validation=Validation("hit_rate@10", score, evaluations=5, patience=2))
    done = train_generative([], QUERIES, IDENTIFIERS, settings_of(base, epochs=5), tmp_path / "m", 1, run)
    assert [row["hit_rate@10"] for row in done.validated] == [0.1, 0.9, 0.2, 0.3]
    assert (done.kept_step, done.last_step, done.steps) == (4, 8, 10) and set(seen) == {"LlamaForCausalLM"}


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
@pytest.mark.parametrize("quantized", [None, "nf4"])
def test_adapters_are_trained_and_merged(tmp_path, base, targets, quantized):
    if quantized:
        pytest.importorskip("bitsandbytes")
    lora = LoraSettings(rank=4, targets=targets, quantized=quantized)
    train_generative([], QUERIES, IDENTIFIERS, settings_of(base, lora=lora), tmp_path / "m", 1)
    before, after = load_causal_lm(base)[0].state_dict(), load_generative(tmp_path / "m").model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert {name.split(".")[-2] for name in changed} >= {"q_proj", "v_proj"}
    assert not any("embed" in name or "norm" in name for name in changed)


def test_numbers_that_are_none_keep_the_last_checkpoint(tmp_path, base):
    settings = settings_of(base, learning_rate=1e30, epochs=4, checkpoint_steps=1, warmup=0.5)
    with pytest.raises(InputError, match=r"^generative: .* not a number .*; lower generative\.learning_rate"):
        train_generative([], QUERIES, IDENTIFIERS, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    assert not (tmp_path / "m").exists()


def test_a_full_disk_says_so(tmp_path, base, monkeypatch):
    import sharpen.evaluation.generative.model as module

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_identifiers", full)
    with pytest.raises(InputError, match="the disk is full"):
        train_generative([], QUERIES, IDENTIFIERS, settings_of(base), tmp_path / "m", 1)
    assert not (tmp_path / "m").exists()


def test_errors(tmp_path, base):
    same = IDENTIFIERS | {"x": Identifier("x", f"{IDENTIFIERS['d0'].text} ", "given")}
    for texts, queries, given, options, message in (
        ([], [], IDENTIFIERS, {}, "no examples to train on"),
        (TEXTS, [], IDENTIFIERS, {"context": False}, "no examples to train on"),
        ([], [Example("a", "none", "query", "q")], IDENTIFIERS, {}, "q: its document 'none' has no identifier"),
        ([], QUERIES, same, {}, "are the same tokens"),
        ([], QUERIES, IDENTIFIERS, {"max_tokens": 18}, r"generative\.max_tokens: the identifier of"),
        ([], QUERIES, IDENTIFIERS, {"max_tokens": 300}, "positions for 128 tokens"),
        ([], QUERIES, IDENTIFIERS, {"lora": LoraSettings(targets=("lm_head",))}, "output layer"),
        ([], QUERIES, IDENTIFIERS, {"lora": LoraSettings(targets=("none",))}, r"generative\.lora"),
    ):
        with pytest.raises(InputError, match=message):
            train_generative(texts, queries, given, settings_of(base, **options), tmp_path / "m", 1)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("kind", ["Llama", "Gemma3"])
def test_a_part_of_the_layers(tmp_path, kind):
    base = str(language_model(tmp_path / "base", kind))
    train_generative(TEXTS, QUERIES, IDENTIFIERS, settings_of(base, layers=1), tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert len(model.model.layers) == model.config.num_hidden_layers == 1
    with pytest.raises(InputError, match=r"generative\.layers: 3, and the base has 2"):
        train_generative(TEXTS, QUERIES, IDENTIFIERS, settings_of(base, layers=3), tmp_path / "n")


@pytest.mark.parametrize(("later", "kept"), [(False, 2), (True, 6)])
def test_of_equal_states_the_first_or_the_last_is_kept(tmp_path, base, later, kept):
    run = TrainingRun(validation=Validation("hit_rate@1", lambda _model: 0.5, evaluations=3, later=later))
    done = train_generative([], QUERIES, IDENTIFIERS, settings_of(base, epochs=3), tmp_path / "m", 1, run)
    assert (done.kept_step, done.last_step) == (kept, 6)
