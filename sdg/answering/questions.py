"""Questions with the answers that are known to be right, from files of several layouts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import ID_KEYS, QUERY_ID_KEYS, Corpus, Qrels, Queries, text_key
from sharpen.evaluation.files import InputError, read_jsonl

ANSWER_KEYS = ("answers", "answer")
QUESTION_KEYS = ("question", "text", "query")
DOCUMENT_KEYS = ("documents", "document", "positives")


@dataclass(frozen=True)
class AnsweredQuestion:
    """``answers``: each of them is right. ``documents``: IDs of documents or chunks that say it; empty: not known."""

    id: str
    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...] = ()


def answered_queries(queries: Queries, qrels: Qrels) -> list[AnsweredQuestion]:
    """The judged queries that have an answer in their metadata, as ``answer`` or ``answers``.

    >>> from sharpen.evaluation.beir import Query
    >>> queries = {"q": Query("q", "how high is it", {"answer": "46 metres"}), "r": Query("r", "lighthouse")}
    >>> answered_queries(queries, {"q": {"d1": 1}, "r": {"d1": 1}})
    [AnsweredQuestion(id='q', text='how high is it', answers=('46 metres',), documents=('d1',))]
    """
    found = []
    for query_id, grades in qrels.items():
        query = queries[query_id]
        if answers := _answers(query.metadata):
            documents = tuple(i for i, grade in grades.items() if grade > 0)
            found.append(AnsweredQuestion(query_id, query.text, answers, documents))
    return found


def read_answered(path: Path, corpus: Corpus, qrels: Qrels | None = None) -> list[AnsweredQuestion]:
    """Read questions of a file: ``.json`` in SQuAD's layout, or ``.jsonl`` with ``question`` and ``answer`` (or
    ``answers``), and perhaps ``_id`` and ``document`` (or ``documents``), in each line.

    Where a question names no document, it has those of ``qrels``, or the one in ``corpus`` with the text of its
    paragraph. SQuAD's questions without an answer are left out. Raises ``InputError`` (file and line) for what is not
    as it should be, and where there is no question.
    """
    questions = list(_of_squad(path, corpus) if path.suffix == ".json" else _of_lines(path))
    if not questions:
        raise InputError(f"{path}: no question with an answer in it")
    known = qrels or {}
    return [
        question
        if question.documents or question.id not in known
        else AnsweredQuestion(
            question.id, question.text, question.answers, tuple(i for i, g in known[question.id].items() if g > 0)
        )
        for question in questions
    ]


def _of_lines(path: Path) -> Iterator[AnsweredQuestion]:
    seen: set[str] = set()
    for number, row in read_jsonl(path):
        text = _first(row, QUESTION_KEYS)
        answers = _answers(row) or _answers(row.get("metadata") or {})
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}, line {number}: no question; give each line question and answer")
        if not answers:
            raise InputError(f'{path}, line {number}: no answer; give "answer" a text, or "answers" a list of them')
        question_id = str(_first(row, QUERY_ID_KEYS) or f"line-{number}")
        if question_id in seen:
            raise InputError(f"{path}, line {number}: the ID {question_id!r} stands on an earlier line, too")
        seen.add(question_id)
        yield AnsweredQuestion(question_id, text, answers, _texts(_first(row, DOCUMENT_KEYS)))


def _of_squad(path: Path, corpus: Corpus) -> Iterator[AnsweredQuestion]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        paragraphs = [paragraph for article in data["data"] for paragraph in article["paragraphs"]]
        rows = [(paragraph["context"], row) for paragraph in paragraphs for row in paragraph["qas"]]
        found = [(c, str(row["id"]), row["question"], [a["text"] for a in row["answers"]]) for c, row in rows]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not in SQuAD's layout, data > paragraphs > context and qas ({type(error).__name__}: {error});"
            " give a .jsonl file with question and answer in each line"
        ) from None
    by_text: dict[str, tuple[str, ...]] = {}
    for i, document in corpus.items():
        by_text.setdefault(document.copy_key, (i,))
    for context, question_id, text, answers in found:
        if answers:
            documents = by_text.get(text_key(context), ())
            yield AnsweredQuestion(question_id, text, tuple(dict.fromkeys(answers)), documents)


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    return _texts(_first(row, ANSWER_KEYS))


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or several, or objects that have one, as SQuAD's and those of qrels."""
    values: Iterable[Any] = value if isinstance(value, list | tuple) else () if value is None else (value,)
    texts = (v.get("text", _first(v, ID_KEYS)) if isinstance(v, dict) else v for v in values)
    return tuple(dict.fromkeys(str(text).strip() for text in texts if text is not None and str(text).strip()))


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
