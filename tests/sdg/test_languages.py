"""Documents in Czech, Hindi, Thai, German and Chinese through all that makes queries of them."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from sharpen import sdg
from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import find_languages, first_words, is_another_language, n_words
from sharpen.sdg.answers import ParsedQuery
from sharpen.sdg.filters.text import Copying, copied_fraction, text_problem
from sharpen.sdg.harvesting import carried_texts
from sharpen.sdg.languages import languages_with_wording, read_wording, wording_of
from sharpen.sdg.negatives.llm import LLMMiner, NegativePrompt, find_problem
from sharpen.sdg.strategies.base import Unit
from sharpen.sdg.strategies.few_shot import default_examples
from sharpen.sdg.typos import with_typo
from tests.conftest import DATA
from tests.servers import chat_answer, serve_replies

ROOT = Path(__file__).parents[2]
POOLS = ROOT / "recipes" / "pools"

TEXTS = {
    "cs": (
        "Nájem bytu",
        "Nájem bytu je smlouva podle § 2201 odst. 1 písm. a) zákona č. 89/2012 Sb. o užívání bytu. Nájemce platí"
        " nájemné do 5. dne měsíce. Výpověď musí být písemná a doručuje se druhé straně.\n\nTabulka 3: Výpovědní doby"
        " podle důvodu výpovědi.",
    ),
    "hi": (
        "राजमा",
        "राजमा को रात भर पानी में भिगोएँ और सुबह पानी फेंक दें। फिर तेज पत्ते के साथ एक घंटा धीमी आँच पर उबालें। नमक और"
        " मसाले अंत में ही डालें।\n\nचित्र 2: भीगा हुआ राजमा और मसाले।",
    ),
    "th": (
        "ภูเขา",
        "ดอยอินทนนท์เป็นภูเขาที่สูงที่สุดในประเทศไทยและตั้งอยู่ในจังหวัดเชียงใหม่ ยอดเขาสูง 2,565 เมตรจากระดับน้ำทะเล"
        " ในฤดูหนาวอากาศเย็นมากและมีน้ำค้างแข็ง",
    ),
    "de": (
        "Kündigung",
        "Die Kündigung ist eine Erklärung, die das Mietverhältnis beendet. Sie muss nach § 568 Abs. 1 BGB schriftlich"
        " sein. Der Mieter kündigt bis zum dritten Werktag eines Monats.\n\nAbbildung 2: Fristen nach der Dauer des"
        " Mietverhältnisses.",
    ),
    "zh": (
        "煮豆",
        "把豆子在冷水中浸泡一夜，第二天倒掉水。加入月桂叶，用小火煮一小时！盐要到最后才放，否则豆子不容易煮软。"
        "\n\n图 2 浸泡一夜之后的豆子和香料。",
    ),
}
QUERIES = {
    "cs": "do kdy se platí nájemné",
    "hi": "राजमा कितनी देर उबालना चाहिए",
    "th": "ยอดดอยอินทนนท์สูงกี่เมตร",
    "de": "wie lange darf man mit der Kündigung warten",
    "zh": "豆子要浸泡多长时间？",
}


def _document(language: str, **metadata) -> Document:
    title, text = TEXTS[language]
    return Document(language, text, title, {"language": language, **metadata})


def _asked(tmp_path, documents, strategy, answers):
    """The prompts, by the document in them, and what was generated; ``answers``: by language."""
    prompts: dict[str, str] = {}

    def reply(_path, body, _headers):
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        document = next(d for d in documents if d.text[:20] in prompt)
        prompts[document.id] = prompt
        return chat_answer(answers[document.id])

    with serve_replies(reply) as base_url:
        llm = sdg.LLM(base_url, model="m", journal=tmp_path / "answers.sqlite")
        generated = sdg.generate_queries({d.id: d for d in documents}, llm, [strategy], documents=documents)
    return prompts, generated


def test_languages_are_found_in_these_texts():
    documents = [Document(language, text) for language, (_, text) in TEXTS.items()]
    assert find_languages(documents) == {language: language for language in TEXTS}


# ---- files of languages


@pytest.mark.parametrize("language", languages_with_wording())
def test_a_language_has_all_that_prompts_need(language: str):
    wording = wording_of(language)
    assert len(wording.examples) == 5 and wording.captions and wording.self_reference
    texts = [e.document for e in wording.examples] + [e.query for e in wording.examples] + [*wording.tasks.values()]
    assert not [text for text in texts if is_another_language(text, language)]
    for example in wording.examples:
        document = Document("d", example.document, metadata={"language": language})
        assert text_problem(example.query, document, language) is None
    if language != "en":
        assert set(wording.tasks) == {"document", "sentence", "question_answer"}
        assert set(wording.labels) == {"Document", "Sentence", "Query", "Queries"}
        assert set(wording.write) == {"list", "json"} and all("{n}" in text for text in wording.write.values())


def test_a_bad_file_is_named_with_line_and_key(tmp_path: Path):
    (tmp_path / "xx.yaml").write_text("captions: [Figure]\nexamples:\n  - {document: a, query: b}\n")
    with pytest.raises(InputError, match=r"xx\.yaml, line 2: examples"):
        read_wording(tmp_path / "xx.yaml")


# ---- lengths and words


@pytest.mark.parametrize("language", QUERIES)
def test_queries_of_every_script_are_long_enough_and_short_keywords_are_not_thrown_away(language: str):
    assert text_problem(QUERIES[language], _document(language), language) is None
    assert text_problem("USB-C 65 W", _document(language), language) is None


@pytest.mark.parametrize(
    "question",
    ["谁发明了电话？", "北京冬天冷吗", "怎样申请护照", "เมืองหลวงของไทยคือที่ไหน", "東京の人口は？", "राजधानी कहाँ है"],
)
def test_short_questions_without_blanks_are_no_single_word(question: str):
    assert text_problem(question, Document("d", "x")) is None


@pytest.mark.skipif(not (DATA / "xquad").is_dir(), reason="no XQuAD")
@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_real_questions_are_not_rejected(language: str):
    rows = (DATA / "xquad" / language / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    document = Document("d", "x", metadata={"language": language})
    reasons = Counter(
        str(problem.reason) for row in rows if (problem := text_problem(json.loads(row)["text"], document, language))
    )
    assert set(reasons) <= {"self_reference"} and reasons.total() <= 3, f"of {len(rows)}: {reasons}"


def test_recorded_queries_are_not_taken_for_another_language():
    recorded = [json.loads(row)[1] for row in _lines("tests/recipes/golden/quickstart_answers.jsonl")]
    demo = [json.loads(row)["text"] for row in _lines("recipes/demo/python_docs/queries.jsonl")]
    assert not [text for text in recorded + demo if is_another_language(text, "en")]


def _lines(path: str) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


def test_copies_are_found_without_blanks():
    document = _document("zh")
    assert text_problem("把豆子在冷水中浸泡一夜第二天倒掉水", document, "zh").reason == "copied_from_document"
    assert copied_fraction("豆子浸泡一夜", document, 2) > 0 and copied_fraction("租金是多少", document, 2) == 0
    query = Query("q", "把豆子在冷水中浸泡一夜", {"positives": ["zh"]})
    assert Copying().apply([query], {"zh": document}).rejected


@pytest.mark.parametrize("language", TEXTS)
def test_prompts_show_the_first_words_of_any_text(language: str):
    text = " ".join(TEXTS[language][1].split())
    shown = first_words(TEXTS[language][1], 8)
    assert text.startswith(shown) and n_words(shown) == 8 and len(shown) < len(text)
    assert first_words(text, 500) == text


def test_passages_without_blanks_are_long_enough():
    assert find_problem("盐要到最后才放，否则豆子不容易煮软。", [], [Document("d", "x")], set()) is None


# ---- prompts


def test_each_document_is_asked_about_in_its_language(tmp_path: Path):
    documents = [_document(language) for language in TEXTS]
    prompts, generated = _asked(tmp_path, documents, sdg.Document(), QUERIES)
    assert {q.metadata["positives"][0]: q.text for q in generated} == QUERIES
    assert prompts["cs"].startswith("U každého dokumentu stojí otázka v češtině")
    assert "Dokument 1: " in prompts["cs"] and "Dotaz 1: " in prompts["cs"] and "Query" not in prompts["cs"]
    assert prompts["zh"].startswith("每篇文档都附有一个中文问题") and "查询 1: " in prompts["zh"]
    assert "Wann salzt man Bohnen?" in prompts["de"] and "राजमा में नमक कब" in prompts["hi"]
    # no file has Thai: English, with a request for it
    assert "has not read the document. Answer in Thai.\n\nDocument 1: " in prompts["th"]


def test_queries_in_another_language_than_the_documents_are_rejected(tmp_path: Path):
    documents = [_document(language) for language in TEXTS]
    answers = {**QUERIES, "cs": "until when does the rent have to be paid", "zh": "when do I add salt to the beans"}
    _, generated = _asked(tmp_path, documents, sdg.Document(), answers)
    assert {(r.document, str(r.reason)) for r in generated.rejected} == {
        ("cs", "wrong_language"),
        ("zh", "wrong_language"),
    }


def test_a_strategys_language_is_what_is_asked_for(tmp_path: Path):
    documents = [
        _document("cs"),
        Document("en", "Soak the beans overnight and boil them for an hour.", "", {"language": "en"}),
    ]
    answers = {"cs": "bis wann zahlt man die Miete", "en": "wie lange kochen Bohnen"}
    prompts, generated = _asked(tmp_path, documents, sdg.Document(language="de"), answers)
    assert len(generated) == 2 and all(
        p.startswith("Jedes Dokument steht mit einer Frage auf Deutsch") for p in prompts.values()
    )
    prompts, generated = _asked(
        tmp_path, documents[1:], sdg.Document(language="th"), {"en": "soaking time of the beans"}
    )
    assert "Answer in Thai." in prompts["en"] and generated.rejected[0].reason == "wrong_language"


def test_english_documents_are_asked_about_as_ever():
    pool = [{"document": f"Thing {n}: about {n}.", "query": f"What is {n}?"} for n in range(9)]
    strategy = sdg.Document(pool=pool, task="t").resolve()
    texts = {"text": "Mix flour, water, salt and yeast.", "title": "Bread"}
    known, unknown = (Document("d", **texts, metadata=m) for m in ({"language": "en"}, {}))
    requests = [
        strategy.request(Unit("d/0", d.text, d, ("d",)), chat=chat) for d in (known, unknown) for chat in (True, False)
    ]
    assert requests[:2] == requests[2:]


@pytest.mark.parametrize("pool", sorted(POOLS.glob("*.yaml")), ids=lambda path: path.stem)
def test_pools_of_this_language_are_not_taken_for_another(pool: Path):
    if pool.stem not in ("general", "python_docs", "scientific_claims", "scientific_sentences", "sentences", "german"):
        pytest.skip("of a kind that has no examples of its own")
    language = "de" if pool.stem == "german" else "en"
    strategy = sdg.Document(pool=str(pool)).resolve()
    assert strategy.in_language(language).pool == str(pool)
    other = "en" if language == "de" else "de"
    assert strategy.in_language(other).examples == default_examples(other)
    assert strategy.in_language("sw").pool == str(pool)  # there are no others


def test_what_a_user_says_stays():
    czech = sdg.Document(
        task="U každého dokumentu je dotaz zákazníka.", pool=[{"document": "x y", "query": "jak na to"}]
    )
    unit = Unit("cs/0", TEXTS["cs"][1], _document("cs"), ("cs",))
    prompt = czech.resolve().request(unit, chat=False).prompt
    assert prompt.startswith(
        "U každého dokumentu je dotaz zákazníka.\n\nDokument 1: x y\nDotaz 1: jak na to\n\nDokument 2: Nájem"
    )
    english = sdg.Document(task="Each document stands with what a customer asks.").resolve()
    prompt = english.request(unit, chat=False).prompt
    assert prompt.startswith("Each document stands with what a customer asks. Answer in Czech.\n\nDocument 1: ")
    assert "fazole" in prompt.lower()  # but the examples are Czech


def test_several_queries_are_asked_for_and_read_in_the_language():
    unit = Unit("cs/0", TEXTS["cs"][1], _document("cs"), ("cs",))
    strategy = sdg.Document(queries=2).resolve()
    request = strategy.request(unit, chat=True)
    assert (
        'různé dotazy v češtině (počet: 2), každý na vlastním řádku za "- "' in request.prompt
        and "Dotazy 1:\n- " in request.prompt
    )
    assert strategy.request(unit, chat=False).parameters["stop"] == ["\nDokument", "\n\n"]
    parsed = strategy.parse("Dotazy 6:\n- Dotaz 1: do kdy se platí nájemné\n- jak dát výpověď", unit)
    assert [q.query for q in parsed.queries] == ["do kdy se platí nájemné", "jak dát výpověď"]
    request = sdg.QuestionAnswer(queries=2).resolve().request(unit, chat=True)
    assert 'v příkladech: {"queries": [{"query": "...", "answer": "..."}]}' in request.prompt
    copied = strategy.problem_of(ParsedQuery("Kdy se solí fazole"), unit)
    assert copied.reason == "copied_from_example"


def test_rarer_strategies_ask_in_english_for_answers_in_the_language():
    chunks = [
        Document(f"cs#{n}", TEXTS["cs"][1], "", {"language": "cs", "chunk_of": "cs", "author": "Novák"}) for n in (0, 1)
    ]
    corpus = {d.id: d for d in chunks}
    example = {
        "segments": ["a b", "c d"],
        "artifacts": {"entities": ["a"]},
        "pairs": [
            {
                "hop_contexts": [{"segment_ids": [1]}, {"segment_ids": [2]}],
                "question": "which a",
                "query_type": "multi_hop",
                "question_complexity": 2,
            }
        ],
    }
    pool = [{"document": "x", "query": "y"}]
    for strategy in (sdg.MultiHop(pool=[example]), sdg.Metadata(fields=["author"], pool=pool)):
        strategy = strategy.resolve()
        unit = next(iter(strategy.units(chunks, (), corpus)))
        for step in filter(None, (strategy.first, strategy)):
            assert "Answer in Czech." in step.request(unit).prompt
    query = Query("q", "do kdy se platí nájemné", {"positives": ["cs#0"]})
    paraphrase = sdg.Paraphrase(pool=pool).resolve()
    assert "Answer in Czech." in paraphrase.request(next(iter(paraphrase.units(chunks, [query], corpus)))).prompt
    english = Query("q", "until when does the rent have to be paid", {"positives": ["cs#0"]})
    assert "Answer in" not in paraphrase.request(next(iter(paraphrase.units(chunks, [english], corpus)))).prompt
    negatives = NegativePrompt(LLMMiner()).requests([query], corpus, 1)[0].prompt
    assert "Write in Czech." in negatives
    plain = {i: Document(i, d.text) for i, d in corpus.items()}
    assert "Write in" not in NegativePrompt(LLMMiner()).requests([query], plain, 1)[0].prompt


# ---- sentences, harvested texts, typing errors


def test_sentences_end_by_the_documents_language():
    sentences = {
        language: [unit.text for unit in sdg.Sentence(sentences=9).resolve().units([_document(language)])]
        for language in TEXTS
    }
    assert sentences["cs"][0].startswith(
        "Nájem bytu je smlouva podle § 2201 odst. 1 písm. a) zákona č. 89/2012 Sb. o užívání bytu."
    )
    assert sentences["cs"][1] == "Nájemce platí nájemné do 5. dne měsíce."
    assert sentences["de"][1] == "Sie muss nach § 568 Abs. 1 BGB schriftlich sein."
    assert [s[-1] for s in sentences["zh"][:3]] == ["。", "！", "。"]
    assert len(sentences["hi"]) == 4 and sentences["hi"][2] == "नमक और मसाले अंत में ही डालें।"
    assert "".join(sentences["th"]).replace(" ", "") == TEXTS["th"][1].replace(" ", "")


def test_texts_are_harvested_in_any_language():
    found = {language: carried_texts(_document(language), language=language) for language in TEXTS}
    assert found["cs"]["caption"] == ["Výpovědní doby podle důvodu výpovědi."]
    assert found["de"]["caption"] == ["Fristen nach der Dauer des Mietverhältnisses."]
    assert found["zh"]["caption"] == ["浸泡一夜之后的豆子和香料。"]
    assert found["hi"]["caption"] == ["भीगा हुआ राजमा और मसाले।"]
    assert found["de"]["definition"] == ["Die Kündigung ist eine Erklärung, die das Mietverhältnis beendet."]
    assert found["zh"]["sentence"][0] == "加入月桂叶，用小火煮一小时！"
    hungarian = Document("d", "2. ábra: A bab főzési ideje.\n\n3. táblázat. Fűszerek.")
    assert carried_texts(hungarian, language="hu") == {"caption": ["A bab főzési ideje.", "Fűszerek."]}
    units = sdg.Harvested(per_document=9).resolve().harvest({d.id: d for d in map(_document, TEXTS)})
    assert {unit.document.id for unit in units} == set(TEXTS)
    assert all(unit.metadata["verbatim"] for unit in units)


def test_fingers_slip_on_the_keyboard_of_the_language():
    def typed(text: str, language: str) -> set[str]:
        return {with_typo(text, random.Random(seed), language) for seed in range(60)}

    # z lies between t and u on a German keyboard, and between nothing and x on an English one
    assert {"Katen", "Kauen"} <= typed("Kazen", "de") and "Kaxen" in typed("Kazen", "en")
    assert "najem bytu" in typed("nájem bytu", "cs") and "nájem bytu" not in typed("nájem bytu", "cs")
    assert "Loeffel" in typed("Löffel", "de") and "елка растет" in typed("ёлка растёт", "ru")
    assert {"возырат", "возарат"} & typed("возврат", "ru")
    assert all(typed(QUERIES[language], language) == {QUERIES[language]} for language in ("zh", "th"))
    assert typed("환불은 얼마나 걸리나요", "ko") == {"환불은 얼마나 걸리나요"}
    # signs stay with their letters
    assert typed("वर्षीय", "hi") == {"वयर्षी", "वय", "वर्षीर्षीय"}
