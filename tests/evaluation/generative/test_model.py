import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifier
from sharpen.evaluation.generative.model import (
    GenerativeModel,
    causal_lm_digest,
    load_causal_lm,
    load_generative,
    save_generative,
)
from tests.support.tiny_lms import identifiers, language_model
from tests.support.tiny_models import hugging_face


@pytest.mark.parametrize("kind", ["Llama", "Gemma3", "GPT2"])
def test_what_is_saved_loads_with_transformers_alone_and_with_us(tmp_path, kind):
    model, tokenizer = load_causal_lm(str(language_model(tmp_path / "base", kind)))
    save_generative(tmp_path / "m", GenerativeModel(model, tokenizer, identifiers(9), 40, beams=4, base="base"))
    alone, words = AutoModelForCausalLM.from_pretrained(tmp_path / "m"), AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = torch.tensor([words.encode("bread is made of flour")])
    assert torch.equal(alone(ids).logits, model(ids).logits) and alone.config.tie_word_embeddings
    loaded = load_generative(tmp_path / "m")
    assert (loaded.max_tokens, loaded.beams, loaded.base) == (40, 4, "base") and loaded.identifiers == identifiers(9)
    assert loaded.tokens == GenerativeModel(alone, words, identifiers(9), 40).tokens
    assert not [p for p in (tmp_path / "m").rglob("*") if p.suffix in (".bin", ".pt")]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    model, tokenizer = load_causal_lm(str(language_model(tmp_path / "base")))
    good = GenerativeModel(model, tokenizer, identifiers(3), 40)
    save_generative(tmp_path / "m", good)
    same = {i: Identifier(i, text, "keywords") for i, text in (("a", "ice  melts"), ("b", "ice melts"))}
    with pytest.raises(InputError, match=r"'a' .* and 'b' .* the same tokens"):
        save_generative(tmp_path / "m", GenerativeModel(model, tokenizer, same, 40))
    with torch.no_grad():
        model.get_input_embeddings().weight[3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        save_generative(tmp_path / "m", good)
    assert load_generative(tmp_path / "m").identifiers == identifiers(3)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_without_what_a_search_needs(tmp_path):
    folder = language_model(tmp_path / "base")
    with pytest.raises(InputError, match=r"generative\.json: no such file"):
        load_generative(folder)
    model, tokenizer = load_causal_lm(str(folder))
    save_generative(tmp_path / "m", GenerativeModel(model, tokenizer, identifiers(3), 40))
    settings = json.loads((tmp_path / "m" / "generative.json").read_text())
    for values, message in ((settings | {"prompt_end": "?"}, "train it anew"), ({}, "expected prompt_end")):
        (tmp_path / "m" / "generative.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=message):
            load_generative(tmp_path / "m")


def test_what_is_no_causal_language_model(tmp_path):
    for name, folder in (
        ("encoder", hugging_face(tmp_path / "bert")),
        ("masked", hugging_face(tmp_path / "mlm", head="ForMaskedLM")),
        ("encoder with a head", hugging_face(tmp_path / "lm", head="LMHeadModel")),
    ):
        with pytest.raises(InputError, match="from left to right; name a causal language model"):
            load_causal_lm(str(folder))
            pytest.fail(name)


def test_a_model_that_looks_ahead_is_found_out(tmp_path, monkeypatch):
    import transformers

    folder = language_model(tmp_path / "m")
    monkeypatch.setattr(
        transformers.models.llama.modeling_llama, "create_causal_mask", lambda **kw: torch.ones(1, 1, 4, 4).bool()
    )
    with pytest.raises(InputError, match="hangs on those behind it"):
        load_causal_lm(str(folder))


def test_broken_folders_name_the_file(tmp_path):
    pointer = language_model(tmp_path / "pointer")
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"model\.safetensors: a git-lfs pointer"):
        load_causal_lm(str(pointer))
    broken = language_model(tmp_path / "nan")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = torch.inf
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight has values that are not finite"):
        load_causal_lm(str(broken))
    for text, message in (("version https://git-lfs", "git-lfs pointer"), ("no", "not a GGUF file")):
        (tmp_path / "x.gguf").write_text(text)
        with pytest.raises(InputError, match=message):
            load_causal_lm(str(tmp_path / "x.gguf"))
    pickled = language_model(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="only safetensors are read"):
        load_causal_lm(str(pickled))
    for name, message in (
        ("packaged:gpt-9", "no packaged LLM"),
        (str(tmp_path / "none"), "no such model folder"),
        ("nobody/nothing", "could not be loaded"),
    ):
        with pytest.raises(InputError, match=message):
            load_causal_lm(name)


def test_end_and_padding_tokens(tmp_path):
    unpadded = language_model(tmp_path / "unpadded", pad=False)
    with pytest.warns(UserWarning, match="the end token '</s>' pads"):
        _, tokenizer = load_causal_lm(str(unpadded))
    assert tokenizer.pad_token == "</s>"
    endless = language_model(tmp_path / "endless")
    path = endless / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.raises(InputError, match="no end token"):
        load_causal_lm(str(endless))
    small = language_model(tmp_path / "small", vocab_size=7)
    with pytest.raises(InputError, match="do not belong together"):
        load_causal_lm(str(small))


def test_the_digest_is_that_of_the_files(tmp_path):
    one, two = (str(language_model(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 1)))
    assert causal_lm_digest(one) != causal_lm_digest(two)
    assert causal_lm_digest("some/model") == "hub:some/model@main"
    assert causal_lm_digest("packaged:smollm2-135m-instruct").startswith("b179c952")


@pytest.mark.slow
def test_packaged_weights_become_an_ordinary_model(tmp_path):
    model, tokenizer = load_causal_lm("packaged:smollm2-135m-instruct")
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    assert tokenizer.decode(model.generate(ids, max_new_tokens=1, do_sample=False)[0, -1]) == " Paris"
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    script = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; f ="
        f" {str(tmp_path / 'm')!r}; m, t = M.from_pretrained(f), T.from_pretrained(f);"
        " print(type(m).__name__, t.encode('The capital'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == f"LlamaForCausalLM {tokenizer.encode('The capital')}"
    assert "quantization_config" not in json.loads(Path(tmp_path / "m" / "config.json").read_text())
