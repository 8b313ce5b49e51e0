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
        self._ids = {i: i if i in corpus else first.get(i) for i in model.identifiers}
        if not any(self._ids.values()):
            raise InputError(
                f"the generative retriever knows {len(self._ids):,} documents (as {next(iter(model.identifiers))!r}),"
                " and none of them is in the corpus; it finds only documents that it was trained on"
            )

    @cached_property
    def unknown(self) -> list[str]:
        """Documents that the model knows and the corpus lacks."""
        return [i for i, found in self._ids.items() if found is None]

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The best documents of each query: ``k``, and no more than there are beams."""
        # what the corpus lacks takes beams, too
        found = search_identifiers(self._model, queries, self._beams + len(self.unknown), self._mode, self._progress)
        result: Run = {}
        for query, scores in found.items():
            here = [(self._ids[i], score) for i, score in scores.items() if self._ids[i]]
            result[query] = dict(here[: min(k, self._beams)])
        return result


def search_identifiers(
    model: GenerativeModel,
    texts: Mapping[str, str],
    beams: int | None = None,
    mode: Mode = "exact",
    progress: Advance | None = None,
) -> Run:
    """The best identifiers of each text, by the IDs of their documents, best first: ``beams`` (the model's own number
    where it is None), or all that there are. ``texts``: by ID."""
    documents = list(model.identifiers)
    prompts = [prompt_tokens(text, model.tokenizer, model.max_tokens) for text in texts.values()]
    found = beam_search(
        model.model,
        prompts,
        model.trie,
        beams or model.beams,
        batch_size=QUERIES_AT_ONCE,
        mode=mode,
        progress=progress,
    )
    return {key: {documents[leaf]: score for leaf, score in leaves} for key, leaves in zip(texts, found, strict=True)}
