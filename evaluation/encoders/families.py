"""The families of encoders: a vector a text (dense), a number a word (sparse), a vector a token (multi_vector)."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from transformers import AutoConfig

from sharpen.evaluation.encoders.load import (
    checked_source,
    folder_of,
    has_modules,
    hub_commit,
    load_encoder,
    not_loaded,
    resolve_encoder,
)
from sharpen.evaluation.encoders.model_files import CROSS, LATE, SPARSE, kind_of_model
from sharpen.evaluation.encoders.routes import Side
from sharpen.evaluation.encoders.settings import Family
from sharpen.evaluation.encoders.soundness import (
    LONG_TEXT,
    SHORT_TEXTS,
    check_vectors,
    make_ready,
    naming,
    on_device,
    probe,
)
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.truncation import What

AnyEncoder = SentenceTransformer | SparseEncoder | MultiVectorEncoder
_OWN: dict[str, Family] = {SPARSE: "sparse", LATE: "multi_vector"}
WHAT: dict[Side, What] = {"query": "queries", "document": "documents"}
"""By which names truncated texts of a side are reported."""
_NO_WORDS = (
    "{name} has no head for words: a sparse encoder starts from a masked language model (its config.json names"
    " ...ForMaskedLM) or from a sparse encoder. Name one, as packaged:tiny-bert or naver/splade-v3, or take family:"
    " multi_vector"
)


def own_family(name: str, plain: Family = "dense") -> Family:
    """What a model is by its own files. ``plain``: what it is taken for where they do not say it, as a bare model of
    transformers could be any of them. Raises ``InputError`` as ``resolve_encoder`` does.

    >>> own_family("packaged:all-MiniLM-L6-v2", "multi_vector"), own_family("packaged:tiny-bert", "sparse")
    ('dense', 'sparse')
    """
    source = resolve_encoder(name)
    folder = folder_of(source)
    if folder and (own := _OWN.get(kind_of_model(folder))):
        return own
    return "dense" if has_modules(source) else plain


def family_of(model: AnyEncoder) -> Family:
    """Of a loaded model."""
    return _OWN.get(type(model).__name__, "dense")


def load_any(
    name: str,
    plain: Family = "dense",
    device: str | None = None,
    max_seq_length: int | None = None,
    attention: str | None = None,
) -> AnyEncoder:
    """The model as what it is: see ``own_family`` and ``load_family``."""
    return load_family(name, own_family(name, plain), device, max_seq_length, attention)


def load_family(
    name: str,
    family: Family,
    device: str | None = None,
    max_seq_length: int | None = None,
    attention: str | None = None,
) -> AnyEncoder:
    """Load ``name`` as an encoder of ``family``, under the rules of ``load_encoder``.

    ``sparse``: a ``SparseEncoder``, or a masked language model with SPLADE's pooling (the maximum over a text's
    tokens of log(1 + relu(logit))). ``multi_vector``: a ``MultiVectorEncoder``; any other encoder of tokens gets a
    projection of each token's state to 128 dimensions, whose weights are drawn (seed torch before), and loses its
    pooling. Raises ``InputError`` as ``load_encoder`` does, and for a model that cannot be of that family.
    """
    if family == "dense":
        return load_encoder(name, device, max_seq_length, attention)
    source = checked_source(name, None)
    _check_fits(name, source, family)
    arguments = {"use_safetensors": True, "dtype": torch.float32} | (
        {"attn_implementation": attention} if attention else {}
    )
    try:
        model = (SparseEncoder if family == "sparse" else MultiVectorEncoder)(
            source,
            device=device or str(process_state().device),
            trust_remote_code=False,
            revision=hub_commit(source),
            model_kwargs=arguments,
        )
    except Exception as error:  # as in load_encoder
        raise not_loaded(f"{family} encoder", name, error) from error
    make_ready(model, source, max_seq_length)
    return model


def check_trainable_family(model: AnyEncoder, name: str) -> None:
    """Raise ``InputError`` for a sparse or multi-vector encoder that is not one model for queries and documents."""
    if any(isinstance(module, Router) for module in model.children()):
        raise InputError(
            f"training.base: {name} has an encoder for queries and one for documents, and one for both is trained;"
            " name its encoder of documents"
        )


class OneSide:
    """A sparse or multi-vector encoder as it reads the texts of one side: what cuts texts into batches asks of it."""

    def __init__(self, model: SparseEncoder | MultiVectorEncoder, side: Side) -> None:
        self.model, self._side = model, side
        self.tokenizer, self.device = model.tokenizer, model.device
        first = model[0]
        own = getattr(first, f"{side}_length", None)  # late-interaction models cut queries shorter
        self.max_seq_length = own or model.max_seq_length

    def preprocess(self, texts: list[str], prompt: str | None = None) -> dict[str, Any]:
        return self.model.preprocess(texts, prompt=prompt, task=self._side)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return self.model(dict(features), task=self._side)

    def eval(self) -> None:
        self.model.eval()


def probe_any(model: AnyEncoder, name: str) -> None:
    """``probe``, for a model of any family."""
    (probe if family_of(model) == "dense" else probe_family)(model, name)


def probe_family(model: SparseEncoder | MultiVectorEncoder, name: str) -> None:
    """Encode a few texts of each side, as ``probe`` does: an empty and a very long one among them."""
    output = "sentence_embedding" if isinstance(model, SparseEncoder) else "token_embeddings"
    model.eval()
    for side in ("query", "document"):
        one = OneSide(model, side)
        for texts, what in ((list(SHORT_TEXTS), "short texts"), ([""], "an empty text"), ([LONG_TEXT], "1,200 words")):
            with naming(name, what), torch.inference_mode():
                values = one.forward(on_device(model, one.preprocess(texts)))[output].float().cpu()
            if not torch.isfinite(values).all():
                raise InputError(f"{name}: its vectors of {what} are not finite numbers")
            if len(texts) > 1:
                check_vectors(values.flatten(1).numpy(), texts, name)


def _check_fits(name: str, source: str, family: Family) -> None:
    folder = folder_of(source)
    kind = kind_of_model(folder) if folder else None
    other = {SPARSE: "a sparse encoder", LATE: "a late-interaction encoder", CROSS: "a cross-encoder"}.get(kind)
    if other and _OWN.get(kind) != family:
        raise InputError(f"{name}: {other}, and it cannot become a {family} one; name another base, or its own family")
    if family == "sparse" and _OWN.get(kind) != family:
        config = None
        if not has_modules(source):
            try:
                config = AutoConfig.from_pretrained(
                    source, trust_remote_code=False, revision=hub_commit(source) or "main"
                )
            except Exception as error:
                raise not_loaded("sparse encoder", name, error) from error
        if not any(each.endswith("ForMaskedLM") for each in getattr(config, "architectures", None) or ()):
            raise InputError(_NO_WORDS.format(name=name))
