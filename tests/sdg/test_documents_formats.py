import io
from pathlib import Path

import pytest
from rich.console import Console

from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.recipes.engine import run_stages
from sharpen.recipes.load import load_recipe
from sharpen.recipes.run import prepare_run
from sharpen.sdg.documents import ReadingLog, read_documents
from sharpen.sdg.documents.formats import Format
from tests.conftest import make_dataset, make_recipe
from tests.processes import sharpen
from tests.support.document_files import EXPECTED, REASONS, SENTENCE, write_bad, write_good


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_good(folder)
    write_bad(folder)
    return folder


def test_a_file_of_each_format_is_read_and_every_other_is_named_with_its_reason(mixed: Path):
    log = ReadingLog()
    corpus = read_documents(mixed, log=log)
    found = {i: (d.title, d.text) for i, d in corpus.items()}
    assert {k: v for k, v in found.items() if EXPECTED.get(k) != v} == {"bad.jsonl/1": ("", "good line")}
    assert EXPECTED.keys() - found.keys() == set()
    reasons = {s.file: s.reason for s in log.skipped}
    assert reasons == REASONS | {"archive.zip/in/.hidden.md": "hidden"}


def test_metadata_say_where_a_document_comes_from(mixed: Path):
    corpus = read_documents(mixed, log=ReadingLog())
    assert corpus["front.md"].metadata == {
        "source": "front.md",
        "format": "markdown",
        "author": "A. Cook, B. Baker",
        "date": "2021-05-06",
    }
    assert corpus["page.adoc"].metadata["author"] == "A. Cook" and corpus["page.adoc"].metadata["date"] == "2020-01-02"
    assert corpus["text.docx"].metadata["date"] == "2018-01-02T03:04:05Z"
    assert corpus["scan.pdf"].metadata["date"] == "2019-03-04" and corpus["scan.pdf"].metadata["author"] == "A. Cook"
    assert corpus["slides.pptx"].metadata["author"] == "A. Cook"
    assert corpus["book.epub/OEBPS/one.xhtml"].metadata["book"] == "The book of beans"
    assert corpus["letter.eml"].metadata["date"] == "2020-03-02T10:00:00+00:00"
    assert corpus["rows.csv/7"].metadata["year"] == "1999"
    assert corpus["sheet.xlsx/Prices/1"].metadata["sheet"] == "Prices"
    assert corpus["archive.zip/in/side.md"].metadata["source"] == "archive.zip/in/side.md"
    assert corpus["latin.txt"].metadata["encoding"] == "cp1252"
    assert corpus["wide.txt"].metadata["encoding"] == "utf-16-le"


def test_a_single_file_is_a_corpus_and_its_ids_go_without_its_name(mixed: Path):
    assert set(read_documents(mixed / "archive.zip", log=ReadingLog())) == {"in/side.md", "again.zip/a.txt"}
    assert set(read_documents(mixed / "rows.csv")) == {"7", "8"}
    assert set(read_documents(mixed / "scan.pdf")) == {"scan.pdf"}
    assert set(read_documents(mixed / "saved")) == {"s1"}
    assert read_documents(mixed / "packed.jsonl.gz")["5"].text == SENTENCE
    with pytest.raises(InputError, match=r"bomb\.docx: no document .*1 too large"):
        read_documents(mixed / "bomb.docx", log=ReadingLog())


def test_without_the_extra_its_files_are_skipped_and_the_way_out_is_named(mixed: Path, monkeypatch):
    monkeypatch.setattr(Format, "is_installed", lambda self: not self.in_extra)
    log = ReadingLog()
    assert "plain.txt" in read_documents(mixed, log=log)
    reasons = {s.file: s.reason for s in log.skipped}
    assert reasons["scan.pdf"] == ".pdf (pip install 'sharpen[documents]')"
    assert reasons["text.docx"] == ".docx (pip install 'sharpen[documents]')"
    assert "4 .pdf (pip install 'sharpen[documents]')" in " ".join(log.sentences())


def test_the_stage_lists_counts_and_says_what_it_skipped_and_strict_refuses(mixed: Path, tmp_path: Path):
    recipe_file = make_recipe(tmp_path, make_dataset(tmp_path / "topics"))
    overrides = [f"corpus.source={mixed}"]
    output = io.StringIO()
    manifests, run = _corpus_stage(recipe_file, overrides, output)
    counts = manifests["corpus"]["counts"]
    assert counts["documents"] == len(EXPECTED) + 1 and counts["skipped"] == len(REASONS) + 1
    assert counts["skipped_because"]["password"] == 3 and counts["encodings"] == {"cp1252": 1, "utf-16-le": 1}
    assert "1 .png (no reader)" in output.getvalue()
    rows = {row["file"]: row["reason"] for _, row in read_jsonl(run.folder / "corpus" / "skipped.jsonl")}
    assert rows["locked.pdf"] == "password" and len(rows) == counts["skipped"]
    assert _corpus_stage(recipe_file, overrides, output)[0] == manifests, "reused"
    with pytest.raises(InputError, match=r"strict is set.*3 password.*README: no suffix.*more"):
        _corpus_stage(recipe_file, [*overrides, "corpus.strict=true"], output)
    chosen = ["corpus.file_extensions=[md, .adoc, txt]", 'corpus.file_pattern="[fw]*"', "corpus.strict=true"]
    manifests, run = _corpus_stage(recipe_file, [*overrides, *chosen, "corpus.min_text_length=39"], output)
    assert list(run.inputs().corpus()) == ["front.md", "wide.txt"]


def test_the_command_line_is_strict_and_ends_with_status_2(mixed: Path, tmp_path: Path):
    recipe_file = make_recipe(tmp_path, make_dataset(tmp_path / "topics"))
    result = sharpen("run", str(recipe_file), f"corpus.source={mixed}", "--strict", cwd=tmp_path)
    assert (
        result.returncode == 2 and "strict is set" in result.stderr and "picture.png: .png (no reader)" in result.stderr
    )


def _corpus_stage(recipe_file: Path, overrides: list[str], output: io.StringIO):
    run = prepare_run(load_recipe(str(recipe_file), overrides).recipe, Console(file=output, width=300))
    return run_stages(run, until="corpus"), run
