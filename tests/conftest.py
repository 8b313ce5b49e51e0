"""What several tests share: small real corpora, and recipes that a few seconds suffice for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # a core for each worker, before torch counts them: the threads of two that share all cores would wait for each
    # other
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[int(worker.removeprefix("gw")) % len(allowed)]})

import torch

from sharpen.evaluation.beir import Corpus, Document
from sharpen.evaluation.encoders.load import load_encoder

# what a busy machine takes is no property of the code
settings.register_profile("sharpen", deadline=None)
settings.load_profile("sharpen")

DATA = Path(os.environ.get("SHARPEN_DATA", "data"))
"""Real datasets in BEIR layout; tests that need one are skipped where it is not there."""

TOPICS = {
    "bread": (
        "Baking bread",
        (
            "Mix flour, water, salt and yeast, knead the dough for ten minutes and let it rise until it has doubled."
            " Bake it in a hot oven with some steam."
        ),
    ),
    "bicycle": (
        "Repairing a bicycle tyre",
        (
            "Take the wheel off, lift the tyre over the rim with levers and find the hole in the inner tube under"
            " water. Roughen it, glue a patch on and pump it up."
        ),
    ),
    "tomato": (
        "Growing tomatoes",
        (
            "Sow the seeds indoors in March and plant the seedlings out after the last frost. Water them at the roots"
            " every morning and pinch out the side shoots."
        ),
    ),
    "passport": (
        "Renewing a passport",
        (
            "Bring the old passport, a biometric photo and the fee to the citizens' office. The new document is ready"
            " after about four weeks, or three days for an express surcharge."
        ),
    ),
    "guitar": (
        "Tuning a guitar",
        (
            "Tune the strings from low to high to E, A, D, G, B and E. Compare each with a tuning fork or an electronic"
            " tuner and turn the pegs slowly."
        ),
    ),
    "piano": (
        "Cleaning a piano",
        (
            "Wipe the keys with a soft damp cloth, never with alcohol. Keep the lid closed against dust, and leave the"
            " strings and hammers to a technician."
        ),
    ),
    "volcano": (
        "Why volcanoes erupt",
        (
            "Molten rock is lighter than the crust around it and rises. When dissolved gases form bubbles the pressure"
            " grows until magma breaks through as lava and ash."
        ),
    ),
    "glacier": (
        "How glaciers move",
        (
            "Snow that outlasts the summers turns to ice. Under its own weight the ice flows downhill, sliding on"
            " meltwater at its bed and carving valleys."
        ),
    ),
    "coffee": (
        "Making filter coffee",
        (
            "Grind sixty grams of beans for a litre of water just off the boil. Wet the grounds, wait half a minute,"
            " then pour the rest slowly in circles."
        ),
    ),
    "chess": (
        "Opening a game of chess",
        (
            "Move a centre pawn first, bring knights and bishops out, castle early and do not move the queen before the"
            " minor pieces are developed."
        ),
    ),
    "candle": (
        "<script>window.owned = 1</script> Making candles",
        (
            "Melt beeswax in a water bath, fix a wick in the middle of a mould and pour. Let it cool slowly, or the wax"
            " cracks and shrinks from the wall."
        ),
    ),
    "sailing": (
        "Reefing a sail",
        (
            "When the wind freshens, ease the sheet, lower the halyard to the reef point, hook in the tack and haul the"
            " reefing line tight before you hoist again."
        ),
    ),
}


@contextmanager
def cores(number: int) -> Iterator[None]:
    """As many as torch is to count."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def corpus() -> Corpus:
    return {doc_id: Document(doc_id, text, title) for doc_id, (title, text) in TOPICS.items()}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "topics")


@pytest.fixture
def recipe_file(tmp_path: Path, dataset: Path) -> Path:
    return make_recipe(tmp_path, dataset)


def make_dataset(folder: Path) -> Path:
    """A BEIR folder of twelve documents and six judged questions."""
    (folder / "qrels").mkdir(parents=True)
    write_rows(
        folder / "corpus.jsonl", [{"_id": i, "title": title, "text": text} for i, (title, text) in TOPICS.items()]
    )
    questions = {
        "bread": "how long does dough rest",
        "bicycle": "flat tire what now",
        "tomato": "when to put young plants outside",
        "glacier": "ice flowing downhill",
        "coffee": "beans per litre",
        "chess": "first moves <img src=x onerror='window.owned = 1'>",
    }
    write_rows(folder / "queries.jsonl", [{"_id": f"t-{i}", "text": text} for i, text in questions.items()])
    rows = "".join(f"t-{i}\t{i}\t1\n" for i in questions)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def make_recipe(folder: Path, dataset: Path) -> Path:
    """A recipe that walks the whole way on that dataset with the embedded LLM and the smallest encoder."""
    (folder / "pool.yaml").write_text(
        '- {document: "Boiling eggs: Put them into boiling water for six minutes.", query: "How long do I cook an'
        ' egg?"}\n- {document: "Washing wool: Use cold water and do not wring it.", query: "How do I wash a'
        ' pullover?"}\n- {document: "Hanging a picture: Drill a hole and put a plug into it.", query: "How do I fix'
        ' something to the wall?"}\n'
    )
    path = folder / "topics.yaml"
    path.write_text(f"""# Tune the smallest encoder on twelve documents.
name: topics
runs: {folder / "runs"}
seed: 3
corpus: {{source: {dataset}}}
llm: embedded
queries: {{pool: pool.yaml, examples_per_prompt: 3, per_document: 2, temperature: 0.5, max_tokens: 32}}
filters: {{round_trip: {{retriever: fused, top_k: 8}}}}
negatives: {{per_query: 1, miners: [{{kind: bm25, ranks: [1, 5]}}]}}
training: {{base: "packaged:tiny-bert", batch_size: 4, epochs: 2, learning_rate: 1.0e-4, dropout: 0}}
evaluation: {{data: {dataset}, others: []}}
""")
    return path


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def shared_dataset(name: str) -> Path:
    folder = DATA / name
    if not (folder / "corpus.jsonl").exists():
        pytest.skip(f"the dataset {name} is not in $SHARPEN_DATA")
    return folder


def encoder_weights(name: str) -> torch.Tensor:
    """All in a row but the pooling layer's, which `packaged:tiny-bert` has none of: they are drawn anew for each
    loading."""
    return torch.cat(
        [p.detach().flatten() for n, p in load_encoder(name, device="cpu").named_parameters() if "pooler" not in n]
    )
