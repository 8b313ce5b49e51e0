"""Sparse and multi-vector encoders, trained by the same loop: losses, resuming, the best state, folders that load
without us."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.families import load_any, load_family
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.training.families import check_one_process, family_loss
from sharpen.training.merging import weights_of
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from sharpen.training.validation import SmallTask, Validation, ValidationSettings
from tests.conftest import cores
from tests.support.tiny_models import encoder, hugging_face, tokenizer

CLASSES = {"sparse": SparseEncoder, "multi_vector": MultiVectorEncoder}
FAMILIES = tuple(CLASSES)
OUTPUT = {"sparse": "sentence_embedding", "multi_vector": "token_embeddings"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, str]:
    """A masked language model, an encoder, and a table of tokens' vectors, of a few thousand weights."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    static = StaticEmbedding(tokenizer(special=False).backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(folder / "static"), create_model_card=False)
    return {
        "sparse": str(hugging_face(folder / "mlm", head="ForMaskedLM")),
        "multi_vector": str(encoder(folder / "encoder")),
        "static": str(folder / "static"),
    }


@pytest.fixture(scope="module")
def task():
    texts = ["bread is made of flour", "ice melts", "guitar sounds", "tyre flows", "salt and water", "the word rises"]
    corpus = {f"d{n}": Document(f"d{n}", text) for n, text in enumerate(texts)}
    asked = ["flour", "melts ice", "sounds guitar", "flows a tyre", "water and", "rises"]
    queries = {f"q{n}": Query(f"q{n}", text) for n, text in enumerate(asked)}
    triplets = [Triplet(f"q{n}", f"d{n}", (f"d{(n + 1) % 6}",)) for n in range(6)]
    return triplets, queries, corpus


def _settings(base: str, family: str, **changes) -> RetrieverSettings:
    options = {"batch_size": 3, "learning_rate": 1e-2, "dropout": 0.0, "epochs": 6, "checkpoint_steps": 4}
    return RetrieverSettings(base=base, family=family, **options | changes)


def _validation(task) -> Validation:
    _, queries, corpus = task
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(6)}
    options = RetrieverSettings(base="m")
    return SmallTask(corpus, queries, qrels).validation(options, ValidationSettings(evaluations=3, patience=None))


@pytest.mark.parametrize("loss", ["mnrl", "cached_mnrl", "margin_mse", "kl"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_loss_falls_and_the_folder_loads_in_sentence_transformers(
    family, loss, tmp_path, task, bases, monkeypatch
):
    monkeypatch.setattr("sharpen.training.trainer.accelerated", lambda _: pytest.fail("the fast path is of dense ones"))
    triplets, queries, corpus = task
    teacher = {(t.query_id, i): 4.0 * (i == t.positive_id) for t in triplets for i in (t.positive_id, *t.negative_ids)}
    settings = _settings(bases[family], family, loss=loss, mini_batch_size=2)
    run = TrainingRun(teacher=teacher)
    log = train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, run).log
    assert sum(e["loss"] for e in log[-3:]) < 0.9 * sum(e["loss"] for e in log[:3])
    assert {path.suffix for path in (tmp_path / "m").rglob("*") if path.is_file()} <= {".json", ".safetensors"}
    model = CLASSES[family](str(tmp_path / "m"), device="cpu")
    scores = model.similarity(model.encode_query(["flour"]), model.encode_document(["bread is made of flour", "ice"]))
    assert scores[0, 0] > scores[0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_training_goes_on_to_the_same_weights_and_keeps_the_best_state(family, tmp_path, task, bases):
    triplets, queries, corpus = task
    settings = _settings(bases[family], family, dropout=0.1)
    whole = train_retriever(
        queries, triplets, corpus, settings, tmp_path / "a", 1, TrainingRun(validation=_validation(task))
    )

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 6:
            raise Killed

    run = TrainingRun(tmp_path / "work", progress=kill, validation=_validation(task))
    with pytest.raises(Killed):
        train_retriever(queries, triplets, corpus, settings, tmp_path / "b", 1, run)
    run = TrainingRun(tmp_path / "work", validation=_validation(task))
    resumed = train_retriever(queries, triplets, corpus, settings, tmp_path / "b", 1, run)
    assert resumed.resumed_from == 4 and resumed.to_dict() == whole.to_dict()
    assert len(whole.validated) == 3
    best = max(whole.validated, key=lambda row: (row["ndcg@10"], -row["step"]))
    assert whole.kept_step == best["step"]
    files = [sorted((tmp_path / run).rglob("*.safetensors")) for run in "ab"]
    assert [sha256_file(path) for path in files[0]] == [sha256_file(path) for path in files[1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_the_weights_that_a_base_lacks(family, tmp_path, task, bases):
    triplets, queries, corpus = task
    settings = _settings(bases[family], family, epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_retriever(queries, triplets, corpus, settings, tmp_path / name, seed)
    weights = {name: weights_of(load_any(str(tmp_path / name))) for name in "abc"}
    same = {other: all(torch.equal(t, weights[other][k]) for k, t in weights["a"].items()) for other in "bc"}
    assert same == {"b": True, "c": False}


def test_the_sparse_loss_is_the_ranking_loss_and_the_regularizers(bases):
    """Against the formulas, on real embeddings; cached and in micro-batches."""
    model = load_family(bases["sparse"], "sparse").eval()
    columns = [["flour", "ice melts"], ["bread is made of flour", "ice"], ["guitar sounds", "tyre"]]
    q, p, n = (model(model.preprocess(texts))["sentence_embedding"].detach() for texts in columns)
    logits = q @ torch.cat([p, n]).T
    expected = [
        torch.nn.functional.cross_entropy(logits, torch.arange(2)),
        0.5 * (torch.cat([p, n]).mean(dim=0) ** 2).sum(),
        0.25 * (q.mean(dim=0) ** 2).sum(),
    ]
    for loss in ("mnrl", "cached_mnrl"):
        settings = _settings(
            bases["sparse"],
            "sparse",
            loss=loss,
            mini_batch_size=1,
            document_regularizer_weight=0.5,
            query_regularizer_weight=0.25,
            precision="float32",
        )
        made, (rising,) = family_loss(settings, model, 1)
        value = made([model.preprocess(texts) for texts in columns], None)
        assert sum(value.values()).item() == pytest.approx(sum(expected).item(), rel=1e-4)
        assert value["document_regularizer_loss"].item() == pytest.approx(expected[1].item(), rel=1e-4)
        assert rising.max_document_regularizer_weight == 0.5


def test_the_regularizers_make_vectors_sparser(tmp_path, task, bases):
    triplets, queries, corpus = task
    words = []
    for weight in (0.0, 1.0):
        settings = _settings(
            bases["sparse"], "sparse", document_regularizer_weight=weight, query_regularizer_weight=weight
        )
        train_retriever(queries, triplets, corpus, settings, tmp_path / f"m{weight}", 1)
        model = SparseEncoder(str(tmp_path / f"m{weight}"), device="cpu")
        words.append(float(model.encode_document([d.text for d in corpus.values()]).to_dense().sum()))
    assert words[1] < 0.8 * words[0]


@pytest.mark.parametrize("loss", ["mnrl", "margin_mse", "kl"])
def test_a_static_table_trains_and_fast_paths_step_aside(loss, tmp_path, task, bases, monkeypatch):
    triplets, queries, corpus = task
    replicas = pytest.importorskip("sharpen.training.fast_cpu.replicas")
    monkeypatch.setattr(replicas, "_Replicas", lambda *_: pytest.fail("replicas of a table"))
    teacher = {(t.query_id, i): float(i == t.positive_id) for t in triplets for i in (t.positive_id, *t.negative_ids)}
    settings = _settings(bases["static"], "dense", loss=loss, learning_rate=0.1, mini_batch_size=2)
    run = TrainingRun(tmp_path / "work", teacher=teacher, validation=_validation(task))
    with cores(2):
        result = train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, run)
    log = result.log
    assert sum(e["loss"] for e in log[-3:]) < 0.9 * sum(e["loss"] for e in log[:3])
    model = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert isinstance(model[0], StaticEmbedding) and len(result.validated) == 3
    assert not torch.equal(model[0].embedding.weight, load_encoder(bases["static"])[0].embedding.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_processes_are_refused(family, monkeypatch):
    check_one_process(family)
    monkeypatch.setattr("sharpen.training.families.will_shard", lambda: True)
    check_one_process("dense")
    with pytest.raises(InputError, match=rf"training\.family: {family} is trained by one process"):
        check_one_process(family)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"family": "sparse", "loss": "gist"},
            "loss: gist is of dense vectors, and family is sparse; take one",
        ),
        ({"family": "multi_vector", "matryoshka": (8,)}, "matryoshka: only dense encoders have it"),
        ({"family": "multi_vector", "lora": {}}, "lora: only dense encoders have it, and family is multi_vector"),
        ({"family": "sparse", "loss": "kl", "candidates": 8}, "candidates: only dense encoders have it"),
        ({"family": "sparse", "in_batch": False}, "in_batch: only dense encoders have it"),
        ({"family": "sparse", "gradient_checkpointing": True}, "gradient_checkpointing: only dense"),
        (
            {"document_regularizer_weight": 1e-3},
            "document_regularizer_weight: only sparse encoders have one",
        ),
    ],
)
def test_settings_that_a_family_has_not_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RetrieverSettings(base="m", **changes)


def test_a_family_has_its_scale_and_the_dense_fingerprint_is_what_it_was(bases):
    dense = RetrieverSettings(base=bases["multi_vector"], precision="float32")
    assert "family" not in dense.fingerprint() and not any("regularizer" in key for key in dense.fingerprint())
    assert dense.scale == 20
    assert RetrieverSettings(base="m", family="sparse").scale == 1
    assert RetrieverSettings(base="m", family="multi_vector", scale=3).scale == 3
    values = RetrieverSettings(base=bases["sparse"], family="sparse", precision="float32").fingerprint()
    assert values["family"] == "sparse"


def _some(task):
    triplets, queries, corpus = task
    return queries, triplets, corpus


def test_wrong_bases_are_named_before_anything_is_trained(bases, tmp_path, task):
    with pytest.raises(InputError, match=r"base: .*/encoder has no head for words: .*family: multi_vector"):
        RetrieverSettings(base=bases["multi_vector"], family="sparse").check()
    with pytest.raises(InputError, match=r"multi_vector encoder .* could not be loaded.*no Transformer module"):
        RetrieverSettings(base=bases["static"], family="multi_vector").check()
    load_family(bases["sparse"], "sparse").save_pretrained(str(tmp_path / "sparse"), create_model_card=False)
    with pytest.raises(InputError, match=r"base: .*/sparse: a sparse encoder, and it cannot become a multi_vector one"):
        RetrieverSettings(base=str(tmp_path / "sparse"), family="multi_vector").check()
    with pytest.raises(InputError, match=r"base: .*/sparse: a sparse encoder, whose .* dense encoder is expected here"):
        RetrieverSettings(base=str(tmp_path / "sparse")).check()
    for changes in ({"lora": {}}, {"loss": "cached_mnrl"}, {"loss": "gist"}, {"gradient_checkpointing": True}):
        message = rf"training\.{next(iter(changes))}: .*begins with a StaticEmbedding, which has no layers"
        settings = RetrieverSettings(base=bases["static"], **changes)
        with pytest.raises(InputError, match=message):
            settings.check()
        with pytest.raises(InputError, match=message):
            train_retriever(*_some(task), settings, tmp_path / "m")
    for family in FAMILIES:
        RetrieverSettings(base=bases[family], family=family).check()
    RetrieverSettings(base=str(tmp_path / "sparse"), family="sparse").check()
    assert Path(bases["static"]).is_dir()
    RetrieverSettings(base=bases["static"]).check()
