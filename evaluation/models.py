"""Encoders: what a name stands for, loading without running anybody's code, and encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoConfig

from evaluation.cpu import FusedLinear, fused_linears, use_cpu_attention
from evaluation.files import InputError
from evaluation.int8 import has_int8, int8_linears
from evaluation.packaged import PACKAGED, packaged_encoder
from evaluation.tokens import Tokens, is_right_padded_text, join, split

CHARACTERS_PER_TOKEN = 4
SORTED_AT_ONCE = 4096
"""Texts, the longest first by their characters, that are tokenised and sorted by their tokens before the next are: what is kept
of these takes some 50 MiB at most. Measured with functions of code, sorted by characters alone: a quarter of all was padding."""
SORTED_FIRST = 512
"""Of the longest of all, fewer: nothing is computed until these are tokenised."""
TOKENISED_AT_ONCE = 256
CHARACTERS_EACH = 4096
"""In the mean: where texts have more, fewer are taken, as a tokenizer holds all of a text, also what it cuts off."""
WIDTH_STEP = 8
"""Widths of batches are multiples of this, and those of the same width have as many texts: for each shape, the CPU's matrix
library keeps some 0.4 MiB."""
TOKENS_AT_ONCE = 3072
"""On a CPU. Measured on 2 cores with texts of 240 tokens in int8: half as many take some tenth longer, twice as many are no
faster and take 0.1 GiB."""
SHARES = 16
"""Batches that few texts are still divided into, so that no core waits long for another's last."""
ENOUGH_FOR_INT8 = 2**19
"""Characters from which on it pays to make int8 layers, which takes as long as encoding some 20,000, and once on a machine some
three seconds more (``evaluation.kernels``)."""
SAMPLED = 12_000
"""Characters of texts that int8 layers are made and compared by."""


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


def load_encoder(name: str, device: str | None = None, max_seq_length: int | None = None, attention: str | None = None) -> SentenceTransformer:
    """Load a sentence-transformers model, or any Hugging Face encoder with mean pooling on top.

    Weights are read from safetensors only (a pickle can run code), and code that a model brings is never run.
    ``max_seq_length``: tokens a text is cut to (default: the model's own). ``device``: default as torch sees fit.
    ``attention``: as transformers names it (``eager``, ``sdpa``, ``flash_attention_2``, ...; default: the model's own).
    Raises ``InputError`` if the name cannot be loaded.
    """
    source = resolve_encoder(name)
    # float32 whatever the weights are stored in: in bf16 the small steps of training would round away
    arguments = {"use_safetensors": True, "dtype": torch.float32} | ({"attn_implementation": attention} if attention else {})
    try:
        model = SentenceTransformer(source, device=device or str(process_state().device), trust_remote_code=False, model_kwargs=arguments)
    except (OSError, ValueError, ImportError) as error:  # ImportError: an attention whose package is not installed
        raise InputError(f"the encoder {name!r} could not be loaded: {error}") from error
    if attention is None:
        use_cpu_attention(model)
    if max_seq_length:
        model.max_seq_length = max_seq_length
    return model


def load_cross_encoder(name: str, device: str | None = None, new_head: bool = False, max_seq_length: int | None = None) -> CrossEncoder:
    """Load a reranker, as ``load_encoder`` loads an encoder; ``max_seq_length``: tokens of query and document together.

    ``new_head``: an encoder gets a head for one score, its weights drawn at random, to be trained; without it, a model that
    has none is refused. Raises ``InputError`` for that, and if the name cannot be loaded.
    """
    source = resolve_encoder(name)
    try:
        architectures = AutoConfig.from_pretrained(source, trust_remote_code=False).architectures or []
        if not new_head and not any(a.endswith("ForSequenceClassification") for a in architectures):
            raise InputError(f"{name}: an encoder, not a reranker (its architecture is {', '.join(architectures) or 'not given'}), so its scores would be drawn at random; name a cross-encoder")
        arguments = {"num_labels": 1} if new_head else {}
        model = CrossEncoder(source, device=device or str(process_state().device), trust_remote_code=False, model_kwargs={"use_safetensors": True, "dtype": torch.float32}, **arguments)
    except (OSError, ValueError) as error:
        raise InputError(f"the cross-encoder {name!r} could not be loaded: {error}") from error
    use_cpu_attention(model)
    if max_seq_length:
        model.max_seq_length = max_seq_length
    return model


def process_state() -> PartialState:
    """Which of the processes of ``accelerate launch`` this is, and its device.

    The time-out is long because all processes wait while the first one asks an LLM.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=3))


def end_processes() -> None:
    """Wait for all processes of ``accelerate launch`` and take their connection down.

    Leaving that to the end of the interpreter aborts a process now and then: its threads still wait for another one.
    """
    state = process_state()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()


def autocast(device: torch.device | str):
    """bf16 autocast where the hardware multiplies in bf16, else nothing: elsewhere it is emulated, and slower."""
    device = torch.device(device)
    return torch.autocast(device.type, dtype=torch.bfloat16) if has_bf16(device) else nullcontext()


@contextmanager
def in_bf16(model: torch.nn.Module) -> Iterator[dict[torch.nn.Linear, FusedLinear]]:
    """The model's weights in bf16 where the hardware multiplies in it, and as they were at the end. Yields the layers that a
    CPU computes in one step each.

    For inference only. Autocast would keep what lies between the layers in float32, and cast it anew for each product:
    measured 6 % slower on a CPU, for embeddings hardly nearer to those of float32 (cosine 0.99998 in place of 0.99995).
    """
    places = [place for module in model.modules() for place in (module._parameters, module._buffers)] if has_bf16(next(model.parameters()).device) else []
    kept = [(place, name, tensor) for place in places for name, tensor in place.items() if tensor is not None and tensor.is_floating_point()]
    # other tensors in their places, not other data in the same: that takes away from a parameter what gathers its gradients,
    # and with it what DistributedDataParallel has hung there to send them to other processes
    narrow = {tensor: torch.nn.Parameter(tensor.detach().to(torch.bfloat16), requires_grad=False) for _, _, tensor in kept}
    try:
        for place, name, tensor in kept:
            place[name] = narrow[tensor]
        with fused_linears(model) as layers:
            yield layers
    finally:
        for place, name, tensor in kept:
            place[name] = tensor


def has_bf16(device: torch.device | str) -> bool:
    """Whether the device has bf16 matrix instructions (AVX512_BF16 or AMX on a CPU; Ampere or newer of NVIDIA's)."""
    kind = torch.device(device).type
    if kind == "cpu":
        return any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    prompt: str = "",
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Encode to unit vectors: float32 of shape (len(texts), dimension), in the order of ``texts``.

    ``prompt`` is put before every text. ``batch_size``: texts at once (default: 256; on a CPU, 8 and as many more as make some
    3,000 tokens). Texts are taken in order of length, so that a batch has little padding. Under ``accelerate launch`` every
    process encodes a share and all of them get the whole. ``progress`` is called with the number of texts of each finished
    batch. Weights are taken in bf16 where the device multiplies in it; from half a million characters on, on a CPU that
    multiplies int8 with one instruction, in int8 if the vectors of a sample stay near (``evaluation.int8``;
    ``SHARPEN_INT8=0`` in the environment keeps bf16).
    """
    order, mine = _order(texts)
    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)

    in_int8 = False

    def embed(features: dict[str, Any]) -> torch.Tensor:
        output = model(_without_padding(features) if in_int8 else features)["sentence_embedding"].float()
        # normalised in float32: in bf16 the lengths, and with them the ranking of near ties, would be off by 0.4 %
        return torch.nn.functional.normalize(output, dim=-1)

    def compute(rows: np.ndarray, features: dict[str, Any]) -> None:
        vectors[rows] = embed(features).cpu().numpy()

    def embed_sample(sample: Sequence[str]) -> torch.Tensor:
        read = _Inputs(model, sample, prompt)
        with torch.inference_mode():
            found = [(rows, embed(read.features(rows))) for rows in read.batches(batch_size)]
        return torch.cat([each for _, each in found])[np.argsort(np.concatenate([rows for rows, _ in found]))]

    model.eval()
    with in_bf16(model) as layers, ExitStack() as stack:
        characters = np.minimum([len(text) for text in texts], CHARACTERS_PER_TOKEN * (model.max_seq_length or np.inf)).sum()
        if layers and characters >= ENOUGH_FOR_INT8 and has_int8():
            apart = max(1, round(len(texts) / max(12, len(texts) * SAMPLED / characters)))
            in_int8 = True  # for the sample, too
            in_int8 = stack.enter_context(int8_linears(model, layers, embed_sample, [texts[i] for i in order[apart // 2 :: apart]]))
        _each(model, texts, mine, compute, batch_size, progress, prompt)
    _exchange(vectors, mine)
    return vectors


def score_pairs(
    model: CrossEncoder, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None] | None = None, batch_size: int | None = None
) -> list[float]:
    """A reranker's scores of (query, document) pairs, in their order: logits, without the sigmoid that a model may end in,
    as that makes all that is far from the threshold the same. Under ``accelerate launch`` every process scores a share and
    all of them get the whole. Raises ``InputError`` for a model with several outputs."""
    if model.num_labels != 1:
        raise InputError(f"a reranker gives one score, and this model has {model.num_labels} outputs")
    _, mine = _order(pairs)
    scores = np.empty(len(pairs), dtype=np.float32)

    def compute(rows: np.ndarray, features: dict[str, Any]) -> None:
        scores[rows] = model(features)["scores"].float().flatten().cpu().numpy()

    model.eval()
    with in_bf16(model):
        _each(model, pairs, mine, compute, batch_size, progress)
    _exchange(scores, mine)
    return scores.tolist()


def _order(inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all inputs, the longest first, and those that are for this process."""
    state = process_state()
    order = np.argsort([-_characters(each) for each in inputs], kind="stable")
    return order, order[state.process_index :: state.num_processes]


def _exchange(values: np.ndarray, mine: np.ndarray) -> None:
    """Give the other processes the rows of ``values`` that are this one's, and put theirs beside them."""
    if process_state().num_processes > 1:
        for rows, share in gather_object([(mine, values[mine])]):
            values[rows] = share


class _Inputs:
    """Texts, or pairs of them, the longest first, as a model reads them; tokenised once, unless it reads more than token IDs
    that are padded on the right."""

    def __init__(self, model: SentenceTransformer | CrossEncoder, inputs: Sequence[Any], prompt: str = "") -> None:
        self._model, self._inputs, self._prompt = model, inputs, prompt or None
        self._tokens: list[Tokens] | None = None
        # two of them tell, as unlike as there are: where they are padded, if at all
        if inputs and getattr(getattr(model, "tokenizer", None), "padding_side", "") == "right" and is_right_padded_text(self._read([inputs[0], inputs[-1]])):
            self._tokens = [row for part in _runs(inputs, TOKENISED_AT_ONCE) for row in split(self._read(inputs[part]))]
            self._lengths = [len(row["input_ids"]) for row in self._tokens]
        else:
            self._lengths = [min(_characters(each) / CHARACTERS_PER_TOKEN, model.max_seq_length or np.inf) for each in inputs]

    def batches(self, batch_size: int | None) -> list[np.ndarray]:
        """The numbers of those that are taken at once."""
        down = np.argsort(-np.asarray(self._lengths), kind="stable")
        return [down[rows.start : rows.stop] for rows in _batches(self._model, [self._lengths[i] for i in down], batch_size)]

    def features(self, rows: Sequence[int]) -> dict[str, Any]:
        """What the model reads of some of them, on its device."""
        if self._tokens is None:
            found = self._read([self._inputs[i] for i in rows])
        else:
            found = join([self._tokens[i] for i in rows], self._model.tokenizer.pad_token_id or 0, WIDTH_STEP)
        return {key: value.to(self._model.device) if torch.is_tensor(value) else value for key, value in found.items()}

    def _read(self, inputs: Sequence[Any]) -> dict[str, Any]:
        return self._model.preprocess(list(inputs), **({"prompt": self._prompt} if self._prompt else {}))


def _characters(given: str | tuple[str, str]) -> int:
    return len(given) if isinstance(given, str) else sum(map(len, given))


def _runs(inputs: Sequence[Any], most: int, first: int | None = None) -> Iterator[slice]:
    """Inputs one after the other: as many as ``most`` (``first`` the first time, if given), or fewer where these have more than
    ``CHARACTERS_EACH`` for each."""
    start = characters = 0
    now = min(most, first or most)
    for i, each in enumerate(inputs):
        characters += _characters(each)
        if i + 1 - start == now or characters >= CHARACTERS_EACH * now:
            yield slice(start, i + 1)
            start, characters, now = i + 1, 0, most
    if start < len(inputs):
        yield slice(start, len(inputs))


def _batches(model: torch.nn.Module, lengths: Sequence[float], batch_size: int | None) -> list[range]:
    """Which of the inputs, whose ``lengths`` in tokens go down, are taken at once."""
    batches, start = [], 0
    while start < len(lengths):
        rows = batch_size or 256
        if not batch_size and model.device.type == "cpu":
            width = max(1, -(-int(lengths[start]) // WIDTH_STEP)) * WIDTH_STEP  # the same rows for the same width
            rows = min(256, max(8, min(len(lengths) // SHARES, TOKENS_AT_ONCE // width)))
        batches.append(range(start, min(start + rows, len(lengths))))
        start += rows
    return batches


def _each(
    model: SentenceTransformer | CrossEncoder,
    inputs: Sequence[Any],
    order: np.ndarray,
    compute: Callable[[np.ndarray, dict[str, Any]], None],
    batch_size: int | None,
    progress: Callable[[int], None] | None,
    prompt: str = "",
) -> None:
    """Call ``compute``, in inference mode, with the numbers of some inputs and what the model reads of them, until all of
    ``order`` had their turn.

    On a CPU, each core computes a batch of its own, which stays in its cache: measured a tenth faster than all cores at one
    batch. It also makes the result the same for any number of cores.
    """

    def one(batch: tuple[_Inputs, np.ndarray, np.ndarray]) -> int:
        read, numbers, rows = batch
        with torch.inference_mode():
            compute(numbers[rows], read.features(rows))
        return len(rows) * process_state().num_processes

    def finish(under_way: Iterable[int]) -> None:
        for done in under_way:
            if progress:
                progress(done)

    with workers(torch.get_num_threads() if model.device.type == "cpu" else 1) as run:
        under_way: Iterable[int] = ()
        ordered = [inputs[i] for i in order]
        for part in _runs(ordered, SORTED_AT_ONCE, SORTED_FIRST):
            read = _Inputs(model, ordered[part], prompt)
            following = run(one, [(read, order[part], rows) for rows in read.batches(batch_size)])
            finish(under_way)  # only now, so that no core waited for what was tokenised
            under_way = following
        finish(under_way)


@contextmanager
def workers(number: int) -> Iterator[Callable]:
    """``map`` over ``number`` threads, among which torch's cores are shared out evenly."""
    if number == 1:
        yield map
        return
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(max(1, cores // number),)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(cores)  # a thread that starts later takes the number that was set last


def _without_padding(features: dict[str, Any]) -> dict[str, Any]:
    """The features with tokens of the batch's first text, which is its longest, in place of padding, still masked.

    What the layers make of a padding token is like nothing that they make of a text, and would not fit what is rounded to int8.
    """
    if "input_ids" in features and "attention_mask" in features:
        ids, seen = features["input_ids"], features["attention_mask"].bool()
        first = ids[0][seen[0]]
        filler = first[torch.arange(ids.shape[1], device=ids.device) % max(1, len(first))] if len(first) else ids[0]
        features["input_ids"] = torch.where(seen, ids, filler)
    return features
