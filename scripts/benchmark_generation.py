"""Tokens a second of query generation, beside a bare loop of requests to the same local server, and what shared
prefixes save.

    .venv/bin/python scripts/benchmark_generation.py [documents]

Both send the same prompts for documents of the Python documentation to one embedded server, in turns (bare, ours, ours,
bare), and the ratio of their speeds is printed. Ours writes every answer to a journal before it is used. Then the same
documents are asked for with examples drawn anew for each prompt, where the server's prefix cache is of no use. 80
documents (the default) take some three minutes on 2 cores.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from openai import DefaultAsyncHttpxClient

from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages.corpus import cut_corpus
from sharpen.recipes.stages.queries import strategies
from sharpen.sdg.llm.client import LLM, EndpointSettings, Request
from sharpen.sdg.llm.embedded import Endpoint, locate_llm, serve
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.queries import prompt, sample_documents

WARM_UP = 5


def main(count: int) -> None:
    recipe = load_recipe("quickstart").recipe
    (strategy,) = strategies(recipe)
    documents = sample_documents(list(cut_corpus(recipe).values()), count + WARM_UP, recipe.seed)
    shared, alone = (
        [prompt(s, unit, n, recipe.seed) for n, unit in enumerate(s.units(documents))]
        for s in (strategy, replace(strategy, group=1))
    )
    with serve(locate_llm("gemma-3-270m")) as endpoint:
        asyncio.run(_bare(endpoint, shared[:WARM_UP]))
        rates: dict[str, list[float]] = {"bare": [], "ours": []}
        for name in ("bare", "ours", "ours", "bare"):
            seconds, tokens = _timed(name, endpoint, shared[WARM_UP:])
            rates[name].append(tokens / seconds)
            print(
                f"{name:5} {tokens / seconds:8.1f} tokens/s of prompts and answers, {seconds / count:.3f} s a document",
                flush=True,
            )
        print(f"ratio of ours to bare: {sum(rates['ours']) / sum(rates['bare']):.3f}")
        seconds, _ = _timed("ours", endpoint, shared[WARM_UP:])
        without, _ = _timed("ours", endpoint, alone[WARM_UP:])
        print(
            f"shared prefix: {seconds / count:.3f} s a document; examples drawn anew for each: {without / count:.3f} s;"
            f" saved {1 - seconds / without:.0%}"
        )


def _timed(name: str, endpoint: Endpoint, requests: list[Request]) -> tuple[float, int]:
    """Seconds, and tokens of prompts and answers."""
    if name == "bare":
        started = time.perf_counter()
        tokens = asyncio.run(_bare(endpoint, requests))
        return time.perf_counter() - started, tokens
    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(
            [EndpointSettings(endpoint.base_url, endpoint.api_key, "embedded", 1, local=True)],
            Journal(Path(folder) / "journal.sqlite"),
        )
        started = time.perf_counter()
        answers = llm.ask(requests)
        return time.perf_counter() - started, sum(a.prompt_tokens + a.completion_tokens for a in answers)


async def _bare(endpoint: Endpoint, requests: list[Request]) -> int:
    tokens = 0
    async with DefaultAsyncHttpxClient(
        trust_env=False, timeout=120, headers={"Authorization": f"Bearer {endpoint.api_key}"}
    ) as client:
        for request in requests:
            response = await client.post(
                f"{endpoint.base_url}/completions",
                content=json.dumps({"model": "embedded", "prompt": request.prompt, **request.parameters}),
                headers={"Content-Type": "application/json"},
            )
            tokens += response.raise_for_status().json()["usage"]["total_tokens"]
    return tokens


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 80)
