"""Language models that write identifiers: loaded from safetensors or GGUF, saved with what a search needs."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sharpen.evaluation.encoders.load import hub_commit, resolve_encoder
from sharpen.evaluation.encoders.model_files import LFS, check_model_folder
from sharpen.evaluation.encoders.packaged import PACKAGED, make_once
from sharpen.evaluation.encoders.soundness import check_weights
from sharpen.evaluation.files import InputError, atomic_folder, cache_folder, sha256_file, sha256_tree, write_json
from sharpen.evaluation.generative.identifiers import (
    IDENTIFIERS,
    PROMPT_END,
    Identifiers,
    identifier_tokens,
    read_identifiers,
    write_identifiers,
)
from sharpen.evaluation.generative.trie import Trie
from sharpen.evaluation.packaged_llms import PACKAGED_LLMS, locate_llm
from sharpen.evaluation.processes import process_state

SETTINGS = "generative.json"
TRIE = "trie.safetensors"
GGUF = ".gguf"
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How transformers' classes of language models end."""
TAKE_A_CAUSAL_ONE = "name a causal language model, as packaged:smollm2-135m-instruct"


@dataclass(frozen=True)
class GenerativeModel:
    """A generative retriever. ``max_tokens``: of a prompt, its end among them, as in ``prompt_tokens``; ``beams``: that
    it is searched with where nothing else is said; ``base``: what it was trained from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identifiers: Identifiers
    max_tokens: int
    beams: int = 10
    base: str = ""

    @cached_property
    def trie(self) -> Trie:
        """Of ``tokens``: leaf n is the n-th identifier."""
        return Trie.of(self.tokens)

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        """Of each identifier, as ``identifier_tokens`` has them."""
        return identifier_tokens(self.identifiers, self.tokenizer)


def load_causal_lm(name: str, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model in float32, with its tokenizer.

    ``name``: a folder of transformers with safetensors, a GGUF file or a folder with one (dequantised once, into the
    cache), ``packaged:<name>`` or a hub name, of which the commit is loaded that ``causal_lm_digest`` names. Code
    that a model brings is never run. ``device``: default as torch sees fit. A tokenizer without a padding token pads
    with its end token, with a warning. Raises ``InputError`` for what cannot be loaded, is not causal (encoders,
    encoder-decoders), has no end token, or has weights that are not finite.
    """
    source = _source(name)
    if source.endswith(GGUF):
        source = str(_dequantized(name, Path(source)))
    try:
        model, tokenizer = _load(name, source)
    except InputError:
        raise
    except Exception as error:  # what a file that is not as it should be, or a package that lacks, leads to
        raise _not_loaded(name, error) from error
    check_weights(model, source)
    _prepare_tokenizer(name, model, tokenizer)
    model = model.to(device or process_state().device).eval()
    _check_causal(name, model)
    return model, tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of ``load_causal_lm``, without the weights."""
    source = _source(name)
    if source.endswith(GGUF):
        source = str(_dequantized(name, Path(source)))
    try:
        return _load_tokenizer(source)
    except Exception as error:
        raise _not_loaded(name, error) from error


def packaged_folder(name: str) -> Path:
    """``packaged:<name>`` of an LLM as a folder with safetensors, in the cache. Raises ``InputError`` as
    ``load_causal_lm`` does."""
    return _dequantized(name, Path(_source(name)))


def causal_lm_digest(name: str) -> str:
    """What stands for a language model in a fingerprint: the sum of its file or files, or ``hub:<name>@<commit>``.
    Raises ``InputError`` where there is none."""
    short = name.removeprefix(PACKAGED)
    if name.startswith(PACKAGED) and short in PACKAGED_LLMS:
        return PACKAGED_LLMS[short].sha256
    source = _source(name)
    if source.endswith(GGUF):
        return sha256_file(Path(source))
    return sha256_tree(Path(source)) if Path(source).is_dir() else f"hub:{source}@{hub_commit(source) or 'main'}"


def check_causal_lm(name: str) -> None:
    """Raise ``InputError`` as ``load_causal_lm`` does."""
    load_causal_lm(name, "cpu")


def save_generative(folder: Path, retriever: GenerativeModel) -> None:
    """Write a folder that transformers loads by itself (safetensors), with the identifiers and what a search needs
    beside it; whole or not at all.

    Adapters must have been merged. Raises ``InputError`` for identifiers of which two have the same tokens, and for
    weights that are not finite.
    """
    retriever.trie  # noqa: B018 - which cannot be made of identifiers of the same tokens
    check_weights(retriever.model, str(folder))
    with atomic_folder(folder) as written:
        retriever.model.save_pretrained(str(written), safe_serialization=True)
        retriever.tokenizer.save_pretrained(str(written))
        write_identifiers(written / IDENTIFIERS, retriever.identifiers.values())
        retriever.trie.save(written / TRIE)
        values = {"base": retriever.base, "prompt_end": PROMPT_END, "max_tokens": retriever.max_tokens}
        write_json(written / SETTINGS, values | {"beams": retriever.beams})


def load_generative(folder: Path | str, device: str | None = None) -> GenerativeModel:
    """Load what ``save_generative`` wrote. Raises ``InputError`` for a folder without it, and as ``load_causal_lm``
    does."""
    folder = Path(folder)
    settings, identifiers = is_there(folder, SETTINGS), read_identifiers(is_there(folder, IDENTIFIERS))
    try:
        values = json.loads(settings.read_text(encoding="utf-8"))
        max_tokens, beams, end = int(values["max_tokens"]), int(values["beams"]), values["prompt_end"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{settings}: expected prompt_end, max_tokens and beams ({error})") from None
    if end != PROMPT_END:
        raise InputError(f"{settings}: prompts end with {end!r} there, and with {PROMPT_END!r} here; train it anew")
    model, tokenizer = load_causal_lm(str(folder), device)
    retriever = GenerativeModel(model, tokenizer, identifiers, max_tokens, beams, str(values.get("base", "")))
    if (folder / TRIE).is_file():
        trie = Trie.load(folder / TRIE)
        if trie.leaves != len(identifiers):
            raise InputError(
                f"{folder / TRIE}: has {trie.leaves:,} identifiers, and {IDENTIFIERS} {len(identifiers):,}; remove it,"
                " and it is made anew"
            )
        vars(retriever)["trie"] = trie  # as if it had been asked for before
    return retriever


def is_there(folder: Path, file: str) -> Path:
    """The file of a generative retriever's folder. Raises ``InputError`` if it is not there."""
    if not (path := folder / file).is_file():
        raise InputError(f"{path}: no such file, so {folder} is no generative retriever; train one, or name its folder")
    return path


def _source(name: str) -> str:
    """A folder, a GGUF file or a hub name."""
    if name.startswith(PACKAGED) or name.endswith(GGUF):
        return str(_checked_file(locate_llm(name.removeprefix(PACKAGED))))
    source = resolve_encoder(name)
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(folder.glob(f"*{GGUF}"))
    if files and not any(folder.glob("*.safetensors")):
        if len(files) > 1:
            raise InputError(f"{folder}: there are {', '.join(f.name for f in files)}; name one of these files")
        return str(_checked_file(files[0]))
    check_model_folder(folder)
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder}: adapters of a model; merge them into it first (PEFT's merge_and_unload) and save it"
        )
    return source


def _dequantized(name: str, file: Path) -> Path:
    """A GGUF file as a folder with safetensors in the cache: reading the one takes a minute, and the other seconds."""
    folder = cache_folder() / "llm" / f"{file.stem}-{sha256_file(file)[:12]}"

    def write(written: Path) -> None:
        try:
            model, tokenizer = _load(name, str(file.parent), gguf_file=file.name)
        except Exception as error:
            raise _not_loaded(name, error) from error
        model.hf_quantizer = None  # nothing of the file's form is left, and what is saved says so
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(str(written), safe_serialization=True)
        tokenizer.save_pretrained(str(written))

    return make_once(folder, write)


def _load(name: str, source: str, **of_gguf: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options: dict[str, Any] = of_gguf | _safe(source)
    if not of_gguf:
        _check_architecture(name, AutoConfig.from_pretrained(source, **options))
    tokenizer = _load_tokenizer(source, **of_gguf)
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **options), tokenizer


def _load_tokenizer(source: str, **of_gguf: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(source, **of_gguf, **_safe(source))


def _safe(source: str) -> dict[str, Any]:
    return {"trust_remote_code": False, "revision": hub_commit(source) or "main"}


def _not_loaded(name: str, error: Exception) -> InputError:
    known = isinstance(error, OSError | ValueError | ImportError)  # ImportError: gguf is not installed
    kind = "" if known else f"{type(error).__name__}: "
    return InputError(f"the language model {name!r} could not be loaded: {kind}{error}")


def _checked_file(path: Path) -> Path:
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if start == LFS:
        raise InputError(f"{path}: a git-lfs pointer in the place of the file; run git lfs pull in the repository")
    if not start.startswith(b"GGUF"):
        raise InputError(f"{path}: not a GGUF file (it does not begin with GGUF); fetch it anew")
    return path


def _check_architecture(name: str, config: Any) -> None:
    architectures = config.architectures or []
    wrong = [a for a in architectures if not a.endswith(CAUSAL)]
    encoder = config.model_type.endswith(("bert", "electra", "roberta")) and not config.is_decoder
    if wrong or encoder or getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{name}: its architecture, {', '.join(architectures) or config.model_type}, does not write text from left"
            f" to right; {TAKE_A_CAUSAL_ONE}"
        )


def _prepare_tokenizer(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{name}: its tokenizer has no end token, which tells where an identifier ends; set eos_token in"
            " tokenizer_config.json"
        )
    if len(tokenizer) > (rows := model.get_input_embeddings().num_embeddings):
        raise InputError(
            f"{name}: the tokenizer has {len(tokenizer):,} tokens and the model embeddings for {rows:,}; they do not"
            " belong together"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        warnings.warn(
            f"{name}: its tokenizer has no padding token; the end token {tokenizer.eos_token!r} pads", stacklevel=3
        )
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _check_causal(name: str, model: PreTrainedModel) -> None:
    """A token must not change what was read before it: a trie is walked from left to right."""
    tokens = (
        torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device) % model.get_input_embeddings().num_embeddings
    )
    try:
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[:, :3].float()
    except Exception as error:
        raise InputError(f"{name}: cannot read four tokens ({type(error).__name__}: {error})") from error
    if not torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3):
        raise InputError(f"{name}: what it makes of a token hangs on those behind it; {TAKE_A_CAUSAL_ONE}")
