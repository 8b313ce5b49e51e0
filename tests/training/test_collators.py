from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.training.collators import RerankerCollator, RetrieverCollator, Texts
from sharpen.training.retriever import scores_of_rows, to_dataset
from sharpen.training.settings import RetrieverSettings
from sharpen.training.triplets import Triplet

QUERIES = {"q": Query("q", "tune it"), "r": Query("r", "how to tune a very old guitar")}


def test_texts_are_looked_up_when_the_batch_is_made(corpus):
    model = load_encoder("packaged:tiny-bert")
    collator = RetrieverCollator(model.preprocess, prompts={"anchor": "query: "})
    collator.set_texts(Texts(QUERIES, corpus), model)
    rows = list(to_dataset([Triplet("q", "guitar", ("piano",))]))
    assert rows == [{"anchor": "q", "positive": "guitar", "negative_1": "piano"}]
    batch = collator(rows)

    def decode(column: str) -> str:
        return model.tokenizer.decode(batch[f"{column}_input_ids"][0], skip_special_tokens=True)

    assert decode("anchor") == "query : tune it"
    assert decode("positive").startswith("tuning a guitar tune the strings")
    assert decode("negative_1").startswith("cleaning a piano")


def test_a_teachers_scores_are_labels_in_the_order_of_the_documents(corpus):
    model = load_encoder("packaged:tiny-bert")
    collator = RetrieverCollator(model.preprocess, prompts={})
    collator.set_texts(Texts(QUERIES, corpus), model)
    scores = {("q", "guitar"): 3.0, ("q", "piano"): 1.0, ("r", "guitar"): 2.0, ("r", "chess"): -1.0}
    triplets = [Triplet("q", "guitar", ("piano",)), Triplet("r", "guitar", ("chess",))]
    settings = RetrieverSettings(base="packaged:tiny-bert", loss="kl")
    rows = list(to_dataset(triplets, scores_of_rows(triplets, scores, settings)))
    batch = collator(rows)
    assert batch["label"].tolist() == [[3.0, 1.0], [2.0, -1.0]]
    assert batch["anchor_input_ids"].shape[0] == 2 and batch["anchor_attention_mask"][0].sum() == 4
    again = collator(rows)
    assert all((again[key] == value).all() for key, value in batch.items() if hasattr(value, "shape"))


def test_pairs_of_a_reranker(corpus):
    collator = RerankerCollator(load_cross_encoder("packaged:tiny-bert", new_head=True).preprocess)
    collator.set_texts(Texts(QUERIES, corpus))
    batch = collator(
        [{"query": "q", "document": "piano", "label": 0.0}, {"query": "r", "document": "chess", "label": 1.0}]
    )
    assert batch["query"] == ["tune it", "how to tune a very old guitar"]
    assert batch["document"] == [corpus["piano"].content, corpus["chess"].content]
    assert batch["label"].tolist() == [0.0, 1.0]
    lists = collator([{"query": "q", "documents": ["piano", "chess"], "label": [1.0, 0.0]}])
    assert lists["documents"] == [[corpus["piano"].content, corpus["chess"].content]]
