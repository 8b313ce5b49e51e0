"""Models that a recipe names, tried before anything is computed or paid for: each is loaded and reads a few texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sentence_transformers import CrossEncoder

from sharpen.evaluation.encoders.committee import Committee
from sharpen.evaluation.encoders.families import (
    check_trainable_family,
    load_any,
    load_family,
    probe_any,
    probe_family,
)
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder, resolve_encoder
from sharpen.evaluation.encoders.settings import Family
from sharpen.evaluation.encoders.soundness import (
    check_recomputable,
    check_trainable,
    check_transformer,
    probe,
    probe_cross_encoder,
)
from sharpen.evaluation.files import visible_files
from sharpen.evaluation.processes import process_state

_passed: set[tuple] = set()
"""What was tried in this program and found good, so that a study with many runs tries each model once."""


def check_encoder(name: str) -> None:
    """Raise ``InputError`` for what cannot be loaded as a dense encoder, cannot read some text, or gives vectors by
    which nothing can be ranked."""
    _once("encoder", name, lambda: probe(load_encoder(name), name))


def check_base(name: str) -> None:
    """As ``check_encoder``, and for an encoder that cannot be trained."""

    def check() -> None:
        model = load_encoder(name, "cpu")  # a GPU may have room for it in training's form only
        check_trainable(model, name)
        probe(model, name)

    _once("base", name, check)


def check_any(name: str, family: Family) -> None:
    """As ``check_encoder``, for an encoder of whatever family it is; ``family``: of one whose files do not say it."""
    _once(f"any, {family}", name, lambda: probe_any(load_any(name, family), name))


def check_family_base(name: str, family: Family) -> None:
    """As ``check_base``, for what is to be trained as a sparse or multi-vector encoder."""

    def check() -> None:
        model = load_family(name, family, "cpu")
        check_trainable_family(model, name)
        probe_family(model, name)

    _once(f"base, {family}", name, check)


def check_transformer_base(name: str, key: str) -> None:
    """Raise ``InputError`` for a base that has no layers, so that the setting ``key`` has nothing to work on."""
    _once(f"transformer, {key}", name, lambda: check_transformer(load_encoder(name, "cpu"), name, key))


def check_recomputable_base(name: str) -> None:
    """Raise ``InputError`` for an encoder that has no gradient checkpointing."""
    _once("recomputable base", name, lambda: check_recomputable(load_encoder(name, "cpu"), name))


def check_cross_encoder(name: str) -> None:
    """Raise ``InputError`` for what cannot be loaded as a reranker or does not give a score for each pair."""
    _once("cross-encoder", name, lambda: _probe_all(load_cross_encoder(name), name))


def check_reranker_base(name: str) -> None:
    """Raise ``InputError`` for what no reranker can be trained from."""
    _once("reranker base", name, lambda: _probe_all(load_cross_encoder(name, new_head=True), name))


def _probe_all(model: CrossEncoder | Committee, name: str) -> None:
    for member in model.members if isinstance(model, Committee) else (model,):
        probe_cross_encoder(member, name)


def _once(kind: str, name: str, check: Callable[[], None]) -> None:
    """By the first process of a machine, and once for the same files."""
    source = resolve_encoder(name)
    folder = Path(source)
    files = sorted(visible_files(folder)) if folder.is_dir() else []
    stats = [(path, path.stat()) for path in files]
    key = (kind, source, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))
    if key not in _passed and process_state().is_local_main_process:
        check()
        _passed.add(key)
