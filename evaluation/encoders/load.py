"""Models by name or folder, loaded without running anybody's code."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoConfig

from sharpen.evaluation.encoders.committee import Committee, committee_members
from sharpen.evaluation.encoders.packaged import PACKAGED, packaged_encoder
from sharpen.evaluation.files import InputError, sha256_tree
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
    """Load a sentence-transformers model, or any Hugging Face encoder with mean pooling on top.

    Weights are read from safetensors only (a pickle can run code), and code that a model brings is never run. Of a hub
    model, the commit is loaded that ``model_digest`` names.
    ``max_seq_length``: tokens a text is cut to (default: the model's own). ``device``: default as torch sees fit.
    ``attention``: as transformers names it (``eager``, ``sdpa``, ``flash_attention_2``, ...; default: the model's own).
    Raises ``InputError`` if the name cannot be loaded.
    """
    source = resolve_encoder(name)
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
    except (OSError, ValueError, ImportError) as error:  # ImportError: an attention whose package is not installed
        raise InputError(f"the encoder {name!r} could not be loaded: {error}") from error
    if max_seq_length:
        model.max_seq_length = max_seq_length
    return model


def load_cross_encoder(
    name: str, device: str | None = None, new_head: bool = False, max_seq_length: int | None = None
) -> CrossEncoder | Committee:
    """Load a reranker, as ``load_encoder`` loads an encoder; ``max_seq_length``: tokens of query and document together.

    A folder that names the members of a committee gives a ``Committee``. ``new_head``: an encoder gets a head for one
    score, its weights drawn at random, to be trained; without it, a model that has none is refused. Raises
    ``InputError`` for that, for a committee in the place of a model to be trained, and if the name cannot be loaded.
    """
    if members := committee_members(name):
        if new_head:
            raise InputError(f"{name}: a committee of {len(members)}, and one model is trained; name {members[0]}")
        return Committee(tuple(load_cross_encoder(m, device, max_seq_length=max_seq_length) for m in members))
    source = resolve_encoder(name)
    try:
        revision = hub_commit(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, revision=revision or "main")
        architectures = config.architectures or []
        if not new_head and not any(a.endswith("ForSequenceClassification") for a in architectures):
            raise InputError(
                f"{name}: an encoder, not a reranker (its architecture is {', '.join(architectures) or 'not given'}),"
                " so its scores would be drawn at random; name a cross-encoder"
            )
        arguments = {"num_labels": 1} if new_head else {}
        model = CrossEncoder(
            source,
            device=device or str(process_state().device),
            trust_remote_code=False,
            revision=revision,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            **arguments,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"the cross-encoder {name!r} could not be loaded: {error}") from error
    if max_seq_length:
        model.max_seq_length = max_seq_length
    return model


def model_digest(name: str) -> str:
    """What stands for a model in a fingerprint.

    Of a folder: the sum of its files. Of a hub model: its name and commit, as ``hub:<name>@<commit>``, or
    ``hub:<name>@main`` where the commit is not known, as the model is neither in the cache nor is the hub reachable.
    Raises ``InputError`` as ``resolve_encoder`` does.
    """
    source = resolve_encoder(name)
    return sha256_tree(Path(source)) if Path(source).is_dir() else f"hub:{source}@{hub_commit(source) or 'main'}"


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
