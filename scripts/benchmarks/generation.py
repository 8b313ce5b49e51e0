"""Tokens a second of query generation beside a bare loop of requests, and what shared prefixes save.

    python scripts/benchmark.py generation [--documents 40] [--llm gemma-3-270m]

Both send the same prompts for documents of the Python documentation to one embedded server, in turns (bare, sharpen,
sharpen, bare); sharpen writes every answer to a journal before it is used. Prints a row for each turn with the ratio to
the first one, and below the ratio of both turns of the two. Then the same documents are asked for with examples drawn
anew for each prompt, where the server's prefix cache is of no use.

About 3 minutes on two AVX2 cores. Needs the extra sharpen[embedded].
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.common import ROOT, SEED, Table, note, timed

if TYPE_CHECKING:
    from sharpen.sdg import Request
    from sharpen.sdg.llm.embedded import ServedLLM

WARM_UP = 3
POOL = ROOT / "recipes" / "pools" / "python_docs.yaml"
BARE, OURS = "bare loop", "sharpen, with its journal"


def main(
    documents: Annotated[int, typer.Option(help="Of the Python documentation.", min=1)] = 40,
    llm: Annotated[str, typer.Option(help="A packaged model or a .gguf file.")] = "gemma-3-270m",
) -> None:
    from sharpen.evaluation.packaged_llms import locate_llm
    from sharpen.sdg.llm.embedded import serve

    shared, alone = make_requests(documents + WARM_UP, draws=1), make_requests(documents + WARM_UP, draws=10**6)
    table = Table(
        f"Queries for {documents} documents by {llm}",
        ("", "tokens/s of prompts and answers", "seconds a document", "ratio of tokens/s"),
        ("xllamacpp",),
    )
    with serve(locate_llm(llm)) as server:
        asyncio.run(_bare(server, shared[:WARM_UP]))
        rates: dict[str, list[float]] = {BARE: [], OURS: []}
        for name in (BARE, OURS, OURS, BARE):
            seconds, tokens = _ask(name, server, shared[WARM_UP:])
            rates[name].append(tokens / seconds)
            ratio = f"{tokens / seconds / rates[BARE][0]:.3f}" if name == OURS else ""
            table.row(name, f"{tokens / seconds:,.1f}", f"{seconds / documents:.3f}", ratio)
        note(f"Ratio of both turns of sharpen to both of the bare loop: {fmean(rates[OURS]) / fmean(rates[BARE]):.3f}.")
        with_prefix, _ = _ask(OURS, server, shared[WARM_UP:])
        without, _ = _ask(OURS, server, alone[WARM_UP:])
    note(
        f"Shared prefix: {with_prefix / documents:.3f} s a document; examples drawn anew for each prompt:"
        f" {without / documents:.3f} s; saved: {1 - with_prefix / without:.0%}."
    )


def make_requests(count: int, draws: int) -> list[Request]:
    """The prompts of the quickstart for so many documents. ``draws``: of examples, of which each prompt shows one."""
    from sharpen.sdg import Document, chunk, read_documents
    from sharpen.sdg.queries import sample_documents

    strategy = Document(
        pool=str(POOL), example_draws=draws, max_document_words=60, temperature=0.2, max_tokens=32
    ).resolve()
    drawn = sample_documents(list(chunk(read_documents("python-docs")).values()), count, SEED)
    return [strategy.request(unit, seed=SEED, chat=False) for unit in strategy.units(drawn)]


def _ask(name: str, server: ServedLLM, requests: list[Request]) -> tuple[float, int]:
    """Seconds, and tokens of prompts and answers."""
    if name == BARE:
        with timed() as watch:
            tokens = asyncio.run(_bare(server, requests))
        return watch.seconds, tokens
    from sharpen.sdg.llm.client import LLMClient
    from sharpen.sdg.llm.journal import Journal
    from sharpen.sdg.llm.messages import EndpointSettings

    endpoint = EndpointSettings(server.base_url, server.api_key, "embedded", max_concurrency=1, local=True)
    with tempfile.TemporaryDirectory() as folder:
        client = LLMClient([endpoint], Journal(Path(folder) / "journal.sqlite"), chat=False)
        with timed() as watch:
            answers = client.ask(requests)
    return watch.seconds, sum(a.prompt_tokens + a.completion_tokens for a in answers)


async def _bare(server: ServedLLM, requests: list[Request]) -> int:
    """One request after the other, and the tokens that the server counts."""
    from openai import DefaultAsyncHttpxClient

    tokens = 0
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    async with DefaultAsyncHttpxClient(trust_env=False, timeout=120, headers=headers) as client:
        for request in requests:
            body = {"model": "embedded", "prompt": request.prompt, **request.parameters}
            response = await client.post(f"{server.base_url}/completions", content=json.dumps(body))
            tokens += response.raise_for_status().json()["usage"]["total_tokens"]
    return tokens
