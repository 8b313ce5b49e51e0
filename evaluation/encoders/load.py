"""Models by name or folder, loaded without running anybody's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoConfig

from sharpen.evaluation.encoders.committee import Committee, committee_members
from sharpen.evaluation.encoders.decoders import make_decoders_ready
from sharpen.evaluation.encoders.model_files import check_kind, check_model_folder
from sharpen.evaluation.encoders.packaged import PACKAGED, packaged_encoder
from sharpen.evaluation.encoders.routes import check_no_part
from sharpen.evaluation.encoders.soundness import make_ready
from sharpen.evaluation.files import InputError, sha256_tree
from sharpen.evaluation.packaged_llms import PACKAGED_LLMS
from sharpen.evaluation.processes import process_state


def resolve_encoder(name: str) -> str:
    """Turn ``packaged:<name>`` into a folder; leave folders and hub names as they are.

    Raises ``InputError`` for an unknown packaged name, a package that is not installed, or a path that does not exist.
    """
    if name.startswith(PACKAGED):
        return str(packaged_encoder(name))
    path = Path(name).expanduser()
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2
    if looks_like_path and not path.is_dir():
        raise InputError(f"{name}: no such model folder")
    return str(path) if path.is_dir() else name


def load_encoder(
    name: str, device: str | None = None, max_seq_length: int | None = None, attention: str | None = None
) -> SentenceTransformer:
    """Load a sentence-transformers model, or any model of transformers with pooling on top: a causal language model's
    last token (``make_decoders_ready``), and the mean of all others' tokens.

    Weights are read from safetensors only (a pickle can run code), and code that a model brings is never run. Of a hub
    model, the commit is loaded that ``model_digest`` names.
    ``max_seq_length``: tokens a text is cut to (default: the model's own). ``device``: default as torch sees fit.
    ``attention``: as transformers names it (``eager``, ``sdpa``, ``flash_attention_2``, ...; default: the model's own).
    A tokenizer without a padding token pads with its end token, and texts are cut to what there are positions for; a
    warning says so. Raises ``InputError`` if the name cannot be loaded, for what is no dense encoder (sparse, late
    interaction, a cross-encoder) and for weights that are not finite.
    """
    source = checked_source(name, "SentenceTransformer")
    check_no_part(source)
    # float32 whatever the weights are stored in: in bf16 the small steps of training would round away
    arguments = {"use_safetensors": True, "dtype": torch.float32} | (
        {"attn_implementation": attention} if attention else {}
    )
    try:
        model = SentenceTransformer(
            source,
            device=device or str(process_state().device),
            trust_remote_code=False,
            revision=hub_commit(source),
            model_kwargs=arguments,
        )
        make_decoders_ready(model, name, bare=not has_modules(source))
    except Exception as error:  # what a file that is not as it should be, or a package that lacks, leads to
        raise not_loaded("encoder", name, error) from error
    make_ready(model, source, max_seq_length)
    return model


def load_cross_encoder(
    name: str, device: str | None = None, new_head: bool = False, max_seq_length: int | None = None
) -> CrossEncoder | Committee:
    """Load a reranker, as ``load_encoder`` loads an encoder; ``max_seq_length``: tokens of query and document together.

    A folder that names the members of a committee gives a ``Committee``. ``new_head``: an encoder gets a head for one
    score, its weights drawn at random, to be trained; without it, a model that has none is refused. Raises
    ``InputError`` for that, for one with several outputs, for a committee in the place of a model to be trained, and as
    ``load_encoder`` does.
    """
    if members := committee_members(name):
        if new_head:
            raise InputError(f"{name}: a committee of {len(members)}, and one model is trained; name {members[0]}")
        return Committee(tuple(load_cross_encoder(m, device, max_seq_length=max_seq_length) for m in members))
    source = checked_source(name, None if new_head else "CrossEncoder")
    try:
        revision = hub_commit(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, revision=revision or "main")
        _check_head(name, config, new_head)
        arguments = {"num_labels": 1} if new_head else {}
        model = CrossEncoder(
            source,
            device=device or str(process_state().device),
            trust_remote_code=False,
            revision=revision,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            **arguments,
        )
    except InputError:
        raise
    except Exception as error:  # as in load_encoder
        raise not_loaded("cross-encoder", name, error) from error
    make_ready(model, source, max_seq_length)
    return model


def model_digest(name: str) -> str:
    """What stands for a model in a fingerprint.

    Of a folder: the sum of its files; of a packaged LLM: of its file. Of a hub model: its name and commit, as
    ``hub:<name>@<commit>``, or ``hub:<name>@main`` where the commit is not known, as the model is neither in the cache
    nor is the hub reachable. Raises ``InputError`` as ``resolve_encoder`` does.
    """
    if llm := PACKAGED_LLMS.get(name.removeprefix(PACKAGED)) if name.startswith(PACKAGED) else None:
        return llm.sha256
    source = resolve_encoder(name)
    return sha256_tree(Path(source)) if Path(source).is_dir() else f"hub:{source}@{hub_commit(source) or 'main'}"


def checked_source(name: str, kind: str | None) -> str:
    """The folder or hub name, when what lies there can be loaded and, unless None, is of this kind."""
    source = resolve_encoder(name)
    folder = Path(source)
    if folder.is_dir():
        check_model_folder(folder)
    else:
        folder = _cached_folder(source)
    if kind and folder:
        check_kind(name, folder, kind)
    return source


def _check_head(name: str, config: Any, new_head: bool) -> None:
    """Raise ``InputError`` for an encoder in the place of a reranker, and for a head of several outputs."""
    architectures = config.architectures or []
    has_head = any(a.endswith("ForSequenceClassification") for a in architectures)
    if not has_head and not new_head:
        raise InputError(
            f"{name}: an encoder, not a reranker (its architecture is {', '.join(architectures) or 'not given'}),"
            " so its scores would be drawn at random; name a cross-encoder"
        )
    if has_head and config.num_labels != 1:
        raise InputError(
            f"{name}: a classifier with {config.num_labels} outputs, and a reranker has one score; name"
            f" {'an encoder, which gets a new head, or ' if new_head else ''}a cross-encoder with one output"
        )


def not_loaded(what: str, name: str, error: Exception) -> InputError:
    """What is raised for a model whose loading failed by ``error``."""
    known = isinstance(error, OSError | ValueError | ImportError)  # ImportError: an attention that is not installed
    return InputError(f"the {what} {name!r} could not be loaded: {'' if known else type(error).__name__ + ': '}{error}")


def folder_of(source: str) -> Path | None:
    """The folder of a model: its own, or of a hub model the one in the local cache; None where it is not there."""
    return Path(source) if Path(source).is_dir() else _cached_folder(source)


def _cached_folder(source: str) -> Path | None:
    """The folder of a hub model in the local cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    try:
        files = [try_to_load_from_cache(source, file) for file in ("modules.json", "config.json")]
    except ValueError:  # no name that the hub could have
        return None
    return next((Path(file).parent for file in files if isinstance(file, str)), None)


def has_modules(source: str) -> bool:
    """Whether the model's files list its modules, pooling among them."""
    folder = folder_of(source)
    return folder is not None and (folder / "modules.json").exists()


def hub_commit(source: str) -> str | None:
    """The commit of a hub model in the local cache, else the one that the hub has now; None for folders, and where
    neither is known."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if Path(source).is_dir():
        return None
    try:
        for file in ("config.json", "modules.json"):
            if isinstance(cached := try_to_load_from_cache(source, file), str):
                return Path(cached).parent.name  # .../snapshots/<commit>/config.json
        return None if constants.HF_HUB_OFFLINE else HfApi().model_info(source, timeout=10).sha
    except Exception:  # the network's and the hub's errors are of many kinds; loading says what is wrong
        return None
