"""Languages: which one a text is in, its words, its sentences, and what BM25 finds by them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.languages import (
    Analyzer,
    find_languages,
    identify,
    is_another_language,
    language_name,
    n_words,
    sentence_spans,
    sentences,
    words,
)
from sharpen.evaluation.retrievers.bm25 import BM25, RankBM25

CZECH = [
    "Podle § 2201 odst. 1 písm. a) zákona č. 89/2012 Sb. se nájemní smlouvou pronajímatel zavazuje přenechat nájemci"
    " věc k dočasnému užívání. Nájemce za to platí nájemné.",
    "Výpověď z nájmu bytu musí být písemná. Výpovědní doba je tříměsíční, nestanoví-li zákon jinak.",
    "Kupní smlouvou se prodávající zavazuje odevzdat kupujícímu věc. Kupující se zavazuje zaplatit kupní cenu.",
]
HINDI = [
    "भारत की राजधानी नई दिल्ली है। यह यमुना नदी के किनारे बसी है।",
    "चावल पकाने से पहले उसे आधा घंटा पानी में भिगो दें। फिर धीमी आँच पर पकाएँ।",
    "आयकर अधिनियम के अनुसार हर करदाता को विवरणी भरनी होती है। देर होने पर जुर्माना लगता है।",
]
THAI = [
    "ประเทศไทยมีภูเขามากมายในภาคเหนือ ฝนตกหนักในฤดูฝน",
    "การหุงข้าวต้องล้างข้าวก่อนแล้วเติมน้ำ ใช้เวลาประมาณยี่สิบนาที",
    "ผู้เช่าต้องจ่ายค่าเช่าทุกเดือน มิฉะนั้นเจ้าของบ้านบอกเลิกสัญญาได้",
]
FOLDERS = {"cs": CZECH, "hi": HINDI, "th": THAI}


def _corpus(texts: list[str], language: str | None = None) -> dict[str, Document]:
    metadata = {"language": language} if language else {}
    return {str(n): Document(str(n), text, metadata=dict(metadata)) for n, text in enumerate(texts)}


@pytest.mark.parametrize("language", FOLDERS)
def test_the_language_of_a_few_short_documents_is_found(language):
    assert set(find_languages(_corpus(FOLDERS[language])).values()) == {language}


def test_documents_in_several_languages_keep_their_own_and_short_ones_follow():
    mixed = [*CZECH, "The landlord hands the flat over, and the tenant pays the rent on the third working day of each"
             " month, as both have agreed to in writing.", "§ 12", "نص قصير"]  # fmt: skip
    found = list(find_languages(_corpus(mixed)).values())
    assert found[:4] == ["cs", "cs", "cs", "en"] and found[4] in ("cs", "en")
    assert list(find_languages(_corpus(["§ 12"], "pl")).values()) == ["pl"]


def test_a_language_that_metadata_name_is_kept_and_one_sampled_holds_for_all():
    corpus = _corpus(THAI * 100)
    assert set(find_languages(corpus, sample=10).values()) == {"th"}
    corpus["299"] = Document("299", THAI[0], metadata={"language": "lo"})
    assert find_languages(corpus)["299"] == "lo"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("黑豹队的防守丢了多少分？", "zh"),
        ("NFL 超级碗 50 是谁赢的？", "zh"),
        ("これはいつ始まりましたか", "ja"),
        ("ภูเขาอยู่ที่ไหน", "th"),
        ("Wie viele Punkte gab die Verteidigung ab?", "de"),
        ("대한민국의 수도는 어디입니까", "ko"),
        ("ជំរាបសួរ", "km"),
        ("Πού είναι η βιβλιοθήκη;", "el"),
        ("Скільки коштує оренда квартири?", "uk"),
    ],
)
def test_a_question_is_in_its_language(text, language):
    assert identify(text).language == language
    assert not is_another_language(text, language)


def test_only_what_is_clearly_another_language_is_said_to_be_one():
    assert is_another_language("was kostet das Ausstellen einer neuen Karte", "en")
    assert is_another_language("黑豹队的防守丢了多少分？", "en") and is_another_language("ภูเขา", "lo")
    assert is_another_language("how many points did the defence give up", "zh")
    for text, language in [("pandas groupby agg", "de"), ("§ 2201", "cs"), ("OpenAI API", "zh"), ("東京", "ja")]:
        assert not is_another_language(text, language), text


def test_words_of_scripts_with_and_without_blanks():
    assert words("§ 2201 odst. 1: Nájemné!") == ["2201", "odst", "1", "nájemné"]
    assert words("दिल्ली की") == ["दिल्ली", "की"]  # vowel signs belong to their words
    assert words("ประเทศไทยมีภูเขา") == ["ประเทศไทย", "มี", "ภูเขา"]
    assert words("我喜欢NumPy") == ["我", "喜欢", "numpy"]
    assert (
        "".join(words("東京タワーはどこですか")) == "東京タワーはどこですか"
        and len(words("東京タワーはどこですか")) > 3
    )
    assert n_words("a b  c") == 3 and n_words("黑豹队的防守") >= 3
    assert words("e\u0301te\u0301") == words("\u00e9t\u00e9") == ["\u00e9t\u00e9"]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (CZECH[0], "cs", 2),
        (HINDI[1], "hi", 2),
        ("Nach § 5 Abs. 1 Satz 2 BGB gilt z. B. folgendes. Am 3. Oktober endet die Frist.", "de", 2),
        ("他们排名第六！真的吗？是。", "zh", 3),
        ("See Sec. 5 para. 2 of the Act. It applies.", "en", 2),
    ],
)
def test_sentences_end_where_the_language_ends_them(text, language, expected):
    spans = sentence_spans(text, language)
    assert len(spans) == expected, sentences(text, language)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize(
    ("language", "query", "best"),
    [
        ("cs", "kdy musím platit nájem bytu písemně", "1"),
        ("cs", "kupující a cena", "2"),
        ("hi", "चावल कैसे पकाते हैं", "1"),
        ("th", "ภูเขา", "0"),
        ("th", "จ่ายค่าเช่า", "2"),
    ],
)
@pytest.mark.parametrize("index", [BM25, RankBM25])
def test_bm25_ranks_by_the_words_of_the_documents_language(language, query, best, index):
    run = index(_corpus(FOLDERS[language])).search({"q": query}, 3)["q"]
    assert next(iter(run)) == best


def test_bm25_takes_each_document_and_each_query_in_its_own_language():
    corpus = _corpus([*CZECH, *THAI])
    run = BM25(corpus).search({"cs": "nájemcích", "th": "ภูเขา"}, 6)
    assert set(run["cs"]) == {"0"} and set(run["th"]) == {"3"}
    assert BM25(corpus, language="none").search({"q": "nájemcích"}, 6)["q"] == {}


def test_terms_are_stems_or_pieces_of_words():
    assert Analyzer("de").terms("Die Häuser brennen") == ["haus", "brenn"]
    assert Analyzer("uk").terms("оренда 2024") == ["орен", "ренд", "енда", "2024"]  # no stemmer
    assert Analyzer("ko").terms("대한민국의") == ["대한", "한민", "민국", "국의"]
    assert Analyzer(None).terms("Die Häuser") == ["die", "häuser"]
    assert set(Analyzer("uk").terms("орендою")) & set(Analyzer("uk").terms("оренда"))


def test_languages_have_names():
    assert (language_name("cs"), language_name("zh"), language_name("xx")) == ("Czech", "Chinese", "xx")
