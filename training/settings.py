"""What a person may choose about training: parts of a recipe, and the arguments of ``train_retriever`` and
``train_reranker``. Nothing here loads torch, so that a recipe is checked at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sharpen.evaluation.contents import content
from sharpen.evaluation.encoders.settings import Encoder, EncoderOptions, Family, PrecisionSetting
from sharpen.evaluation.settings import (
    UNHASHED,
    BaseName,
    Count,
    EncoderName,
    Marker,
    RerankerBaseName,
    Settings,
)
from sharpen.training.family_rules import REGULARIZERS, family_misfit
from sharpen.training.optimization import Dropout, LoraSettings, Optimization

LossName = Literal["mnrl", "cached_mnrl", "gist", "cached_gist", "margin_mse", "kl", "embedding"]
DISTILLING: tuple[LossName, ...] = ("margin_mse", "kl")
"""Losses that learn a teacher's scores of each row's documents."""
TAUGHT: tuple[LossName, ...] = (*DISTILLING, "embedding")
"""Losses that have a teacher: of scores, or of vectors."""
RerankerLoss = Literal["bce", "listwise", "distillation"]


class RetrieverSettings(EncoderOptions, Optimization):
    """How to train a bi-encoder.

    The losses: ``mnrl`` is Multiple Negatives Ranking Loss (InfoNCE) over the row's own documents and, with
    ``in_batch``, those of the other rows. ``gist`` is the same without the documents that ``guide`` puts above the
    positive (Solatorio 2024). The ``cached`` ones embed ``mini_batch_size`` rows at a time, so that memory does not
    grow with the batch (Gao et al. 2021). ``margin_mse`` learns a teacher's margins of positive over negative
    (Hofstätter et al. 2020), ``kl`` its distribution over the row's documents. ``embedding`` learns the teachers'
    vectors of queries and documents, and needs no negatives.

    >>> settings = RetrieverSettings(base="intfloat/e5-small-v2", query_prompt="query: ", epochs=2)
    >>> settings.loss, settings.scale, settings.encoder.query_prompt
    ('mnrl', 20.0, 'query: ')
    """

    LATER: ClassVar[tuple[str, ...]] = (
        "order",
        "weights",
        "family",
        "query_regularizer_weight",
        "document_regularizer_weight",
    )

    base: BaseName = Field(
        description=(
            "The encoder to start from: a folder, a hub name, or packaged:all-MiniLM-L6-v2. A causal language model, as"
            " Qwen/Qwen3-Embedding-0.6B or packaged:smollm2-135m-instruct, is one, too: its last token's state is the"
            " vector, and instructions go into the prompts."
        )
    )
    family: Family = Field(
        "dense",
        description=(
            "dense: a vector a text. sparse: a number a word (SPLADE), from a masked language model or a sparse"
            " encoder. multi_vector: a vector a token (ColBERT), from a multi-vector or any other encoder, whose tokens"
            " get a projection to 128 dimensions. before is the base as what it is by its own files. Losses: mnrl,"
            " cached_mnrl, margin_mse, kl, on inner products or MaxSim."
        ),
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(
        32,
        description=(
            "Rows of a batch, over all devices together and not for each: of 32, eight GPUs have 4 each. In-batch"
            " negatives are the documents of the whole batch, on whichever device they are, so that the number of"
            " devices changes neither the negatives nor the learning rate that fits."
        ),
    )
    loss: LossName = Field(
        "mnrl",
        description=(
            "mnrl; gist (leaves out what a guide takes for relevant); cached_mnrl, cached_gist (any batch size in the"
            " same memory); margin_mse, kl (learn a teacher's scores); embedding (learns encoders' vectors of queries"
            " and documents, each by itself: no negatives)."
        ),
    )
    in_batch: bool = Field(True, description="The other rows' documents are negatives, too (mnrl).")
    mini_batch_size: Count = Field(32, description="Rows that a cached loss embeds at a time.")
    guide: EncoderName | None = Field(None, description="Encoder that guides gist; null: the base.")
    teacher_temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="The teacher's scores are divided by it."
    )
    teacher_scores: Literal["given", "standardized", "percentile"] = Field(
        "given",
        description=(
            "Of each row's documents, before the temperature. given: as the teacher scores; standardized: z-scores"
            " within the row; percentile: ranks from 0 to 1, as in CADET, where only the order is trusted (kl)."
        ),
    )
    contrastive: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description=(
            "Weight of a contrastive term beside the divergence (kl): the document that the teacher puts first against"
            " those that it puts clearly below; what is near to the first by its scores is spared."
        ),
    )
    anchor: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description=(
            "Weight of the squared distance of each vector to the base's, added to the loss: what the base knows is"
            " forgotten less. A third more time. Not with cached losses."
        ),
    )
    order: Literal["random", "easy_first"] = Field(
        "random",
        description=(
            "Of the rows. easy_first: the first epoch goes from those whose positive the base puts far above the"
            " hardest negative to those where it does not (a curriculum); later ones are at random, and with"
            " negatives.refresh none is. Encodes all texts once more."
        ),
    )
    candidates: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description=(
            "Rows are lists: so many documents of each query, those that the teacher ranks first, with its scores (kl)."
            " Nothing is mined, and no label is needed. null: rows are a positive and its mined negatives."
        ),
    )
    documents: Literal["trained", "kept"] = Field(
        "trained",
        description=(
            "kept: documents keep the base's vectors, and queries get an encoder of their own: an index that is there"
            " stays as it is. Needs candidates."
        ),
    )
    matryoshka: tuple[Count, ...] = Field(
        (),
        description=(
            "Dimensions to which the embeddings can be cut later: the loss is summed over them, say [384, 256, 128,"
            " 64]."
        ),
    )
    lora: LoraSettings | None = Field(None, description="Low-rank adapters in place of all weights.")
    weights: Literal["float32", "bf16"] = Field(
        "float32",
        description=(
            "What weights are kept in. bf16: half the memory. With lora only the frozen ones are, and little is lost;"
            " without it, steps of less than some 0.4 % of a weight round away: raise learning_rate. A float32 model is"
            " written."
        ),
    )
    gradient_checkpointing: Annotated[bool, UNHASHED] = Field(
        False,
        description=(
            "Each layer is computed a second time for its gradients, in place of keeping what it needs for them: the"
            " same weights, a third more time, and memory for far longer texts or larger batches."
        ),
    )
    query_regularizer_weight: Annotated[float, Field(ge=0)] = Field(
        REGULARIZERS["query_regularizer_weight"],
        description=(
            "Of the FLOPS regularizer (the squared mean of each word's numbers over the batch), of queries (sparse):"
            " the higher, the fewer words a query has, and the faster the search. It rises over the first third of the"
            " steps."
        ),
    )
    document_regularizer_weight: Annotated[float, Field(ge=0)] = Field(
        REGULARIZERS["document_regularizer_weight"],
        description="As query_regularizer_weight, of documents: their number of words is the size of the index.",
    )
    scale: Annotated[float, Field(gt=0)] = Field(
        20.0,
        description=(
            "Inverse temperature: what the loss multiplies the cosine by (20 in sentence-transformers). With family:"
            " sparse and multi_vector, whose scores are sums, it is 1 unless given."
        ),
    )

    @property
    def takes_negatives(self) -> bool:
        """Whether rows have mined negatives: lists, and a query with its document for embedding, have none."""
        return self.candidates is None and self.loss != "embedding"

    @property
    def encoder(self) -> Encoder:
        """The base with its options, as everything that loads or encodes takes it."""
        options = {name: getattr(self, name) for name in EncoderOptions.model_fields}
        return Encoder(model=self.base, family=self.family, **options)

    def check(self) -> None:
        """Raise ``InputError`` as of all settings, and for a base without layers for adapters or checkpointing."""
        super().check()
        if self.gradient_checkpointing:
            from sharpen.evaluation.encoders.checks import check_recomputable_base  # loads torch

            check_recomputable_base(self.base)
        for key in self.keys_of_layers if self.family == "dense" else ():
            from sharpen.evaluation.encoders.checks import check_transformer_base

            check_transformer_base(self.base, key)

    @property
    def keys_of_layers(self) -> tuple[str, ...]:
        """Settings that a base without layers (``StaticEmbedding``) cannot have: adapters, cached losses, which take a
        part of the texts at a time, and guides, which read its tokens."""
        is_of_layers = self.loss.startswith("cached") or "gist" in self.loss
        return (*(("lora",) if self.lora else ()), *(("loss",) if is_of_layers else ()))

    def checker(self, name: str, marker: Marker) -> Callable[[Any], None]:
        if name == "base" and self.family != "dense":
            from sharpen.evaluation.encoders.checks import check_family_base  # loads torch

            return partial(check_family_base, family=self.family)
        return super().checker(name, marker)

    @model_validator(mode="before")
    @classmethod
    def _scale_of_family(cls, values: Any) -> Any:
        """Inner products and MaxSim are sums, of which 20 times would be a step function."""
        if isinstance(values, dict) and values.get("family", "dense") != "dense":
            return {"scale": 1.0} | values
        return values

    @model_validator(mode="after")
    def _options_fit(self):
        if reason := family_misfit(self):
            raise ValueError(reason)
        if self.guide and "gist" not in self.loss:
            raise ValueError(f"guide: only gist and cached_gist take one, and loss is {self.loss}")
        if self.candidates and self.loss != "kl":
            raise ValueError(f"candidates: lists with a teacher's scores are learnt by kl, and loss is {self.loss}")
        if self.loss != "kl" and (self.contrastive or self.teacher_scores != "given"):
            key = "contrastive" if self.contrastive else "teacher_scores"
            raise ValueError(f"{key}: only kl has it, and loss is {self.loss}")
        if self.anchor and (self.loss.startswith("cached") or self.matryoshka):
            raise ValueError("anchor: not with cached losses or matryoshka, which embed by themselves; try base_weight")
        if self.anchor and self.loss == "embedding":
            raise ValueError("anchor: for embedding, the base among the teachers is the anchor, {..., base: 0.5}")
        if self.loss == "embedding" and (self.matryoshka or self.lora):
            raise ValueError("loss: embedding learns whole vectors with all weights; leave out matryoshka and lora")
        if self.order == "easy_first" and (self.candidates or self.loss == "embedding"):
            raise ValueError("order: easy_first is of a positive and its negatives; leave out candidates and embedding")
        if self.documents == "kept" and not self.candidates:
            raise ValueError("documents: kept needs candidates, lists of documents with a teacher's scores; try 64")
        if self.documents == "kept" and (self.matryoshka or self.lora):
            raise ValueError(
                "documents: kept trains all weights of the queries' encoder in its full dimension; leave"
                " out matryoshka and lora"
            )
        return self


def misfit(settings: RetrieverSettings, negatives: int) -> str | None:
    """What keeps the loss from being trained with so many ``negatives`` a row, and what to do; None if nothing does.

    >>> misfit(RetrieverSettings(base="m", loss="gist"), negatives=4)
    'training.loss: gist takes one negative a query at most, and negatives.per_query is 4; use cached_gist'
    """
    loss = settings.loss
    if not settings.takes_negatives:
        return None
    if not settings.in_batch and loss != "mnrl":
        return (
            f"training.in_batch: only mnrl can do without the other rows' documents; {loss}"
            f" {'never uses them' if loss in DISTILLING else 'is made of them'}"
        )
    if negatives == 0 and (loss in DISTILLING or not settings.in_batch):
        return (
            f"training.loss: {loss}{'' if settings.in_batch else ' with in_batch: false'} compares with a query's own"
            " negatives, and there are none; raise negatives.per_query"
        )
    if loss == "gist" and negatives > 1:
        return (
            f"training.loss: gist takes one negative a query at most, and negatives.per_query is {negatives}; use"
            " cached_gist"
        )
    return None


class RerankerSettings(Optimization):
    """How to train a cross-encoder.

    The losses: ``bce`` is binary cross-entropy of each pair, positives weighted by the number of negatives;
    ``listwise`` is LambdaLoss over each query's documents (Wang et al. 2018); ``distillation`` learns a teacher's
    margins.

    >>> RerankerSettings(base="packaged:all-MiniLM-L6-v2").epochs
    3
    """

    LATER: ClassVar[tuple[str, ...]] = ("committee",)

    base: RerankerBaseName = Field(
        description=(
            "A folder, a hub name, or packaged:all-MiniLM-L6-v2; a head for one score is put on where it has none."
        )
    )
    loss: RerankerLoss = Field(
        "bce", description="bce (binary cross-entropy), listwise (LambdaLoss), distillation (a teacher's margins)."
    )
    epochs: Count = Field(3, description="A head that is new has all to learn.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-4, description="The highest, after the warm-up.")
    dropout: Dropout | None = Field(0.0, description="null: the model's own (0.1 for BERT).")
    batch_size: Count = Field(
        8,
        description="Queries of a batch, over all processes together; with bce as many pairs as so many queries have.",
    )
    committee: Count = Field(
        1,
        description=(
            "So many rerankers, each trained on a part of the queries that is its alone and from a seed of its own"
            " (UDAPDR); the mean of their scores, standardized for each query, is the reranker's."
        ),
    )
    max_seq_length: Count = Field(256, description="Tokens of query and document together.")
    precision: PrecisionSetting = Field("auto", description=EncoderOptions.model_fields["precision"].description)


class HeldOutSettings(Settings):
    """Queries by which a state of a training is chosen. Never those that are compared on at the end."""

    data: Annotated[str | None, UNHASHED] = Field(
        None,
        description=(
            "Queries and qrels, as in evaluation. null: the generated queries of the documents that split.dev holds"
            " out; labelled ones where labelled.fraction is 1."
        ),
    )
    split: str = Field("train", description="qrels/<split>.tsv of data.")
    queries: Count = Field(500, description="At most so many, drawn by seed.")
    evaluations: Count = Field(5, description="Over the training, evenly.")
    patience: Count | None = Field(
        3,
        description=(
            "Training stops after so many in a row without a better one (3 in the paper on synthetic data for"
            " generative retrieval); null: never."
        ),
    )

    def fingerprint(self) -> Any:
        """As of all settings, and the sums of the files that ``data`` stands for."""
        files = content(f"held out {self.split}", self.data, self._files) if self.data else {}
        return super().fingerprint() | {"files": files}

    def check(self) -> None:
        """Raise ``InputError`` if the files that ``data`` stands for are not there."""
        if self.data:
            self._files()

    def _files(self) -> dict[str, str]:
        from sharpen.evaluation.datasets import judged_files
        from sharpen.evaluation.files import InputError, sha256_file

        files = judged_files(self.data, self.split)
        for path in files.values():
            if not path.is_file():
                raise InputError(f"data: {path}: no such file")
        return {name: sha256_file(path) for name, path in files.items()}


class ValidationSettings(HeldOutSettings):
    """By which the best checkpoint of a retriever and the base's weight are chosen.

    >>> ValidationSettings().queries
    500
    """

    documents: Count = Field(
        1000,
        description=(
            "What is searched: the relevant documents, and of the others BM25's best of each query, so many in all."
        ),
    )
