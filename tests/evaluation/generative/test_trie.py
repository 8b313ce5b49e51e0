"""The trie's arrays against a trie of dictionaries, its errors and its file."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.search import Search
from sharpen.evaluation.generative.trie import Trie


def walk(trie: Trie) -> dict[tuple[int, ...], int]:
    """Sequences to leaves, found by following the arrays from the root."""
    found, open_nodes = {}, [((), 0)]
    while open_nodes:
        prefix, node = open_nodes.pop()
        edges = range(trie.indptr[node], trie.indptr[node + 1])
        assert [trie.tokens[e] for e in edges] == sorted({trie.tokens[e] for e in edges})
        for edge in edges:
            child = int(trie.children[edge])
            path = (*prefix, int(trie.tokens[edge]))
            if child < 0:
                found[path] = -1 - child
            else:
                open_nodes.append((path, child))
    return found


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=7), min_size=1, max_size=60, unique_by=tuple))
def test_the_arrays_hold_the_sequences_and_no_others(sequences):
    sequences = [[*tokens, 9] for tokens in sequences]
    trie = Trie.of(sequences)
    assert walk(trie) == {tuple(tokens): i for i, tokens in enumerate(sequences)}
    assert trie.leaves == len(sequences)
    assert trie.nodes == len({tuple(s[:n]) for s in sequences for n in range(len(s))})
    assert all(array.dtype == np.int32 for array in (trie.indptr, trie.tokens, trie.children))


def test_atomic_sequences_are_one_node():
    trie = Trie.of([[3], [1], [2]])
    assert trie.nodes == 1
    assert trie.tokens.tolist() == [1, 2, 3]
    assert trie.children.tolist() == [-2, -3, -1]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one"),
        ([[1], []], "sequence 1 has no tokens"),
        ([[1, 2], [3], [1, 2]], "sequences 0 and 2 are the same tokens"),
        ([[1, 2, 3], [4], [1, 2]], "sequence 2 is the beginning of sequence 0"),
        ([[1, 2], [1, 2, 5], [1, 2]], "sequences 0 and 2 are the same tokens"),
        ([[1, -2]], "not -2"),
        ([[2**31]], "from 0 to"),
    ],
)
def test_sequences_that_no_trie_holds_are_named(sequences, message):
    with pytest.raises(InputError, match=message):
        Trie.of(sequences)


def test_a_file_gives_the_same_trie(tmp_path):
    trie = Trie.of([[1, 2, 9], [1, 3, 9], [4, 9]])
    trie.save(tmp_path / "model" / "trie.safetensors")
    assert walk(Trie.load(tmp_path / "model" / "trie.safetensors")) == walk(trie)


@pytest.mark.filterwarnings("error")
def test_a_loaded_trie_can_be_searched(tmp_path):
    Trie.of([[1, 2, 9], [1, 3, 9], [4, 9]]).save(tmp_path / "trie.safetensors")
    trie = Trie.load(tmp_path / "trie.safetensors")
    search = Search(None, trie, 2, 1, "exact", torch.device("cpu"))
    assert search.tokens.tolist() == trie.tokens.tolist()


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "trie.safetensors"
    with pytest.raises(InputError, match=r"trie\.safetensors"):
        Trie.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a trie"):
        Trie.load(path)
    save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(InputError, match="not a trie"):
        Trie.load(path)
    trie = Trie.of([[1, 2, 9], [1, 3, 9], [4, 9]])
    for broken in (
        {"indptr": trie.indptr, "tokens": trie.tokens, "children": trie.children + 9},
        {"indptr": trie.indptr[:-1], "tokens": trie.tokens, "children": trie.children},
        {"indptr": trie.indptr.astype(np.int64), "tokens": trie.tokens, "children": trie.children},
    ):
        save_file(broken, path)
        with pytest.raises(InputError, match="arrays do not fit"):
            Trie.load(path)
