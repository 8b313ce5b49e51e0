"""How an LLM is told to write its answer, and what can be read from what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import json_repair
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sharpen.sdg.rejections import Problem

Form = Literal["line", "list", "json"]
"""``line``: one query, on one line. ``list``: several, each on a line after a dash (Wen et al. 2025). ``json``: an
object ``{"queries": [...]}``, by JSON schema where the server takes one."""


@dataclass(frozen=True)
class ParsedQuery:
    """One query of an answer. ``evidence``: IDs of the documents that answer it, where these are fewer than were shown;
    ``metadata``: more about it; ``problem``: why it cannot be used."""

    query: str
    answer: str = ""
    evidence: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True)
class ParsedAnswer:
    """The queries of an answer; ``error``: why there are none. ``goes_on``: text follows the last one, so that it is
    whole, even where the answer was cut off."""

    queries: tuple[ParsedQuery, ...] = ()
    error: str = ""
    goes_on: bool = False


def instruction(form: Form, count: int, answers: bool, chat: bool) -> str:
    """What is added to the task. Models that continue a text follow the examples, and are told nothing."""
    if form == "line" or not chat:
        return ""
    what = f"{count} different queries" if count > 1 else "one query"
    if form == "list":
        pair = ' as "- Query: ... Answer: ..."' if answers else ' after "- "'
        return f"Write {what} for the last one, each on a line of its own{pair}, and nothing else."
    return (
        f"Write {what} for the last one, as JSON like in the examples:"
        f" {json.dumps(_shape(['...'], ['...'] if answers else []))}"
    )


def format_example(form: Form, queries: Sequence[str], answers: Sequence[str] = ()) -> str:
    """An example's answer, as it follows the colon of its label."""
    if form == "line":
        return f" {queries[0]}"
    if form == "json":
        return " " + json.dumps(_shape(queries, answers), ensure_ascii=False)
    if answers:
        return "".join(f"\n- Query: {q} Answer: {a}" for q, a in zip(queries, answers, strict=True))
    return "".join(f"\n- {query}" for query in queries)


def queries_schema(count: int, answers: bool) -> dict[str, Any]:
    """The JSON schema of exactly ``count`` queries."""
    text = {"type": "string"}
    return list_schema("queries", count, object_schema({"query": text, "answer": text}) if answers else text)


def list_schema(name: str, count: int, item: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with one key, a list of exactly ``count`` items."""
    return object_schema({name: {"type": "array", "items": item, "minItems": count, "maxItems": count}})


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def held_to_schema(parameters: dict[str, Any], name: str, schema: dict[str, Any], chat: bool) -> dict[str, Any]:
    """Request parameters with those that hold a server to a JSON schema."""
    if chat:
        return parameters | {
            "response_format": {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
        }
    # llama.cpp's; the protocol has none for completions
    return parameters | {"extra_body": parameters.get("extra_body", {}) | {"json_schema": schema}}


def parse_answer(text: str, form: Form, count: int, answers: bool = False) -> ParsedAnswer:
    """At most ``count`` items. Forgives labels, marks, fences, sentences that announce the queries, text around JSON,
    and JSON that breaks off."""
    if form == "json":
        return _from_json(text, count)
    if form == "line":
        return ParsedAnswer((ParsedQuery(query=clean(text)),), goes_on=len(_lines(text)) > 1)
    items = []
    for line in _bare_lines(text):
        query, label, answer = line.partition("Answer:")
        items.append(ParsedQuery(query=_bare(query, _BULLET) if label else line, answer=answer.strip()))
    if answers:
        items = [item for item in items if item.answer]
    return ParsedAnswer(tuple(items[:count])) if items else ParsedAnswer(error="no query in it")


def clean(text: str) -> str:
    """The query in an answer: its first line, without a sentence that announces it, and without a label, list mark or
    quotes around it. A number is a list's where it counts the line, or several have one: ordinals are written alike.

    >>> clean("Sure! Here is a query:\\n\\n**how to descale a kettle**")
    'how to descale a kettle'
    >>> clean("python error: list index out of range")
    'python error: list index out of range'
    >>> clean("2. Weltkrieg Ursachen")
    '2. Weltkrieg Ursachen'
    """
    return next(_bare_lines(text), "")


def _bare_lines(text: str) -> Iterator[str]:
    """The query in each line of an answer."""
    lines = _lines(text)
    numbers = {n: int(match.group(1)) for n, line in enumerate(lines, 1) if (match := _NUMBER.match(line))}
    mark = _LISTED if len(numbers) > 1 or any(n == number for n, number in numbers.items()) else _BULLET
    return filter(None, (_bare(line, mark) for line in lines))


_NUMBER = re.compile(r"^(\d{1,2})[.)]\s+")
_BULLET = re.compile(r"^[-*•–]\s+")
_LISTED = re.compile(rf"(?:{_BULLET.pattern}|{_NUMBER.pattern})")
_NAMES = (
    # in the languages of most of Wikipedia: query and question, one and several
    r"quer(?:y|ies)|questions?|frage|fragen|suchanfragen?|requ[êe]tes?|preguntas?|consultas?|perguntas?"
    r"|domand[ae]|interrogazion[ei]|vra(?:ag|gen)|zoekopdracht(?:en)?|вопрос\w*|запрос\w*|запит\w*|питання|pytani[ae]"
    r"|zapytani[ae]|otáz\w+|dotaz\w*|frågor|fråga|spørgsmål|spørsmål|kysymy\w+|sor(?:u|gu)\w*|kérdés\w*|întreb\w+"
    r"|câu hỏi|pertanyaan|kueri|ερώτη\w+|سؤال|أسئلة|سوال|שאלה|प्रश्न|सवाल|คำถาม|问题|問題|查询|查詢|質問|クエリ|질문|쿼리"
)
_OPENERS = (
    r"sure|certainly|of course|ok(?:ay)?|absolutely|understood|here(?:['’]s| is| are)|below (?:is|are)"
    r"|the following|natürlich|gerne?|klar|hier (?:ist|sind)|bien sûr|voici|d['’]accord|claro|por supuesto|aquí"
    r"|aqui (?:está|estão)|certo|certamente|ecco|natuurlijk|zeker|hier (?:is|zijn)|конечно|вот|ось|звичайно|oczywiście"
    r"|oto|jasne|jistě|samozřejmě|zde|tady|här är|her er|tässä|elbette|tabii|işte|íme|iată|desigur|tentu|berikut"
    r"|بالتأكيد|إليك|هذا|यहाँ|ज़रूर|นี่คือ|แน่นอน|好的|当然|以下是|这是|以下|はい|もちろん|こちら|물론|다음은|여기"
)
_START, _END = r"(?<![a-zà-ɏа-яё])", r"(?![a-zà-ɏа-яё])"
"""Edges of words, where the script has any."""
_LABEL = re.compile(rf"(?:search )?(?:{_NAMES}|q)(?: ?\d+)?\s*[:：]\s*", re.IGNORECASE)
_ENGLISH_LABEL = re.compile(r"(?:(?:search )?query|question|q)(?: \d+)?\s*(?::\s*|\.\s+)", re.IGNORECASE)
_SAME_LINE = re.compile(rf"(?:{_OPENERS}){_END}[^:：]*?{_START}(?:{_NAMES})[^:：]{{0,80}}[:：]\s*(?=\S)", re.IGNORECASE)
_SENTENCE = re.compile(rf"(?:{_OPENERS}){_END}.*{_START}(?:{_NAMES}){_END}.*[.!。！।]", re.IGNORECASE)
_YES = re.compile(rf"(?:{_OPENERS}|great|yes)[\s.!,。！，]*", re.IGNORECASE)
_BARE_LABEL = re.compile(rf"(?:search )?(?:{_NAMES})(?: ?\d+)?[:：]?", re.IGNORECASE)
_QUOTES = ('""', "''", "“”", "``", "«»", "„“", "„”", "‘’", "「」", "『』", "《》")


def _lines(text: str) -> list[str]:
    """The lines of an answer that are not empty, fences of code or what only announces those after it. The last one
    always stays: it may be a query that ends in a colon."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    while len(lines) > 1 and _announces(lines[0]):
        del lines[0]
    return lines


def _announces(line: str) -> bool:
    """Whether a line with others after it announces these: it ends in a colon, is a label alone, or a sentence with the
    words of such announcements."""
    if _LISTED.match(line):
        return False
    plain = line.lstrip("#").strip(" *_")
    if plain.endswith((":", "：")) or _BARE_LABEL.fullmatch(plain):
        return True
    if _SAME_LINE.match(plain):  # the query is in it
        return False
    return bool(_YES.fullmatch(plain) or _SENTENCE.fullmatch(plain))


def _bare(line: str, mark: re.Pattern[str] = _LISTED) -> str:
    """The query in a line. ``mark``: what may stand before it as a list's mark."""
    line = re.sub(r"^#{1,6}\s+", "", line.strip())
    line = mark.sub("", line)
    line = re.sub(r"^\*\*(\S(?:.*?\S)?)\*\*(?=\W|$)", r"\1", line)
    line = _SAME_LINE.sub("", line, count=1) if _SAME_LINE.match(line) else line
    for label in (_ENGLISH_LABEL, _LABEL):
        if match := label.match(line):
            line = mark.sub("", line[match.end() :])
            break
    for left, right in (("**", "**"), *_QUOTES):
        inside = line[len(left) : -len(right)]
        if line == left + inside + right and left not in inside and right not in inside:  # not "a" or "b"
            line = inside.strip()
    return line.strip()


def _shape(queries: Sequence[str], answers: Sequence[str]) -> dict[str, Any]:
    return {
        "queries": (
            [{"query": q, "answer": a} for q, a in zip(queries, answers, strict=True)] if answers else list(queries)
        )
    }


class _QueryRow(BaseModel):
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)
    query: str
    answer: str = ""


_QUERY_ROWS = TypeAdapter(list[_QueryRow])


def parse_json(text: str) -> Any:
    """The JSON in an answer, mended where it is broken or stands in other text. Raises ``ValueError`` if it cannot
    be."""
    try:
        return json_repair.loads(text)
    except RecursionError as error:  # nested deeper than anything that was asked for
        raise ValueError(str(error)) from error


def _from_json(text: str, count: int) -> ParsedAnswer:
    try:
        value = parse_json(text)
    except ValueError as error:
        return ParsedAnswer(error=f"no JSON: {error}")
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), None)
    if not isinstance(value, list):
        return ParsedAnswer(error="no JSON object with a list of queries")
    try:
        rows = _QUERY_ROWS.validate_python([{"query": v} if isinstance(v, str) else v for v in value])
    except ValidationError as error:
        first = error.errors()[0]
        return ParsedAnswer(error=f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return (
        ParsedAnswer(tuple(ParsedQuery(row.query, row.answer) for row in rows[:count]))
        if rows
        else ParsedAnswer(error="the list is empty")
    )
