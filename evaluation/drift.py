"""Are the queries that come now like those that a model was trained on?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel
from scipy import stats

from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import identify, language_name, n_words, words
from sharpen.evaluation.significance import LEVEL, RESAMPLES, holm

LEAST = 20
"""Queries on either side without which nothing is said."""
MOST = 5000
"""Queries of a side that are looked at, drawn by seed."""
LEAST_EFFECT = {"unknown words": 0.05, "length": 0.25, "language": 0.05, "similarity": 0.02, "told apart": 0.60}
"""From where on a difference that is not chance counts as drift: fractions of words and queries, of the length, cosine,
and the area under the curve of a classifier (0.5: it guesses)."""

DriftVerdict = Literal["drifted", "no drift found", "too few queries"]


class Figure(BaseModel):
    """One way to look at two sets of queries. ``difference``: live minus held out, with its 95 % bootstrap interval.
    ``p``: of a two-sample test, adjusted for the number of figures by ``holm``. ``drifts``: it is no chance, and
    large enough to matter."""

    name: str
    held_out: float
    live: float
    difference: float
    interval: tuple[float, float]
    p: float
    test: str
    drifts: bool = False


class Drift(BaseModel):
    """Live queries beside those that a model was trained on. ``held_out``: queries like those trained on, which were
    not, so that they say what is usual. ``repeats``: live ones that stood there before, and are not counted again."""

    verdict: DriftVerdict
    trained: int
    held_out: int
    live: int
    repeats: int = 0
    figures: list[Figure] = []
    languages: dict[str, float] = {}
    """New ones: languages that fewer than one in a hundred of the trained queries are in, with their fraction of the
    live ones."""
    seed: int

    def sentence(self) -> str:
        """The verdict in plain words."""
        if self.verdict == "too few queries":
            return (
                f"Too few queries to speak of drift: {self.live:,} live and {self.held_out:,} held out, and {LEAST} of"
                " each are needed."
            )
        drifting = [f for f in self.figures if f.drifts]
        if not drifting:
            return f"No drift found: the {self.live:,} live queries are like those trained on, as far as was looked."
        said = "; ".join(f"{f.name} {f.live:.3f}, usual is {f.held_out:.3f}" for f in drifting)
        new = ", ".join(f"{language_name(code)} {part:.0%}" for code, part in self.languages.items())
        return (
            f"The live queries have drifted from those trained on: {said}.{f' New languages: {new}.' if new else ''}"
            " Put a hundred of them with their documents into evaluation.data, and run again."
        )


def drift(
    trained: Sequence[str],
    held_out: Sequence[str],
    live: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
    documents: Collection[str] = (),
    seed: int = 13,
) -> Drift:
    """Compare queries of today (``live``) with those that a model was trained on.

    ``held_out``: like those trained on, but not among them; with fewer than 20, a fifth of ``trained`` is set aside
    for it. Of each side a query counts once: the tests take queries for independent, and copies are not. ``encode``:
    texts to unit vectors, of shape (texts, dimension). ``documents``: texts whose words are known, too. All tests are
    two-sided: Kolmogorov-Smirnov for length and similarity, Mann-Whitney for unknown words and for the scores of a
    logistic regression that tells the sides apart in five folds, and Fisher's for languages. Raises ``InputError`` if
    there is no live query.

    >>> letters = {w: n for n, w in enumerate("tea rye kiln oven dough tax court law judge appeal".split())}
    >>> def encode(texts):
    ...     rows = np.array([[float(w in t.split()) for w in letters] for t in texts]) + 1e-3
    ...     return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    >>> old = [f"{a} {b}" for a in list(letters)[:5] for b in list(letters)[:5]] * 4
    >>> new = [f"{a} {b} please" for a in list(letters)[5:] for b in list(letters)[5:]]
    >>> drift(old[:60], old[60:], new, encode).verdict, drift(old[:60], old[60:], old[30:80], encode).verdict
    ('drifted', 'no drift found')
    """
    if not live:
        raise InputError("no live query; there is nothing to compare")
    rng = np.random.default_rng(seed)
    trained, held_out, different = map(_different, (trained, held_out, live))
    repeats = sum(bool(text.strip()) for text in live) - len(different)
    trained, held_out, live = (_drawn(texts, MOST, rng) for texts in (trained, held_out, different))
    if len(held_out) < LEAST:
        order = rng.permutation(len(trained))
        aside = max(LEAST, len(trained) // 5)
        if len(trained) >= 2 * LEAST:
            held_out = [*held_out, *(trained[i] for i in order[:aside])]
            trained = [trained[i] for i in order[aside:]]
    counts = {"trained": len(trained), "held_out": len(held_out), "live": len(live), "repeats": repeats, "seed": seed}
    if min(len(held_out), len(live), len(trained)) < LEAST:
        return Drift(verdict="too few queries", **counts)
    known = {word for text in (*trained, *documents) for word in words(text)}
    vectors = [encode(side) for side in (trained, held_out, live)]
    new, language = _languages(trained, held_out, live, rng)
    figures = [
        _compared("unknown words", *(_unknown(side, known) for side in (held_out, live)), rng, "Mann-Whitney"),
        _compared("length", *(np.array([n_words(t) for t in side], float) for side in (held_out, live)), rng, "KS"),
        language,
        _compared("similarity", *(_nearest(side, vectors[0]) for side in vectors[1:]), rng, "KS"),
        _told_apart(vectors[1], vectors[2], rng, seed),
    ]
    adjusted = holm([figure.p for figure in figures])
    figures = [
        f.model_copy(update={"p": p, "drifts": p < 1 - LEVEL and _matters(f)})
        for f, p in zip(figures, adjusted, strict=True)
    ]
    verdict: DriftVerdict = "drifted" if any(f.drifts for f in figures) else "no drift found"
    return Drift(verdict=verdict, figures=figures, languages=new, **counts)


def _matters(figure: Figure) -> bool:
    if figure.name == "told apart":
        return figure.live >= LEAST_EFFECT[figure.name]
    scale = figure.held_out if figure.name == "length" else 1.0
    # fewer unknown words, or queries that are nearer to those trained on, are no drift
    direction = {"unknown words": 1, "language": 1, "similarity": -1}.get(figure.name)
    size = direction * figure.difference if direction else abs(figure.difference)
    return size >= LEAST_EFFECT[figure.name] * scale


def _different(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))


def _drawn(texts: list[str], most: int, rng: np.random.Generator) -> list[str]:
    return texts if len(texts) <= most else [texts[i] for i in sorted(rng.choice(len(texts), most, replace=False))]


def _compared(name: str, held_out: np.ndarray, live: np.ndarray, rng: np.random.Generator, test: str) -> Figure:
    p = stats.ks_2samp(held_out, live).pvalue if test == "KS" else stats.mannwhitneyu(held_out, live).pvalue
    difference = float(live.mean() - held_out.mean())
    return Figure(
        name=name,
        held_out=float(held_out.mean()),
        live=float(live.mean()),
        difference=difference,
        interval=_interval(held_out, live, rng),
        p=1.0 if np.isnan(p) else float(p),
        test=test,
    )


def _interval(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap of the difference of two means, each side resampled by itself."""
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return (float(second[0] - first[0]),) * 2
    drawn = [_means(side, rng) for side in (first, second)]
    low, high = np.quantile(drawn[1] - drawn[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _means(values: np.ndarray, rng: np.random.Generator, at_once: int = 500) -> np.ndarray:
    rows = (
        values[rng.integers(len(values), size=(at_once, len(values)))].mean(axis=1) for _ in range(RESAMPLES // at_once)
    )
    return np.concatenate(list(rows))


def _unknown(texts: Sequence[str], known: Collection[str]) -> np.ndarray:
    """Fraction of each text's words that are not known."""
    parts = [words(text) for text in texts]
    return np.array([sum(word not in known for word in each) / max(1, len(each)) for each in parts])


def _nearest(vectors: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Cosine to the nearest trained query."""
    blocks = (vectors[start : start + 512] @ trained.T for start in range(0, len(vectors), 512))
    return np.concatenate([block.max(axis=1) for block in blocks])


def _languages(
    trained: Sequence[str], held_out: Sequence[str], live: Sequence[str], rng: np.random.Generator
) -> tuple[dict[str, float], Figure]:
    """Languages that are new, and how many queries are in one that is rare among those trained on."""
    codes = [
        [found.language if (found := identify(text)) else "" for text in side] for side in (trained, held_out, live)
    ]
    usual = {code for code in set(codes[0]) if codes[0].count(code) >= len(trained) / 100} | {""}
    rare = [np.array([code not in usual for code in side], float) for side in codes[1:]]
    table = [[side.sum(), len(side) - side.sum()] for side in rare]
    # without one in a rare language on either side there is nothing to test
    p = stats.fisher_exact(table).pvalue if rare[0].any() or rare[1].any() else 1.0
    figure = Figure(
        name="language",
        held_out=float(rare[0].mean()),
        live=float(rare[1].mean()),
        difference=float(rare[1].mean() - rare[0].mean()),
        interval=_interval(*rare, rng),
        p=float(p),
        test="Fisher",
    )
    fractions = {code: codes[2].count(code) / len(live) for code in sorted(set(codes[2]) - usual)}
    return {code: part for code, part in fractions.items() if part >= 0.01}, figure


def _told_apart(held_out: np.ndarray, live: np.ndarray, rng: np.random.Generator, seed: int) -> Figure:
    """How well a logistic regression tells live queries from held-out ones: the area under its curve, in five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x, y = np.concatenate([held_out, live]), np.repeat([0, 1], [len(held_out), len(live)])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=200, class_weight="balanced")
    scores = cross_val_predict(model, x, y, cv=folds, method="decision_function")
    first, second = scores[y == 0], scores[y == 1]
    test = stats.mannwhitneyu(second, first)
    area = float(test.statistic) / (len(first) * len(second))
    drawn = [
        stats.mannwhitneyu(
            second[rng.integers(len(second), size=len(second))], first[rng.integers(len(first), size=len(first))]
        ).statistic
        for _ in range(500)
    ]
    low, high = np.quantile(np.array(drawn) / (len(first) * len(second)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(
        name="told apart",
        held_out=0.5,
        live=area,
        difference=area - 0.5,
        interval=(float(low) - 0.5, float(high) - 0.5),
        p=float(test.pvalue),
        test="Mann-Whitney",
    )
