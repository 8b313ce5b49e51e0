"""A small file of each format that documents come in, and some that are broken."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from pathlib import Path

SENTENCE = "Soak the beans overnight in cold water."
_NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# Beans in cells\n", "\n", SENTENCE]},
        {"cell_type": "code", "source": "hours = 9\nif hours:\n    boil()", "outputs": [{"text": "noise"}]},
    ],
    "metadata": {"kernelspec": {"language": "python"}},
}
_LETTER = f"""From: Ann Cook <ann@example.org>
Subject: =?utf-8?q?Beans_by_letter?=
Date: Mon, 02 Mar 2020 10:00:00 +0000
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b"

--b
Content-Type: text/plain; charset="utf-8"

{SENTENCE}
--b
Content-Type: text/markdown
Content-Disposition: attachment; filename="more.md"

# Attached beans

Boil them.
--b--
"""
_PYTHON = '''"""About beans."""

import os

LIMIT = 3


def soak(hours):
    """Soak the beans."""
    return hours


class Pot:
    """A pot."""

    def boil(self):
        return LIMIT
'''


def good_files() -> dict[str, bytes]:
    """Name to content, each with ``SENTENCE`` or what stands in ``EXPECTED``."""
    files: dict[str, str | bytes] = {
        "plain.txt": SENTENCE,
        "front.md": f"---\ntitle: Beans up front\nauthor: [A. Cook, B. Baker]\ndate: 2021-05-06\n---\n\n{SENTENCE}\n",
        "over.rst": f".. _beans:\n\n.. a comment\n   of two lines\n\n===========\nBeans below\n===========\n\n"
        f"{SENTENCE}\n",
        "page.adoc": f"// draft\n= Beans in Ascii\nA. Cook <a@b.org>\nv1.0, 2020-01-02\n:toc:\n\n{SENTENCE}\n",
        "page.html": "<html><head><title>Beans &amp; web</title><meta name='author' content='A. Cook'></head><nav>"
        f"Home</nav><body><p>{SENTENCE}</p><pre>if dry:\n    soak()</pre><footer>Imprint</footer></body></html>",
        "page.xhtml": '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>'
        f"Beans in X</title><script src='a'/></head><body><p>{SENTENCE}</p></body></html>",
        "beans.ipynb": json.dumps(_NOTEBOOK),
        "module.py": _PYTHON,
        "boil.go": "package beans\n\n// Boil them.\nfunc Boil(hours int) int {\n\treturn hours\n}\n",
        "rows.csv": f'id;title;body;year\n7;Beans in rows;"{SENTENCE}";1999\n8;Long;{"x" * 150_000};2000\n',
        "passages.tsv": f'17\t{SENTENCE}\n18\tA 3" pipe\n',
        "columns.csv": "bean,hours\nblack,9\nwhite,8\n",
        "list.json": json.dumps({"data": [{"docid": "a", "headline": "Beans listed", "contents": SENTENCE}]}),
        "lines.jsonl": json.dumps({"id": "x", "title": "Beans in lines", "text": SENTENCE, "author": "A. Cook"}) + "\n",
        "packed.jsonl.gz": gzip.compress(json.dumps({"docid": 5, "passage": SENTENCE}).encode()),
        "packed.md.gz": gzip.compress(f"# Beans pressed\n\n{SENTENCE}".encode()),
        "archive.zip": _zip(
            {
                "in/side.md": f"# Beans inside\n\n{SENTENCE}",
                "in/.hidden.md": "x",
                "again.zip": _zip({"a.txt": SENTENCE}),
            }
        ),
        "letter.eml": _LETTER,
        "box.mbox": f"From ann Mon Mar  2 10:00:00 2020\n{_LETTER}\nFrom bob\nSubject: Second\n\n>From here on.\n",
        "latin.txt": "Die Bohnen über Nacht einweichen, größere länger. Schön für Gäste.".encode("latin-1"),
        "wide.txt": f"# Beans in UTF-16\n\n{SENTENCE}".encode("utf-16"),
        "scan.pdf": pdf(SENTENCE, "Beans on paper"),
        "text.docx": docx(SENTENCE),
        "book.epub": epub(),
        "slides.pptx": pptx(),
        "sheet.xlsx": xlsx(),
        "table.parquet": parquet(),
    }
    return {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}


EXPECTED = {
    "plain.txt": ("plain", SENTENCE),
    "front.md": ("Beans up front", SENTENCE),
    "over.rst": ("Beans below", SENTENCE),
    "page.adoc": ("Beans in Ascii", SENTENCE),
    "page.html": ("Beans & web", f"{SENTENCE}\n\nif dry:\n    soak()"),
    "page.xhtml": ("Beans in X", SENTENCE),
    "beans.ipynb": ("Beans in cells", f"{SENTENCE}\n\n```python\nhours = 9\nif hours:\n    boil()\n```"),
    "module.py": ("module", '"""About beans."""\n\nimport os\n\nLIMIT = 3'),
    "module.py/soak": ("soak", 'def soak(hours):\n    """Soak the beans."""\n    return hours'),
    "module.py/Pot": ("Pot", 'class Pot:\n    """A pot."""\n\n    def boil(self):\n        return LIMIT'),
    "boil.go": ("boil", "package beans"),
    "boil.go/Boil": ("Boil", "// Boil them.\nfunc Boil(hours int) int {\n\treturn hours\n}"),
    "rows.csv/7": ("Beans in rows", SENTENCE),
    "rows.csv/8": ("Long", "x" * 150_000),
    "passages.tsv/17": ("", SENTENCE),
    "passages.tsv/18": ("", 'A 3" pipe'),
    "columns.csv/1": ("", "bean: black\nhours: 9"),
    "columns.csv/2": ("", "bean: white\nhours: 8"),
    "list.json/a": ("Beans listed", SENTENCE),
    "lines.jsonl/x": ("Beans in lines", SENTENCE),
    "packed.jsonl.gz/5": ("", SENTENCE),
    "packed.md.gz": ("Beans pressed", SENTENCE),
    "archive.zip/in/side.md": ("Beans inside", SENTENCE),
    "archive.zip/again.zip/a.txt": ("a", SENTENCE),
    "letter.eml": ("Beans by letter", SENTENCE),
    "letter.eml/more.md": ("Attached beans", "Boil them."),
    "box.mbox/1": ("Beans by letter", SENTENCE),
    "box.mbox/1/more.md": ("Attached beans", "Boil them."),
    "box.mbox/2": ("Second", "From here on."),
    "latin.txt": ("latin", "Die Bohnen über Nacht einweichen, größere länger. Schön für Gäste."),
    "wide.txt": ("Beans in UTF-16", SENTENCE),
    "scan.pdf": ("Beans on paper", SENTENCE),
    "text.docx": ("Beans in Word", f"## Soaking\n\n{SENTENCE}\n\nbean | hours\nblack | 9"),
    "book.epub/OEBPS/one.xhtml": ("Chapter one", SENTENCE),
    "slides.pptx": ("Beans on slides", f"## First slide\n\n{SENTENCE}\n\nSay it slowly."),
    "sheet.xlsx/Prices/1": ("", "bean: black\nprice: 3"),
    "table.parquet/p1": ("Beans in columns", SENTENCE),
    "saved/s1": ("", SENTENCE),
}
"""ID to title and text, of ``good_files`` and a folder ``saved`` of ``datasets``."""


def bad_files() -> dict[str, bytes]:
    """Name to content; why each is skipped stands in ``REASONS``."""
    whole, office = pdf(SENTENCE, "x"), docx(SENTENCE)
    return {
        "cut.pdf": whole[: len(whole) // 3],
        "locked.pdf": pdf(SENTENCE, "x", is_encrypted=True),
        "picture.pdf": pdf("", "x"),
        "bomb.zip": _with_size(_zip({"a.txt": "0"}), 2**31),
        "bomb.docx": _with_size(office, 2**31),
        "locked.zip": _with_flag(_zip({"a.txt": SENTENCE})),
        "broken.docx": office[: len(office) // 2],
        "locked.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "entities.epub": _zip({"META-INF/container.xml": '<!DOCTYPE c [<!ENTITY a "aaaa">]><c>&a;</c>'}),
        "bad.jsonl": b'{"text": "good line"}\n{"text": \n',
        "bad.json": b"{",
        "bad.parquet": b"PAR1 and nothing else",
        "empty.md": b"",
        "blank.txt": b" \n ",
        "program.txt": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 4,
        "large.md": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "cut.gz": gzip.compress(os.urandom(3000))[:200],
        "cut.txt.gz": gzip.compress(os.urandom(3000))[:200],
        "picture.png": b"\x89PNG",
        "README": b"no suffix",
        "utf16.txt": b"\xff\xfe\x00",
    }


REASONS = {
    "cut.pdf": "broken",
    "locked.pdf": "password",
    "picture.pdf": "no text",
    "bomb.zip/a.txt": "too large",
    "bomb.docx": "too large",
    "locked.zip/a.txt": "password",
    "broken.docx": "broken",
    "locked.xlsx": "password",
    "entities.epub": "broken",
    "bad.jsonl, line 2": "broken",
    "bad.json": "broken",
    "bad.parquet": "broken",
    "empty.md": "empty",
    "blank.txt": "no text",
    "program.txt": "binary data",
    "large.md": "git-lfs pointer",
    "cut.gz": "no suffix (no reader)",
    "cut.txt.gz": "broken",
    "picture.png": ".png (no reader)",
    "README": "no suffix (no reader)",
    "utf16.txt": "broken",
    "caf\\xe9.txt": "name is not UTF-8",
    "dangling.md": "link",
    ".git/": "hidden",
}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def write_good(folder: Path) -> None:
    from datasets import Dataset

    write_files(folder, good_files())
    Dataset.from_list([{"id": "s1", "text": SENTENCE}]).save_to_disk(str(folder / "saved"))


def write_bad(folder: Path) -> None:
    write_files(folder, bad_files())
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text(SENTENCE)
    (folder / "dangling.md").symlink_to(folder / "nothing.md")
    (folder / ".git").mkdir()


def pdf(text: str, title: str, is_encrypted: bool = False) -> bytes:
    """A page of a PDF. Encrypted: with keys that no password fits."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        " /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) /Author (A. Cook) /CreationDate (D:20190304050607Z) >>",
        f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >>",
    ]
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{body}\nendobj\n".encode())
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.writelines(f"{place:010} 00000 n \n".encode() for place in places)
    encrypted = f" /Encrypt 7 0 R /ID [<{'33' * 16}> <{'33' * 16}>]" if is_encrypted else ""
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info 6 0 R{encrypted} >>"
    out.write(f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def docx(sentence: str) -> bytes:
    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"

    def paragraph(text: str, style: str = "") -> str:
        style = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>"

    rows = "".join(
        f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in row)}</w:tr>"
        for row in (("bean", "hours"), ("black", "9"))
    )
    deleted = "<w:del><w:r><w:delText>No.</w:delText></w:r></w:del>"
    inserted = f"<w:p><w:ins><w:r><w:t>{sentence}</w:t></w:r></w:ins>{deleted}</w:p>"
    body = paragraph("Soaking", "Heading2") + inserted + f"<w:tbl>{rows}</w:tbl>"
    types = "".join(
        f'<Override PartName="{name}" ContentType='
        f'"application/vnd.openxmlformats-officedocument.wordprocessingml.{kind}+xml"/>'
        for name, kind in (("/word/document.xml", "document.main"), ("/word/styles.xml", "styles"))
    )
    return _zip(
        {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
            f'"application/vnd.openxmlformats-package.relationships+xml"/>{types}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type='
            f'"{office}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Type="{office}/styles" Target="styles.xml"/></Relationships>',
            "word/styles.xml": f'<w:styles xmlns:w="{w}"><w:style w:type="paragraph" w:styleId="Heading2">'
            '<w:name w:val="heading 2"/></w:style></w:styles>',
            "word/document.xml": f'<w:document xmlns:w="{w}"><w:body>{body}</w:body></w:document>',
            "docProps/core.xml": f'<cp:coreProperties xmlns:cp="{package}/metadata/core-properties" xmlns:dc='
            '"http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/"><dc:title>Beans in Word'
            "</dc:title><dc:creator>A. Cook</dc:creator><dcterms:created>2018-01-02T03:04:05Z</dcterms:created>"
            "</cp:coreProperties>",
        }
    )


def epub() -> bytes:
    return _zip(
        {
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
            "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc='
            '"http://purl.org/dc/elements/1.1/"><dc:title>The book of beans</dc:title><dc:creator>A. Cook</dc:creator>'
            '</metadata><manifest><item id="c1" href="one.xhtml" media-type="application/xhtml+xml"/></manifest><spine>'
            '<itemref idref="c1"/></spine></package>',
            "OEBPS/one.xhtml": f"<html><head/><body><h1>Chapter one</h1><p>{SENTENCE}</p></body></html>",
        }
    )


def pptx() -> bytes:
    from pptx import Presentation

    slides = Presentation()
    slides.core_properties.title, slides.core_properties.author = "Beans on slides", "A. Cook"
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "First slide", SENTENCE
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    file = io.BytesIO()
    slides.save(file)
    return file.getvalue()


def xlsx() -> bytes:
    import xlsxwriter

    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet("Prices")
        for n, row in enumerate((("bean", "price"), ("black", 3))):
            sheet.write_row(n, 0, row)
    return file.getvalue()


def parquet() -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.table({"_id": ["p1"], "title": ["Beans in columns"], "text": [SENTENCE]}), file)
    return file.getvalue()


def _zip(files: dict[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def _with_size(archive: bytes, size: int) -> bytes:
    """The first entry says that it unpacks to so many bytes."""
    at = archive.index(b"PK\x01\x02")
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


def _with_flag(archive: bytes) -> bytes:
    """The first entry says that it is encrypted."""
    local, central = archive.index(b"PK\x03\x04") + 6, archive.index(b"PK\x01\x02") + 8
    data = bytearray(archive)
    data[local] |= 1
    data[central] |= 1
    return bytes(data)
