"""A language model that writes the identifiers of documents, as a retriever."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from sharpen.evaluation.beir import Corpus, Run, chunks_by_document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.decoding import Mode, beam_search
from sharpen.evaluation.generative.identifiers import prompt_tokens
from sharpen.evaluation.generative.model import GenerativeModel
from sharpen.evaluation.retrievers.base import Advance

QUERIES_AT_ONCE = 32


class Generative:
    """Documents by the log-probability of their identifiers: ``log P(identifier | query)``, a negative number.

    ``corpus``: what is searched; an identifier of a document that was cut into chunks stands for its first chunk, one
    of a document that the corpus lacks for nothing. ``beams``: the most documents that a query gets; the model's own
    number where it is None. ``mode``: as of ``beam_search``. Raises ``InputError`` if the corpus has none of the
    model's documents. The same on every process of ``accelerate launch``.
    """

    name = "generative"

    def __init__(
        self,
        model: GenerativeModel,
        corpus: Corpus,
        beams: int | None = None,
        mode: Mode = "exact",
        progress: Advance | None = None,
    ) -> None:
        self._model, self._beams, self._mode, self._progress = model, beams or model.beams, mode, progress
        first = {doc_id: chunks[0].id for doc_id, chunks in chunks_by_document(corpus).items()}
        self._ids = [i if i in corpus else first.get(i) for i in model.identifiers]
        if not any(self._ids):
            raise InputError(
                f"the generative retriever knows {len(self._ids):,} documents (as {next(iter(model.identifiers))!r}),"
                " and none of them is in the corpus; it finds only documents that it was trained on"
            )

    @cached_property
    def unknown(self) -> list[str]:
        """Documents that the model knows and the corpus lacks."""
        return [i for i, found in zip(self._model.identifiers, self._ids, strict=True) if found is None]

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The best documents of each query: ``k``, and no more than there are beams."""
        gm = self._model
        prompts = [prompt_tokens(text, gm.tokenizer, gm.max_tokens) for text in queries.values()]
        # what the corpus lacks takes beams, too
        beams = min(self._beams + len(self.unknown), len(self._ids))
        found = beam_search(
            gm.model, prompts, gm.trie, beams, batch_size=QUERIES_AT_ONCE, mode=self._mode, progress=self._progress
        )
        return {
            query: dict([(self._ids[leaf], score) for leaf, score in leaves if self._ids[leaf]][: min(k, self._beams)])
            for query, leaves in zip(queries, found, strict=True)
        }
