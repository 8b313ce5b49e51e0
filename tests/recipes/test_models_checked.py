"""Every model that a recipe names is tried in its check, before an LLM is asked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW

from sharpen.evaluation.files import InputError
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages import check_recipe
from tests.support.tiny_models import WORDS, encoder, hugging_face


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    SentenceTransformer(modules=[BoW(WORDS.split())], device="cpu").save_pretrained(str(folder / "bag"))
    hugging_face(folder / "three", head="ForSequenceClassification", num_labels=3)
    hugging_face(folder / "cross", head="ForSequenceClassification", num_labels=1)
    encoder(folder / "good")
    weights = load_file(encoder(folder / "nan") / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][4] = torch.nan
    save_file(weights, folder / "nan" / "model.safetensors", metadata={"format": "pt"})
    (encoder(folder / "lfs") / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    return folder


@pytest.mark.parametrize(
    ("key", "model", "message"),
    [
        ("training.base", "nan", "values that are not finite"),
        ("training.base", "lfs", "a git-lfs pointer"),
        ("training.base", "bag", "only Transformers and static embeddings are trained"),
        ("training.base", "cross", "a cross-encoder, which scores pairs"),
        ("reranker.base", "three", "a classifier with 3 outputs"),
        ("reranker.base", "lfs", "a git-lfs pointer"),
        ("training.teacher", "encoder:nan", "values that are not finite"),
        ("training.teacher", "good", "an encoder, not a reranker"),
        ("filters.cross_encoder.model", "three", "a classifier with 3 outputs"),
    ],
)
def test_a_model_that_cannot_be_worked_with_ends_the_check(recipe_file, models, key, model, message):
    kind, _, name = model.rpartition(":")
    overrides = [f"{key}={kind + ':' if kind else ''}{models / name}"]
    if key == "training.teacher":
        overrides.append("training.loss=margin_mse")
    with pytest.raises(InputError, match=message):
        check_recipe(load_recipe(str(recipe_file), overrides).recipe)


def test_good_models_pass(recipe_file, models):
    overrides = [f"training.base={models / 'good'}", f"reranker.base={models / 'good'}", "training.loss=margin_mse"]
    check_recipe(load_recipe(str(recipe_file), [*overrides, f"training.teacher={models / 'cross'}"]).recipe)
