"""Corpora that grow, shrink and change: what is asked anew is of the documents that were touched, and of no others."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sharpen import sdg
from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.mixing import mix_labelled
from sharpen.sdg.selecting import sample_documents
from sharpen.sdg.splitting import SplitSettings, split_documents
from tests.sdg.support import MULTI_HOP_EXAMPLE

POOL = [{"document": f"Thing {n}: about {n}.", "queries": [f"What is {n}?"], "answers": [f"{n}"]} for n in range(9)]
TYPES = [{"document": f"Thing {n}.", "question": f"What is {n}?", "keywords": f"thing {n}"} for n in range(9)]
STRATEGIES = [
    sdg.Document(pool=POOL, per_document=2, typos=0.5),
    sdg.Sentence(pool=POOL),
    sdg.Metadata(pool=POOL, fields=["author"]),
    sdg.QuestionAnswer(pool=POOL),
    sdg.Mixed(pool=TYPES, query_types={"question": 2, "keywords": 1}),
    sdg.MultiHop(pool=[MULTI_HOP_EXAMPLE]),
    sdg.Paraphrase(pool=POOL),
    sdg.BackTranslation(pool=POOL),
]


class Journalled:
    """Answers that are made of their prompts, and a note of what was asked for that was not known."""

    identity, chat, warm_up = "made", False, False

    def __init__(self):
        self.answers: dict[str, Answer] = {}
        self.new: list[str] = []
        self.refused_parameters: dict[str, str] = {}

    def ask(self, requests, use):
        return [use(n, request, self._answer(request)) for n, request in enumerate(requests)]

    def answers_until_now(self) -> int:
        self.new.clear()
        return len(self.answers)

    def since(self, number: int, prompt: str) -> bool:
        """Whether the prompt shows an answer that is none of the first ``number``."""
        return any(int(n) >= number for n in re.findall(r"\bw(\d+)x\b", prompt))

    def _answer(self, request):
        key = str(request.identity())
        if key not in self.answers:
            self.new.append(request.prompt)
            word = f"w{len(self.answers)}x"
            text = f'{{"entities": ["{word}"]}}' if "rtifacts" in request.prompt else f" what about {word} things"
            self.answers[key] = Answer(text)
        return self.answers[key]


def _chunks(number: int, version: int) -> list[Document]:
    """A document of two chunks, whose texts name it and nothing else does."""
    metadata = {"chunk_of": f"doc{number}", "author": f"Author of number{number}"}
    return [
        Document(
            f"doc{number}#{part}", f"The number{number}v{version}end of part {part} is told here.", "A title", metadata
        )
        for part in range(2)
    ]


@st.composite
def _two_corpora(draw) -> tuple[dict[int, int], dict[int, int]]:
    """Document to version, before and after."""
    before = draw(st.dictionaries(st.integers(0, 20), st.just(0), min_size=1, max_size=10))
    after = {number: draw(st.sampled_from((0, 0, 0, 1))) for number in before if draw(st.integers(0, 5))}
    after |= draw(st.dictionaries(st.integers(21, 30), st.just(0), min_size=not after, max_size=3))
    return before, dict(draw(st.permutations(sorted(after.items()))))


def _corpus(versions: dict[int, int]) -> Corpus:
    return {chunk.id: chunk for number, version in versions.items() for chunk in _chunks(number, version)}


@settings(max_examples=20)
@given(corpora=_two_corpora(), limit=st.none() | st.integers(1, 9))
def test_what_is_asked_anew_is_of_touched_documents_alone(corpora, limit):
    before, after = map(_corpus, corpora)
    llm = Journalled()
    first = sdg.generate_queries(before, llm, STRATEGIES, documents=limit)
    known = llm.answers_until_now()
    second = sdg.generate_queries(after, llm, STRATEGIES, documents=limit)
    drawn_before, drawn = ({d.id for d in sample_documents(list(c.values()), limit, 13)} for c in (before, after))
    touched = {i for i in after if after[i] != before.get(i)}
    # of several chunks together a prompt says which they are: one that is drawn brings its document
    asked_of = {after[i].doc_id for i in drawn & touched | drawn - drawn_before}
    for prompt in llm.new:
        named = {f"doc{number}" for number, version in corpora[1].items() if f"number{number}v{version}end" in prompt}
        # a prompt that names no document rewrites a query, which then is new itself
        assert named <= asked_of if named else llm.since(known, prompt)
    # what moves up where there is a limit is no more than what went
    gone = drawn_before - after.keys()
    assert len((drawn - drawn_before) - touched) <= len(gone)
    assert len(drawn_before - drawn - gone) <= len(touched)
    # deleted documents drop their pairs, and what was kept of all others is kept still
    assert all(i in after for query in second for i in query.metadata["positives"])
    stay = {query.id: query for query in second}
    for query in first:
        if set(query.metadata["positives"]) <= (drawn & drawn_before) - touched and "bundle" not in query.metadata:
            assert stay[query.id] == query


@settings(max_examples=10)
@given(corpora=_two_corpora(), order=st.randoms(use_true_random=False))
def test_the_order_of_a_corpus_is_nothing_to_its_prompts(corpora, order):
    corpus = _corpus(corpora[0])
    shuffled = list(corpus.items())
    order.shuffle(shuffled)
    llm = Journalled()
    first = sdg.generate_queries(corpus, llm, STRATEGIES[:5], documents=7)
    llm.answers_until_now()
    assert sdg.generate_queries(dict(shuffled), llm, STRATEGIES[:5], documents=7).kept == first.kept and not llm.new


@settings(max_examples=20)
@given(corpora=_two_corpora(), seed=st.integers(0, 9))
def test_a_document_stays_in_its_split_when_others_come_and_go(corpora, seed):
    before, after = map(_corpus, corpora)
    how = SplitSettings(dev=0.3, test=0.3)
    sides = [split_documents(corpus, how, seed) for corpus in (before, after)]
    assert all(sides[0][i] == sides[1][i] for i in before.keys() & after.keys())


def test_what_a_model_was_trained_on_draws_its_near_duplicates_after_it():
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(40)}
    how, together = SplitSettings(dev=0.3, test=0.3), [("d1", "d2"), ("d3", "d4")]
    known = {"d1": "test", "d2": "train", "d3": "test", "d5": "dev", "d6": None}
    sides = split_documents(corpus, how, 3, together, known)
    assert [sides[f"d{n}"] for n in (1, 2, 3, 4, 5)] == ["train", "train", "test", "test", "dev"]
    drawn = split_documents(corpus, how, 3, together)
    assert all(sides[f"d{n}"] == drawn[f"d{n}"] for n in range(6, 40))


def test_what_is_drawn_of_queries_changes_by_as_many_as_came():
    def queries(kind, numbers):
        return [Query(f"{kind}{n}", "text", {}) for n in numbers]

    before = {q.id for q in mix_labelled(queries("r", range(100)), queries("s", range(1000)), 0.5)}
    after = {q.id for q in mix_labelled(queries("r", range(100)), queries("s", range(1020)), 0.5)}
    assert len(before) == len(after) == 200 and len(after - before) <= 20


def test_documents_of_equal_text_are_asked_about_once_wherever_they_stand():
    texts = [f"the number {n} is explained here" for n in range(30)]
    corpus = [Document(f"{name}{n}", text) for n, text in enumerate(texts) for name in ("a", "b")]
    drawn = sample_documents(corpus, 10, 1)
    assert drawn == sample_documents(corpus[::-1], 10, 1) and len({d.copy_key for d in drawn}) == 10
