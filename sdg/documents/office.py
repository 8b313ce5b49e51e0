"""PDF, Word, PowerPoint, spreadsheets, EPUB and notebooks."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from sharpen.sdg.documents.archives import check_package
from sharpen.sdg.documents.encodings import decode
from sharpen.sdg.documents.files import Entry, InputFile
from sharpen.sdg.documents.records import table_entries
from sharpen.sdg.documents.skipping import Unreadable
from sharpen.sdg.documents.web_pages import html_entry

_OOXML = {
    "title": "{http://purl.org/dc/elements/1.1/}title",
    "author": "{http://purl.org/dc/elements/1.1/}creator",
    "date": "{http://purl.org/dc/terms/}created",
}
_NO_TITLE = re.compile(
    r"untitled.*|microsoft (?:word|powerpoint|excel).*|.*\.(?:docx?|pptx?|xlsx?|indd|tex|dvi|pdf)|.", re.I
)
_PDF_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?")


def read_pdf(file: InputFile) -> Iterator[Entry]:
    """The pages' text, with an empty line between pages. Pages that are pictures have none; nothing is recognised."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(file.path or file.read())
    except pypdfium2.PdfiumError as error:
        reason = "password" if "password" in str(error).lower() else "broken"
        raise Unreadable(reason, "" if reason == "password" else str(error)) from None
    try:
        pages = []
        for n in range(len(pdf)):
            page = pdf[n]
            content = page.get_textpage()
            pages.append(content.get_text_bounded())
            content.close()
            page.close()
        about = pdf.get_metadata_dict()
    finally:
        pdf.close()
    # a hyphen at the end of a line is marked, and the word's two halves belong together
    text = "\n\n".join(re.sub(r"[\ufffe\x02]\s*", "", page.replace("\r\n", "\n")).strip() for page in pages).strip()
    if pages and not text:
        raise Unreadable("no text", "pages without text, as scans are; recognise it with OCR first")
    date = _PDF_DATE.match(about.get("CreationDate", ""))
    values = {
        "author": about.get("Author", "").strip(),
        "date": "-".join(part for part in date.groups() if part) if date else "",
    }
    yield Entry(text, _title(about.get("Title", "")), metadata={k: v for k, v in values.items() if v})


def read_docx(file: InputFile) -> Iterator[Entry]:
    import mammoth

    about = _properties(file)
    with file.open() as stream:
        no_pictures = mammoth.images.img_element(lambda _image: {})
        page = mammoth.convert_to_html(stream, convert_image=no_pictures).value
    entry = html_entry(page, is_page=False)
    title = _title(about.pop("title", "")) or entry.title
    text = re.sub(rf"\A# {re.escape(title)}\n+", "", entry.text) if title else entry.text
    yield Entry(text, title, metadata=about)


def read_pptx(file: InputFile) -> Iterator[Entry]:
    """Slides with their titles as headings, tables a line a row, and the speaker's notes."""
    from pptx import Presentation

    about = _properties(file)
    with file.open() as stream:
        slides = [_slide(slide) for slide in Presentation(stream).slides]
    first = next((heading for heading, _ in slides if heading), "")
    blocks = [block for heading, texts in slides for block in ([f"## {heading}"] if heading else []) + texts]
    yield Entry("\n\n".join(blocks), _title(about.pop("title", "")) or first or None, metadata=about)


def read_spreadsheet(file: InputFile) -> Iterator[Entry]:
    """A row of any sheet is a document, as of a table in CSV."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    about = _properties(file) if file.suffix in (".xlsx", ".xlsm") else {}
    about.pop("title", None)
    try:
        with file.open() as stream:
            workbook = CalamineWorkbook.from_filelike(stream)
        for name in workbook.sheet_names:
            for entry in table_entries(workbook.get_sheet_by_name(name).to_python()):
                yield Entry(entry.text, entry.title, f"{name}/{entry.name}", about | {"sheet": name} | entry.metadata)
    except PasswordError:
        raise Unreadable("password") from None
    except CalamineError as error:
        raise Unreadable("broken", str(error)) from None


def read_epub(file: InputFile) -> Iterator[Entry]:
    """A chapter a document, in the order of the book; its title is the chapter's, else the book's."""
    with check_package(file) as book:
        if "META-INF/rights.xml" in book.namelist():
            raise Unreadable("password", "copy protection")
        container = _xml(book.read("META-INF/container.xml"))
        package = container.find(".//{*}rootfile").get("full-path")
        root = _xml(book.read(package))
        about = {
            name: " ".join(element.text.split())
            for name, tag in (("title", "title"), ("author", "creator"), ("date", "date"))
            if (element := root.find(f".//{{http://purl.org/dc/elements/1.1/}}{tag}")) is not None and element.text
        }
        title = about.pop("title", "")
        items = {item.get("id"): item for item in root.iterfind(".//{*}manifest/{*}item")}
        for reference in root.iterfind(".//{*}spine/{*}itemref"):
            item = items.get(reference.get("idref"))
            if item is None or "html" not in (item.get("media-type") or ""):
                continue
            place = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item.get("href"))))
            chapter = html_entry(decode(book.read(place))[0], is_page=False)
            if chapter.text:
                book_title = {"book": title} if title else {}
                yield Entry(chapter.text, chapter.title or title or None, place, about | book_title)


def read_notebook(file: InputFile) -> Iterator[Entry]:
    """Cells of Markdown as they are and cells of code in fences; outputs are left out."""
    try:
        book = json.loads(decode(file.read())[0])
        cells = book["cells"] if "cells" in book else [c for sheet in book["worksheets"] for c in sheet["cells"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable("broken", f"no notebook ({type(error).__name__}: {error})") from None
    about = book.get("metadata") or {}
    language = (about.get("kernelspec") or {}).get("language") or (about.get("language_info") or {}).get("name") or ""
    blocks = []
    for cell in cells:
        source = cell.get("source", cell.get("input", ""))
        source = ("".join(source) if isinstance(source, list) else str(source)).strip()
        if source:
            blocks.append(f"```{language}\n{source}\n```" if cell.get("cell_type") == "code" else source)
    title = None
    if blocks and (match := re.match(r"# (.+)\n?", blocks[0])):
        title, blocks[0] = match[1].strip(), blocks[0][match.end() :].strip()
    authors = about.get("authors") or []
    names = [str(a.get("name", "")) if isinstance(a, dict) else str(a) for a in authors]
    yield Entry("\n\n".join(filter(None, blocks)), title, metadata={"author": ", ".join(names)} if names else {})


def _slide(slide: Any) -> tuple[str, list[str]]:
    heading = slide.shapes.title
    texts = [text for shape in slide.shapes if shape != heading for text in _shape(shape)]
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None and notes.text.strip():
        texts.append(notes.text.strip())
    return " ".join(heading.text_frame.text.split()) if heading is not None else "", texts


def _shape(shape: Any) -> Iterator[str]:
    if hasattr(shape, "shapes"):  # a group
        for inner in shape.shapes:
            yield from _shape(inner)
    elif getattr(shape, "has_table", False):
        rows = (" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows)
        yield "\n".join(rows)
    elif shape.has_text_frame and (text := shape.text_frame.text.replace("\v", "\n").strip()):
        yield text


def _properties(file: InputFile) -> dict[str, Any]:
    """Title, author and date of a file of Office, which is checked first."""
    with check_package(file) as archive:
        if "docProps/core.xml" not in archive.namelist():
            return {}
        root = _xml(archive.read("docProps/core.xml"))
    found = {name: (root.findtext(f".//{tag}") or "").strip() for name, tag in _OOXML.items()}
    return {name: value for name, value in found.items() if value}


def _title(title: str) -> str | None:
    """None for what programs put there by themselves."""
    title = " ".join(title.replace("\0", "").split())
    return None if not title or _NO_TITLE.fullmatch(title) else title


def _xml(data: bytes) -> Any:
    """No entity is expanded and nothing is fetched."""
    from lxml import etree

    try:
        return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    except etree.XMLSyntaxError as error:
        raise Unreadable("broken", str(error)) from None
