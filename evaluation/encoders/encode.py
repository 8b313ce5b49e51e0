"""Texts to unit vectors, and pairs of texts to a cross-encoder's scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from sharpen.evaluation.encoders.batching import report_lengths, rows_of_process, run_batches
from sharpen.evaluation.encoders.committee import Committee, committee_scores, shared_progress
from sharpen.evaluation.encoders.openvino import openvino_forward
from sharpen.evaluation.encoders.precision import in_precision
from sharpen.evaluation.encoders.routes import has_routes
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.encoders.soundness import check_finite, embed
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import SharedRows
from sharpen.evaluation.truncation import What


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    prompt: str = "",
    batch_size: int | None = None,
    precision: Precision = "auto",
    progress: Callable[[int], None] | None = None,
    what: What = "texts",
) -> np.ndarray:
    """Encode to unit vectors: float32 of shape (len(texts), dimension), in the order of ``texts``.

    ``prompt`` is put before every text. ``batch_size``: texts at once (default: 256; on a CPU, 8 and as many more as
    make about 3,000 tokens). ``precision``: what the model computes in; on a CPU, many texts are encoded by OpenVINO
    where it is installed, and by torch otherwise. Texts are taken in order of length, so that a batch has little
    padding. Under ``accelerate launch`` every process encodes a part of the texts, and all processes get all vectors,
    those of one machine in the same memory. ``progress`` is called with the number of texts of each finished batch.
    ``what``: under this name it is reported if texts are longer than the model reads (see ``collect_truncations``). A
    text of which no token is left has zeros. Raises ``InputError`` for a model with a route for each side (``route_of``
    gives one) and for vectors that are not finite.
    """
    if has_routes(model):
        raise InputError("the model encodes queries and documents by different routes; give encode one, by route_of")
    rows_here = rows_of_process(texts)
    shared = SharedRows((len(texts), model.get_embedding_dimension()))
    vectors = shared.values
    model.eval()
    compiled = openvino_forward(model, texts, prompt, precision)

    def compute(rows: np.ndarray, features: dict[str, Any]) -> None:
        forward = compiled or (lambda each: model(each)["sentence_embedding"])
        output = embed(forward, features, vectors.shape[1])[:, : vectors.shape[1]]  # of a model with truncate_dim
        # normalised in float32: in bf16 the lengths, and with them the ranking of near ties, would be off by 0.4 %
        vectors[rows] = torch.nn.functional.normalize(output.float(), dim=-1).cpu().numpy()

    with nullcontext() if compiled else in_precision(model, precision):
        lengths = run_batches(model, texts, rows_here, compute, batch_size, progress, prompt)
    vectors = shared.exchange(rows_here)
    report_lengths(what, len(texts), lengths, model.max_seq_length)
    check_finite(vectors, texts)
    return vectors


def score_pairs(
    model: CrossEncoder | Committee,
    pairs: Sequence[tuple[str, str]],
    progress: Callable[[int], None] | None = None,
    batch_size: int | None = None,
    precision: Precision = "auto",
) -> list[float]:
    """A cross-encoder's scores of (query, document) pairs, in their order.

    They are logits, without the sigmoid that a model may end in: far from the threshold, a sigmoid makes all scores the
    same. Those of a committee are as ``committee_scores`` has them: the pairs of a query are standardized together.
    Under ``accelerate launch`` every process scores a part of the pairs, and all processes get all scores. Raises
    ``InputError`` for a model with several outputs.
    """
    if isinstance(model, Committee):
        advance = shared_progress(progress, len(model.members))
        rows = [score_pairs(member, pairs, advance, batch_size, precision) for member in model.members]
        return committee_scores(rows, [query for query, _ in pairs])
    if model.num_labels != 1:
        raise InputError(f"a reranker gives one score, and this model has {model.num_labels} outputs")
    rows_here = rows_of_process(pairs)
    shared = SharedRows((len(pairs),))
    scores = shared.values

    def compute(rows: np.ndarray, features: dict[str, Any]) -> None:
        scores[rows] = model(features)["scores"].float().flatten().cpu().numpy()

    model.eval()
    with in_precision(model, precision):
        lengths = run_batches(model, pairs, rows_here, compute, batch_size, progress)
    scores = shared.exchange(rows_here)
    report_lengths("pairs", len(pairs), lengths, model.max_seq_length)
    check_finite(scores, pairs)
    return scores.tolist()
