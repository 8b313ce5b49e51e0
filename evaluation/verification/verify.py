"""``verify_endpoint``: whether a server gives the vectors of a model, and what it does otherwise where it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from sharpen.evaluation.files import InputError
from sharpen.evaluation.verification.sample import SampleText
from sharpen.evaluation.verification.variants import (
    Variant,
    other_lengths,
    own_variant,
    variants_of_short_texts,
    vectors_by,
)

SAME = 1e-4
"""1 - cosine, at most, of the same model in another program: float16 and bf16 stay below."""
EXPLAINED = 2.0
"""So many times nearer must be what is tried, to be the cause."""
NEAR = 0.05
"""1 - cosine, at most in the mean, of the same model with weights in few bits, or of another checkpoint."""
FAR_OFF = 8.0
"""So many times farther off than texts are in the mean is one that the server's tokenizer reads otherwise."""
OFF_SHOWN = 5
UNIT = 0.01
"""A vector's length may be off 1 by so much."""
ENOUGH_CHANGES = 2
"""Differences that are tried together."""
PAIR_TEXTS = 12
"""Short texts by which they are tried."""

Ask = Callable[[Sequence[str]], tuple[list[np.ndarray | None], str]]
"""Texts to the vectors of a server (None: it refused the text), and what it said of the last one it refused."""


class Verdict(BaseModel):
    """``serves``: the server gives this model's vectors. ``causes``: what it does otherwise. ``notes``: what clients
    must know. Cosines are to the vectors that the model gives itself, over the texts that were answered; ``refused``:
    texts that were not."""

    serves: bool
    causes: list[str]
    notes: list[str]
    texts: int
    refused: int
    mean_cosine: float
    least_cosine: float


@dataclass(frozen=True)
class _Answers:
    """What a server gave, with the texts that it was asked for; ``vectors`` have length 1."""

    sample: list[SampleText]
    vectors: np.ndarray
    lengths: np.ndarray

    def part(self, *kinds: str) -> _Answers:
        rows = [row for row, each in enumerate(self.sample) if each.kind in kinds]
        return _Answers([self.sample[row] for row in rows], self.vectors[rows], self.lengths[rows])

    def some(self, most: int) -> _Answers:
        """The shortest of each side."""
        order = sorted(range(len(self.sample)), key=lambda row: len(self.sample[row].text))
        sides = [[row for row in order if self.sample[row].side == side] for side in ("query", "document")]
        rows = [row for side in sides for row in side[: most // 2]]
        return _Answers([self.sample[row] for row in rows], self.vectors[rows], self.lengths[rows])

    def error(self, model: SentenceTransformer, variant: Variant) -> np.ndarray:
        """1 - cosine of each text to what ``model`` gives; 1 where the dimensions differ."""
        if model.get_embedding_dimension() != self.vectors.shape[1]:
            return np.ones(len(self.sample))
        return 1 - (vectors_by(model, self.sample, variant) * self.vectors).sum(axis=1)


def verify_endpoint(
    model: SentenceTransformer,
    ask: Ask,
    sample: Sequence[SampleText],
    others: Mapping[str, Callable[[], SentenceTransformer]] | None = None,
    bare: bool = False,
    min_cosine: float = 1 - SAME,
) -> Verdict:
    """Ask for the vectors of ``sample`` and compare them with what ``model`` gives.

    ``others``: models that may be served in its place, by name, loaded when the vectors are not the model's. ``bare``:
    the server is asked without the model's prompts, as it is to put them before texts itself. ``min_cosine``: of the
    vectors of texts that are read whole, at the least in the mean; lower than the default for weights in few bits.
    Raises ``InputError`` as ``ask`` does, where no short text is in the sample, and for a model whose pooling leaves
    its prompts out.
    """
    own = own_variant(model)
    _check_comparable(model, own)
    given, said = ask([each.text if bare else own.prompts.of(each.side) + each.text for each in sample])
    answers, refused = _answers(sample, given)
    if not answers.part("plain").sample:
        raise InputError(f"the server refused every text that the model reads whole: {said}")
    notes = _notes(model, answers, refused, said, bare)
    causes = _unnormalised(model, answers)
    errors = answers.error(model, own)
    if answers.vectors.shape[1] != (dimension := model.get_embedding_dimension()):
        causes += _other_dimension(model, answers, others or {}, dimension)
    elif errors.max() > SAME:
        more_causes, more_notes = _explain(model, own, answers, others or {}, 1 - min_cosine)
        causes, notes = causes + more_causes, notes + more_notes
    return Verdict(
        serves=not causes,
        causes=causes,
        notes=notes,
        texts=len(sample),
        refused=len(refused),
        mean_cosine=float(1 - errors.mean()),
        least_cosine=float(1 - errors.max()),
    )


def _check_comparable(model: SentenceTransformer, own: Variant) -> None:
    """A server is given a prompt and a text as one, and what belongs to which it cannot know."""
    has_prompts = own.prompts.query or own.prompts.document
    if has_prompts and any(isinstance(m, Pooling) and not m.include_prompt for m in model.modules()):
        raise InputError(
            "the model's pooling leaves its prompts out (include_prompt: false), which no server does that is asked by"
            " /v1/embeddings; a model with pooling over prompt and text can be verified"
        )


def _answers(sample: Sequence[SampleText], given: list[np.ndarray | None]) -> tuple[_Answers, list[SampleText]]:
    answered = [row for row, vector in enumerate(given) if vector is not None]
    sizes = {len(given[row]) for row in answered}
    if len(sizes) != 1:
        raise InputError(f"the server gives vectors of {', '.join(map(str, sorted(sizes)))} numbers; is it an encoder?")
    vectors = np.stack([given[row] for row in answered]).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise InputError("the server gives vectors that are zero or not finite; see its log")
    refused = [each for each, vector in zip(sample, given, strict=True) if vector is None]
    return _Answers([sample[row] for row in answered], vectors / lengths[:, None], lengths), refused


def _explain(
    model: SentenceTransformer,
    own: Variant,
    answers: _Answers,
    others: Mapping[str, Callable[[], SentenceTransformer]],
    tolerance: float,
) -> tuple[list[str], list[str]]:
    """Causes and notes."""
    plain, long = answers.part("plain"), answers.part("long")
    as_it_is = float(plain.error(model, own).mean())
    found, error = own, as_it_is
    if as_it_is > SAME:
        if other := _served_in_its_place(plain, others, as_it_is):
            return [other], []
        found, error = _nearest(model, own, plain)
    causes = _differences(own, found, error, as_it_is)
    cosine = f"a cosine of {1 - error:.4f} in the mean"
    if error > max(NEAR, tolerance):
        tried = "neither pooling, prompts nor case explains the vectors"
        return [f"another model, or other weights: {tried} ({cosine})"], []
    near = f"near the model's and not the same ({cosine}), as of weights in fewer bits, or of another checkpoint"
    notes = [f"The vectors are {near}"] if SAME < error <= tolerance else []
    if error > max(SAME, tolerance):
        causes.append(f"other weights: its vectors are {near}; if that is meant, give a lower --min-cosine")
    if long.sample:
        causes += _truncation(model, found, long, error)
    return causes, notes + _other_characters(model, found, answers.part("plain", "unusual"), error)


def _served_in_its_place(
    plain: _Answers, others: Mapping[str, Callable[[], SentenceTransformer]], as_it_is: float
) -> str | None:
    """What is said of the first of other models whose vectors these are."""
    for name, load in others.items():
        other = load()
        error = float(plain.error(other, own_variant(other)).mean())
        if error <= SAME or (error <= NEAR and error * EXPLAINED < as_it_is):
            return f"another model: the vectors are those of {name} (cosine {1 - error:.4f}; {_of_model(as_it_is)})"
    return None


def _other_characters(model: SentenceTransformer, found: Variant, texts: _Answers, error: float) -> list[str]:
    errors = texts.error(model, found)
    off = [row for row in np.argsort(-errors) if errors[row] > max(10 * SAME, FAR_OFF * error)][:OFF_SHOWN]
    told = "; ".join(f"{texts.sample[row].text.strip()[:60]!r} (cosine {1 - errors[row]:.4f})" for row in off)
    return [f"Its tokenizer reads some characters otherwise than the model's: {told}"] if off else []


def _nearest(model: SentenceTransformer, own: Variant, plain: _Answers) -> tuple[Variant, float]:
    """What explains the vectors with the fewest differences (where nothing does, the model's own way), and 1 - cosine
    to what that gives."""
    few, best, changes = plain.some(PAIR_TEXTS), own, 1
    least = float(few.error(model, own).mean())
    for variant in variants_of_short_texts(model, own):
        if variant.changes(own) > changes and least <= SAME:
            break
        if (changes := variant.changes(own)) > ENOUGH_CHANGES:
            break
        error = float(few.error(model, variant).mean())
        # another difference must be worth it
        if error * EXPLAINED < least or (error < least and variant.changes(own) <= best.changes(own)):
            best, least = variant, error
    return best, float(plain.error(model, best).mean())


def _differences(own: Variant, found: Variant, error: float, as_it_is: float) -> list[str]:
    nearer = f"(cosine {1 - error:.4f}; {_of_model(as_it_is)})"
    causes = []
    if found.pooling != own.pooling:
        causes.append(f"pooling: it pools by {found.pooling}, and the model by {own.pooling} {nearer}")
    if found.prompts != own.prompts:
        causes.append(
            f"prompts: it reads {found.prompts.name}; the model reads {own.prompts.query!r} before queries and"
            f" {own.prompts.document!r} before documents {nearer}"
        )
    if found.lower != own.lower:
        causes.append(f"case: it lower-cases texts, and the model does not {nearer}")
    return causes


def _truncation(model: SentenceTransformer, found: Variant, long: _Answers, error_of_short: float) -> list[str]:
    as_it_is = float(long.error(model, found).mean())
    if as_it_is <= max(SAME, EXPLAINED * error_of_short):
        return []
    errors = {v.max_seq_length: float(long.error(model, v).mean()) for v in other_lengths(model, found)}
    length = min(errors, key=errors.__getitem__, default=None)
    if length is None or errors[length] * EXPLAINED >= as_it_is:
        if as_it_is <= max(10 * SAME, FAR_OFF * error_of_short):  # long texts differ more in few bits
            return []
        return [
            f"truncation: long texts are not cut at {found.max_seq_length:,} tokens as by the model"
            f" (cosine {1 - as_it_is:.4f}), at which other number was not found"
        ]
    longest = max(len(model.tokenizer(each.text, verbose=False)["input_ids"]) for each in long.sample)
    reads = f"all {longest:,} tokens" if length >= longest else f"{length:,} tokens"
    return [
        f"truncation: it reads {reads} of a long text, and the model {found.max_seq_length:,}"
        f" (cosine {1 - errors[length]:.4f}; {_of_model(as_it_is)})"
    ]


def _unnormalised(model: SentenceTransformer, answers: _Answers) -> list[str]:
    lengths, normalises = answers.lengths, any(isinstance(module, Normalize) for module in model.modules())
    if not normalises or np.abs(lengths - 1).max() <= UNIT:
        return []
    return [
        f"normalisation: its vectors have lengths of {lengths.min():.2f} to {lengths.max():.2f}, and the model's have 1"
    ]


def _other_dimension(
    model: SentenceTransformer,
    answers: _Answers,
    others: Mapping[str, Callable[[], SentenceTransformer]],
    dimension: int,
) -> list[str]:
    size, short = answers.vectors.shape[1], answers.part("plain").some(PAIR_TEXTS)
    if size < dimension:
        cut = vectors_by(model, short.sample, own_variant(model))[:, :size]
        cut = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        if (error := float(1 - (cut * short.vectors).sum(axis=1).mean())) <= NEAR:
            return [f"dimensions: the vectors are the first {size} of {dimension} numbers (cosine {1 - error:.4f})"]
    for name, load in others.items():
        other = load()
        if float(short.error(other, own_variant(other)).mean()) <= SAME:
            return [f"another model: the vectors are those of {name}, with {size} numbers in place of {dimension}"]
    return [f"another model: its vectors have {size} numbers, and this model's {dimension}"]


def _notes(
    model: SentenceTransformer, answers: _Answers, refused: Sequence[SampleText], said: str, bare: bool
) -> list[str]:
    notes, prompts = [], own_variant(model).prompts
    if refused and all(each.kind == "long" for each in refused):
        notes.append(
            f"The server refuses texts of more tokens than it reads ({said}), where the model cuts them at"
            f" {model.max_seq_length:,} tokens: clients must cut them"
        )
    elif refused:
        notes.append(f"The server refuses {len(refused)} texts, short ones among them: {said}")
    if (prompts.query or prompts.document) and not bare:
        notes.append(
            f"Clients must put {prompts.query!r} before queries and {prompts.document!r} before documents, as was done"
            " here; where the server is to do it, verify with --bare"
        )
    normalises = any(isinstance(module, Normalize) for module in model.modules())
    if not normalises and np.abs(answers.lengths - 1).max() > UNIT:
        notes.append("Vectors do not have length 1, nor do the model's own: compare them by cosine")
    return notes


def _of_model(error: float) -> str:
    return f"to this model's: {1 - error:.4f}"
