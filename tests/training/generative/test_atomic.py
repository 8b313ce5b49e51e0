import pytest
import torch

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifier
from sharpen.evaluation.generative.model import load_causal_lm, load_generative
from sharpen.training.generative import atomic
from sharpen.training.generative.atomic import add_atomic_tokens
from sharpen.training.generative.examples import Example
from sharpen.training.generative.settings import GenerativeSettings
from sharpen.training.generative.trainer import train_generative
from sharpen.training.optimization import LoraSettings
from tests.support.tiny_lms import language_model

TEXTS = {"a": "bread is made of flour", "b": "ice melts", "c": "guitar sounds"}
IDENTIFIERS = {i: Identifier(i, f"<doc {i}>", "atomic") for i in TEXTS}


@pytest.mark.parametrize("tied", [True, False])
def test_a_documents_token_says_what_it_is_about(tmp_path, tied):
    model, tokenizer = load_causal_lm(str(language_model(tmp_path / "m", tie_word_embeddings=tied)))
    before = [w.detach().clone() for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)]
    assert add_atomic_tokens(model, tokenizer, IDENTIFIERS, TEXTS) == 3
    for old, layer in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert torch.equal(layer.weight[: len(old)], old) and len(layer.weight) == len(old) + 3
        for document, row in zip(TEXTS, layer.weight[-3:], strict=True):
            mean = old[tokenizer.encode(TEXTS[document])].mean(dim=0)
            assert torch.cosine_similarity(mean, row, dim=0) > 0.9999
            assert row.norm().item() == pytest.approx(old.norm(dim=1).mean().item(), rel=1e-4)
    assert [tokenizer.encode(f"<doc {i}>") for i in TEXTS] == [[len(before[0]) + n] for n in range(3)]
    assert add_atomic_tokens(model, tokenizer, IDENTIFIERS, {}) == 0, "they are there"


def test_errors(tmp_path, monkeypatch):
    model, tokenizer = load_causal_lm(str(language_model(tmp_path / "m")))
    with pytest.raises(InputError, match="the document 'c' has no text"):
        add_atomic_tokens(model, tokenizer, IDENTIFIERS, TEXTS | {"c": ""})
    monkeypatch.setattr(atomic, "_free_bytes", lambda device: 100)
    with pytest.raises(InputError, match=r"3 atomic identifiers: to train so many tokens needs .* make identifiers of"):
        add_atomic_tokens(model, tokenizer, IDENTIFIERS, TEXTS)
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings, "nothing was added"


def test_atomic_identifiers_are_learnt_and_saved_with_the_model(tmp_path):
    base = str(language_model(tmp_path / "base"))
    texts = [Example(text, document, "context", document) for document, text in TEXTS.items()]
    settings = GenerativeSettings(base=base, epochs=40, batch_size=4, learning_rate=1e-2, max_tokens=64)
    train_generative(texts, [], IDENTIFIERS, settings, tmp_path / "m", 1)
    retriever = load_generative(tmp_path / "m")
    assert [len(tokens) for tokens in retriever.tokens] == [1, 1, 1]
    # a document more: the old tokens stay where they are
    more = IDENTIFIERS | {"d": Identifier("d", "<doc d>", "atomic")}
    added = [*texts, Example("tyre and salt", "d", "context", "d")]
    again = settings.model_copy(update={"base": str(tmp_path / "m"), "epochs": 1})
    train_generative(added, [], more, again, tmp_path / "n", 1)
    assert load_generative(tmp_path / "n").tokens[:3] == retriever.tokens
    with pytest.raises(InputError, match="leave out lora"):
        train_generative(texts, [], IDENTIFIERS, settings.model_copy(update={"lora": LoraSettings()}), tmp_path / "x")
