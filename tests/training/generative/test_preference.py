"""The second stage, on a language model of a few thousand weights."""

import os
import signal
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid

from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.generative.identifiers import prompt_tokens
from sharpen.evaluation.generative.model import GenerativeModel, load_causal_lm, load_generative, save_generative
from sharpen.training.generative.examples import Example
from sharpen.training.generative.preference import (
    PreferencePair,
    preference_pairs,
    tokenized_pairs,
    train_preference,
)
from sharpen.training.generative.settings import PreferenceSettings
from sharpen.training.optimization import LoraSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.validation import Validation
from tests.processes import start
from tests.support.tiny_lms import identifiers, language_model

IDENTIFIERS = identifiers(12)
PAIRS = [
    PreferencePair(text, f"d{n}", f"d{n + 5}", f"q{n}")
    for n, text in enumerate(("bread rises", "ice melts", "salt and water", "guitar sounds word", "a document", "tyre"))
]


@pytest.fixture
def first(tmp_path):
    model, tokenizer = load_causal_lm(str(language_model(tmp_path / "base")))
    save_generative(tmp_path / "first", GenerativeModel(model, tokenizer, IDENTIFIERS, 40))
    return tmp_path / "first"


def settings_of(**options):
    return PreferenceSettings(
        **({"batch_size": 4, "mini_batch_size": 2, "learning_rate": 1e-3, "precision": "float32"} | options)
    )


def log_likelihoods(retriever, pairs):
    """Of each pair's positive and negative identifier, and the number of the positive's tokens: by hand."""
    tokens, rows = dict(zip(retriever.identifiers, retriever.tokens, strict=True)), []
    for pair in pairs:
        prompt, values = prompt_tokens(pair.text, retriever.tokenizer, retriever.max_tokens), []
        for document in (pair.positive, pair.negative):
            ids = torch.tensor([[*prompt, *tokens[document]]])
            with torch.no_grad():
                logits = retriever.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            values.append(-cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
        rows.append((*values, len(tokens[pair.positive])))
    return torch.tensor(rows).T


def test_negatives_are_what_is_ranked_above_the_positive():
    def found(ranking, document="p", **options):
        query = Example("text", document, "query", "q")
        return [pair.negative for pair in preference_pairs([query], {"q": list(ranking)}, **options)]

    assert found("pabc") == [] and found("abpc") == ["a", "b"] and found("abc") == ["a", "b", "c"]
    assert found("abcdep", top_k=3) == ["a", "b", "c"] and found("abcp", top_k=4) == ["a", "b", "c"]
    # another document of the query, and what is not allowed, are no negatives
    both = [Example("text", d, "query", "q") for d in "pa"]
    pairs = preference_pairs(both, {"q": "axbp"}, allowed=lambda query: lambda i: i != "x" and query.key == "q")
    assert [(p.positive, p.negative) for p in pairs] == [("p", "b")]
    with pytest.raises(InputError, match="no ranking"):
        preference_pairs(both, {})


def test_random_negatives_are_as_many():
    query = Example("text", "p", "query", "q")
    documents = ["p", *"abcdefghij"]
    drawn = [
        [p.negative for p in preference_pairs([query], {"q": "abcp"}, 10, "random", documents, seed)] for seed in (1, 2)
    ]
    assert all(len(set(row)) == 3 and "p" not in row for row in drawn) and drawn[0] != drawn[1]
    assert preference_pairs([query], {"q": "pabc"}, 10, "random", documents) == []
    # as many as are left of those above
    few = preference_pairs([query], {"q": "abcp"}, 10, "random", documents, allowed=lambda _: lambda i: i not in "ab")
    assert len(few) == 1 and few[0].negative not in "pab"


def test_tokens_are_those_of_the_first_stage(first):
    retriever = load_generative(first)
    tokens = dict(zip(retriever.identifiers, retriever.tokens, strict=True))
    for pair, row in zip(PAIRS, tokenized_pairs(PAIRS, retriever), strict=True):
        assert row["prompt_ids"] == prompt_tokens(pair.text, retriever.tokenizer, 40)
        assert (row["chosen_ids"], row["rejected_ids"]) == (list(tokens[pair.positive]), list(tokens[pair.negative]))
    with pytest.raises(InputError, match="q: the document 'none'"):
        tokenized_pairs([PreferencePair("a", "d1", "none", "q")], retriever)


def test_the_loss_is_the_papers(first, tmp_path):
    """At a second step, after the model has left the reference: of one batch, in one mini-batch."""
    settings = settings_of(batch_size=6, mini_batch_size=6, epochs=2, warmup=0, alpha=0.7, schedule="constant")
    one = settings.model_copy(update={"epochs": 1})
    done = train_preference(first, PAIRS, settings, tmp_path / "two", 1)
    train_preference(first, PAIRS, one, tmp_path / "one", 1)
    reference = log_likelihoods(load_generative(first), PAIRS)
    now = log_likelihoods(load_generative(tmp_path / "one"), PAIRS)
    margins = (now[0] - reference[0]) - (now[1] - reference[1])
    loss = -logsigmoid(0.5 * margins).mean() - 0.7 * now[0].sum() / now[2].sum()
    assert done.log[1]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    assert done.log[0]["loss"] == pytest.approx(
        (torch.tensor(2.0).log() - 0.7 * reference[0].sum() / reference[2].sum()).item(), abs=1e-4
    )


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_positives_rise_above_negatives(first, tmp_path, lora):
    done = train_preference(first, PAIRS, settings_of(epochs=5, lora=lora), tmp_path / "m", 1)
    before, after = (log_likelihoods(load_generative(folder), PAIRS) for folder in (first, tmp_path / "m"))
    assert (after[0] - after[1] > before[0] - before[1]).all() and (after[0] > before[0]).all()
    assert done.triplets == 6 and done.steps == 8
    assert load_generative(tmp_path / "m").identifiers == IDENTIFIERS
    assert "forward" not in vars(load_generative(tmp_path / "m").model)


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(first, tmp_path):
    settings = settings_of(epochs=4, checkpoint_steps=2)
    whole = train_preference(first, PAIRS, settings, tmp_path / "whole", 1)
    process = start(_train_and_die, first, settings, tmp_path)
    process.join()
    assert process.exitcode == -9 and not (tmp_path / "m").exists()
    resumed = train_preference(first, PAIRS, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    assert resumed.resumed_from == 4 and resumed.log == whole.log
    assert sha256_file(tmp_path / "m" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")


def _train_and_die(first, settings, folder):
    def kill(p):
        return os.kill(os.getpid(), signal.SIGKILL) if p.step == 5 else None

    train_preference(first, PAIRS, settings, folder / "m", 1, TrainingRun(folder / "work", kill))


def test_the_best_state_by_a_score_is_kept(first, tmp_path):
    scores = iter((0.5, 0.4, 0.3, 0.2))
    run = TrainingRun(validation=Validation("hit_rate@1", lambda model: next(scores), evaluations=4, patience=2))
    done = train_preference(first, PAIRS, settings_of(epochs=5), tmp_path / "m", 1, run)
    assert (done.kept_step, done.last_step) == (2, 6)


def test_errors(first, tmp_path, monkeypatch):
    for pairs, options, message in (
        ([], {}, "there are no pairs"),
        (
            PAIRS,
            {"learning_rate": 1e30, "epochs": 2},
            r"^generative\.preferences: .* not a number .*preferences\.learning_rate",
        ),
    ):
        with pytest.raises(InputError, match=message):
            train_preference(first, pairs, settings_of(**options), tmp_path / "m", 1)
    for options in ({"batch_size": 5, "top_k": 20}, {"top_k": 20}):
        with pytest.raises(ValueError, match="top_k"):
            PreferenceSettings(**options)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(InputError, match=r"needs TRL; pip install 'sharpen\[generative\]'"):
        train_preference(first, PAIRS, settings_of(), tmp_path / "m", 1)
    assert not (tmp_path / "m").exists()
