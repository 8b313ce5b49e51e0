import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.chunking import ChunkSettings, chunk
from sharpen.sdg.documents import read_documents
from sharpen.sdg.documents.skipping import ReadingLog
from tests.conftest import write_rows


def test_a_folder_of_text_files(tmp_path: Path):
    (tmp_path / "sub folder").mkdir()
    (tmp_path / "guide.md").write_text("# The guide #\n\nFirst words.\n")
    (tmp_path / "sub folder" / "page.html").write_text(
        "<html><head><title>A &amp; B</title><script>alert(1)</script></head><body><nav>menu</nav><p>One"
        " <b>two</b></p><p>three</p></body></html>"
    )
    (tmp_path / "old.rst").write_text("Old\n===\n\nStill true.\n")
    (tmp_path / "plain.txt").write_text("just text")
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.warns(UserWarning, match=r"2 files skipped: 1 \.png \(no reader\), 1 no text"):
        corpus = read_documents(str(tmp_path))
    assert list(corpus) == ["guide.md", "old.rst", "plain.txt", "sub folder/page.html"]
    assert [d.title for d in corpus.values()] == ["The guide", "Old", "plain", "A & B"]
    assert corpus["guide.md"].text == "First words."
    assert corpus["old.rst"].text == "Still true."
    page = corpus["sub folder/page.html"].text
    assert "alert" not in page and "menu" not in page and re.sub(r"\s+", " ", page) == "One two three"


def test_a_jsonl_file_and_a_beir_folder(tmp_path: Path, dataset: Path):
    write_rows(
        tmp_path / "mine.jsonl", [{"_id": 7, "text": "seven", "metadata": {"author": "x"}}, {"_id": "e", "text": ""}]
    )
    log = ReadingLog()
    assert read_documents(tmp_path / "mine.jsonl", log=log) == {"7": Document("7", "seven", metadata={"author": "x"})}
    assert [(s.file, s.reason) for s in log.skipped] == [("e", "empty")]
    rows = [{"_id": "a", "text": "one", "author": "Ito", "year": 1998, "language": "en", "note": "", "tags": ["x"]}]
    write_rows(tmp_path / "others.jsonl", rows)
    (alone,) = read_documents(tmp_path / "others.jsonl").values()
    assert alone.metadata == {"author": "Ito", "year": 1998, "language": "en"}
    assert len(read_documents(str(dataset))) == 12


def test_nothing_to_read(tmp_path: Path):
    with pytest.raises(InputError, match=r"no document with any text in it \(no files\)"):
        read_documents(str(tmp_path))
    (tmp_path / "notes.csv").write_text("a,b")
    with pytest.raises(InputError, match=r"notes\.csv: no document .*1 no text"):
        read_documents(str(tmp_path / "notes.csv"))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"1 broken, 1 no text"):
        read_documents(str(tmp_path))


def test_the_python_documentation():
    corpus = read_documents("python-docs")
    assert 3000 < len(corpus) < 4000
    assert {
        "json.dumps",
        "os.path.join",
        "itertools.chain",
        "topic:with",
        "threading.Lock" if "threading.Lock" in corpus else "threading.Thread",
    } <= set(corpus)
    assert "Serialize" in corpus["json.dumps"].text and "indent=None" in corpus["json.dumps"].text
    assert not any(i.startswith(("antigravity", "test.", "_")) or "._" in i for i in corpus)
    assert " at 0x" not in "".join(d.text for d in corpus.values() if not d.id.startswith("topic:"))
    assert read_documents("python-docs") == corpus


def test_short_documents_stay_whole_and_long_ones_are_cut_at_paragraphs():
    long = Document("long", "\n\n".join(f"Paragraph {n} " + "word " * 28 for n in range(9)), "Title", {"author": "x"})
    short = Document("short", "a few words")
    pieces = list(chunk([short, long], max_words=62).values())
    assert pieces[0] == short
    assert [p.id for p in pieces[1:]] == [f"long#{n}" for n in range(len(pieces) - 1)]
    assert all(p.text.startswith("Paragraph") for p in pieces[1:])
    for piece in pieces[1:]:
        assert len(piece.text.split()) <= 62
        assert piece.title == "Title" and piece.doc_id == "long" and piece.metadata["author"] == "x"
        assert long.text[piece.metadata["start"] : piece.metadata["end"]] == piece.text


def test_what_is_hidden_or_our_own_is_no_document(tmp_path):
    for name in ("a.md", ".git/b.md", "runs/mine/report.md", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    assert set(read_documents(str(tmp_path), tmp_path / "runs")) == {"a.md", "sub/c.txt"}


def test_byte_order_marks_headings_and_inline_tags(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# C#\r\n\r\nA language.")
    (tmp_path / "b.html").write_text("<p>Click <b>here</b> now.</p><ul><li>one</li><li>two</li></ul>")
    corpus = read_documents(str(tmp_path))
    assert (corpus["a.md"].title, corpus["a.md"].text) == ("C#", "A language.")
    assert (
        corpus["b.html"].text.split() == ["Click", "here", "now.", "one", "two"]
        and "Click here now." in corpus["b.html"].text.splitlines()
    )
    assert "one" in corpus["b.html"].text.splitlines()


@given(st.text(alphabet="ab. \n", max_size=600), st.integers(20, 60))
def test_chunks_hold_every_word_once_in_order(text: str, max_words: int):
    pieces = list(chunk([Document("d", text)], max_words).values())
    assert " ".join(p.text for p in pieces).split() == text.split()
    assert all(len(p.text.split()) <= max_words for p in pieces)


def test_overlap_repeats_words():
    text = " ".join(str(n) for n in range(100))
    pieces = list(chunk([Document("d", text)], 40, overlap=10).values())
    assert pieces[0].text.split()[-10:] == pieces[1].text.split()[:10]


def test_a_chunk_never_takes_a_documents_id():
    long = Document("guide", "word " * 100)
    with pytest.raises(InputError, match=r"'guide#0' is also the ID of a document"):
        chunk([Document("guide#0", "another"), long], max_words=40)
    assert set(chunk({"guide": long}, max_words=60)) == {"guide#0", "guide#1"}
    with pytest.raises(ValueError, match="overlap must be smaller"):
        ChunkSettings(max_words=30, overlap=30)
