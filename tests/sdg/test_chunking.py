"""Chunks in tokens of an encoder, at sentences, sections, code and tables."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen import sdg
from sharpen.evaluation.beir import Document
from sharpen.evaluation.encoders.tokenizer import TokenCounter
from sharpen.evaluation.files import InputError
from sharpen.sdg.blocks import pieces_of
from sharpen.sdg.chunking import ChunkSettings, chunk, chunk_with, token_counter
from tests.evaluation.test_languages import CZECH, HINDI, THAI

BASE = "packaged:all-MiniLM-L6-v2"
TEXT = st.text(alphabet="ab. \n#|`-=\tá§ไ我", max_size=400)


@pytest.fixture(scope="module")
def count():
    return TokenCounter(BASE)


def _document(text: str, language: str = "en", title: str = "") -> Document:
    return Document("d", text, title, {"language": language})


@pytest.mark.parametrize(("texts", "language"), [(CZECH, "cs"), (HINDI, "hi"), (THAI, "th")])
def test_every_chunk_fits_the_encoder_in_any_language(texts, language, count):
    document = _document(" ".join(texts * 9), language, "A title")
    chunks = list(chunk([document], max_tokens=60, tokenizer=BASE).values())
    assert len(chunks) > 4 or language == "th"  # of which this tokenizer knows no word: each is one token
    for piece in chunks:
        assert count(piece.title) + count(piece.text) + count.special <= 60
    for piece in chunks if len(chunks) > 1 else ():
        assert document.text[piece.metadata["start"] : piece.metadata["end"]] == piece.text
    assert "".join("".join(piece.text.split()) for piece in chunks) == "".join(document.text.split())


def test_chunks_end_at_sentences(count):
    document = _document(" ".join(CZECH), "cs")
    chunks = [piece.text for piece in chunk([document], max_tokens=150, tokenizer=BASE).values()]
    assert len(chunks) > 1 and all(text.endswith(".") for text in chunks)
    assert "§ 2201 odst. 1 písm. a) zákona č. 89/2012 Sb." in chunks[0]


def test_headings_open_chunks_and_code_and_rows_stay_whole():
    code = "```python\ndef boil(hours):\n\n    return soak() * hours\n```"
    rows = "\n".join(f"| bean {n} | {n} hours |" for n in range(12))
    prose = "Beans are soaked overnight in water. " * 4
    text = f"# Beans\n\n{prose}\n\n## Boiling\n\n{prose}\n\n{code}\n\n## Times\n\n{rows}\n"
    chunks = [piece.text for piece in chunk([_document(text)], max_tokens=56, tokenizer=BASE).values()]
    assert any(code in piece for piece in chunks)
    assert sum(piece.startswith("#") for piece in chunks) >= 3
    assert not any(piece.splitlines()[-1].startswith("#") for piece in chunks)  # no heading without its text
    assert all(line.startswith("|") == line.endswith("|") for piece in chunks for line in piece.splitlines())


def test_sentences_per_chunk_and_overlap():
    document = _document(" ".join(f"Sentence number {n} is here." for n in range(6)))
    two = [piece.text for piece in chunk([document], sentences_per_chunk=2, tokenizer=BASE).values()]
    assert two[0] == "Sentence number 0 is here. Sentence number 1 is here." and len(two) == 3
    repeated = list(chunk([document], max_tokens=22, overlap=8, tokenizer=BASE).values())
    for before, after in pairwise(repeated):
        assert after.metadata["start"] < before.metadata["end"]
        assert before.text.endswith(after.text.split(". ")[0] + ".")


def test_what_is_longer_than_a_chunk_by_itself_is_cut_and_a_long_title_leaves_half(count):
    endless = _document("word " * 300, title="title " * 90)
    chunks = list(chunk([endless], max_tokens=40, tokenizer=BASE).values())
    assert all(count(piece.text) <= 20 for piece in chunks)
    assert " ".join(piece.text for piece in chunks).split() == endless.text.split()


def test_words_of_scripts_without_blanks_are_counted():
    document = _document("黑豹队的防守丢了很多分。" * 40, "zh")
    chunks = list(chunk([document], max_words=50).values())
    assert len(chunks) > 3 and "".join(piece.text for piece in chunks) == document.text


@given(TEXT)
def test_pieces_are_the_text(text: str):
    pieces = pieces_of(text)
    assert "".join(text[piece.start : piece.end] for piece in pieces) == text
    assert not pieces or pieces[0].start == 0


@given(TEXT)
def test_chunks_by_tokens_hold_every_sign_once_in_order(text: str):
    chunks = chunk([Document("d", text)], max_tokens=20, tokenizer=BASE)
    assert "".join("".join(piece.text.split()) for piece in chunks.values()) == "".join(text.split())


def test_tokens_are_those_of_the_encoder_that_is_named():
    document = _document(" ".join(CZECH * 3), "cs")
    settings = ChunkSettings(max_tokens=60, tokenizer=BASE)
    assert chunk_with(settings, [document], token_counter(BASE)) == chunk([document], max_tokens=60, tokenizer=BASE)
    with pytest.raises(InputError, match=r"corpus.chunk: the tokenizer of '.*nothing' could not be loaded"):
        chunk([document], tokenizer="some/nothing")
    with pytest.raises(ValueError, match="max_words: beside max_tokens"):
        ChunkSettings(max_words=30, max_tokens=30)
    assert sdg.chunk([document])  # 200 tokens, where nothing is said
