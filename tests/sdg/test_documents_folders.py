import gzip
import json
import time
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from sharpen.evaluation.beir import read_corpus
from sharpen.evaluation.files import InputError
from sharpen.recipes.load import load_recipe
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.sdg.documents import ReadingLog, ReadingSettings, files, iter_documents, read_documents
from sharpen.sdg.documents.encodings import decode
from sharpen.sdg.documents.reading import some_documents
from sharpen.sdg.documents.web_pages import html_entry
from tests.conftest import write_rows


def _read(folder: Path, **settings):
    log = ReadingLog()
    return read_documents(folder, settings=ReadingSettings(**settings), log=log), log


def _skipped(log: ReadingLog) -> dict[str, str]:
    return {s.file: s.reason for s in log.skipped}


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path):
    docs, other = tmp_path / "docs", tmp_path / "other"
    for folder in (docs / "sub", other):
        folder.mkdir(parents=True)
        (folder / "a.md").write_text(f"in {folder.name}")
    (docs / "linked").symlink_to(other)
    (docs / "linked again").symlink_to(other)
    (docs / "up").symlink_to(tmp_path)
    (docs / "sub" / "loop").symlink_to(docs)
    (docs / "a link.md").symlink_to(other / "a.md")
    corpus, log = _read(docs)
    assert {i: d.text for i, d in corpus.items()} == {
        "a link.md": "in other",
        "linked/a.md": "in other",
        "sub/a.md": "in sub",
    }
    assert _skipped(log) == dict.fromkeys(("linked again", "sub/loop", "up"), "link")


def test_names_become_ids_that_stand_in_any_file(tmp_path: Path):
    decomposed = unicodedata.normalize("NFD", "Übung")
    (tmp_path / f"{decomposed}.md").write_text("one")
    (tmp_path / "tab\there\nand there.md").write_text("two")
    corpus, _ = _read(tmp_path)
    assert set(corpus) == {"Übung.md", "tab%09here%0Aand there.md"}
    assert corpus["Übung.md"].title == "Übung"
    (tmp_path / "Übung.md").write_text("another file, on systems that tell the two apart")
    assert _skipped(_read(tmp_path)[1]) == {"Übung.md": "same ID"}


def test_a_file_that_cannot_be_opened_is_skipped_as_a_broken_one_is(tmp_path: Path, monkeypatch):
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "b.md").write_text("text")
    real = Path.open

    def refused(self, *arguments, **options):
        if self.name == "b.md":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    corpus, log = _read(tmp_path)
    assert list(corpus) == ["a.md"] and _skipped(log) == {"b.md": "cannot be opened"}
    assert CorpusPart(source=str(tmp_path)).digest("")["files"]


def test_patterns_and_extensions_choose_files_and_what_they_leave_out_is_no_error(tmp_path: Path):
    for name in ("a.md", "b.txt", "sub/c.md", "sub/deep/d.MD", "notes.conf", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")

    def names(**settings):
        return set(_read(tmp_path, strict=True, **settings)[0])

    assert names(file_pattern="*.md") == {"a.md", "sub/c.md"}
    assert names(file_pattern="sub/**/*.[mM][dD]") == {"sub/c.md", "sub/deep/d.MD"}
    assert names(file_extensions=("md", ".TXT")) == {"a.md", "b.txt", "sub/c.md", "sub/deep/d.MD"}
    assert names(file_extensions=(".conf", "")) == {"notes.conf", "LICENSE"}
    assert names(file_extensions=("md",), min_text_length=13) == {"sub/c.md", "sub/deep/d.MD"}
    with pytest.raises(InputError, match=r"2 of its files cannot be read .*LICENSE: no suffix"):
        names()
    with pytest.raises(InputError, match=r"no document with any text in it \(.*6 not in file_pattern"):
        names(file_pattern="LICENSE.*", file_extensions=("md",))


def test_lines_in_half_of_the_documents_are_named_and_dropped_where_the_recipe_says_so(tmp_path: Path):
    for n in range(12):
        footer = f"© ACME Corporation\nPage {n} of 12" if n < 9 else ""
        (tmp_path / f"{n}.md").write_text(f"# Title\n\n## Description\n\nText {n} of its own\n\n{footer}")
    (tmp_path / "z.md").write_text("© ACME Corporation")
    corpus, log = _read(tmp_path)
    assert log.repeated == {"© ACME Corporation": 10, "Page 0 of 12": 9}
    assert log.sentences()[0] == 'Repeated in 10 of 13 documents: "© ACME Corporation"'
    assert corpus["3.md"].text.endswith("© ACME Corporation\nPage 3 of 12")
    dropped, log = _read(tmp_path, boilerplate="drop")
    assert dropped["3.md"].text == "## Description\n\nText 3 of its own" and "z.md" not in dropped
    assert _skipped(log) == {"z.md": "only repeated lines"}


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "La niña pequeña comió piñones y salió mañana."),
        ("cp1250", "Kupující je povinen zaplatit kupní cenu a převzít žluťoučkého koně."),
        ("iso8859_2", "Kupující je povinen zaplatit kupní cenu a převzít žluťoučkého koně."),
        ("cp1251", "Договор вступает в силу после подписания сторонами."),
        ("shift_jis", "日本語の文書です。文字コードの判定を試しています。"),
        ("gb18030", "中华人民共和国合同法第一条规定。当事人应当遵守。"),
        ("utf-16-le", "No byte order mark at all."),
        ("utf-8-sig", "With a mark."),
        ("utf-32", "With another mark."),
    ],
)
def test_encodings_are_found(encoding: str, text: str):
    assert decode(text.encode(encoding))[0] == text


def test_some_broken_bytes_do_not_make_a_text_of_another_encoding():
    text = "Grüße aus Österreich, schöne größere Übungen. " * 4
    assert decode(text.encode() + b"\xe9.") == (text + "\ufffd.", "utf-8")


def test_pages_say_their_encoding(tmp_path: Path):
    (tmp_path / "a.html").write_bytes('<meta charset="koi8-r"><p>Договор вступает'.encode("koi8-r"))
    corpus, log = _read(tmp_path)
    assert corpus["a.html"].text == "Договор вступает" and log.encodings == {"koi8-r": 1}


def test_a_long_list_in_html_takes_time_in_proportion():
    def seconds(items: int) -> float:
        page = "<ul>" + "<li>item <b>bold</b>\n" * items + "</ul>"
        started = time.perf_counter()
        assert len(html_entry(page).text.splitlines()) == items
        return time.perf_counter() - started

    seconds(10)
    assert seconds(4000) < 16 * max(seconds(1000), 0.01)


def test_main_text_is_never_lost():
    body = "<p>" + "Words of the page. " * 20 + "</p>"
    assert html_entry(f"<header><nav>Menu</nav><h1>Head</h1></header>{body}<footer>Foot</footer>").title == "Head"
    for page in (f"<footer>{body}</footer>", f"<nav>{body}</nav>", f"<main>x</main>{body}", f"<header>{body}</header>"):
        assert "Words of the page." in html_entry(page).text
    assert html_entry(f"<main>{body}</main><aside>Ads</aside>").text.count("Ads") == 0
    table = "<table><tr><th>a<th>b</tr><tr><td></td><td><p>1</p><p>2</p></td></tr></table>after"
    assert html_entry(table).text == "a | b\n| 1\n\n2\n\nafter"
    assert html_entry("<pre><code>if x:\n    y # z\n</code></pre>").text == "```\nif x:\n    y # z\n```"


@pytest.mark.parametrize(
    ("name", "text", "title", "rest"),
    [
        ("a.rst", "=====\nTitle\n=====\n\ntext", "Title", "text"),
        ("a.rst", ".. _label:\n\nTitle\n-----\ntext", "Title", "text"),
        ("a.rst", ":orphan:\n\n.. note to self\n\n####\nLong\n####\n:Author: A. Cook\n\ntext", "Long", "text"),
        ("a.rst", "No title here,\nonly text.", "a", "No title here,\nonly text."),
        ("a.md", "---\nlayout: page\n---\n# Title\ntext", "Title", "text"),
        ("a.md", "+++\ntitle = 'T'\n+++\n# T\ntext", "T", "text"),
        ("a.md", "---\ntitle: T\n---\n# Another\ntext", "T", "# Another\ntext"),
        ("a.md", "---\nnot: [yaml\n---\ntext", "a", "---\nnot: [yaml\n---\ntext"),
        ("a.md", "---\n\nA rule above, and below.\n\n---\n", "a", "---\n\nA rule above, and below.\n\n---"),
        ("a.adoc", ":toc:\n= Title\n:x: y\n\ntext", "Title", "text"),
        ("a.adoc", "Just text\nin lines.", "a", "Just text\nin lines."),
        ("a.txt", "TITLE\n-----\ntext", "TITLE", "text"),
    ],
)
def test_titles_of_markup(tmp_path: Path, name: str, text: str, title: str, rest: str):
    (tmp_path / name).write_text(text)
    document = _read(tmp_path)[0][name]
    assert (document.title, document.text) == (title, rest)


def test_source_code_by_function(tmp_path: Path):
    methods = "\n".join(f"    def m{n}(self):\n" + "        x = 1\n" * 9 for n in range(8))
    (tmp_path / "long.py").write_text(f"class Long:\n    '''Many methods.'''\n\n{methods}")
    (tmp_path / "old.py").write_text("def f(x):\n    print x\n\ndef g():\n    pass\n")
    (tmp_path / "a.js").write_text("const soak = (hours) => {\n  return hours\n}\n\nexport async function boil() {}\n")
    (tmp_path / "A.java").write_text("public class Pot {\n    // Boils.\n    public int boil(int hours) {\n    }\n}\n")
    (tmp_path / "a.c").write_text("int x = 3;\n\nstatic int *soak(int hours)\n{\n  if (x) return 0;\n}\n")
    (tmp_path / "a.rs").write_text("impl Pot {\n    pub fn boil(&self) -> u8 { 3 }\n}\n")
    corpus, _ = _read(tmp_path)
    titles = {i: d.title for i, d in corpus.items()}
    assert titles["long.py/Long.m3"] == "Long.m3" and "Many methods" in corpus["long.py/Long"].text
    assert corpus["long.py/Long.m3"].text.startswith("    def m3(self):")
    assert {i for i in titles if not i.startswith("long")} == {
        *("old.py/f", "old.py/g", "a.js/soak", "a.js/boil", "A.java/Pot", "A.java/Pot.boil"),
        *("a.c", "a.c/soak", "a.rs/Pot", "a.rs/Pot.boil"),
    }
    assert corpus["A.java/Pot.boil"].text.startswith("    // Boils.")


def test_lines_of_signs_in_source_code_take_no_time(tmp_path: Path):
    line = f" {'*' * 200}\n {'a * ' * 60}\n {'<>, ' * 60}\n"
    (tmp_path / "a.c").write_text(line * 20 + "int main() {\n}\n")
    started = time.perf_counter()
    assert set(_read(tmp_path)[0]) >= {"a.c/main"}
    assert time.perf_counter() - started < 5


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "bomb.md.gz").write_bytes(gzip.compress(b"x" * 5000))
    (tmp_path / "large.txt").write_text("x" * 5000)
    (tmp_path / "line.jsonl").write_text(json.dumps({"text": "x" * 5000}))
    for name in ("files", "archives", "records"):
        monkeypatch.setattr(f"sharpen.sdg.documents.{name}.READ_LIMIT", 4000)
    corpus, log = _read(tmp_path)
    assert list(corpus) == ["a.md"]
    assert _skipped(log) == dict.fromkeys(("bomb.md.gz", "large.txt", "line.jsonl"), "too large")
    assert files.READ_LIMIT == 4000


def test_one_file_at_a_time_is_read(tmp_path: Path):
    for n in range(3):
        (tmp_path / f"{n}.md").write_text(f"text {n}")
    documents = iter_documents(tmp_path, log=ReadingLog())
    assert next(documents).id == "0.md"
    (tmp_path / "1.md").write_text("changed meanwhile")
    assert [d.text for d in documents] == ["changed meanwhile", "text 2"]


def test_the_fingerprint_follows_what_is_read(tmp_path: Path, monkeypatch):
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "b.pdf").write_bytes(b"%PDF")
    part = CorpusPart(source=str(tmp_path))

    def change(act) -> bool:
        before = part.digest("")
        act()
        return part.digest("") != before

    assert not change(lambda: (tmp_path / "a.md").write_text("text"))
    assert change(lambda: (tmp_path / "a.md").write_text("other text"))
    assert change(lambda: (tmp_path / "b.pdf").write_bytes(b"%PDF-1"))
    assert change(lambda: (tmp_path / "c.png").write_bytes(b"x")), "what is skipped is listed"
    assert not change(lambda: (tmp_path / "c.png").write_bytes(b"y"))
    assert change(lambda: monkeypatch.setattr("importlib.metadata.version", lambda name: f"another {name}"))
    digests = [
        json.dumps([p.digest(""), p.fingerprint()])
        for p in (part, part.model_copy(update={"file_pattern": "*.md"}), part.model_copy(update={"strict": True}))
    ]
    assert all(a != b for a, b in pairwise(digests))


def test_a_corpus_file_with_other_well_known_keys(tmp_path: Path):
    path = tmp_path / "corpus.jsonl"
    write_rows(
        path, [{"docid": 3, "contents": "three", "headline": "T"}, {"_id": "a", "id": 9, "text": "x", "body": "y"}]
    )
    corpus = read_corpus(path)
    assert corpus["3"].text == "three" and corpus["3"].title == "T" and corpus["a"].text == "x"
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "corpus.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_documents(packed) == corpus
    assert CorpusPart(source=str(packed)).digest("")
    (packed / "corpus.jsonl.gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(InputError, match=r"not a whole gzip file"):
        read_documents(packed)
    write_rows(path, [{"key": 3, "contents": "three"}])
    with pytest.raises(InputError, match=r"line 1: no key '_id', nor 'id',.*the keys there are 'key', 'contents'"):
        read_corpus(path)
    write_rows(path, [{"id": 3, "words": "three"}])
    with pytest.raises(InputError, match=r"no key 'text', nor 'contents'.*the keys there are 'id', 'words'"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("corpus.source=2024", "'corpus.source=\"2024\"'"),
        ("corpus.source=007", "'corpus.source=\"007\"'"),
        ("training.query_prompt=query: ", "'training.query_prompt=\"query: \"'"),
    ],
)
def test_what_yaml_takes_for_something_else_is_told_with_its_quotes(override: str, hint: str):
    with pytest.raises(InputError, match=f"quote it, as {hint}"):
        load_recipe("quickstart", [override])
    load_recipe("quickstart", [hint.strip("'")])


def test_a_recipe_says_how_to_quote_in_a_file(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("training:\n  query_prompt: query: \n".replace("query: \n", '{"query": }\n'))
    (tmp_path / "b.yaml").write_text("corpus:\n  source: 2024-01-02\n")
    with pytest.raises(InputError, match='quote it, as query_prompt: "query: "'):
        load_recipe("quickstart", [str(tmp_path / "a.yaml")])
    with pytest.raises(InputError, match=r'line 2: .*quote it, as source: "2024-01-02"'):
        load_recipe("quickstart", [str(tmp_path / "b.yaml")])


def _some(folder: Path, number: int) -> tuple[Counter, bool]:
    documents, more = some_documents(folder, number, ReadingLog())
    assert documents == some_documents(folder, number, ReadingLog())[0]
    return Counter(document.id.partition(".")[2].partition("/")[0] for document in documents), more


def test_some_documents_are_of_all_files_and_no_kind_is_left_out_where_kinds_take_turns(tmp_path):
    for n in range(100):
        for language in ("de", "en"):
            (tmp_path / f"{n:03}.{language}.md").write_text(f"page {n}")
    found, more = _some(tmp_path, 100)
    assert more and found.total() == 100 and min(found.values()) > 30 and len(found) == 2
    found, more = _some(tmp_path, 200)
    assert not more and found == {"de.md": 100, "en.md": 100}


def test_some_documents_of_a_table_among_pages_are_as_many_as_it_has(tmp_path):
    for n in range(20):
        (tmp_path / f"{n}.md").write_text(f"page {n}")
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("text\n" + "".join(f"row {n} of the table\n" for n in range(60)))
    kinds, more = _some(tmp_path, 50)
    assert more and kinds["csv"] > 35 and kinds["md"] > 2  # of 140, 120 are rows


def test_some_documents_of_one_file_are_drawn_from_all_of_it_and_of_none_that_is_an_error(tmp_path):
    rows = "".join(json.dumps({"_id": f"{n}", "text": f"row {n}"}) + "\n" for n in range(100))
    (tmp_path / "corpus.jsonl").write_text(rows)
    documents, more = some_documents(tmp_path / "corpus.jsonl", 10, ReadingLog())
    assert more and len(documents) == 10 and max(int(document.id) for document in documents) > 50
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.md").write_text("")
    with pytest.raises(InputError, match=r"no document with any text in it \(1 empty\)"):
        some_documents(tmp_path / "empty", 10, ReadingLog())
