"""A language model that writes the identifiers of documents, as a retriever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from accelerate.utils import gather_object

from sharpen.evaluation.beir import Corpus, Run, chunks_by_document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.decoding import Mode, beam_search
from sharpen.evaluation.generative.identifiers import prompt_tokens
from sharpen.evaluation.generative.model import GenerativeModel
from sharpen.evaluation.processes import process_state
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
        self._beams, self._mode, self._progress = beams or model.beams, mode, progress
        first = {doc_id: chunks[0].id for doc_id, chunks in chunks_by_document(corpus).items()}
        named = {i: i if i in corpus else first.get(i) for i in model.identifiers}
        self._ids = {i: found for i, found in named.items() if found is not None}
        self.unknown = [i for i in named if i not in self._ids]
        """Documents that the model knows and the corpus lacks."""
        # scores are the model's own, so that those of the others do not change when some cannot be written
        known = {i: model.identifiers[i] for i in self._ids}
        self._model = replace(model, identifiers=known) if self.unknown else model
        if not known:
            raise InputError(
                f"the generative retriever knows {len(named):,} documents (as {next(iter(model.identifiers))!r}),"
                " and none of them is in the corpus; it finds only documents that it was trained on"
            )

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The best documents of each query: ``k``, and no more than there are beams."""
        found = search_identifiers(self._model, queries, self._beams, self._mode, self._progress)
        return {q: {self._ids[i]: s for i, s in list(scores.items())[:k]} for q, scores in found.items()}


def search_identifiers(
    model: GenerativeModel,
    texts: Mapping[str, str],
    beams: int | None = None,
    mode: Mode = "exact",
    progress: Advance | None = None,
) -> Run:
    """The best identifiers of each text, by the IDs of their documents, best first: ``beams`` (the model's own number
    where it is None), or all that there are. ``texts``: by ID. Under ``accelerate launch`` every process must call
    this: each searches a part, and has all results."""
    state, documents = process_state(), list(model.identifiers)
    mine = {key: texts[key] for key in list(texts)[state.process_index :: state.num_processes]}
    prompts = [prompt_tokens(text, model.tokenizer, model.max_tokens) for text in mine.values()]
    found = beam_search(
        model.model,
        prompts,
        model.trie,
        beams or model.beams,
        batch_size=QUERIES_AT_ONCE,
        mode=mode,
        progress=progress,
    )
    run = {key: {documents[leaf]: score for leaf, score in leaves} for key, leaves in zip(mine, found, strict=True)}
    if state.num_processes > 1:
        of_all = {key: scores for part in gather_object([run]) for key, scores in part.items()}
        run = {key: of_all[key] for key in texts}
    return run
