"""Teach a generative retriever to rank what it mixes up (the second stage): Regularized Preference Optimization."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from datasets import Dataset
from torch.utils.data import DataLoader

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import prompt_tokens
from sharpen.evaluation.generative.model import GenerativeModel, load_generative
from sharpen.training.generative.batches import SampledTrainer, prepare_weights, save_merged
from sharpen.training.generative.examples import Example
from sharpen.training.generative.settings import PreferenceSettings
from sharpen.training.lora import device_of_base
from sharpen.training.samplers import GlobalBatchSampler
from sharpen.training.trainer import TrainingResult, TrainingRun, TrainingSetup, fit, processes_of_batch

PART = "generative.preferences"


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A query whose ``positive`` document's identifier is to be likelier than that of ``negative``. ``key``: the
    query's ID."""

    text: str
    positive: str
    negative: str
    key: str


def preference_pairs(
    queries: Sequence[Example],
    rankings: Mapping[str, Sequence[str]],
    top_k: int = 10,
    negatives: Literal["top", "random"] = "top",
    documents: Sequence[str] = (),
    seed: int = 13,
    allowed: Callable[[Example], Callable[[str], bool]] | None = None,
) -> list[PreferencePair]:
    """Pairs as in section 4.3 of Wen et al. 2025: with each of the ``top_k`` results that the model itself ranks above
    the query's document. None, where that comes first; ``top_k``, where it is not among them.

    ``rankings``: of document IDs, the best first, by the queries' keys. ``negatives``: ``random`` takes as many of
    ``documents``, drawn by ``seed``, for a control. No document of a query is a negative of it. ``allowed``: of a
    query, what says of a document whether it may be one (default: any). Raises ``InputError`` for a query without a
    ranking.

    >>> query = Example("what rises", "bread", "query", "q")
    >>> [pair.negative for pair in preference_pairs([query], {"q": ["ice", "tea", "bread", "salt"]})]
    ['ice', 'tea']
    >>> [pair.negative for pair in preference_pairs([query], {"q": ["ice", "tea", "bread", "salt"]}, top_k=1)]
    ['ice']
    >>> preference_pairs([query], {"q": ["bread", "ice"]})
    []
    """
    positives: dict[str, set[str]] = {}
    for query in queries:
        positives.setdefault(query.key, set()).add(query.document)
    pairs = []
    for query in queries:
        if query.key not in rankings:
            raise InputError(f"query {query.key!r}: it has no ranking, of which its negatives are taken")
        first = list(rankings[query.key])[:top_k]
        above = first[: first.index(query.document)] if query.document in first else first
        may_be = allowed(query) if allowed else bool  # an ID is not empty
        found = [i for i in above if i not in positives[query.key] and may_be(i)]
        if negatives == "random":
            others = [i for i in documents if i not in positives[query.key] and may_be(i)]
            draw = random.Random(f"{seed}/{query.key}/{query.document}")
            found = draw.sample(others, min(len(found), len(others)))
        pairs += [PreferencePair(query.text, query.document, negative, query.key) for negative in found]
    return pairs


def train_preference(
    retriever: Path | str,
    pairs: Sequence[PreferencePair],
    settings: PreferenceSettings,
    output: Path | str = "preferred",
    seed: int = 13,
    run: TrainingRun | None = None,
) -> TrainingResult:
    """Go on from the folder of the first stage, by the loss of section 4.1 of Wen et al. 2025 (Pang et al. 2024), and
    write another,

        L = - log sigmoid(beta * (log P(p | q) / P_ref(p | q) - log P(n | q) / P_ref(n | q)))
            - alpha * log P(p | q) / |p|,

    where p and n are the positive's and the negative's identifiers, of |p| tokens the one, and P_ref is the first
    stage's model. TRL computes it; the last term is the mean over the tokens of all positives of a mini-batch, which is
    the equation's where these are equally long. What the first stage's model makes of the pairs is computed beforehand,
    so that one model is in memory.

    ``run`` as in ``train_generative``. Raises ``InputError`` as that does, if TRL is not installed, and without pairs.
    """
    run, output = run or TrainingRun(), Path(output)
    trainer_type, arguments_type = _trainer_types()
    if not pairs:
        raise InputError(f"{PART}: there are no pairs; the model ranks every query's document first, or lacks queries")
    processes = processes_of_batch(PART, settings.batch_size)
    transformers.set_seed(seed)
    first = load_generative(retriever, device_of_base(settings.lora))
    adapters = prepare_weights(first.model, settings, PART)
    dataset = tokenized_pairs(pairs, first)
    of_process = settings.batch_size // processes
    # the largest part of it that has no more pairs than mini_batch_size
    batch = processes * max(n for n in range(1, settings.mini_batch_size + 1) if of_process % n == 0)
    # several mini-batches of each process are one batch
    steps = settings.model_copy(update={"accumulate": settings.accumulate * (settings.batch_size // batch)})
    sampler = GlobalBatchSampler(len(dataset), batch, processes, seed, settings.epochs)
    setup = TrainingSetup(PART, first.model, None, dataset, None, sampler, steps, seed, run, first.tokenizer)
    with warnings.catch_warnings():
        # TRL sets what transformers has given another name
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        result = fit(trainer_type, arguments_type, setup)
    first.model.__dict__.pop("forward", None)  # TRL's
    save_merged(first, adapters, output)
    return replace(result, path=output, triplets=len(pairs))


def tokenized_pairs(pairs: Iterable[PreferencePair], retriever: GenerativeModel) -> Dataset:
    """Columns of token IDs, as TRL's trainer takes them: ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``, of which
    the latter are the identifiers' whole (``identifier_tokens``). Raises ``InputError`` for a document without one."""
    answers = dict(zip(retriever.identifiers, map(list, retriever.tokens), strict=True))
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for pair in pairs:
        for document in (pair.positive, pair.negative):
            if document not in answers:
                raise InputError(f"{pair.key}: the document {document!r} has no identifier")
        columns["prompt_ids"].append(prompt_tokens(pair.text, retriever.tokenizer, retriever.max_tokens))
        columns["chosen_ids"].append(answers[pair.positive])
        columns["rejected_ids"].append(answers[pair.negative])
    return Dataset.from_dict(columns)


def _trainer_types() -> tuple[type, type]:
    try:
        from trl import DPOConfig, DPOTrainer
    except ImportError:
        raise InputError(f"{PART}: needs TRL; pip install 'sharpen[generative]'") from None

    class Trainer(SampledTrainer, DPOTrainer):
        @classmethod
        def options(cls, setup: TrainingSetup) -> dict[str, Any]:
            settings = setup.settings
            return {
                "loss_type": ["sigmoid", "sft"],
                "loss_weights": [1.0, settings.alpha],
                "beta": settings.beta,
                "max_length": None,  # prompts have been cut already
                "disable_dropout": False,  # that of the settings is there already
                "gradient_checkpointing": False,
                "precompute_ref_log_probs": True,
                "precompute_ref_batch_size": settings.mini_batch_size,
            }

        def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
            """As it is: TRL would tokenise texts, and prompt and identifier together."""
            return dataset

        def _precompute_ref_logps(self, dataset: Dataset, _name: str, batch_size: int) -> Dataset:
            """TRL's own writes a file to which its processes give different names."""
            loader = DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator)
            self.model.eval()
            found = [
                self.accelerator.gather_for_metrics(self.compute_ref_log_probs(self.model, batch))
                for batch in self.accelerator.prepare(loader)
            ]
            for column, values in zip(
                ("ref_chosen_logps", "ref_rejected_logps"), zip(*found, strict=True), strict=True
            ):
                dataset = dataset.add_column(column, torch.cat(values).tolist())
            return dataset

        def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
            """None: a checkpoint is no model for others."""

        def _send_telemetry(self) -> None:
            """Nothing leaves the machine."""

    return Trainer, DPOConfig
