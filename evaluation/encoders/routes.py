"""Models with one encoder for queries and another for documents (sentence-transformers' ``Router``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import nn

from sharpen.evaluation.files import InputError

Side = Literal["query", "document"]

ONE_SIDE = (
    "write one of the two as a model of its own, in Python: sharpen.evaluation.encoders.routes.route_of(model,"
    ' "query").save_pretrained("FOLDER")'
)
"""What to do where one encoder is asked for. The folder of a route's Transformer lacks its pooling and prompts."""
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of the documents' prompt, in the order in which sentence-transformers looks for it."""


def prompt_of(model: SentenceTransformer, side: Side, given: str | None = None) -> str:
    """What is put before the texts of a side: ``given``, or None for the model's own, as its ``encode_query`` and
    ``encode_document`` take it.

    Where these take none for documents, and the model has one named passage, a warning says so.
    """
    if given is not None:
        return given
    prompts = model.prompts or {}
    names = ("query",) if side == "query" else DOCUMENT_PROMPTS
    own = next((prompts[name] for name in names if name in prompts), "") or ""
    if not own and (unused := next((name for name in names if prompts.get(name)), None)):
        warnings.warn(
            f"the model has a prompt {unused!r} ({prompts[unused]!r}), and its own encode_document puts nothing before"
            " a document, as its prompt 'document' is empty; so do we. To use it, give document_prompt",
            stacklevel=2,
        )
    return own


def route_of(model: SentenceTransformer, side: Side) -> SentenceTransformer:
    """What encodes one side: the model itself, or its route, which shares the weights, as ``encode_query`` and
    ``encode_document`` choose it.

    Raises ``InputError`` for a model that has routes, and none for this side.
    """
    if not has_routes(model):
        return model
    modules = [module for each in model.children() for module in _modules_of(each, side)]
    routed = SentenceTransformer(modules=modules, device=str(model.device), prompts=dict(model.prompts or {}))
    routed.eval()
    return routed


def has_routes(model: SentenceTransformer) -> bool:
    """Whether queries and documents may go through other modules of it."""
    return any(isinstance(module, Router) for module in model.children())


def check_no_part(source: str) -> None:
    """Raise ``InputError`` for a module's folder within that of a model with routes: loaded by itself it would be
    another model, with mean pooling and without prompts."""
    folder = Path(source).absolute()
    if (folder.parent / "router_config.json").is_file() and not (folder / "modules.json").exists():
        raise InputError(f"{source}: a part of {folder.parent}, which has an encoder for each side; {ONE_SIDE}")


def _modules_of(module: nn.Module, side: Side) -> Iterator[nn.Module]:
    if not isinstance(module, Router):
        yield module
        return
    rules = ((side, "text"), (side, None), (None, "text"), (None, None))
    by_rule = next((module.route_mappings[rule] for rule in rules if rule in module.route_mappings), None)
    name = by_rule or next((name for name in (side, "text") if name in module.sub_modules), None)
    if name is None:
        raise InputError(f"the model has routes for {', '.join(module.sub_modules)}, and none for a {side}")
    for inner in module.sub_modules[name]:
        yield from _modules_of(inner, side)


def with_routes(query: SentenceTransformer, document: SentenceTransformer) -> SentenceTransformer:
    """One model that encodes queries by one encoder and documents by the other; ``encode_query`` and
    ``encode_document`` choose, and ``encode`` asks for ``task``."""
    router = Router(
        {"query": list(query.children()), "document": list(document.children())},
        default_route=None,
        allow_empty_key=False,  # or encode would take the documents' encoder for queries, too, without a word
    )
    return SentenceTransformer(modules=[router], device=str(query.device), prompts=dict(query.prompts or {}))
