import re

import pytest
from pydantic import ValidationError

from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError
from sharpen.training.optimization import LoraSettings
from sharpen.training.settings import RerankerSettings, RetrieverSettings, ValidationSettings, misfit

BASE = "packaged:tiny-bert"


def test_the_fingerprint_has_models_by_their_content_and_nothing_that_changes_no_result():
    settings = RetrieverSettings(base=BASE, loss="gist", guide=BASE, lora=LoraSettings(rank=4))
    fingerprint = settings.fingerprint()
    assert fingerprint["base"] == fingerprint["guide"] != BASE and fingerprint["lora"]["rank"] == 4
    assert fingerprint["precision"].split(",")[0] in ("float32", "bf16") and fingerprint["loss"] == "gist"
    assert not {"checkpoint_steps", "trackers"} & set(fingerprint)
    same = settings.model_copy(update={"checkpoint_steps": 7, "trackers": ("wandb",)})
    assert same.fingerprint() == fingerprint != settings.model_copy(update={"scale": 10.0}).fingerprint()
    reranker = RerankerSettings(base=BASE).fingerprint()
    assert reranker["precision"] == fingerprint["precision"] and "trackers" not in reranker


def test_a_base_that_is_not_there_is_named_with_its_key():
    for settings in (RetrieverSettings(base="/nowhere/model"), RerankerSettings(base="/nowhere/model")):
        with pytest.raises(InputError, match=r"^base: /nowhere/model: no such model folder"):
            settings.check()
    with pytest.raises(InputError, match=r"^guide: "):
        RetrieverSettings(base=BASE, loss="gist", guide="/nowhere/model").check()


def test_the_encoder_has_the_options_of_the_training():
    options = {"query_prompt": "query: ", "max_seq_length": 64, "attention": "eager", "precision": "float32"}
    assert RetrieverSettings(base=BASE, **options).encoder == Encoder(model=BASE, **options)


def test_rerankers_have_the_defaults_that_learn_something():
    settings = RerankerSettings(base=BASE)
    assert (settings.epochs, settings.learning_rate, settings.dropout, settings.batch_size) == (3, 1e-4, 0.0, 8)
    assert (settings.max_seq_length, settings.loss, settings.schedule, settings.warmup) == (256, "bce", "linear", 0.1)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RetrieverSettings, {"loss": "mnlr"}, "'mnrl', 'cached_mnrl'"),
        (RetrieverSettings, {"guide": BASE}, "guide: only gist and cached_gist take one, and loss is mnrl"),
        (RetrieverSettings, {"batch_size": 1}, "greater than or equal to 2"),
        (RetrieverSettings, {"dropout": 1.0}, "less than 1"),
        (RetrieverSettings, {"warm_up": 0.1}, "Extra inputs are not permitted"),
        (RerankerSettings, {"loss": "rank"}, "'bce', 'listwise' or 'distillation'"),
        (RerankerSettings, {"batch_size": 0}, "greater than or equal to 1"),
    ],
)
def test_values_that_cannot_be(kind, values, message):
    with pytest.raises(ValidationError, match=message):
        kind(base=BASE, **values)


@pytest.mark.parametrize(
    ("values", "negatives", "message"),
    [
        ({}, 0, None),
        ({"loss": "cached_gist"}, 4, None),
        ({"loss": "gist"}, 4, "training.loss: gist takes one negative a query at most, and negatives.per_query is 4"),
        ({"loss": "kl"}, 0, "training.loss: kl compares with a query's own negatives, and there are none"),
        ({"in_batch": False}, 0, "training.loss: mnrl with in_batch: false compares with"),
        ({"loss": "kl", "in_batch": False}, 1, "training.in_batch: only mnrl .* kl never uses them"),
        ({"loss": "gist", "in_batch": False}, 1, "training.in_batch: only mnrl .* gist is made of them"),
    ],
)
def test_losses_that_do_not_fit_the_negatives(values, negatives, message):
    reason = misfit(RetrieverSettings(base=BASE, **values), negatives)
    assert reason is None if message is None else re.search(message, reason)


def test_validation_stands_for_the_files_of_its_queries(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "why"}\n')
    settings = ValidationSettings(data=str(tmp_path), split="dev")
    with pytest.raises(InputError, match=r"^data: .*dev.tsv: no such file"):
        settings.check()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    settings.check()
    before = settings.fingerprint()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\tother\t1\n")
    assert settings.fingerprint() != before
    assert ValidationSettings().fingerprint()["files"] == {}
