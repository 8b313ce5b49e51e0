"""What each query strategy brings on a recipe's corpus: a table of prompts, queries, filters, seconds and tokens.

    .venv/bin/python scripts/strategies.py [recipe] [key.path=value ...]

Takes the documents that the recipe takes (the quickstart's, if none is named; queries.documents=60 if that is not said)
and asks by every part in recipes/strategies, with the filters of FILTERS. Answers are asked anew, as their seconds are
part of the table. Some ten minutes for 60 documents on 2 cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from rich.console import Console

from sharpen.recipes.engine import Context, run_stages
from sharpen.recipes.load import load_recipe, part_files
from sharpen.recipes.stages import STAGES

FILTERS = (
    "filters={copying: {ngram: 3, max_share: 0.5}, near_duplicates: {threshold: 0.9}, round_trip: {retriever: %s,"
    " top_k: 10}}"
)
CROSS_LINGUAL = ("german",)
"""Parts whose queries share no words with the documents, so that BM25 has no say in the round trip."""


def main(recipe: str, overrides: list[str]) -> None:
    header = (
        "strategy",
        "prompts",
        "asked",
        "parsed",
        "usable",
        "copying",
        "near-duplicates",
        "round trip",
        "seconds a prompt",
        "tokens a prompt",
        "of these cached",
        "tokens an answer",
    )
    print("| " + " | ".join(header) + " |\n" + "| --- " * len(header) + "|", flush=True)
    shown: set[str] = set()
    cache: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as runs:
        for part in part_files():
            retriever = "dense" if part.stem in CROSS_LINGUAL else "fused"
            loaded = load_recipe(
                recipe,
                [f"strategies/{part.stem}", "queries.documents=60", *overrides, FILTERS % retriever, f"runs={runs}"],
            )
            context = Context(loaded.recipe, Console(quiet=True), cache)  # the corpus is encoded once for all
            run_stages([stage for stage in STAGES if stage.name in ("corpus", "queries", "pairs")], context)
            tallies = json.loads((context.stage_folder("queries") / "strategies.json").read_text(encoding="utf-8"))
            passed = json.loads((context.stage_folder("pairs") / "filters.json").read_text(encoding="utf-8"))
            for name, tally in tallies.items():
                if name in shown:  # the same as with the part before
                    continue
                shown.add(name)
                tokens = {kind: tally["tokens"].get(kind, 0) for kind in ("prompt", "cached", "completion")}
                kept = [passed[stage].get(name, 0) for stage in ("copying", "near_duplicates", "round_trip")]
                prompts = tally["prompts"] or 1
                numbers = [
                    tally["prompts"],
                    tally["asked"],
                    tally["parsed"],
                    tally["kept"],
                    *kept,
                    f"{tally['seconds'] / prompts:.2f}",
                    f"{tokens['prompt'] / prompts:.0f}",
                ]
                print(
                    "| "
                    + " | ".join(
                        map(
                            str,
                            [
                                name,
                                *numbers,
                                f"{tokens['cached'] / prompts:.0f}",
                                f"{tokens['completion'] / prompts:.0f}",
                            ],
                        )
                    )
                    + " |",
                    flush=True,
                )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    named = arguments[:1] if arguments and "=" not in arguments[0] else []
    main(named[0] if named else "quickstart", arguments[len(named) :])
