"""Texts of similar length go through a model together, so that a batch has little padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from sentence_transformers import CrossEncoder, SentenceTransformer

from sharpen.evaluation.encoders.tokens import Tokens, is_right_padded_text, join, lengths_before_truncation, split
from sharpen.evaluation.processes import process_state, workers
from sharpen.evaluation.truncation import Truncation, What, report_truncations

CHARACTERS_PER_TOKEN = 4

SORTED_AT_ONCE = 4096
"""Texts, the longest first by characters, that are tokenised and sorted by tokens before the next ones: their token IDs
take about 50 MiB. Measured on functions of code, sorted by characters alone: a quarter of all tokens was padding."""

SORTED_FIRST = 512
"""Of the longest texts, fewer: nothing is computed until these are tokenised."""

TOKENISED_AT_ONCE = 256

CHARACTERS_EACH = 4096
"""Where texts have more on average, fewer are tokenised at once: a tokenizer holds all of a text, also what it cuts."""

WIDTH_STEP = 8
"""Widths of batches are multiples of this, and batches of one width have equally many rows: for each shape, the CPU's
matrix library keeps about 0.4 MiB."""

TOKENS_AT_ONCE = 3072
"""On a CPU. Measured on 2 cores with texts of 240 tokens: half as many take about a tenth longer, and twice as many are
no faster and take 0.1 GiB."""

MIN_BATCHES = 16
"""A few texts are still divided into so many batches, so that no core waits long for the last batch of another."""

Batch = Callable[[np.ndarray, dict[str, Any]], None]
"""Called with the rows of some inputs and the features that the model reads of them."""


def rows_of_process(inputs: Sequence[Any]) -> np.ndarray:
    """Rows of the inputs that this process computes, the longest first."""
    state = process_state()
    order = np.argsort([-_characters(each) for each in inputs], kind="stable")
    return order[state.process_index :: state.num_processes]


def report_lengths(what: What, texts: int, lengths: dict[int, int], limit: float | None) -> None:
    """Tell who collects of what all processes had to truncate; ``lengths``: row to tokens, of those of this process."""
    truncated = list(lengths.values())
    if process_state().num_processes > 1:
        truncated = gather_object(truncated)
    if truncated:
        report_truncations([Truncation(what, texts, len(truncated), max(truncated), int(limit))], lengths)


class TokenisedInputs:
    """Texts, or pairs of texts, the longest first, as a model reads them.

    They are tokenised once, unless the model reads more than token IDs that are padded on the right.
    """

    def __init__(self, model: SentenceTransformer | CrossEncoder, inputs: Sequence[Any], prompt: str = "") -> None:
        """``truncated``: row to tokens, of each input that is longer than the model reads, once it is tokenised."""
        self._model, self._inputs, self._prompt = model, inputs, prompt or None
        self._tokens: list[Tokens] | None = None
        self.truncated: dict[int, int] = {}
        # the longest and the shortest input show on which side the model pads
        if (
            inputs
            and getattr(getattr(model, "tokenizer", None), "padding_side", "") == "right"
            and is_right_padded_text(self._preprocess([inputs[0], inputs[-1]]))
        ):
            self._tokens = [
                row
                for part in slices_by_size(inputs, TOKENISED_AT_ONCE)
                for row in split(self._counted(range(part.start, part.stop)))
            ]
            self._lengths = [len(row["input_ids"]) for row in self._tokens]
        else:
            limit = model.max_seq_length or np.inf
            self._lengths = [min(_characters(each) / CHARACTERS_PER_TOKEN, limit) for each in inputs]

    def batches(self, batch_size: int | None) -> list[np.ndarray]:
        """Rows of the inputs that are computed together."""
        order = np.argsort(-np.asarray(self._lengths), kind="stable")
        ranges = _batch_ranges(self._model, [self._lengths[i] for i in order], batch_size)
        return [order[rows.start : rows.stop] for rows in ranges]

    def features(self, rows: Sequence[int]) -> dict[str, Any]:
        """What the model reads of these rows, on its device."""
        if self._tokens is None:
            features = self._counted(rows)
        else:
            features = join([self._tokens[i] for i in rows], self._model.tokenizer.pad_token_id or 0, WIDTH_STEP)
        return {k: value.to(self._model.device) if torch.is_tensor(value) else value for k, value in features.items()}

    def _counted(self, rows: Sequence[int]) -> dict[str, Any]:
        inputs, model = [self._inputs[i] for i in rows], self._model
        features, tokenizer = self._preprocess(inputs), getattr(model, "tokenizer", None)
        lengths = lengths_before_truncation(features, tokenizer, inputs, self._prompt or "", model.max_seq_length)
        self.truncated |= {int(rows[n]): tokens for n, tokens in lengths.items()}
        return features

    def _preprocess(self, inputs: Sequence[Any]) -> dict[str, Any]:
        return self._model.preprocess(list(inputs), **({"prompt": self._prompt} if self._prompt else {}))


def run_batches(
    model: SentenceTransformer | CrossEncoder,
    inputs: Sequence[Any],
    order: np.ndarray,
    compute: Batch,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    prompt: str = "",
) -> dict[int, int]:
    """Call ``compute`` in inference mode, batch by batch, until all rows of ``order`` are computed. Returns row to
    tokens, of those that are longer than the model reads.

    On a CPU, each core computes a batch of its own, which stays in its cache: measured a tenth faster than all cores at
    one batch. The result is then the same for any number of cores, too.
    """

    def run_one(batch: tuple[TokenisedInputs, np.ndarray, np.ndarray]) -> int:
        tokenised, numbers, rows = batch
        with torch.inference_mode():
            compute(numbers[rows], tokenised.features(rows))
        return len(rows) * process_state().num_processes

    def finish(running: Iterable[int]) -> None:
        for done in running:
            if progress:
                progress(done)

    with workers(torch.get_num_threads() if model.device.type == "cpu" else 1) as run:
        running: Iterable[int] = ()
        parts = []
        ordered = [inputs[i] for i in order]
        for part in slices_by_size(ordered, SORTED_AT_ONCE, SORTED_FIRST):
            tokenised = TokenisedInputs(model, ordered[part], prompt)
            parts.append((order[part], tokenised.truncated))
            following = run(run_one, [(tokenised, order[part], rows) for rows in tokenised.batches(batch_size)])
            finish(running)  # only now, so that no core waited for the tokenizer
            running = following
        finish(running)
    return {int(rows[n]): tokens for rows, truncated in parts for n, tokens in truncated.items()}


def slices_by_size(inputs: Sequence[Any], most: int, first: int | None = None) -> Iterator[slice]:
    """Consecutive slices of ``most`` inputs (the first one: of ``first``), or of fewer where these have more than
    ``CHARACTERS_EACH`` characters on average.

    >>> [inputs.stop - inputs.start for inputs in slices_by_size(["text"] * 10, 4, first=3)]
    [3, 4, 3]
    """
    start = characters = 0
    limit = min(most, first or most)
    for i, each in enumerate(inputs):
        characters += _characters(each)
        if i + 1 - start == limit or characters >= CHARACTERS_EACH * limit:
            yield slice(start, i + 1)
            start, characters, limit = i + 1, 0, most
    if start < len(inputs):
        yield slice(start, len(inputs))


def _characters(given: str | tuple[str, str]) -> int:
    return len(given) if isinstance(given, str) else sum(map(len, given))


def _batch_ranges(model: torch.nn.Module, lengths: Sequence[float], batch_size: int | None) -> list[range]:
    """Ranges of inputs that are computed together; their ``lengths`` in tokens are descending."""
    batches, start = [], 0
    while start < len(lengths):
        rows = batch_size or 256
        if not batch_size and model.device.type == "cpu":
            width = max(1, -(-int(lengths[start]) // WIDTH_STEP)) * WIDTH_STEP  # the same rows for the same width
            rows = min(256, max(8, min(len(lengths) // MIN_BATCHES, TOKENS_AT_ONCE // width)))
        batches.append(range(start, min(start + rows, len(lengths))))
        start += rows
    return batches
