"""An exported folder as an encoder of texts, read by what its format is for, without torch's weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from sharpen.evaluation.cores import cores
from sharpen.evaluation.encoders.routes import Side
from sharpen.evaluation.export.gguf_file import GGUF_FILE
from sharpen.evaluation.export.graphs import INPUTS, onnx_forward, openvino_forward
from sharpen.evaluation.files import InputError
from sharpen.evaluation.llama_cpp import Served, serve_encoder

EXPORT_FILE = "export.json"
TOKENS_AT_ONCE = 3072
TEXTS_AT_ONCE = 16
"""Of a request to a server."""

Format = Literal["onnx", "openvino", "int8", "gguf"]


class CosineCheck(BaseModel):
    """Cosine of the exported model's vectors to those of the model in float32, over ``texts`` texts; ``least_text``:
    the one that differs most."""

    texts: int
    mean_cosine: float
    least_cosine: float
    least_text: str


class ExportInfo(BaseModel):
    """``export.json``: what was exported, and how well it gives the same vectors.

    ``model``: its digest. ``max_seq_length``: tokens that a text is cut to, with prompt and special ones.
    ``normalized``: whether the model itself gives vectors of length 1. ``bytes``: of the weights' files.
    """

    format: Format
    model: str
    dimension: int
    max_seq_length: int
    pooling: str
    normalized: bool
    query_prompt: str
    document_prompt: str
    bytes: int = 0
    check: CosineCheck | None = None

    @classmethod
    def read(cls, folder: Path) -> ExportInfo:
        """Raises ``InputError`` where there is no such file, or another one."""
        path = folder / EXPORT_FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{folder}: no exported model ({EXPORT_FILE} is missing)") from None
        except ValidationError as error:
            raise InputError(f"{path}: not what `sharpen export-model` writes ({error.errors()[0]['msg']})") from None

    def prompt(self, side: Side) -> str:
        return self.query_prompt if side == "query" else self.document_prompt


@dataclass(frozen=True)
class ExportedEncoder:
    """Gives the vectors of texts as whoever serves the folder would."""

    info: ExportInfo
    _tokenizer: Any
    _vectors_of: Callable[[list[str]], np.ndarray]
    _at_once: int = 1
    """Batches; each is computed on a core of its own."""

    def encode(self, texts: Sequence[str], side: Side) -> np.ndarray:
        """Unit vectors: float32 of shape (len(texts), dimension), in the order of ``texts``."""
        prompted = [self.info.prompt(side) + text for text in texts]
        lengths = [len(ids) for ids in self._ids(prompted)]
        order, batches = np.argsort([-length for length in lengths], kind="stable"), []
        while (start := sum(map(len, batches))) < len(order):
            batches.append(order[start : start + max(8, TOKENS_AT_ONCE // max(1, lengths[order[start]]))])
        vectors = np.zeros((len(texts), self.info.dimension), dtype=np.float32)

        def compute(rows: np.ndarray) -> None:
            vectors[rows] = self._vectors_of([prompted[row] for row in rows])

        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(compute, batches))
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(texts, truncation=True, max_length=self.info.max_seq_length)["input_ids"]


@contextmanager
def open_export(folder: Path, threads: int | None = None) -> Iterator[ExportedEncoder]:
    """The encoder in an exported folder, for the length of the block: a GGUF file is served by llama.cpp meanwhile.

    ``threads``: default, one a core, and of llama.cpp one, as its threads wait for each other in a loop, which takes
    many times as long where other processes are at work. Raises ``InputError`` if the folder is no exported model, or
    what runs it is not installed.
    """
    from transformers import AutoTokenizer

    info = ExportInfo.read(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if info.format == "gguf":
        with serve_encoder(folder / GGUF_FILE, info.max_seq_length, threads or 1) as served:
            yield ExportedEncoder(info, tokenizer, _by_server(served, tokenizer, info.max_seq_length))
        return
    at_once, alone = threads or cores(), threading.Lock()  # a tokenizer cannot be set while another thread uses it
    forward = openvino_forward(folder, at_once) if info.format == "openvino" else onnx_forward(folder)

    def vectors_of(texts: list[str]) -> np.ndarray:
        options = {"truncation": True, "max_length": info.max_seq_length, "padding": True, "return_tensors": "np"}
        with alone:
            features = tokenizer(texts, return_token_type_ids=True, **options)
        return forward({name: features[name].astype(np.int64) for name in INPUTS})

    yield ExportedEncoder(info, tokenizer, vectors_of, at_once)


def cut_text(tokenizer: Any, text: str, tokens: int) -> str:
    """The part of a text that ``tokens`` tokens with the special ones stand for, for a server that does not cut texts
    itself. The last word may be cut so that it is read otherwise: then it loses characters until it fits."""

    def length(part: str) -> int:
        return len(tokenizer(part, verbose=False)["input_ids"])

    if length(text) <= tokens:
        return text
    encoded = tokenizer(text, truncation=True, max_length=tokens, return_offsets_mapping=True, verbose=False)
    end = max((stop for _, stop in encoded["offset_mapping"]), default=0)
    while end and length(text[:end]) > tokens:
        end -= 1
    return text[:end]


def _by_server(served: Served, tokenizer: Any, tokens: int) -> Callable[[list[str]], np.ndarray]:
    import openai

    client = openai.OpenAI(
        base_url=served.base_url, api_key=served.api_key, http_client=openai.DefaultHttpxClient(trust_env=False)
    )

    def vectors_of(texts: list[str]) -> np.ndarray:
        cut = [cut_text(tokenizer, text, tokens) for text in texts]
        parts = [cut[start : start + TEXTS_AT_ONCE] for start in range(0, len(cut), TEXTS_AT_ONCE)]
        answers = [client.embeddings.create(model="embedded", input=part, encoding_format="float") for part in parts]
        return np.asarray([row.embedding for answer in answers for row in answer.data], dtype=np.float32)

    return vectors_of
