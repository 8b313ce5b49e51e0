"""Whether answers get better: an LLM answers questions from what the base and the tuned model of a run find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console

from sharpen.evaluation.answer_metrics import (
    ANSWERED,
    EXACT,
    F1,
    IN_CONTEXT,
    exact_match,
    is_refusal,
    token_f1,
)
from sharpen.evaluation.files import InputError, atomic_folder, write_json, write_jsonl
from sharpen.evaluation.metrics import PerQuery
from sharpen.recipes.answers_report import NAMES, AnswersReport, Cost, make_report, write_pages
from sharpen.recipes.asked_questions import AnswersOptions, Asking, prepare_asking
from sharpen.recipes.load import LoadedRecipe
from sharpen.recipes.preview import print_costs, token_counter
from sharpen.recipes.resources import resources_of
from sharpen.recipes.run import print_comparison
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.answering.asking import MAX_TOKENS, GivenAnswer, answer_request, ask_answers, shows_answer
from sharpen.sdg.answering.judging import CORRECTNESS, TOKENS_OF_SCORES, Judgement, ask_judge
from sharpen.sdg.estimate import MIN_MEASURED, CostEstimate
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.llm.settings import LLMSettings, known_answers
from sharpen.sdg.resources import Resources

FOLDER = "answers"


def answer_questions(
    loaded: LoadedRecipe, folder: Path, options: AnswersOptions, console: Console
) -> AnswersReport | None:
    """Have the questions answered, judge and compare the answers, and write ``answers/`` into the run's folder.

    Answers that the journal has are not asked again, so that who was stopped goes on. Raises ``InputError`` for a run
    without a model or a recipe without an LLM, where no question has an answer, and where ``llm.budget`` does not
    suffice.
    """
    recipe = loaded.recipe
    resources = resources_of(recipe, console, folder=folder)
    asking = prepare_asking(recipe, folder, options, resources)
    if not (asking.is_short or options.judge):
        raise InputError(
            "the reference answers are long, and words alone do not tell whether they are met; give --judge"
        )
    with resources.progress("answering", sum(map(len, asking.asked.values()))) as advance, resources.open_llm() as llm:
        for system, asked in asking.asked.items():
            asking.answers[system] = ask_answers(llm, asked, advance)
        costs = [_cost_of(system, given) for system, given in asking.answers.items()]
        costs[-1].money = _money(llm)
    scores = {system: _scores(asking, system) for system in asking.asked}
    llms, unread = [recipe.llm.identity], 0
    if options.judge:
        unread, cost = _judge(recipe, resources, asking, scores)
        costs.append(cost)
        llms.append((_judge_settings(recipe) or recipe.llm).identity)
    report = make_report(asking, scores, F1 if asking.is_short else CORRECTNESS, recipe.seed)
    report = report.model_copy(update={"costs": costs, "unread": unread, "llms": llms})
    _write(folder / FOLDER, asking, scores, report, loaded)
    for line in report.lines():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if report.comparison:
        print_comparison(report.comparison, console)
    page = "report.html" if report.comparison else "report.md"  # a page is of a comparison
    console.print(f"\nreport   {folder / FOLDER / page}", highlight=False, soft_wrap=True)
    return report


def estimate_answers(
    loaded: LoadedRecipe, folder: Path, options: AnswersOptions, console: Console
) -> list[CostEstimate]:
    """Print calls, tokens, money and hours, without asking the LLM anything. What the journal has is not counted."""
    recipe = loaded.recipe
    resources = resources_of(recipe, console, folder=folder)
    asking = prepare_asking(recipe, folder, options, resources)
    count, how = token_counter(recipe), _how(recipe.llm)
    requests: dict[str, tuple[list[Request], int, float]] = {}
    length = fmean(count(question.answers[0]) for question in asking.questions)
    rows: list[CostEstimate] = []
    seen: set[str] = set()
    with known_answers(recipe.llm, resources.journal) as known:
        for system, asked in asking.asked.items():
            of_system = [answer_request(q.text, documents, **how) for q, documents in asked]
            requests[f"answers, {system}"] = (of_system, MAX_TOKENS, length)
            asking.answers[system] = [
                GivenAnswer.of(answer) if (answer := known(request)) else GivenAnswer(question.answers[0])
                for (question, _), request in zip(asked, of_system, strict=True)
            ]
        rows += [_estimated(name, *of_name, known, count, seen) for name, of_name in requests.items()]
    judge = _judge_settings(recipe) or recipe.llm
    of_judge: list[CostEstimate] = []
    if options.judge:
        with known_answers(judge, resources.journal) as known:
            for system in asking.asked:
                judged = [j.request(**_how(judge)) for _, j in _judgements(asking, system)]
                about = (f"judge, {system}", judged, TOKENS_OF_SCORES, TOKENS_OF_SCORES / 2)
                of_judge.append(_estimated(*about, known, count, seen))
    if judge == recipe.llm:
        rows += of_judge
    elif of_judge:  # it has prices of its own
        print_costs(recipe.model_copy(update={"llm": judge}), of_judge, console, what="what is judged")
    print_costs(recipe, rows, console, what="what is asked")
    prices = recipe.llm.expected_prices
    notes = [f"{len(asking.questions):,} {asking.queries_of}; what the journal has, or is asked twice, is not counted."]
    if prices is None:
        notes.append("No llm.prices in the recipe ({input, output}, money for a million tokens): money counts as 0.")
    elif recipe.llm.budget and (total := sum(row.cost(prices) for row in rows)) > recipe.llm.budget:
        notes.append(f"{prices.show(total)} is more than llm.budget: it stops when that is spent, and goes on later.")
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return rows if judge == recipe.llm else [*rows, *of_judge]


def _scores(asking: Asking, system: str) -> PerQuery:
    """Measure to question to value, of what can be said without a judge."""
    scores: PerQuery = {}
    for (question, documents), given in zip(asking.asked[system], asking.answers[system], strict=True):
        refused = is_refusal(given.text)
        values = {ANSWERED: float(not refused)}
        if asking.is_short:
            # who refuses is not right by the words of the refusal
            text = "" if refused else given.text
            values = {
                EXACT: exact_match(text, question.answers, asking.language),
                F1: token_f1(text, question.answers, asking.language),
            } | values
            if documents is not None:
                values[IN_CONTEXT] = float(shows_answer(question, documents, asking.language))
        for measure, value in values.items():
            scores.setdefault(measure, {})[question.id] = value
    return scores


def _judgements(asking: Asking, system: str) -> list[tuple[str, Judgement]]:
    """Question ID and what is to be judged: its documents, and its answer, where it is not a refusal."""
    found = []
    for (question, documents), given in zip(asking.asked[system], asking.answers[system], strict=True):
        if documents is not None:
            found.append((question.id, Judgement(question, documents)))
        if not is_refusal(given.text):
            found.append((question.id, Judgement(question, documents, given.text)))
    return found


def _judge(recipe: Recipe, resources: Resources, asking: Asking, scores: dict[str, PerQuery]) -> tuple[int, Cost]:
    """Add the judge's scores. Returns how many of its answers could not be read, and what it cost."""
    judgements = {system: _judgements(asking, system) for system in asking.asked}
    unread, total = 0, sum(map(len, judgements.values()))
    with (
        resources.progress("judging", total) as advance,
        resources.open_llm(_judge_settings(recipe)) as llm,
    ):
        for system, of_system in judgements.items():
            for (question_id, _), found in zip(
                of_system, ask_judge(llm, [j for _, j in of_system], advance), strict=True
            ):
                unread += not found
                for measure, value in found.items():
                    scores[system].setdefault(measure, {})[question_id] = value
            # a refusal is not right, which nobody need be asked
            for question_id, answered in scores[system][ANSWERED].items():
                if not answered:
                    scores[system].setdefault(CORRECTNESS, {})[question_id] = 0.0
        tokens = llm.spending.tokens
        return unread, Cost("judge", total, tokens["prompt"], tokens["completion"], money=_money(llm))


def _judge_settings(recipe: Recipe) -> LLMSettings | None:
    """Who judges: the recipe's judge of queries, where it has one of its own; None: the recipe's LLM."""
    return recipe.filters.judge.llm if recipe.filters.judge else None


def _cost_of(system: str, given: Sequence[GivenAnswer]) -> Cost:
    read, written = (sum(getattr(answer, f"{kind}_tokens") for answer in given) for kind in ("prompt", "completion"))
    return Cost(NAMES[system], len(given), read, written, fmean(answer.seconds for answer in given))


def _money(llm: LLMClient) -> str:
    return "" if llm.spending.prices == Prices() else f"{llm.spending}"


def _how(llm: LLMSettings) -> dict[str, bool]:
    return {"chat": llm.asks_by_chat, "embedded": llm.embedded is not None}


def _estimated(
    name: str,
    requests: Sequence[Request],
    max_tokens: int,
    usual: float,
    known: Callable[[Request], Answer | None],
    count: Callable[[str], int],
    seen: set[str],
) -> CostEstimate:
    """Of those that are not ``seen`` yet, and not in the journal."""
    new: list[Request] = []
    answers: list[Answer] = []
    for request in requests:
        key = json.dumps(request.identity(), sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        if answer := known(request):
            answers.append(answer)
        else:
            new.append(request)
    if len(answers) >= MIN_MEASURED:
        timed = [a.seconds for a in answers if a.seconds]
        prompt, usual = (fmean(getattr(a, f"{kind}_tokens") for a in answers) for kind in ("prompt", "completion"))
        seconds = fmean(timed) if timed else None
        return CostEstimate(name, len(new), prompt, usual, max_tokens, seconds, len(answers))
    prompt = fmean(count(request.prompt) for request in new) if new else 0.0
    return CostEstimate(name, len(new), prompt, usual, max_tokens, None if new else 0.0)


def _write(
    folder: Path, asking: Asking, scores: dict[str, PerQuery], report: AnswersReport, loaded: LoadedRecipe
) -> None:
    rows = []
    for system, asked in asking.asked.items():
        for (question, documents), given in zip(asked, asking.answers[system], strict=True):
            rows.append(
                {
                    "question_id": question.id,
                    "question": question.text,
                    "references": question.answers,
                    "system": system,
                    "documents": None if documents is None else [d.id for d in documents],
                    "answer": given.text,
                    "refused": is_refusal(given.text),
                    "scores": {m: values[question.id] for m, values in scores[system].items() if question.id in values},
                    "prompt_tokens": given.prompt_tokens,
                    "completion_tokens": given.completion_tokens,
                    "seconds": given.seconds,
                    **({"error": given.error} if given.error else {}),
                }
            )
    with atomic_folder(folder) as partial:
        write_jsonl(partial / "answers.jsonl", rows)
        write_json(partial / "metrics.json", report.model_dump(mode="json"))
        write_pages(partial, report, asking, scores, loaded.recipe.name)
