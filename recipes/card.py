"""The model card: what a model came from, how much better it is, and under whose licence it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from sharpen.evaluation.encoders.load import resolve_encoder
from sharpen.evaluation.encoders.packaged import LICENCES
from sharpen.evaluation.report.comparison import Comparison, difference_table, markdown_table, sentence
from sharpen.recipes.engine import Context
from sharpen.recipes.stages.model import read_choice


def model_card(
    context: Context, comparison: Comparison, others: dict[str, Comparison], manifests: dict[str, dict[str, Any]]
) -> str:
    """A README.md for the model's folder, with the metadata that hubs read."""
    recipe = context.recipe
    licence = base_licence(recipe.training.base)
    base_share, _ = read_choice(context)
    counts = manifests["training"]["counts"]
    metadata = [
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, feature-extraction, dense, sharpen]",
    ]
    if not recipe.training.base.startswith("packaged:") and not Path(recipe.training.base).is_dir():
        metadata.append(f"base_model: {json.dumps(recipe.training.base)}")
    if licence:
        metadata.append(f"license: {json.dumps(licence)}")
    llm = recipe.llm.embedded or recipe.llm.model
    labels = (
        f"Real labelled queries were mixed in ({Path(recipe.labelled.data).name}, {recipe.labelled.split})."
        if recipe.labelled
        else "No human label was used for training."
    )
    if (chosen_by := recipe.training.validation) and chosen_by.data:
        labels += (
            f" The checkpoint and the base's share were chosen by labelled queries ({Path(chosen_by.data).name},"
            f" {chosen_by.split})."
        )
    return "\n".join(
        [
            "---",
            *metadata,
            "---",
            f"# {recipe.name}",
            "",
            f"`{recipe.training.base}`, tuned with [sharpen](recipe.yaml) for one collection of documents.",
            "",
            sentence(comparison),
            "",
            *markdown_table(comparison),
            "",
            *([*difference_table("on other collections", others), ""] if others else []),
            "| | |",
            "| --- | --- |",
            f"| base | `{recipe.training.base}`, licence: {licence or 'see there'} |",
            (
                f"| documents | {Path(recipe.corpus.source).name}, {manifests['corpus']['counts']['documents']:,} of"
                " them |"
            ),
            (
                f"| queries | written by `{llm}` ({', '.join(s.name for s in recipe.queries.all_strategies())})."
                f" {labels} |"
            ),
            (
                f"| training | {counts['triplets']:,} triplets, {recipe.training.loss}, {counts['kept_step']} steps of"
                f" {recipe.training.batch_size * recipe.training.accumulate} rows, learning rate"
                f" {recipe.training.learning_rate:g}; {base_share:.0%} of the base's weights |"
            ),
            f"| compared on | {comparison.queries:,} {comparison.queries_of} |",
            "",
            "The recipe with every default is beside this page in `recipe.yaml`; `sharpen run recipe.yaml` repeats it.",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            'model = SentenceTransformer("this folder")',
            "```",
            "",
            "The licences of the base and of the language model hold for what was made with them.",
            "",
        ]
    )


def base_licence(base: str) -> str | None:
    """As the base's own card says it; None where it does not."""
    if base in LICENCES:
        return LICENCES[base]
    card = Path(resolve_encoder(base)) / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return None
    try:
        metadata = YAML(typ="safe").load(text.split("---", 2)[1])
    except YAMLError:
        return None
    licence = metadata.get("license") if isinstance(metadata, dict) else None
    return licence if isinstance(licence, str) else None
