"""Results as MTEB reads them: ``mteb.TaskResult.from_disk`` takes what ``write_result`` writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated

from babel.core import get_global
from pydantic import BaseModel, Field

from sharpen.evaluation.datasets import CQADUPSTACK, Task
from sharpen.evaluation.files import slug, write_json
from sharpen.evaluation.languages import identify
from sharpen.evaluation.languages.identify import DEFAULT
from sharpen.evaluation.metrics import PRIMARY

TASKS = {
    "arguana": "ArguAna",
    "climate-fever": "ClimateFEVER",
    "dbpedia-entity": "DBPedia",
    "fever": "FEVER",
    "fiqa": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "msmarco": "MSMARCO",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quora": "QuoraRetrieval",
    "scidocs": "SCIDOCS",
    "scifact": "SciFact",
    "trec-covid": "TRECCOVID",
    "webis-touche2020": "Touche2020",
}
"""BEIR's names to MTEB's; NanoBEIR's end in Retrieval there."""
NO_REVISION = "no_revision_available"
"""What MTEB has in the place of a model's revision where there is none."""
LAYOUT = "2.0.0"
"""The version of MTEB whose layout this is."""
_ISO_639_3 = {
    **{"ar": "ara", "bn": "ben", "ca": "cat", "cs": "ces", "da": "dan", "de": "deu", "el": "ell", "en": "eng"},
    **{"es": "spa", "et": "est", "fa": "fas", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun"},
    **{"id": "ind", "it": "ita", "ja": "jpn", "ko": "kor", "nl": "nld", "no": "nob", "pl": "pol", "pt": "por"},
    **{"ro": "ron", "ru": "rus", "sk": "slk", "sv": "swe", "sw": "swa", "ta": "tam", "te": "tel", "th": "tha"},
    **{"tr": "tur", "uk": "ukr", "ur": "urd", "vi": "vie", "zh": "zho", "yo": "yor"},
}


class SubsetScores(BaseModel, extra="allow"):
    """Of a subset: the main score, and each metric under MTEB's name for it, as ``ndcg_at_10``."""

    main_score: Annotated[float, Field(ge=0, le=1)]
    hf_subset: str = "default"
    languages: list[str]


class TaskResult(BaseModel):
    """The layout of MTEB's results. ``dataset_revision``: a sum of what was evaluated on, as it need not be any
    revision on the hub. ``scores``: split to its subsets."""

    dataset_revision: str
    task_name: str
    mteb_version: str = LAYOUT
    scores: dict[str, list[SubsetScores]]
    evaluation_time: float | None = None
    kg_co2_emissions: float | None = None


def task_name(data: str) -> str:
    """What MTEB calls a dataset; of one that it has not, the name as it is.

    >>> task_name("scifact"), task_name("data/scifact"), task_name("NanoFiQA2018"), task_name("my/questions.csv")
    ('SciFact', 'SciFact', 'NanoFiQA2018Retrieval', 'questions')
    >>> task_name("cqadupstack/gis"), task_name("NanoClimateFEVER")
    ('CQADupstackGisRetrieval', 'NanoClimateFeverRetrieval')
    """
    path = Path(data)
    name = path.stem if path.suffix in (".csv", ".jsonl", ".tsv") else path.name
    if path.parent.name == CQADUPSTACK:
        return f"CQADupstack{name.capitalize()}Retrieval"
    if name.startswith("Nano"):
        return f"{name.replace('ClimateFEVER', 'ClimateFever').removesuffix('Retrieval')}Retrieval"
    return TASKS.get(name.lower(), slug(name))


def task_result(task: Task, name: str, split: str, means: Mapping[str, float]) -> TaskResult:
    """The result of one system. ``means``: metric to mean, with nDCG@10 among them."""
    scores = {metric.replace("@", "_at_"): value for metric, value in means.items()}
    single = identify(" ".join(islice(task.texts.values(), 20)))
    languages = [_language(single.language if single else DEFAULT)]
    subset = SubsetScores(main_score=means[PRIMARY], languages=languages, **scores)
    rows = [sorted(task.qrels.items(), key=lambda row: row[0]), sorted(task.known)]
    revision = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    return TaskResult(dataset_revision=f"sha256-{revision}", task_name=name, scores={split: [subset]})


def write_result(folder: Path, system: str, result: TaskResult) -> Path:
    """Write ``results/<system>/no_revision_available/<task>.json`` below ``folder``, which MTEB's ``ResultCache`` takes
    as its own."""
    path = folder / "results" / slug(system.replace("/", "__")) / NO_REVISION / f"{slug(result.task_name)}.json"
    write_json(path, result.model_dump(mode="json"))
    return path


def _language(code: str) -> str:
    """ISO 639-3 with the script: ``eng-Latn``.

    >>> _language("en"), _language("ru"), _language("zh")
    ('eng-Latn', 'rus-Cyrl', 'zho-Hans')
    """
    likely = get_global("likely_subtags").get(code, f"{code}_Latn").split("_")
    return f"{_ISO_639_3.get(code, 'und')}-{likely[1] if len(likely) > 1 else 'Latn'}"
