import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from sharpen.evaluation.encoders.load import load_encoder
from sharpen.training.fast_cpu import prepared
from sharpen.training.fast_cpu.attention import NAME
from sharpen.training.fast_cpu.dropout import CPUDropout

TEXTS = ["how long is bread kneaded", "knead " * 60]


def _dropouts(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}


def test_a_model_is_as_it_was_after_training_and_when_it_is_saved(tmp_path):
    model = load_encoder("packaged:tiny-bert", device="cpu").train()
    config, before = model[0].auto_model.config, model.encode(TEXTS, convert_to_tensor=True)
    model.train()
    with prepared(model):
        assert config._attn_implementation == NAME and _dropouts(model) == {CPUDropout}
        assert all(module.p == 0.1 for module in model.modules() if isinstance(module, nn.Dropout))
        assert torch.equal(model.encode(TEXTS, convert_to_tensor=True), before), "evaluated within as without"
        model.save_pretrained(str(tmp_path / "within"), create_model_card=False)
    assert config._attn_implementation == "sdpa" and _dropouts(model) == {nn.Dropout}
    assert not any(module.training for module in model.modules()), "encode has set it so"
    model.save_pretrained(str(tmp_path / "after"), create_model_card=False)
    for name in ("within", "after"):
        assert NAME not in "".join(p.read_text(encoding="utf-8") for p in (tmp_path / name).rglob("*config*.json"))
        loaded = SentenceTransformer(str(tmp_path / name), device="cpu")
        assert loaded[0].auto_model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(loaded.encode(TEXTS, convert_to_tensor=True), before)


def test_a_model_is_as_it_was_after_an_error_and_with_an_attention_that_was_asked_for():
    model = load_encoder("packaged:tiny-bert", device="cpu", attention="eager")
    with pytest.raises(ZeroDivisionError), prepared(model):
        assert model[0].auto_model.config._attn_implementation == "eager" and _dropouts(model) == {CPUDropout}
        1 / 0  # noqa: B018
    assert _dropouts(model) == {nn.Dropout}
