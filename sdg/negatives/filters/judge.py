"""An LLM reads the candidates and says which answer their query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Queries
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.answers import held_to_schema, list_schema, parse_json
from sharpen.sdg.llm.client import raise_if_unanswered
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives.base import FilteredRows
from sharpen.sdg.negatives.record import MinedRows, Negative, Reason, Rows, Verdict
from sharpen.sdg.prompts import template

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


@dataclass(frozen=True)
class _Batch:
    """Candidates of one query that are shown together."""

    query_id: str
    rows: Sequence[Negative]


@dataclass(frozen=True)
class _Judgement:
    verdict: Verdict
    reason: Reason
    detail: str = ""


class JudgeNegatives(Settings):
    """Candidates that an LLM calls relevant are dropped, or become positives (``relabel``, as in RLHN)."""

    kind: Literal["judge"] = "judge"
    action: Literal["drop", "relabel"] = Field(
        "drop",
        description=(
            "What becomes of a candidate that the LLM calls relevant: relabel makes a positive of it, as in RLHN."
        ),
    )
    per_prompt: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Candidates of one query shown together.")
    max_document_words: Count = Field(200, description="Words of a candidate in the prompt.")
    llm: LLMSettings | None = Field(None, description="The judge, if it is another than the recipe's llm.")

    def needs_base(self) -> bool:
        return False

    def apply(self, rows: MinedRows, queries: Queries, corpus: Corpus, resources: Resources, seed: int) -> FilteredRows:
        """Ask about every candidate, once however many miners offer it. An answer without exactly one verdict for each
        document of its prompt drops them all, as nobody can say which is whose. Raises ``InputError`` as
        ``LLMMiner.mine`` does."""
        chat = resources.llm_settings(self.llm).asks_by_chat

        def ask() -> FilteredRows:
            shown = _distinct(rows)
            number = sum(1 for _ in self._batches(shown))
            with resources.progress("judging negatives", number) as advance, resources.open_llm(self.llm) as llm:

                def use(_number: int, _request: Request, answer: Answer) -> Answer:
                    advance()
                    return answer

                answers = llm.ask(self.requests(shown, queries, corpus, chat), use)
                raise_if_unanswered(llm, answers, "judgements of negatives", "take the judge out")
                return FilteredRows(self.judge(rows, shown, answers), llm.spending)

        from sharpen.evaluation.processes import on_main  # loads torch

        return on_main(ask)

    def requests(self, shown: Rows, queries: Queries, corpus: Corpus, chat: bool) -> Iterator[Request]:
        """A prompt for each ``per_prompt`` candidates of a query."""
        for batch in self._batches(shown):
            documents = [first_words(corpus[n.doc_id].content, self.max_document_words) for n in batch.rows]
            prompt = template("judge_negatives.j2").render(query=queries[batch.query_id].text, documents=documents)
            schema = list_schema("relevant", len(documents), {"type": "boolean"})
            parameters: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8 * len(documents) + 40}
            yield Request(prompt.strip(), chat, held_to_schema(parameters, "relevant", schema, chat))

    def judge(self, rows: MinedRows, shown: Rows, answers: Sequence[Answer]) -> dict[str, dict[str, list[Negative]]]:
        """The rows with the verdicts of ``answers``, one for each of the ``requests`` for ``shown``."""
        judgements: dict[tuple[str, str], _Judgement] = {}
        for batch, answer in zip(self._batches(shown), answers, strict=True):
            for place, judgement in enumerate(self._judgements(answer, len(batch.rows))):
                if judgement is not None:
                    judgements[batch.query_id, batch.rows[place].doc_id] = judgement
        return {
            miner: {
                q: [_judged(n, judgements.get((q, n.doc_id))) if n.verdict == "candidate" else n for n in of_query]
                for q, of_query in of_miner.items()
            }
            for miner, of_miner in rows.items()
        }

    def _batches(self, shown: Rows) -> Iterator[_Batch]:
        for query_id, asked in shown.items():
            for start in range(0, len(asked), self.per_prompt):
                yield _Batch(query_id, asked[start : start + self.per_prompt])

    def _judgements(self, answer: Answer, count: int) -> list[_Judgement | None]:
        if answer.error:
            detail = f"judge: LLM error: {answer.error_kind}"
            return [_Judgement("dropped", Reason.JUDGE_FAILED, detail)] * count
        if (relevant := parse_verdicts(answer.text, count)) is None:
            detail = "judge: its answer does not match its documents"
            return [_Judgement("dropped", Reason.JUDGE_FAILED, detail)] * count
        verdict: Verdict = "relabelled" if self.action == "relabel" else "dropped"
        return [_Judgement(verdict, Reason.JUDGED_RELEVANT) if value else None for value in relevant]


def _distinct(rows: MinedRows) -> dict[str, list[Negative]]:
    """The candidates of all miners, query by query; of several rows of a document the first."""
    shown: dict[str, dict[str, Negative]] = {}
    for of_miner in rows.values():
        for query_id, of_query in of_miner.items():
            for n in of_query:
                if n.verdict == "candidate":
                    shown.setdefault(query_id, {}).setdefault(n.doc_id, n)
    return {query_id: list(of_query.values()) for query_id, of_query in shown.items()}


def _judged(row: Negative, judgement: _Judgement | None) -> Negative:
    if judgement is None:
        return row
    return replace(row, verdict=judgement.verdict, reason=judgement.reason, detail=judgement.detail)


def parse_verdicts(text: str, count: int) -> list[bool] | None:
    """The verdicts in an answer; None if they are not exactly ``count``.

    >>> parse_verdicts('{"relevant": [true, false]}', 2), parse_verdicts("[true]", 2)
    ([True, False], None)
    """
    try:
        value = parse_json(text)
    except ValueError:
        return None
    verdicts = value.get("relevant") if isinstance(value, dict) else value
    if not isinstance(verdicts, list) or len(verdicts) != count or not all(isinstance(v, bool) for v in verdicts):
        return None
    return verdicts
