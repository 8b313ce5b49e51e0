from collections import Counter
from itertools import chain

from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query, text_key
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.training.triplets import NoFalseNegativesSampler, TextCollator, Triplet, make_triplets, to_dataset

ids = st.integers(0, 14).map(lambda n: f"d{n}")
# texts repeat: d0, d5 and d10 are copies of one another
CORPUS = {f"d{n}": Document(f"d{n}", f"text {n % 5 if n < 11 else n}") for n in range(15)}


@given(
    st.lists(
        st.builds(Triplet, st.integers(0, 9).map(lambda n: f"q{n}"), ids, st.tuples(ids)), min_size=1, max_size=30
    ),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1, 2]),
    st.integers(1, 3),
)
def test_batches_hold_no_false_negatives_and_every_row_once_an_epoch(triplets, batch_size, processes, epochs):
    sampler = NoFalseNegativesSampler(triplets, CORPUS, batch_size, processes, 1, epochs)
    parts = list(sampler)
    assert len(sampler) == len(parts) and len(parts) % processes == 0
    batches = [[*chain(*parts[i : i + processes])] for i in range(0, len(parts), processes)]
    rows = [row for batch in batches for row in batch]
    assert max(Counter(rows).values(), default=0) <= epochs
    if processes == 1:
        assert sorted(rows) == sorted([*range(len(triplets))] * epochs)
    known: dict[str, set[str]] = {}
    for t in triplets:
        known.setdefault(t.query_id, set()).add(text_key(CORPUS[t.positive_id].content))
    for batch in batches:
        assert len(batch) <= batch_size
        for a in batch:
            for b in batch:
                documents = {text_key(CORPUS[i].content) for i in (triplets[b].positive_id, *triplets[b].negative_ids)}
                assert a == b or not known[triplets[a].query_id] & documents


def test_one_and_two_processes_see_the_same_batches_and_epochs_differ():
    triplets = [Triplet(f"q{n}", f"d{n}", ()) for n in range(64)]
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(64)}
    one, two = (NoFalseNegativesSampler(triplets, corpus, 16, processes, 5, epochs=2) for processes in (1, 2))
    assert [sorted(batch) for batch in one] == [sorted(a + b) for a, b in zip(*[iter(two)] * 2, strict=True)]
    first, second = list(one)[:4], list(one)[4:]
    assert first != second and sorted(chain(*first)) == sorted(chain(*second)) == list(range(64))


def test_accelerate_hands_out_every_batch_also_the_short_ones():
    triplets = [Triplet(f"q{n}", f"d{n}", ()) for n in range(11)]
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(11)}
    sampler = NoFalseNegativesSampler(triplets, corpus, 4, 2, 0, epochs=3)
    shards = [list(BatchSamplerShard(sampler, 2, rank, even_batches=False)) for rank in (0, 1)]
    assert [len(shard) for shard in shards] == [len(sampler) // 2] * 2 == [8, 8]
    assert [batch for pair in zip(*shards, strict=True) for batch in pair] == list(sampler)


def test_too_few_negatives_are_left_out_and_counted():
    triplets, left_out = make_triplets({"q1": ["a", "b"], "q2": ["c"]}, {"q1": ["x", "y"], "q2": ["x"]}, 2)
    assert triplets == [Triplet("q1", "a", ("x", "y")), Triplet("q1", "b", ("x", "y"))] and left_out == 1
    assert len(make_triplets({"q1": ["a"]}, {}, 0)[0]) == 1


def test_texts_are_looked_up_when_the_batch_is_made(corpus):
    model = load_encoder("packaged:tiny-bert")
    collator = TextCollator(model.preprocess, prompts={"anchor": "query: "})
    collator.set_texts({"q": Query("q", "tune it")}, corpus, 0)
    rows = list(to_dataset([Triplet("q", "guitar", ("piano",))]))
    assert rows == [{"anchor": "q", "positive": "guitar", "negative_1": "piano"}]
    batch = collator(rows)
    decode = lambda column: model.tokenizer.decode(batch[f"{column}_input_ids"][0], skip_special_tokens=True)  # noqa: E731
    assert decode("anchor") == "query : tune it"
    assert decode("positive").startswith("tuning a guitar tune the strings") and decode("negative_1").startswith(
        "cleaning a piano"
    )
