"""What BM25 searches: of every word, the documents that have it and the score that it gives each of them.

Built shard by shard of the documents, so that no more than a shard's words are in memory at a time; the shards are then
joined, word by word, with the document frequencies and the average length of all. The arrays lie in memory, or in a
folder from which every process maps the same pages.
"""

from __future__ import annotations

import shutil
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from scipy.sparse import coo_array, csr_array

from sharpen.evaluation.files import atomic_folder

SHARD = 8_000_000
"""Words of the documents that are counted at once: about 200 MB."""
KEPT = 4
"""Indexes that stay in a folder, those that were used last: a run has its corpus, and perhaps another to compare on."""


@dataclass(frozen=True)
class Postings:
    """``rows``: word to its row in ``scores``, which is float32 of shape (words, documents)."""

    rows: Mapping[str, int] | MappedWords
    scores: csr_array


@dataclass(frozen=True)
class _Shard:
    """Counts of words in consecutive documents, by word: those of word ``w`` are ``indptr[w]`` to ``indptr[w + 1]``;
    ``documents`` are counted from ``first``."""

    first: int
    indptr: np.ndarray
    documents: np.ndarray
    counts: np.ndarray


def build_postings(
    texts: Iterable[Sequence[str]], k1: float, b: float, folder: Path | None = None, shard: int = SHARD
) -> Postings:
    """Lucene's BM25 of documents, each of which is a sequence of its words.

    ``folder``: where the arrays are written, as ``.npy``, instead of being kept in memory. ``shard``: words of
    documents that are counted at once; it does not change the result.

    >>> postings = build_postings([["ice", "flows"], ["ice"]], k1=0.9, b=0.4)
    >>> dict(postings.rows), [[f"{score:.3f}" for score in row] for row in postings.scores.toarray()]
    ({'ice': 0, 'flows': 1}, [['0.090', '0.102'], ['0.343', '0.000']])
    """
    rows: defaultdict[str, int] = defaultdict()
    rows.default_factory = rows.__len__  # a new word gets the next number
    lengths = array("q")
    shards = [
        _kept(counted, folder / f"shard-{n}" if folder else None)
        for n, counted in enumerate(_shards(texts, rows, lengths, shard))
    ]
    rows.default_factory = None
    joined = _joined(shards, len(rows), np.asarray(lengths), (k1, b), folder, shard)
    if not folder:
        return Postings(rows, _csr(*joined, len(lengths)))
    del joined
    for n in range(len(shards)):
        shutil.rmtree(folder / f"shard-{n}")
    MappedWords.write(folder, rows)
    np.save(folder / "documents.npy", len(lengths))
    return load_postings(folder)


def load_postings(folder: Path) -> Postings:
    """Map what ``build_postings`` wrote. Raises ``OSError`` or ``ValueError`` if it is not whole."""
    data, indices, indptr = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("scores", "columns", "ends"))
    return Postings(MappedWords(folder), _csr(data, indices, indptr, int(np.load(folder / "documents.npy"))))


def kept_postings(indexes: Path, key: str, build: Callable[[Path], object]) -> Postings:
    """The postings of this key, mapped from the folder ``indexes``. Where they are not there, ``build`` writes them
    into the folder that it is given, whole or not at all; other processes wait for the first."""
    indexes.mkdir(parents=True, exist_ok=True)
    target = indexes / key
    with FileLock(indexes / ".lock"):
        try:
            postings = load_postings(target)
        except (OSError, ValueError):  # it is not there, or not whole
            with atomic_folder(target) as partial:
                build(partial)
            postings = load_postings(target)
        target.touch()
        used = sorted((p for p in indexes.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for other in used[KEPT:]:
            shutil.rmtree(other, ignore_errors=True)
    return postings


class MappedWords:
    """Words and their rows in mapped files, in which a word is found by bisection: nothing has to be read to begin."""

    def __init__(self, folder: Path) -> None:
        self._letters, self._ends, self._rows = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("letters", "word_ends", "word_rows")
        )
        self._known: dict[str, int | None] = {}

    @staticmethod
    def write(folder: Path, rows: Mapping[str, int]) -> None:
        """Write what a ``MappedWords`` reads."""
        words = sorted(rows)  # the order of their UTF-8, too
        encoded = [_bytes(word) for word in words]
        np.save(folder / "letters.npy", np.frombuffer(b"".join(encoded), dtype=np.uint8))
        np.save(folder / "word_ends.npy", np.cumsum([0, *map(len, encoded)]))
        np.save(folder / "word_rows.npy", np.fromiter((rows[word] for word in words), dtype=np.int32))

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, word: str) -> int | None:
        """The row of a word, or None."""
        if word not in self._known:
            wanted = _bytes(word)
            n = bisect_left(range(len(self)), wanted, key=self._word)
            self._known[word] = int(self._rows[n]) if n < len(self) and self._word(n) == wanted else None
        return self._known[word]

    def _word(self, n: int) -> bytes:
        return self._letters[self._ends[n] : self._ends[n + 1]].tobytes()


def _bytes(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _shards(texts: Iterable[Sequence[str]], rows: Mapping[str, int], lengths: array, size: int) -> Iterator[_Shard]:
    """Counts of so many words at once. ``rows`` numbers the words as they come; the length of each document is added to
    ``lengths``."""
    words, first = array("i"), 0
    for text in texts:
        words.extend(map(rows.__getitem__, text))
        lengths.append(len(text))
        if len(words) >= size:
            yield _counted(words, first, lengths, len(rows))
            words, first = array("i"), len(lengths)
    if words:
        yield _counted(words, first, lengths, len(rows))


def _counted(words: array, first: int, lengths: array, vocabulary: int) -> _Shard:
    documents = np.repeat(np.arange(len(lengths) - first, dtype=np.int32), lengths[first:])
    ones = np.ones(len(words), dtype=np.int32)
    shape = (vocabulary, len(lengths) - first)
    counts = coo_array((ones, (np.asarray(words), documents)), shape=shape).tocsr()
    return _Shard(first, counts.indptr, counts.indices, counts.data)


def _kept(shard: _Shard, folder: Path | None) -> _Shard:
    """A shard in mapped files, so that it leaves the memory."""
    if folder is None:
        return shard
    folder.mkdir()
    mapped = []
    for name in ("indptr", "documents", "counts"):
        np.save(folder / f"{name}.npy", getattr(shard, name))
        mapped.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    return _Shard(shard.first, *mapped)


def _joined(
    shards: list[_Shard],
    words: int,
    lengths: np.ndarray,
    options: tuple[float, float],
    folder: Path | None,
    block: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, documents and ends of the rows of all words; so many scores at once as ``block`` says."""
    of_shards = [_padded(np.diff(shard.indptr), words) for shard in shards]
    frequencies = sum(of_shards, start=np.zeros(words, dtype=np.int64))
    ends = _ends(frequencies)
    index_type = np.int32 if ends[-1] < 2**31 and len(lengths) < 2**31 else np.int64  # scipy wants one for both
    score = _Score(frequencies, lengths, *options)
    arrays = [
        open_memmap(folder / f"{name}.npy", "w+", dtype=dtype, shape=size) if folder else np.empty(size, dtype=dtype)
        for name, dtype, size in (
            ("scores", np.float32, (int(ends[-1]),)),
            ("columns", index_type, (int(ends[-1]),)),
            ("ends", index_type, (words + 1,)),
        )
    ]
    arrays[2][:] = ends
    start = 0
    while start < words:
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + block, side="right")) - 1)
        here = slice(ends[start], ends[stop])
        arrays[0][here], arrays[1][here] = _block(shards, of_shards, (start, stop), score)
        start = stop
    return tuple(arrays)


def _block(
    shards: list[_Shard], of_shards: list[np.ndarray], words: tuple[int, int], score: _Score
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and documents of some consecutive words: of each word, first those of the first shard."""
    start, stop = words
    places = _ends(score.frequencies[start:stop])
    scores, columns = np.empty(places[-1], dtype=np.float32), np.empty(places[-1], dtype=np.int64)
    places = places[:-1]
    for shard, sizes in zip(shards, of_shards, strict=True):
        sizes = sizes[start:stop]
        begin = shard.indptr[min(start, len(shard.indptr) - 1)]
        end = begin + sizes.sum()
        ordinals = np.arange(end - begin) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        targets = np.repeat(places, sizes) + ordinals
        documents = shard.documents[begin:end].astype(np.int64) + shard.first
        columns[targets] = documents
        scores[targets] = score(np.repeat(np.arange(start, stop), sizes), documents, shard.counts[begin:end])
        places = places + sizes
    return scores, columns


def _padded(sizes: np.ndarray, words: int) -> np.ndarray:
    """With zeros for the words that came up in later shards only."""
    return np.pad(sizes.astype(np.int64), (0, words - len(sizes)))


def _ends(sizes: np.ndarray) -> np.ndarray:
    """Where each of consecutive parts begins, and the end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


class _Score:
    """What a word gives a document, by Lucene's formula; the steps and their precision are those of ``bm25s``."""

    def __init__(self, frequencies: np.ndarray, lengths: np.ndarray, k1: float, b: float) -> None:
        self.frequencies = frequencies
        ratio = (len(lengths) - frequencies + 0.5) / (frequencies + 0.5)
        self._idf = np.log(1 + ratio).astype(np.float32)
        self._norms = k1 * ((1 - b) + b * lengths / (lengths.mean() if lengths.any() else 1.0))

    def __call__(self, words: np.ndarray, documents: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return self._idf[words] * (counts / (self._norms[documents] + counts))


def _csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, documents: int) -> csr_array:
    return csr_array((data, indices, indptr), shape=(len(indptr) - 1, documents))
