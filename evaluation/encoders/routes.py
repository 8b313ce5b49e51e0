"""Models with one encoder for queries and another for documents (sentence-transformers' ``Router``)."""

from __future__ import annotations

from typing import Literal

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from sharpen.evaluation.files import InputError

Side = Literal["query", "document"]


def route_of(model: SentenceTransformer, side: Side) -> SentenceTransformer:
    """What encodes one side: the model itself, or its route, which shares the weights.

    Raises ``InputError`` for a model that has routes, and none for this side.
    """
    first = model[0]
    if not isinstance(first, Router):
        return model
    name = first.route_mappings.get((side, None), side)
    if name not in first.sub_modules:
        raise InputError(f"the model has routes for {', '.join(first.sub_modules)}, and none for a {side}")
    modules = [*first.sub_modules[name], *list(model.children())[1:]]
    routed = SentenceTransformer(modules=modules, device=str(model.device), prompts=dict(model.prompts or {}))
    routed.eval()
    return routed


def with_routes(query: SentenceTransformer, document: SentenceTransformer) -> SentenceTransformer:
    """One model that encodes queries by one encoder and documents by the other; ``encode_query`` and
    ``encode_document`` choose, and ``encode`` asks for ``task``."""
    router = Router(
        {"query": list(query.children()), "document": list(document.children())},
        default_route=None,
        allow_empty_key=False,  # or encode would take the documents' encoder for queries, too, without a word
    )
    return SentenceTransformer(modules=[router], device=str(query.device), prompts=dict(query.prompts or {}))
