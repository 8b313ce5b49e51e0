"""The recipe's LLM: what it is known by, and how it is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from sharpen.evaluation.files import sha256_file
from sharpen.recipes.schema.recipe import LLMPart, Recipe
from sharpen.sdg.llm.budget import Prices, Spending
from sharpen.sdg.llm.client import LLM, Answer, EndpointSettings, Request, api_key_from
from sharpen.sdg.llm.embedded import PACKAGED_LLMS, locate_llm, serve
from sharpen.sdg.llm.journal import Journal


def llm_identity(recipe: Recipe) -> str:
    """What an LLM's answers depend on: an embedded model by the sum of its weights, any other by its name."""
    name = recipe.llm.embedded
    if name is None:
        return recipe.llm.model
    sha256 = PACKAGED_LLMS[name].sha256 if name in PACKAGED_LLMS else sha256_file(locate_llm(name))
    return f"{Path(name).name}@{sha256[:16]}"


def uses_chat(recipe: Recipe) -> bool:
    if recipe.llm.chat is not None:
        return recipe.llm.chat
    return recipe.llm.embedded not in PACKAGED_LLMS or PACKAGED_LLMS[recipe.llm.embedded].chat


def prices_of(part: LLMPart) -> Prices:
    return Prices(**part.prices.model_dump()) if part.prices else Prices()


@contextmanager
def open_llm(recipe: Recipe) -> Iterator[LLM]:
    """The recipe's LLM with its journal; an embedded one is served for the length of the block."""
    part = recipe.llm
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(_journal(recipe))))
        if part.embedded:
            # started even if the journal has every answer: to know that, the prompts must be made, and starting takes a
            # second
            served = stack.enter_context(serve(locate_llm(part.embedded)))
            endpoints = [EndpointSettings(served.base_url, served.api_key, "embedded", max_concurrency=1, local=True)]
        else:
            endpoints = [
                EndpointSettings(e.base_url, api_key_from(e.api_key_env), e.model, e.concurrency) for e in part.remote()
            ]
        yield LLM(
            endpoints,
            journal,
            llm_identity(recipe),
            part.timeout,
            part.max_retries,
            Spending(prices_of(part), part.budget),
        )


@contextmanager
def open_journal(recipe: Recipe) -> Iterator[Callable[[Request], Answer | None]]:
    """What finds the answers that the recipe's LLM has given before; nothing is written."""
    if not _journal(recipe).exists():
        yield lambda _request: None
        return
    with closing(Journal(_journal(recipe))) as journal:
        yield LLM([], journal, llm_identity(recipe)).known


def _journal(recipe: Recipe) -> Path:
    return Path(recipe.runs) / "llm_answers.sqlite"
