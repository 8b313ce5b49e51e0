"""Hard negatives that an LLM writes from the query and its positive, or from the query alone (Sinha 2025)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import jinja2
from pydantic import Field

from sharpen.evaluation.beir import Corpus, Document, Query, text_key
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import LANGUAGE, first_words, language_name, n_words, words
from sharpen.evaluation.settings import FILE, Count
from sharpen.sdg.answers import held_to_schema, list_schema, parse_json
from sharpen.sdg.languages import ENGLISH
from sharpen.sdg.llm.client import raise_if_unanswered
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives.base import MinerSettings, MiningResult
from sharpen.sdg.negatives.pool import NegativesExample, read_negatives_pool
from sharpen.sdg.negatives.record import PassageProblem, RejectedPassage
from sharpen.sdg.prompts import render, template, users_template
from sharpen.sdg.rejections import answer_problem

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

MIN_WORDS = 5
"""A text with fewer words is no passage."""
COPY_SIMILARITY = 0.8
"""Jaccard similarity of three-word shingles from which a passage is a copy of another one."""


class LLMMiner(MinerSettings):
    """Negatives that an LLM writes; the sampling is that of the paper on LLM-written negatives (Sinha 2025)."""

    LATER: ClassVar[tuple[str, ...]] = ("prompt_file",)

    kind: Literal["llm"] = "llm"
    negatives: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Written for a query, in one prompt.")
    sees_positive: bool = Field(True, description="The LLM is shown the positive, too; false: the query alone.")
    pool: Annotated[str | None, FILE] = Field(
        None,
        description="YAML file of examples ({query, document, negatives}). Models that are not asked by chat need one.",
    )
    examples: Annotated[int, Field(ge=0, le=8)] = Field(3, description="Drawn from the pool once, for all prompts.")
    words: Count = Field(100, description="Of a passage in the prompt, and about what is asked for.")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.6, description="Of the sampling.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="Of the sampling.")
    top_k: Count | None = Field(20, description="null: not sent, for endpoints that do not know it.")
    max_tokens: Count = Field(1024, description="Tokens of an answer at most.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="Of examples and sampling; null: that of the queries, or of the mining in Python."
    )
    llm: LLMSettings | None = Field(None, description="Who writes, if it is another than the recipe's llm.")
    prompt_file: Annotated[str | None, FILE] = Field(
        None,
        description=(
            "A Jinja template of one's own in place of sharpen's prompt (sdg/prompts/negatives.j2), with its variables:"
            " query, positive, examples, count, words, language, chat. The answer is JSON or a passage a line."
        ),
    )

    def check(self) -> None:
        """Raise ``InputError`` if the pool or what the LLM needs is not there, or if the pool has a bad row."""
        super().check()
        if self.pool:
            read_negatives_pool(Path(self.pool))
        if self.prompt_file:
            NegativePrompt(self).render((), "a query", "a passage")

    def prompt(self, llm: LLMSettings) -> NegativePrompt:
        """How ``llm`` is asked, with the pool read.

        Raises ``InputError`` for a bad pool, and where an LLM that continues a text has no examples to continue.
        """
        if self.pool is None and not llm.asks_by_chat:
            raise InputError(
                f"negatives.miners: {self.name or self.kind} has an LLM that continues a text and gets no instruction,"
                " so it needs examples; give pool, as pools/negatives.yaml"
            )
        pool = read_negatives_pool(Path(self.pool)) if self.pool else []
        return NegativePrompt(self, pool, llm.asks_by_chat)

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """At most ``self.negatives`` passages of each query, in the order in which the LLM wrote them (whatever
        ``depth`` is); the n-th has the score 1 / n.

        The passages' IDs are made of the miner's name and the query's ID. ``rejected``: passages that are too short,
        written before for this query, a copy of the positive, or a document of the corpus. Raises ``InputError`` if no
        LLM is given or it cannot be reached, where the budget does not suffice, and for an outage.
        """
        chosen = resources.llm_settings(self.llm)
        prompt = self.prompt(chosen)
        seed = seed if self.seed is None else self.seed
        warm_up = chosen.embedded is not None

        def ask() -> MiningResult:
            with resources.progress("writing negatives", len(queries)) as advance, resources.open_llm(self.llm) as llm:

                def use(_number: int, _request: Request, answer: Answer) -> Answer:
                    advance(note=answer.text.strip().split("\n")[0][:60])
                    return answer

                answers = llm.ask(prompt.requests(queries, corpus, seed, warm_up), use)
                fewer = f"take the miner {self.name or self.kind} out"
                raise_if_unanswered(llm, answers, "negatives of queries", fewer)
                return self._collect(queries, answers, corpus, llm)

        from sharpen.evaluation.processes import on_main  # loads torch

        return on_main(ask)

    def _collect(self, queries: Sequence[Query], answers: Sequence[Answer], corpus: Corpus, llm: Any) -> MiningResult:
        known = {document.copy_key for document in corpus.values()}
        result = MiningResult({}, {}, [], llm.spending)
        for query, answer in zip(queries, answers, strict=True):
            kept, rejected = self._sort(query, answer, corpus, known)
            ids = [f"written:{self.name or self.kind}:{query.id}:{n}" for n in range(1, len(kept) + 1)]
            result.run[query.id] = {i: 1.0 / rank for rank, i in enumerate(ids, start=1)}
            for i, text in zip(ids, kept, strict=True):
                result.written[i] = Document(i, text, metadata={"written_for": query.id, "model": llm.identity})
            result.rejected.extend(rejected)
        return result

    def _sort(
        self, query: Query, answer: Answer, corpus: Corpus, known: set[str]
    ) -> tuple[list[str], list[RejectedPassage]]:
        """The passages of an answer that can be used, and a row for each that cannot or is missing."""
        cut_off = answer.finish_reason == "length"
        passages = [] if answer.error else parse_passages(answer.text, self.negatives, cut_off)
        positives = [corpus[i] for i in query.metadata["positives"]]
        kept: list[str] = []
        rejected: list[RejectedPassage] = []
        for text in passages:
            if problem := find_problem(text, kept, positives, known):
                rejected.append(RejectedPassage(query.id, text, problem))
            else:
                kept.append(text)
        failed = answer_problem(answer)
        problem = PassageProblem.LLM_ERROR if failed else PassageProblem.MISSING
        missing = RejectedPassage(
            query.id, answer.text[-200:], problem, answer.error_kind or (failed and failed.message)
        )
        return kept, rejected + [missing] * (self.negatives - len(passages))


@dataclass(frozen=True)
class NegativePrompt:
    """Prompts for negatives: the miner's ``settings``, its examples (``pool``), and whether the LLM is asked by
    ``chat`` or continues a text."""

    settings: LLMMiner
    pool: Sequence[NegativesExample] = ()
    chat: bool = True

    def requests(self, queries: Sequence[Query], corpus: Corpus, seed: int, warm_up: bool = False) -> list[Request]:
        """A prompt for each query. The examples are drawn once for all; the first of several positives is shown.

        ``warm_up``: the beginning that all prompts have in common is sent ahead, for a server's prefix cache.
        """
        examples = self.draw(seed)
        ahead = None
        if warm_up and not self.chat and not self.settings.prompt_file:
            ahead = Request(self.render(examples), False, {"max_tokens": 1, "temperature": 0.0})
        requests = []
        for query in queries:
            document = corpus[query.metadata["positives"][0]]
            shown = document.content if self.settings.sees_positive else ""
            prompt = self.render(examples, query.text, shown, document.metadata.get(LANGUAGE) or ENGLISH)
            requests.append(Request(prompt, self.chat, self.parameters(f"{seed}/{query.id}"), ahead))
        return requests

    def draw(self, seed: int) -> list[NegativesExample]:
        """The examples of all prompts."""
        number = min(self.settings.examples, len(self.pool))
        return random.Random(f"{seed}/negatives").sample(list(self.pool), number)

    def render(
        self, examples: Sequence[NegativesExample], query: str = "", positive: str = "", language: str = ENGLISH
    ) -> str:
        """The prompt; without a query only its beginning, which is the same for all queries. ``language``: two-letter
        code of the one to write in."""
        count, limit = self.settings.negatives, self.settings.words
        rows = [
            asdict(e)
            | {
                "document": first_words(e.document, limit),
                "negatives": [first_words(n, limit) for n in e.negatives[:count]],
                "json": json.dumps({"negatives": list(e.negatives[:count])}, ensure_ascii=False),
            }
            for e in examples
        ]
        # without a query it is the beginning that all share, which says "with a passage that answers it" like them
        shown = first_words(positive, limit) or self.settings.sees_positive
        values = {"examples": rows, "query": query, "positive": shown, "count": count, "words": limit}
        values["language"] = "" if language == ENGLISH else language_name(language)
        values["chat"] = self.chat
        if path := self.settings.prompt_file:
            return render(self._users_template, path, **values).strip()
        return template("negatives.j2").render(**values).strip()

    @cached_property
    def _users_template(self) -> jinja2.Template:
        """Read once, for all queries."""
        return users_template(self.settings.prompt_file)

    def parameters(self, seed: str) -> dict[str, Any]:
        """Of the sampling; by chat with the JSON schema of the answer."""
        chosen = self.settings
        parameters: dict[str, Any] = {
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "max_tokens": chosen.max_tokens,
        }
        if chosen.top_k:
            parameters["extra_body"] = {"top_k": chosen.top_k}
        parameters["seed"] = random.Random(seed).getrandbits(31)
        if not self.chat:
            return parameters | {"stop": ["\n\n", "\nQuery:"]}
        schema = list_schema("negatives", chosen.negatives, {"type": "string"})
        return held_to_schema(parameters, "negatives", schema, True)


def parse_passages(text: str, count: int, cut_off: bool = False) -> list[str]:
    """At most ``count`` passages of an answer: of a JSON list or object, or one on each line after a dash. ``cut_off``:
    the last one of several was not written to its end, and is left out.

    >>> parse_passages('{"negatives": ["one two", "three"]}', count=5)
    ['one two', 'three']
    >>> parse_passages("one two\\n- three\\n- fo", count=5, cut_off=True)
    ['one two', 'three']
    """
    is_json = text.lstrip().startswith(("{", "[", "```"))
    passages = _from_json(text) if is_json else _from_lines(text)
    if cut_off and len(passages) > 1:
        passages = passages[:-1]
    return passages[:count]


def _from_json(text: str) -> list[str]:
    try:
        value = parse_json(text)
    except ValueError:
        return []
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), None)
    return [" ".join(v.split()) for v in value or () if isinstance(v, str) and v.strip()]


def _from_lines(text: str) -> list[str]:
    passages = []
    for line in text.strip().splitlines():
        if line.strip().startswith(("Query:", "Answered by:")):  # of a model that goes on with the next example
            break
        if stripped := line.strip().lstrip("-*•").strip():
            passages.append(stripped)
    return passages


def find_problem(
    text: str, earlier: Sequence[str], positives: Sequence[Document], known: set[str]
) -> PassageProblem | None:
    """What is wrong with a passage, as against ``earlier`` ones of its query and the corpus (``known``: its copy keys);
    None: nothing."""
    if n_words(text) < MIN_WORDS:
        return PassageProblem.TOO_SHORT
    if any(_alike(text, other) for other in earlier):
        return PassageProblem.REPEATED
    if any(_alike(text, p.text) for p in positives):
        return PassageProblem.COPY_OF_POSITIVE
    return PassageProblem.IN_CORPUS if text_key(text) in known else None


def _alike(text: str, other: str) -> bool:
    if text_key(text) == text_key(other):
        return True
    one, two = _shingles(text), _shingles(other)
    if not one or not two:
        return False
    common = len(one & two)
    return common / len(one | two) >= COPY_SIMILARITY or common / len(one) >= COPY_SIMILARITY


def _shingles(text: str) -> set[tuple[str, ...]]:
    tokens = words(text)
    return set(zip(tokens, tokens[1:], tokens[2:], strict=False))
