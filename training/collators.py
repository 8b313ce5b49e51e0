"""Batches of IDs become what a model reads: here, and only here, texts are looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.encoders.families import AnyEncoder, family_of
from sharpen.evaluation.encoders.tokens import Tokens, is_right_padded_text, join, report_inputs, split

QUERY_COLUMNS = ("anchor", "query")
"""Of retriever and reranker; all other columns are documents, but ``label``."""


@dataclass(frozen=True)
class Texts:
    """The texts of queries and documents, by ID.

    >>> Texts({"q": Query("q", "how long?")}, {}).lookup("anchor", "q")
    'how long?'
    """

    queries: Mapping[str, Query]
    corpus: Corpus

    def lookup(self, column: str, value: Any) -> Any:
        """The text of an ID, or of each of a list; a label as it is."""
        if column == "label":
            return value
        if column in QUERY_COLUMNS:
            return self.queries[value].text
        return [self.corpus[i].content for i in value] if isinstance(value, list) else self.corpus[value].content


class RetrieverCollator(SentenceTransformerDataCollator):
    """Tokenises each text once, in the first batch that has it."""

    def set_texts(self, texts: Texts, model: AnyEncoder) -> None:
        """``model``: whose ``preprocess`` the collator has."""
        self._texts, self._model = texts, model
        # for texts that are shorter than their batch; a table of tokens' vectors has no padding
        self._padding_id = getattr(model.tokenizer, "pad_token_id", None) or 0
        self._by_side = family_of(model) != "dense"
        self._tokens: dict[tuple[bool, str], Tokens] = {}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for column in features[0]:
            values = [row[column] for row in features]
            if column == "label":
                batch["label"] = torch.tensor(values)
            else:
                batch |= {f"{column}_{key}": value for key, value in self._column(column, values).items()}
        return batch

    def _column(self, column: str, ids: list[str]) -> dict[str, Any]:
        is_query = column in QUERY_COLUMNS
        if new := [i for i in dict.fromkeys(ids) if (is_query, i) not in self._tokens]:
            features = self._preprocess(column, new)
            if not is_right_padded_text(features):  # flattened, or more than token IDs: as the model wants it
                return self._preprocess(column, ids)
            self._tokens |= zip([(is_query, i) for i in new], split(features), strict=True)
        return join([self._tokens[is_query, i] for i in ids], self._padding_id)

    def _preprocess(self, column: str, ids: list[str]) -> dict[str, Any]:
        texts, prompt = [self._texts.lookup(column, i) for i in ids], self.prompts.get(column)
        is_query = column in QUERY_COLUMNS
        side = {"task": "query" if is_query else "document"} if self._by_side else {}
        features = self.preprocess_fn(texts, prompt=prompt, **side)
        report_inputs("queries" if is_query else "documents", self._model, texts, features, prompt or "")
        return features


class RerankerCollator(CrossEncoderDataCollator):
    """Pairs of texts for a cross-encoder."""

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        lookup = self._texts.lookup
        return super().__call__([{column: lookup(column, value) for column, value in row.items()} for row in features])


@contextmanager
def reported_pairs(model: CrossEncoder) -> Iterator[None]:
    """In the block, who collects truncations is told of the pairs that the losses have ``model`` preprocess."""
    preprocess = model.preprocess

    def reporting(inputs: Sequence[Any], *args: Any, **options: Any) -> Any:
        features = preprocess(inputs, *args, **options)
        report_inputs("pairs", model, inputs, features)
        return features

    model.preprocess = reporting
    try:
        yield
    finally:
        del model.preprocess
