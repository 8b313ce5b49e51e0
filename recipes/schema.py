"""What a recipe may say. Every key, its meaning and its default are here; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_TASK = (
    "Each document stands with a question that somebody typed into a search box and that the document answers. "
    "The questions are short and in the words of somebody who has not read the document."
)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Chunking(Part):
    max_words: Annotated[int, Field(ge=20)] = Field(150, description="Words of a chunk at most; some 200 tokens of an encoder.")
    overlap_words: Annotated[int, Field(ge=0)] = Field(0, description="Words that a chunk repeats of the one before.")

    @model_validator(mode="after")
    def _overlap_is_smaller(self):
        if self.overlap_words >= self.max_words:
            raise ValueError("overlap_words must be smaller than max_words")
        return self


class CorpusPart(Part):
    source: str = Field(description="A folder of .txt/.md/.rst/.html files, a .jsonl file, a folder in BEIR layout, the name of a BEIR dataset, or python-docs.")
    chunk: Chunking | None = Field(Chunking(), description="null: documents are not cut.")


class LLMPart(Part):
    embedded: str | None = Field(None, description="A packaged model or a .gguf file, served on this machine for as long as it is needed.")
    base_url: str | None = Field(None, description="An OpenAI-compatible endpoint: http://localhost:8000/v1, ...")
    model: str | None = Field(None, description="The model's name at base_url.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key.")
    chat: bool | None = Field(None, description="Ask by chat (true) or have the prompt continued (false, for base models). Default: what the embedded model is made for; true at a base_url.")
    concurrency: Count = Field(8, description="Requests at once at base_url. An embedded server takes one at a time, so that answers can be repeated.")
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="Seconds for one try.")
    max_retries: Annotated[int, Field(ge=0)] = Field(6, description="Tries more, after refused connections, 429 and 5xx.")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"embedded": "gemma-3-270m"} if value == "embedded" else value

    @model_validator(mode="after")
    def _one_endpoint(self):
        if (self.embedded is None) == (self.base_url is None):
            raise ValueError("give either embedded or base_url (with model)")
        if self.base_url is not None and not self.model:
            raise ValueError("base_url needs model, the model's name there")
        return self


class QueriesPart(Part):
    task: str = Field(DEFAULT_TASK, description="What the LLM is told first.")
    pool: str = Field(description="YAML file of examples ({document, query}); some 20 is a good number.")
    examples_per_prompt: Annotated[int, Field(ge=1, le=8)] = Field(6, description="Drawn from the pool (Promptagator: 2 to 8).")
    examples_group: Count = Field(50, description="Documents that share one draw, and so the server's prefix cache.")
    documents: Count | None = Field(None, description="Documents to write queries for, drawn by seed; null: all.")
    per_document: Count = Field(1, description="Queries asked for each document.")
    max_document_words: Count = Field(120, description="Words of the document in the prompt.")
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Count = Field(48, description="Tokens of an answer at most.")
    extra_body: dict[str, Any] = Field({}, description="More parameters for the endpoint, sent as they are.")


class RoundTrip(Part):
    retriever: Literal["bm25", "dense", "fused"] = Field("fused", description="bm25, the base encoder, or both by reciprocal rank fusion.")
    top_k: Count = Field(10, description="A query is kept if its document is among the first top_k. Promptagator: 1.")


class FiltersPart(Part):
    round_trip: RoundTrip | None = RoundTrip()


class SplitPart(Part):
    dev: Share = Field(0.1, description="Share of the documents whose queries are kept out of training.")


class NegativesPart(Part):
    miner: Literal["bm25"] = "bm25"
    per_query: Annotated[int, Field(ge=0)] = Field(1, description="Hard negatives a query; 0: in-batch negatives only.")
    ranks: tuple[Count, Count] = Field((1, 20), description="First and last rank, counted over the allowed documents, to draw from.")

    @field_validator("ranks")
    @classmethod
    def _in_order(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if ranks[0] > ranks[1]:
            raise ValueError("the first rank must not be greater than the last")
        return ranks


class TrainingPart(Part):
    base: str = Field(description="The encoder to start from: a folder, a hub name, or packaged:all-MiniLM-L6-v2.")
    epochs: Count = 1
    batch_size: Annotated[int, Field(ge=2)] = Field(32, description="Rows of a step, over all processes together.")
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup: Share = Field(0.1, description="Share of the steps in which the rate rises to learning_rate.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="null: the model's own (0.1 for BERT); 0 is a third faster on a CPU.")
    scale: Annotated[float, Field(gt=0)] = Field(20.0, description="Inverse temperature of the ranking loss (20 in sentence-transformers).")
    max_seq_length: Count | None = Field(None, description="Tokens a text is cut to; null: the model's own limit.")
    query_prompt: str | None = Field(None, description='Put before every query, as "query: " for e5; null: the model\'s own.')
    document_prompt: str | None = Field(None, description="Put before every document; null: the model's own.")
    base_share: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Share of the base's weights in the result.")


class EvaluationPart(Part):
    data: str | None = Field(None, description="Queries and qrels: a folder in BEIR layout (without corpus.jsonl, the recipe's corpus is searched), or the name of a BEIR dataset. null: the generated queries of the documents that split.dev holds out.")
    split: str = Field("test", description="qrels/<split>.tsv of data.")
    bm25: bool = Field(True, description="Show BM25 beside the two.")
    unknown_documents: Literal["error", "drop"] = Field("error", description="What to do with qrels of documents that the corpus lacks.")


class Recipe(Part):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(description="The run's folder under runs.")
    runs: str = Field("runs", description="Folder that holds the runs and the journal of LLM answers.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 13
    corpus: CorpusPart
    llm: LLMPart
    queries: QueriesPart
    filters: FiltersPart = FiltersPart()
    split: SplitPart = SplitPart()
    negatives: NegativesPart = NegativesPart()
    training: TrainingPart
    evaluation: EvaluationPart = EvaluationPart()
