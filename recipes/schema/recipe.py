"""What a recipe may say. Every key, its meaning and its default are here; unknown keys are refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sharpen.sdg.negatives.draw import Mix, TooFew
from sharpen.sdg.queries import LABELLED
from sharpen.sdg.strategies.multi_hop import Order, QueryType
from sharpen.training.settings import DISTILLING, LossName, LossSettings, RerankerLoss, misfit

TASKS = {
    "document": (
        "Each document stands with a question that somebody typed into a search box and that the document answers. "
        "The questions are short and in the words of somebody who has not read the document."
    ),
    "sentence": (
        "Each sentence stands with a question that somebody typed into a search box and that the sentence answers. "
        "The questions are about its detail and name what it is about, as nobody sees the sentence with them."
    ),
    "metadata": (
        "Each document stands below its metadata in brackets, and with a question that somebody typed into a search"
        " box, that the document answers and that names one of the metadata, to find just this document."
    ),
    "question_answer": (
        "Each document stands with a difficult question that somebody typed into a search box and with the answer, a"
        " short phrase that the document gives."
    ),
    "paraphrase": "Each question stands with the same question as somebody else would type it, in other words.",
    "back_translation": "Each question stands with its translation.",
}
"""What an LLM is told where a recipe does not say it."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _ordered(numbers: tuple[int, int], what: str) -> tuple[int, int]:
    if numbers[0] > numbers[1]:
        raise ValueError(f"the first {what} must not be greater than the last")
    return numbers


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Chunking(Part):
    max_words: Annotated[int, Field(ge=20)] = Field(
        150, description="Words of a chunk at most; some 200 tokens of an encoder."
    )
    overlap_words: Annotated[int, Field(ge=0)] = Field(0, description="Words that a chunk repeats of the one before.")

    @model_validator(mode="after")
    def _overlap_is_smaller(self):
        if self.overlap_words >= self.max_words:
            raise ValueError("overlap_words must be smaller than max_words")
        return self


class CorpusPart(Part):
    source: str = Field(
        description=(
            "A folder of .txt/.md/.rst/.html files, a .jsonl file, a folder in BEIR layout, the name of a BEIR dataset,"
            " or python-docs."
        )
    )
    chunk: Chunking | None = Field(Chunking(), description="null: documents are not cut.")


class Endpoint(Part):
    base_url: str = Field(description="An OpenAI-compatible endpoint: http://localhost:8000/v1, ...")
    model: str | None = Field(None, description="The model's name there, if it is another than llm.model.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key.")
    concurrency: Count | None = Field(None, description="Requests at once at most. Default: llm.concurrency.")


class PricesPart(Part):
    """Money for a million tokens."""

    input: Annotated[Decimal, Field(ge=0)]
    output: Annotated[Decimal, Field(ge=0)]
    cached_input: Annotated[Decimal, Field(ge=0)] | None = Field(
        None, description="Of prompts in the provider's cache. Default: as input."
    )
    currency: str = "USD"


class LLMPart(Part):
    embedded: str | None = Field(
        None, description="A packaged model or a .gguf file, served on this machine for as long as it is needed."
    )
    base_url: str | None = Field(None, description="An OpenAI-compatible endpoint: http://localhost:8000/v1, ...")
    model: str | None = Field(None, description="The model's name at base_url.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key.")
    endpoints: tuple[Endpoint, ...] = Field((), description="In place of base_url: several that serve the same model.")
    chat: bool | None = Field(
        None,
        description=(
            "Ask by chat (true) or have the prompt continued (false, for base models). Default: what the embedded model"
            " is made for; true at a base_url."
        ),
    )
    concurrency: Count = Field(
        32,
        description=(
            "Requests at once at most at an endpoint; how many there are adapts to it. An embedded server takes one at"
            " a time, so that answers can be repeated."
        ),
    )
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="Seconds for one try.")
    max_retries: Annotated[int, Field(ge=0)] = Field(
        6, description="Tries more, after refused connections, time-outs, 429 and 5xx."
    )
    prices: PricesPart | None = Field(None, description="For `sharpen estimate`, the manifests and the budget.")
    budget: Annotated[Decimal, Field(gt=0)] | None = Field(
        None, description="Nothing is asked that could cost more than this in all; what was paid for is used."
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"embedded": "gemma-3-270m"} if value == "embedded" else value

    @model_validator(mode="after")
    def _consistent(self):
        if (self.embedded is not None) + (self.base_url is not None) + bool(self.endpoints) != 1:
            raise ValueError("give one of embedded, base_url and endpoints (with model)")
        if self.embedded is None and not self.model:
            raise ValueError("base_url and endpoints need model, the model's name there")
        if self.budget is not None and self.prices is None:
            raise ValueError("budget needs prices: {input, output}, money for a million tokens")
        return self

    def remote(self) -> tuple[Endpoint, ...]:
        """The endpoints outside of this run, with every default filled in."""
        given = (
            self.endpoints or (Endpoint(base_url=self.base_url, api_key_env=self.api_key_env),)
            if self.embedded is None
            else ()
        )
        return tuple(
            e.model_copy(update={"model": e.model or self.model, "concurrency": e.concurrency or self.concurrency})
            for e in given
        )


class Asking(Part):
    """How queries are asked for; a strategy takes what it does not say from `queries`."""

    task: str | None = Field(None, description="What the LLM is told first. Default: by kind.")
    pool: str | None = Field(
        None, description="YAML file of examples ({document, query} or {document, queries}); some 20 is a good number."
    )
    examples_per_prompt: Annotated[int, Field(ge=0, le=8)] | None = Field(
        None, description="Drawn from the pool (Promptagator: 2 to 8). Default 6."
    )
    examples_group: Count | None = Field(
        None, description="Prompts that share one draw, and so the server's prefix cache. Default 50."
    )
    per_document: Count | None = Field(None, description="Prompts for each text. Default 1.")
    max_document_words: Count | None = Field(None, description="Words of the text in the prompt. Default 120.")
    form: Literal["line", "list", "json"] | None = Field(
        None, description="How the LLM writes its answer. Default: line for one query, list for several."
    )
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = Field(
        None, description="Two-letter code; queries clearly in another language are dropped. Default: not looked at."
    )
    typos: Share | None = Field(None, description="Share of the queries that get a typing error. Default 0.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Default 0.7.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Default 0.95.")
    max_tokens: Count | None = Field(None, description="Tokens of an answer at most. Default: 48 for each query.")
    extra_body: dict[str, Any] | None = Field(None, description="More parameters for the endpoint, sent as they are.")


class BundlePart(Part):
    documents: Annotated[int, Field(ge=1, le=5)] = Field(
        1, description="Documents put together; 1: questions over several chunks of one document."
    )
    related: bool = Field(
        True,
        description=(
            "Put a document together with those that BM25 finds for it; false: with those behind it in the corpus."
        ),
    )
    order: Order = Field(
        "balanced",
        description="Their chunks one document after the other, a part of each document in every prompt, or in turns.",
    )
    segments: Annotated[int, Field(ge=2, le=20)] = Field(4, description="Chunks in one prompt at most.")
    hops: tuple[Annotated[int, Field(ge=1, le=6)], Annotated[int, Field(ge=1, le=6)]] = Field(
        (2, 4), description="Least and most hops of a question."
    )
    min_complexity: Annotated[int, Field(ge=1, le=5)] = Field(
        1, description="Of 1 to 5, as the LLM rates its own question (4 in NVIDIA's toolkit)."
    )
    query_types: Annotated[tuple[QueryType, ...], Field(min_length=1)] = ("multi_hop",)

    @field_validator("hops")
    @classmethod
    def _in_order(cls, hops: tuple[int, int]) -> tuple[int, int]:
        return _ordered(hops, "number of hops")

    @model_validator(mode="after")
    def _all_are_shown(self):
        if self.segments < self.documents:
            raise ValueError("segments must be at least documents, or some would never be shown")
        if self.segments < self.hops[0]:
            raise ValueError("segments must be at least the least number of hops, as each hop needs another one")
        return self


ONLY_OF = {"fields": "metadata", "sentences": "sentence", "bundle": "multi_hop"}
NOT_OF = {"multi_hop": ("task", "form"), "paraphrase": ("documents",), "back_translation": ("documents", "form")}
"""Keys that a kind has no use for."""
OWN_OF = {
    "question_answer": ("form", "max_tokens"),
    "multi_hop": ("task", "pool", "form", "max_tokens", "examples_per_prompt"),
    "paraphrase": ("task", "pool"),
    "back_translation": ("task", "pool", "form", "max_tokens"),
}
"""Keys that these kinds do not take from `queries`, as what they are given or give is another thing than a document or
a query."""


class StrategyPart(Asking):
    kind: Literal[
        "document", "sentence", "metadata", "question_answer", "multi_hop", "paraphrase", "back_translation"
    ] = Field(
        "document",
        description=(
            "What a query is written from: a whole document or chunk, single sentences, a document under its metadata,"
            " a document with an answer to be found in it, several chunks, an earlier query said in other words or"
            " translated and back."
        ),
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Stands in the queries' metadata. Default: the kind."
    )
    queries: Annotated[int, Field(ge=1, le=20)] = Field(1, description="Queries asked for in one prompt.")
    documents: Count | None = Field(
        None, description="Of the documents drawn for all strategies, the first so many. null: all."
    )
    fields: tuple[str, ...] | None = Field(None, description="metadata: the fields of which a query must name one.")
    sentences: Count | None = Field(None, description="sentence: at most so many of a document. Default 3.")
    bundle: BundlePart | None = Field(
        None, description="multi_hop: what is shown together, and which questions are wanted of it."
    )

    @model_validator(mode="after")
    def _of_its_kind(self):
        for key, kind in ONLY_OF.items():
            if getattr(self, key) is not None and self.kind != kind:
                raise ValueError(f"a strategy of kind {self.kind} has no {key}; that belongs to {kind}")
        for key in NOT_OF.get(self.kind, ()):
            if getattr(self, key) is not None:
                raise ValueError(f"a strategy of kind {self.kind} has no {key}")
        if self.kind == "back_translation" and self.queries > 1:
            raise ValueError("back_translation brings one query for each; for more, say per_document")
        if self.kind == "metadata" and not self.fields:
            raise ValueError(
                "a strategy of kind metadata needs fields: the names of the metadata that queries are to use"
            )
        if self.form == "line" and self.queries > 1:
            raise ValueError("form: line has room for one query; say list or json")
        if self.form == "line" and self.kind == "question_answer":
            raise ValueError("form: line has no room for an answer; say list or json")
        return self


class QueriesPart(Asking):
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None,
        description=(
            "Draws documents, examples and sampling. Default: the recipe's; give it to repeat only what comes after"
            " with other seeds."
        ),
    )
    documents: Count | None = Field(None, description="Documents to write queries for, drawn by seed; null: all.")
    strategies: Annotated[tuple[StrategyPart, ...], Field(min_length=1)] = Field(
        (StrategyPart(),), description="What is asked for, one after the other."
    )

    @model_validator(mode="after")
    def _names_differ(self):
        names = [s.name or s.kind for s in self.strategies]
        if len(set(names)) < len(names):
            raise ValueError(
                f"the strategies are named {', '.join(names)}; give those of the same kind different names"
            )
        if LABELLED in names:
            raise ValueError(f"no strategy can be named {LABELLED}: that is what real queries are marked with")
        if missing := [s.name or s.kind for s in self.strategies if not (s.pool or self.pool or s.kind in OWN_OF)]:
            raise ValueError(
                f"no pool of examples for {', '.join(missing)}: give queries.pool, or pool in the strategy"
            )
        if missing := [s.name or s.kind for s in self.strategies if not s.pool and "pool" in OWN_OF.get(s.kind, ())]:
            raise ValueError(
                f"no pool of examples for {', '.join(missing)}: give pool in the strategy; queries.pool has documents,"
                " and this kind needs others"
            )
        return self

    def all_strategies(self) -> tuple[StrategyPart, ...]:
        """The strategies with all defaults filled in."""
        return tuple(self._filled(s) for s in self.strategies)

    def _filled(self, strategy: StrategyPart) -> StrategyPart:
        own = OWN_OF.get(strategy.kind, ())
        chosen = {
            key: getattr(strategy, key) if getattr(strategy, key) is not None or key in own else getattr(self, key)
            for key in Asking.model_fields
        }
        n = strategy.queries
        tokens = {"multi_hop": 400, "question_answer": 110, "back_translation": 64}.get(strategy.kind, 48) * n
        defaults = {
            "task": TASKS.get(strategy.kind, ""),
            "examples_per_prompt": 2 if strategy.kind == "multi_hop" else 6,
            "examples_group": 50,
            "per_document": 1,
            "max_document_words": 120,
            "form": {"question_answer": "json"}.get(strategy.kind, "line" if n == 1 else "list"),
            "typos": 0.0,
            "temperature": 0.7,
            "top_p": 0.95,
            "max_tokens": tokens,
            "extra_body": {},
        }
        filled = {key: defaults.get(key) if value is None else value for key, value in chosen.items()}
        if filled["form"] == "line" and n > 1:  # given for all strategies, and meant for those of one query
            filled["form"] = defaults["form"]
        return strategy.model_copy(
            update=filled
            | {
                "name": strategy.name or strategy.kind,
                "sentences": strategy.sentences or 3,
                "fields": strategy.fields or (),
                "bundle": strategy.bundle or (BundlePart() if strategy.kind == "multi_hop" else None),
            }
        )


class RoundTrip(Part):
    retriever: Literal["bm25", "dense", "fused"] = Field(
        "fused", description="bm25, the base encoder, or both by reciprocal rank fusion."
    )
    top_k: Count = Field(10, description="A query is kept if its document is among the first top_k. Promptagator: 1.")


class Copying(Part):
    ngram: Count = Field(3, description="Words in a row.")
    max_share: Share = Field(0.5, description="Share of the query's n-grams that may stand in its document.")


class NearDuplicates(Part):
    threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Cosine by the base encoder from which two queries are the same (0.9 in NVIDIA's toolkit)."
    )


class CrossEncoderFilter(Part):
    model: str = Field(description="A reranker: a folder or a hub name; safetensors only.")
    min_score: float = Field(
        0.5, description="What the model gives query and document at least (0 to 1 for models with a sigmoid)."
    )


class JudgePart(Part):
    threshold: Annotated[float, Field(ge=0, le=10)] = Field(
        7.0, description="Overall score that is enough (7.0 in NVIDIA's toolkit)."
    )
    per_prompt: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Queries of one document judged together.")
    max_document_words: Count = Field(400, description="Words of the document in the prompt.")
    llm: LLMPart | None = Field(None, description="The judge, if it is another than the recipe's llm.")


class FiltersPart(Part):
    """What a query must pass, in this order; null: not looked at."""

    copying: Copying | None = None
    near_duplicates: NearDuplicates | None = None
    round_trip: RoundTrip | None = RoundTrip()
    cross_encoder: CrossEncoderFilter | None = None
    judge: JudgePart | None = None
    at_most: Count | None = Field(
        None,
        description=(
            "Of what passes, so many queries are trained on, drawn by the recipe's seed: to compare strategies at equal"
            " number."
        ),
    )


class LabelledPart(Part):
    data: str = Field(
        description="Queries and qrels of the same corpus: a folder in BEIR layout, or the name of a BEIR dataset."
    )
    split: str = Field(
        "train",
        description=(
            "qrels/<split>.tsv of data. Never one that is evaluated on: queries with the text of one of those are left"
            " out."
        ),
    )
    unknown_documents: Literal["error", "drop"] = Field(
        "error", description="What to do with qrels of documents that the corpus lacks."
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description=(
            "Of the queries trained on, these; of what there is more of, some are drawn by seed. 1: no queries are"
            " generated."
        ),
    )


class SplitPart(Part):
    dev: Share = Field(
        0.1, description="Share of the documents whose queries are kept out of training, to choose settings by."
    )
    test: Share = Field(0.0, description="Share of the documents whose queries are kept for the last comparison.")
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8,
        description=(
            "Jaccard of their three-word shingles from which documents stay in one split. null: only copies do."
        ),
    )

    @model_validator(mode="after")
    def _something_is_left(self):
        if self.dev + self.test >= 1:
            raise ValueError("dev and test together leave no documents to train on")
        return self


class MinerPart(Part):
    """What all miners take."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Stands with its negatives. Default: the kind."
    )
    share: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Of a query's negatives, as against the shares of the other miners."
    )
    ranks: tuple[Count, Count] = Field(
        (1, 20), description="First and last rank, counted over the allowed documents, to draw from."
    )

    @field_validator("ranks")
    @classmethod
    def _in_order(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        return _ordered(ranks, "rank")


class BM25Miner(MinerPart):
    kind: Literal["bm25"]
    language: str | None = Field(
        "english", description="Of the Snowball stemmer, and of the stop words (English only); null: neither."
    )
    backend: Literal["bm25s", "rank_bm25"] = Field(
        "bm25s", description="The same scores by either; rank_bm25 takes many times as long."
    )


class DenseMiner(MinerPart):
    kind: Literal["dense"]
    model: str | None = Field(None, description="An encoder's folder or name; null: the base of the training.")
    query_prompt: str | None = Field(
        None, description="Of model; null: the model's own (for the base, what training says)."
    )
    document_prompt: str | None = Field(None, description="As query_prompt.")
    block: Count = Field(100_000, description="Documents whose embeddings are in memory at once.")
    approximate: bool = Field(
        False, description="Search only the cells of a k-means that are nearest to a query (FAISS)."
    )


class HybridMiner(DenseMiner):
    """BM25 and dense by reciprocal rank fusion."""

    kind: Literal["hybrid"]
    language: str | None = Field("english", description="As of bm25.")


class CrossEncoderMiner(MinerPart):
    kind: Literal["cross_encoder"]
    model: str = Field(description="A reranker: a folder (say runs/mine/reranker) or a hub name; safetensors only.")
    of: Literal["bm25", "dense", "hybrid"] = Field("bm25", description="Who finds what is scored.")
    depth: Count = Field(100, description="So many of the first miner's documents are scored.")

    @model_validator(mode="after")
    def _deep_enough(self):
        if self.depth < self.ranks[1]:
            raise ValueError(f"depth: {self.depth} documents are scored, and ranks goes to {self.ranks[1]}")
        return self


class LLMMiner(MinerPart):
    """Negatives that an LLM writes; the sampling is that of the paper on LLM-written negatives (Sinha 2025)."""

    kind: Literal["llm"]
    negatives: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Written for a query, in one prompt.")
    sees_positive: bool = Field(True, description="The LLM is shown the positive, too; false: the query alone.")
    pool: str | None = Field(
        None,
        description="YAML file of examples ({query, document, negatives}). Models that are not asked by chat need one.",
    )
    examples: Annotated[int, Field(ge=0, le=8)] = Field(3, description="Drawn from the pool once, for all prompts.")
    words: Count = Field(100, description="Of a passage in the prompt, and about what is asked for.")
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Count | None = Field(20, description="null: not sent, for endpoints that do not know it.")
    max_tokens: Count = 1024
    llm: LLMPart | None = Field(None, description="Who writes, if it is another than the recipe's llm.")


class RandomMiner(MinerPart):
    kind: Literal["random"]


Miner = Annotated[
    BM25Miner | DenseMiner | HybridMiner | CrossEncoderMiner | LLMMiner | RandomMiner, Field(discriminator="kind")
]
Auto = Literal["auto"]


class ScoredFilter(Part):
    scorer: str = Field(
        "base",
        description=(
            "Who scores: base (the base of the training, by cosine), bm25, encoder:<name> for another bi-encoder, or a"
            " cross-encoder's folder or name."
        ),
    )


class AbsoluteFilter(ScoredFilter):
    kind: Literal["absolute"]
    max: float | Auto = Field(
        "auto", description="Highest score of a negative. auto: what a quarter of the known positives stay below."
    )


class MarginFilter(ScoredFilter):
    kind: Literal["margin"]
    min: float | Auto = Field(
        "auto",
        description=(
            "What a negative's score is below the positive's at least. auto: a twentieth of the way from random"
            " documents to the positive, for the query in the middle."
        ),
    )


class PercentageFilter(ScoredFilter):
    kind: Literal["percentage"]
    max: Annotated[float, Field(gt=0)] | Auto = Field(
        "auto",
        description=(
            "Highest share of the positive's score (TopK-PercPos in NV-Retriever: 0.95). auto: 0.95 of the way from"
            " random documents to the positive, which holds for any model."
        ),
    )


class CrossEncoderNegativesFilter(Part):
    kind: Literal["cross_encoder"]
    model: str = Field(description="A reranker: a folder or a hub name; safetensors only.")
    max: float | Auto = Field("auto", description="Highest score of a negative. auto: as of absolute.")


class GuideFilter(Part):
    kind: Literal["guide"]
    model: str | None = Field(
        None, description="An encoder; null: the base. A negative stays below the positive by its cosine."
    )


class JudgeNegativesFilter(Part):
    kind: Literal["judge"]
    action: Literal["drop", "relabel"] = Field(
        "drop",
        description=(
            "What becomes of a candidate that the LLM calls relevant: relabel makes a positive of it, as in RLHN."
        ),
    )
    per_prompt: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Candidates of one query shown together.")
    max_document_words: Count = 200
    llm: LLMPart | None = Field(None, description="The judge, if it is another than the recipe's llm.")


NegativesFilter = Annotated[
    AbsoluteFilter | MarginFilter | PercentageFilter | CrossEncoderNegativesFilter | GuideFilter | JudgeNegativesFilter,
    Field(discriminator="kind"),
]


class NegativesPart(Part):
    per_query: Annotated[int, Field(ge=0)] = Field(1, description="Hard negatives a query; 0: in-batch negatives only.")
    miners: Annotated[tuple[Miner, ...], Field(min_length=1)] = Field(
        (BM25Miner(kind="bm25"),), description="Where negatives come from."
    )
    mix: Mix = Field(
        "instance",
        description=(
            "Of several miners. instance: each query has negatives of all, by their shares. concatenation: each query"
            " stands in the training once for each miner, with per_query of its negatives."
        ),
    )
    filters: tuple[NegativesFilter, ...] = Field(
        (),
        description=(
            "What is likely relevant and so no negative, one filter after the other, on every miner's candidates."
        ),
    )
    refresh: bool = Field(
        False,
        description=(
            "Before each epoch but the first, mine again with the model as it is then (ANCE): dense and hybrid miners"
            " without a model of their own, and filters by base. Each epoch then has a constant learning rate."
        ),
    )
    too_few: TooFew = Field(
        "leave_out",
        description=(
            "Where a miner has fewer for a query: leave_out of the training, fill from the others, or with random"
            " documents."
        ),
    )

    @model_validator(mode="after")
    def _names_differ(self):
        names = [m.name or m.kind for m in self.miners]
        if len(set(names)) < len(names):
            raise ValueError(f"the miners are named {', '.join(names)}; give those of the same kind different names")
        if self.refresh and not any(m.kind in ("dense", "hybrid") and m.model is None for m in self.miners):
            raise ValueError(
                "refresh: it takes a dense or hybrid miner without a model of its own, which is the one that changes"
            )
        if self.too_few == "others" and len(self.miners) == 1:
            raise ValueError("too_few: others are there only with several miners; say leave_out or random")
        return self

    def by_name(self) -> dict[str, Miner]:
        return {m.name or m.kind: m for m in self.miners}


class LoraPart(Part):
    """Low-rank adapters (PEFT) in place of all weights; merged into the model that is written."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | tuple[str, ...] = Field("all-linear", description="Modules, as PEFT names them.")


class ValidationPart(Part):
    """Queries on which the best checkpoint and the base's share are chosen. Never those that are compared on at the
    end."""

    data: str | None = Field(
        None,
        description=(
            "Queries and qrels, as in evaluation. null: the generated queries of the documents that split.dev holds"
            " out."
        ),
    )
    split: str = Field("train", description="qrels/<split>.tsv of data.")
    queries: Count = Field(500, description="At most so many, drawn by seed.")
    documents: Count = Field(
        1000,
        description=(
            "What is searched: the relevant documents, and of the others BM25's best of each query, so many in all."
        ),
    )
    evaluations: Count = Field(5, description="Over the training, evenly.")
    patience: Count | None = Field(
        3,
        description=(
            "Training stops after so many in a row without a better one (3 in the paper on synthetic data for"
            " generative retrieval); null: never."
        ),
    )


class OptimizationPart(Part):
    """What every training has."""

    epochs: Count = 1
    batch_size: Annotated[int, Field(ge=2)] = Field(32, description="Rows of a batch, over all processes together.")
    accumulate: Count = Field(1, description="Batches of one step of the optimizer.")
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the rate falls after the warm-up."
    )
    warmup: Share = Field(0.1, description="Share of the steps in which the rate rises to learning_rate.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="null: the model's own (0.1 for BERT); 0 is faster."
    )
    checkpoint_steps: Count = Field(
        200, description="Optimizer steps between two checkpoints, from which a killed training goes on."
    )
    trackers: tuple[Literal["wandb", "tensorboard"], ...] = Field((), description="Who else gets the learning curves.")


class TrainingPart(OptimizationPart):
    base: str = Field(description="The encoder to start from: a folder, a hub name, or packaged:all-MiniLM-L6-v2.")
    triplets: Count | None = Field(
        None, description="Rows to train on at most, drawn by seed and query: to compare at equal number. null: all."
    )
    loss: LossName = Field(
        "mnrl",
        description=(
            "mnrl; gist (leaves out what a guide takes for relevant); cached_mnrl, cached_gist (any batch size in the"
            " same memory); margin_mse, kl (learn a teacher's scores)."
        ),
    )
    in_batch: bool = Field(True, description="The other rows' documents are negatives, too (mnrl).")
    mini_batch_size: Count = Field(32, description="Rows that a cached loss embeds at a time.")
    guide: str | None = Field(None, description="Encoder that guides gist; null: the base.")
    teacher: str | None = Field(
        None,
        description=(
            "Whose scores margin_mse and kl learn: a cross-encoder's folder or hub name, encoder:<name> for a"
            " bi-encoder's cosine, reranker for the one that is trained in the same run, or fused for BM25 and the base"
            " together."
        ),
    )
    teacher_temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="The teacher's scores are divided by it."
    )
    matryoshka: tuple[Count, ...] = Field(
        (),
        description=(
            "Dimensions to which the embeddings can be cut later: the loss is summed over them, say [384, 256, 128,"
            " 64]."
        ),
    )
    lora: LoraPart | None = None
    scale: Annotated[float, Field(gt=0)] = Field(
        20.0, description="Inverse temperature: what the loss multiplies the cosine by (20 in sentence-transformers)."
    )
    max_seq_length: Count | None = Field(None, description="Tokens a text is cut to; null: the model's own limit.")
    query_prompt: str | None = Field(
        None, description='Put before every query, as "query: " for e5; null: the model\'s own.'
    )
    document_prompt: str | None = Field(None, description="Put before every document; null: the model's own.")
    attention: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2"] | None
    ) = Field(None, description="null: the model's own. flash_attention_2 leaves padding out, on GPUs that have it.")
    base_share: tuple[Share, ...] = Field(
        (0.0,),
        description=(
            "Share of the base's weights in the result, as in WiSE-FT; of several the best on validation is taken, 1 is"
            " the base itself."
        ),
    )
    validation: ValidationPart | None = None

    @field_validator("base_share", mode="before")
    @classmethod
    def _shares(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else [value]

    @model_validator(mode="after")
    def _loss_fits(self):
        if self.loss in DISTILLING and self.teacher is None:
            raise ValueError(f"loss: {self.loss} learns a teacher's scores; give teacher")
        if self.teacher and self.loss not in DISTILLING:
            raise ValueError(f"teacher: only {' and '.join(DISTILLING)} learn its scores, and loss is {self.loss}")
        if self.guide and "gist" not in self.loss:
            raise ValueError(f"guide: only gist and cached_gist take one, and loss is {self.loss}")
        if len(self.base_share) > 1 and self.validation is None:
            raise ValueError("base_share: give one, or validation to choose by")
        if not self.base_share:
            raise ValueError("base_share: give at least one; 0 keeps nothing of the base")
        return self

    def loss_settings(self) -> LossSettings:
        return LossSettings(
            name=self.loss,
            **{name: getattr(self, name) for name in LossSettings.__dataclass_fields__ if name != "name"},
        )


class RerankerPart(OptimizationPart):
    """A cross-encoder, trained on the same queries; what it learns, filters and teachers can use."""

    base: str = Field(
        description=(
            "A folder, a hub name, or packaged:all-MiniLM-L6-v2; a head for one score is put on where it has none."
        )
    )
    loss: RerankerLoss = Field(
        "bce", description="bce (binary cross-entropy), listwise (LambdaLoss), distillation (a teacher's margins)."
    )
    teacher: str | None = Field(
        None,
        description=(
            "Of distillation: a cross-encoder's folder or hub name, encoder:<name>, or fused for BM25 and the"
            " retriever's base together."
        ),
    )
    negatives: Count = Field(4, description="Hard negatives a query.")
    epochs: Count = Field(3, description="A head that is new has all to learn.")
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        0.0, description="null: the model's own (0.1 for BERT)."
    )
    batch_size: Count = Field(
        8,
        description="Queries of a batch, over all processes together; with bce as many pairs as so many queries have.",
    )
    max_seq_length: Count = Field(256, description="Tokens of query and document together.")
    first_stage: Literal["bm25", "retriever"] = Field(
        "bm25", description="Whose ranking is put in order: BM25's, or the tuned retriever's."
    )
    depth: Count = Field(100, description="So many of the first stage's documents.")
    first_stage_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="Part of the first stage's scores in the new ones, each on one scale; 0: the reranker's alone."
    )

    @model_validator(mode="after")
    def _teacher_fits(self):
        if (self.loss == "distillation") != (self.teacher is not None):
            raise ValueError("teacher: distillation learns its scores, and nothing else does")
        if self.teacher == "reranker":
            raise ValueError(
                "teacher: the reranker cannot teach itself; give a cross-encoder's folder or name, or encoder:<name>"
            )
        return self


class OtherPart(Part):
    """Queries of another collection, which is searched as it is."""

    data: str = Field(description="A folder in BEIR layout with its corpus.jsonl, or the name of a BEIR dataset.")
    split: str = Field("test", description="qrels/<split>.tsv of data.")


class EvaluationPart(Part):
    data: str | None = Field(
        None,
        description=(
            "Queries and qrels: a folder in BEIR layout (without corpus.jsonl, the recipe's corpus is searched), the"
            " name of a dataset of BEIR or NanoBEIR, or a CSV or JSONL file with question and document (an ID). null:"
            " the generated queries of the documents that split holds out."
        ),
    )
    split: str = Field(
        "test", description="qrels/<split>.tsv of data; of generated queries test (dev, where split.test is 0) or dev."
    )
    bm25: bool = Field(True, description="Show BM25 beside the two.")
    unknown_documents: Literal["error", "drop"] = Field(
        "error", description="What to do with qrels of documents that the corpus lacks."
    )
    approximate: bool = Field(
        False,
        description=(
            "Search only the cells of a k-means that are nearest to a query (FAISS), for many millions of documents;"
            " false: all are compared."
        ),
    )
    others: tuple[OtherPart, ...] = Field(
        (),
        description=(
            "Other collections on which the base and the tuned model are compared, too: what the tuning does elsewhere."
        ),
    )

    @model_validator(mode="after")
    def _others_differ(self):
        if len({(other.data, other.split) for other in (self, *self.others)}) <= len(self.others):
            raise ValueError("others: each split of a collection is named once, and evaluation.data is none of them")
        return self

    def others_by_name(self) -> dict[str, OtherPart]:
        """Under names for people: the last folder's, or the whole path where two end alike."""
        last = [Path(other.data).name for other in self.others]
        return {
            f"{name if last.count(name) == 1 else other.data}, split {other.split}": other
            for name, other in zip(last, self.others, strict=True)
        }


class Recipe(Part):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="The run's folder under runs."
    )
    runs: str = Field("runs", description="Folder that holds the runs and the journal of LLM answers.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 13
    corpus: CorpusPart
    llm: LLMPart
    queries: QueriesPart
    labelled: LabelledPart | None = Field(
        None, description="Real labelled pairs to train on, too; strategies that rewrite queries take these as well."
    )
    filters: FiltersPart = FiltersPart()
    split: SplitPart = SplitPart()
    negatives: NegativesPart = NegativesPart()
    training: TrainingPart
    reranker: RerankerPart | None = Field(None, description="A reranker, trained beside the retriever.")
    evaluation: EvaluationPart = EvaluationPart()

    @model_validator(mode="after")
    def _parts_fit(self):
        if self.labelled is None and (kind := self.queries.strategies[0].kind) in ("paraphrase", "back_translation"):
            raise ValueError(
                f"queries.strategies: {kind} works on the queries of earlier strategies or of labelled, so it cannot be"
                " the first"
            )
        if self.evaluation.data is None and not self.generates:
            raise ValueError(
                "evaluation.data: without it generated queries are compared on, and labelled.share is 1; give it"
            )
        if self.evaluation.data is None and self.evaluation.split not in ("test", "dev"):
            raise ValueError(
                "evaluation.split: the run's own queries are split into train, dev and test, and compared on test or"
                f" dev; found {self.evaluation.split!r}"
            )
        if self.labelled and (self.labelled.data, self.labelled.split) == (self.evaluation.data, self.evaluation.split):
            raise ValueError("labelled: these are the queries that are evaluated on; give another split")
        if self.reranker and self.reranker.first_stage == "bm25" and not self.evaluation.bm25:
            raise ValueError("reranker.first_stage: bm25 is what is compared with, and evaluation.bm25 is false")
        used = [(part.data, part.split) for part in (self.labelled, self.training.validation) if part]
        if taken := next((other for other in self.evaluation.others if (other.data, other.split) in used), None):
            raise ValueError(
                f"evaluation.others: {taken.data}, split {taken.split}, is trained on or chosen by; give another split"
            )
        if self.training.teacher == "reranker":
            if self.reranker is None:
                raise ValueError(
                    "training.teacher: reranker is the one that is trained in the same run; give the part reranker, or"
                    " a model's folder or name"
                )
            if self.reranker.teacher:
                raise ValueError(
                    "training.teacher: the run's reranker learns from a teacher itself; name that one here, too"
                )
        if self.negatives.refresh and self.training.teacher:
            raise ValueError(
                "negatives.refresh: a teacher has scored the first negatives only; take a loss without one"
            )
        if self.negatives.refresh and self.training.lora:
            raise ValueError("negatives.refresh: adapters are merged after the first epoch; take training.lora: null")
        if reason := misfit(self.training.loss_settings(), self.negatives.per_query):
            raise ValueError(reason)
        if chosen_by := self.training.validation:
            if self.labelled and (self.labelled.data, self.labelled.split) == (chosen_by.data, chosen_by.split):
                raise ValueError(
                    "training.validation: these are the labelled queries that are trained on; give another split"
                )
            if (chosen_by.data, chosen_by.split) == (self.evaluation.data, self.evaluation.split) and chosen_by.data:
                raise ValueError(
                    "training.validation: these are the queries that are compared on at the end, which what is chosen"
                    " by them would win; give another split"
                )
            if chosen_by.data is None and not self.generates:
                raise ValueError(
                    "training.validation: without data it takes generated queries, and labelled.share is 1; give data"
                )
            if chosen_by.data is None and not self.split.dev:
                raise ValueError(
                    "training.validation: without data it takes the generated queries that split.dev holds out, and"
                    " split.dev is 0"
                )
            if (
                chosen_by.data is None
                and self.evaluation.data is None
                and (self.evaluation.split == "dev" or not self.split.test)
            ):
                raise ValueError(
                    "training.validation: the generated queries of split.dev are compared on at the end; give"
                    " split.test a share, too, or evaluation.data"
                )
        return self

    @property
    def generates(self) -> bool:
        """Whether queries are written at all."""
        return self.labelled is None or self.labelled.share < 1

    @property
    def queries_seed(self) -> int:
        return self.seed if self.queries.seed is None else self.queries.seed
