"""Texts of like length go through a model together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from sentence_transformers import CrossEncoder, SentenceTransformer
from sharpen.evaluation.encoders.tokens import Tokens, is_right_padded_text, join, split
from sharpen.evaluation.processes import process_state, workers

CHARACTERS_PER_TOKEN = 4


SORTED_AT_ONCE = 4096
"""Texts, the longest first by their characters, that are tokenised and sorted by their tokens before the next are: what
is kept of these takes some 50 MiB at most. Measured with functions of code, sorted by characters alone: a quarter of
all was padding."""


SORTED_FIRST = 512
"""Of the longest of all, fewer: nothing is computed until these are tokenised."""


TOKENISED_AT_ONCE = 256


CHARACTERS_EACH = 4096
"""In the mean: where texts have more, fewer are taken, as a tokenizer holds all of a text, also what it cuts off."""


WIDTH_STEP = 8
"""Widths of batches are multiples of this, and those of the same width have as many texts: for each shape, the CPU's
matrix library keeps some 0.4 MiB."""


TOKENS_AT_ONCE = 3072
"""On a CPU. Measured on 2 cores with texts of 240 tokens in int8: half as many take some tenth longer, twice as many
are no faster and take 0.1 GiB."""


SHARES = 16
"""Batches that few texts are still divided into, so that no core waits long for another's last."""


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
    """Texts, or pairs of them, the longest first, as a model reads them; tokenised once, unless it reads more than
    token IDs that are padded on the right."""

    def __init__(self, model: SentenceTransformer | CrossEncoder, inputs: Sequence[Any], prompt: str = "") -> None:
        self._model, self._inputs, self._prompt = model, inputs, prompt or None
        self._tokens: list[Tokens] | None = None
        # two of them tell, as unlike as there are: where they are padded, if at all
        if (
            inputs
            and getattr(getattr(model, "tokenizer", None), "padding_side", "") == "right"
            and is_right_padded_text(self._read([inputs[0], inputs[-1]]))
        ):
            self._tokens = [row for part in _runs(inputs, TOKENISED_AT_ONCE) for row in split(self._read(inputs[part]))]
            self._lengths = [len(row["input_ids"]) for row in self._tokens]
        else:
            self._lengths = [
                min(_characters(each) / CHARACTERS_PER_TOKEN, model.max_seq_length or np.inf) for each in inputs
            ]

    def batches(self, batch_size: int | None) -> list[np.ndarray]:
        """The numbers of those that are taken at once."""
        down = np.argsort(-np.asarray(self._lengths), kind="stable")
        return [
            down[rows.start : rows.stop] for rows in _batches(self._model, [self._lengths[i] for i in down], batch_size)
        ]

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
    """Inputs one after the other: as many as ``most`` (``first`` the first time, if given), or fewer where these have
    more than ``CHARACTERS_EACH`` for each."""
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
    """Call ``compute``, in inference mode, with the numbers of some inputs and what the model reads of them, until all
    of ``order`` had their turn.

    On a CPU, each core computes a batch of its own, which stays in its cache: measured a tenth faster than all cores at
    one batch. It also makes the result the same for any number of cores.
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
