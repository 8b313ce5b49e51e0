"""The model card: what a model came from, how much better it is, and under whose licence it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sharpen.evaluation.encoders.load import resolve_encoder
from sharpen.evaluation.encoders.packaged import LICENCES, PACKAGED
from sharpen.evaluation.packaged_llms import PACKAGED_LLMS
from sharpen.evaluation.report.comparison import Comparison, difference_table, markdown_table, sentence
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.places import without_place
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.schema.training import TrainingPart
from sharpen.sdg.strategies.settings import asks_llm

SHARPEN = "[sharpen](recipe.yaml)"
CLASSES = {"dense": "SentenceTransformer", "sparse": "SparseEncoder", "multi_vector": "MultiVectorEncoder"}
TAGS = {
    "dense": ["sentence-transformers", "feature-extraction", "dense"],
    "sparse": ["sentence-transformers", "sparse-encoder", "sparse", "splade"],
    "multi_vector": ["sentence-transformers", "multi-vector", "late-interaction"],
}
"""By family, as sentence-transformers' own cards have them."""


def model_card(run: FinishedRun, comparison: Comparison, others: dict[str, Comparison]) -> str:
    """A README.md for the model's folder, with the metadata that hubs read."""
    recipe = run.recipe
    base, licence = without_place(recipe.training.base), base_licence(recipe.training.base)
    loaded = CLASSES[recipe.training.family]
    use = [
        "```python",
        f"from sentence_transformers import {loaded}",
        f'model = {loaded}("this folder")',
        *_encoding(recipe),
        "```",
    ]
    return card_page(
        _metadata(run, comparison, licence),
        [f"# {recipe.name}", "", f"`{base}`, tuned with {SHARPEN} for one collection of documents."],
        comparison,
        _facts(run, comparison, licence),
        use,
        difference_table("on other collections", others) if others else [],
    )


def card_page(
    metadata: ModelCardData,
    opening: Sequence[str],
    comparison: Comparison,
    facts: Mapping[str, str],
    use: Sequence[str],
    more: Sequence[str] = (),
) -> str:
    """The page of a model of any kind. ``opening``: its name, and what it is. ``use``: how it is loaded or searched
    with. ``more``: a table behind that of the verdict."""
    return f"---\n{metadata.to_yaml()}\n---\n" + "\n".join(
        [
            *opening,
            "",
            sentence(comparison),
            "",
            *markdown_table(comparison),
            "",
            *([*more, ""] if more else []),
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            "The recipe with every default is beside this page in `recipe.yaml`; `sharpen run recipe.yaml` repeats it.",
            "",
            *use,
            "",
            "The licences of the base and of the language model hold for what was made with them.",
            "",
        ]
    )


def _encoding(recipe: Recipe) -> list[str]:
    """How the two sides are encoded, where it matters which one a text is."""
    if recipe.training.family != "dense":
        return [
            "queries, documents = model.encode_query(texts), model.encode_document(others)",
            "scores = model.similarity(queries, documents)",
        ]
    if recipe.training.documents == "trained":
        return []
    base = without_place(recipe.training.base)
    return [
        "queries = model.encode_query(texts)  # by the tuned encoder",
        f"documents = model.encode_document(texts)  # by {base}, as they are: an index by it stays",
    ]


def base_licence(base: str) -> str | None:
    """As the base's own card says it; None where it does not."""
    if base in LICENCES:
        return LICENCES[base]
    if base.startswith(PACKAGED) and (llm := PACKAGED_LLMS.get(base.removeprefix(PACKAGED))):
        return llm.licence
    if base.endswith(".gguf"):  # there is no card beside it
        return None
    card = Path(resolve_encoder(base)) / "README.md"
    if not card.is_file():
        return None
    try:
        licence = ModelCard(
            card.read_text(encoding="utf-8", errors="replace"), ignore_metadata_errors=True
        ).data.license
    except Exception:  # a card of another form says nothing of its licence
        return None
    return licence if isinstance(licence, str) else None


def _metadata(run: FinishedRun, comparison: Comparison, licence: str | None) -> ModelCardData:
    base, family = run.recipe.training.base, run.recipe.training.family
    dataset = Path(run.recipe.evaluation.data).name if run.recipe.evaluation.data else "generated queries"
    results = [
        EvalResult(
            task_type="information-retrieval",
            dataset_type=dataset,
            dataset_name=comparison.queries_of,
            dataset_split=run.recipe.evaluation.split if run.recipe.evaluation.data else run.recipe.generated_split,
            metric_type=metric.replace("@", "_at_"),
            metric_name=f"{metric}, {comparison.before[metric].value:.4f} before",
            metric_value=round(estimate.value, 4),
        )
        for metric, estimate in comparison.after.items()
    ]
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity" if family == "dense" else "feature-extraction",
        tags=[*TAGS[family], "sharpen"],
        base_model=None if base.startswith(PACKAGED) or Path(base).is_absolute() or Path(base).is_dir() else base,
        license=licence,
        language=list(run.manifests["corpus"]["counts"].get("languages") or {}) or None,
        model_name=run.recipe.name,
        eval_results=results,
    )


def _facts(run: FinishedRun, comparison: Comparison, licence: str | None) -> dict[str, str]:
    recipe = run.recipe
    counts, training = run.manifests["training"]["counts"], recipe.training
    weight, _ = run.inputs.base_weight()
    return {
        "base": f"`{without_place(training.base)}`, licence: {licence or 'see there'}",
        "documents": f"{Path(recipe.corpus.source).name}, {run.manifests['corpus']['counts']['documents']:,} of them",
        "queries": f"{_source_of_queries(recipe)} {_labels(recipe)}",
        "training": (
            f"{counts['triplets']:,} {_rows(training)}, {training.loss}, {counts['kept_step']} steps of"
            f" {training.batch_size * training.accumulate} rows, learning rate {training.learning_rate:g};"
            f" {weight:.0%} of the base's weights"
        ),
        "compared on": f"{comparison.queries:,} {comparison.queries_of}",
    }


def _rows(training: TrainingPart) -> str:
    return f"lists of {training.candidates} documents" if training.candidates else "triplets"


def _source_of_queries(recipe: Recipe) -> str:
    if not recipe.generates:
        return "None was generated."
    strategies = recipe.queries.all_strategies()
    asking, others = ([s.name for s in strategies if asks_llm(s) is asks] for asks in (True, False))
    written = (
        f"written by `{without_place(recipe.llm.embedded or recipe.llm.model)}` ({', '.join(asking)})" if asking else ""
    )
    harvested = f"texts of the documents ({', '.join(others)})" if others else ""
    return f"{', '.join(filter(None, [written, harvested]))}."


def _labels(recipe: Recipe) -> str:
    labels = "No human label was used for training."
    if recipe.labelled:
        labels = f"Real labelled queries were mixed in ({Path(recipe.labelled.data).name}, {recipe.labelled.split})."
    if (chosen_by := recipe.training.validation) and chosen_by.data:
        labels += (
            f" The checkpoint and the base's weight were chosen by labelled queries ({Path(chosen_by.data).name},"
            f" {chosen_by.split})."
        )
    return labels
