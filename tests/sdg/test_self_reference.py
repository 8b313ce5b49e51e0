"""Queries that speak of their document as a document, by language: one that is caught, and one that only looks like
it."""

import pytest

from sharpen.evaluation.beir import Document
from sharpen.sdg.filters.text import text_problem
from sharpen.sdg.languages import languages_with_wording

QUERIES = {
    "ar": ("ماذا يقول هذا النص عن الإيجار؟", "كيف أحرر النص في مستند وورد؟"),
    "ca": ("Què diu aquest document sobre el lloguer?", "com signar un document digital"),
    "cs": ("Co podle tohoto textu platí o nájemném?", "překlad textu do angličtiny podle zákona"),
    "de": ("Was gilt laut dem Text für die Miete?", "Miete im Kontext der Inflation laut Artikel 5"),
    "en": ("what does this passage say about rent", "rent in the context of inflation"),
    "es": ("¿Qué dice este texto sobre el alquiler?", "alquiler en el contexto de la inflación según el artículo 5"),
    "fa": ("این متن درباره اجاره چه می‌گوید؟", "چگونه متن را در سند ویرایش کنم"),
    "fi": ("Mitä tässä tekstissä sanotaan vuokrasta?", "miten tekstin kokoa muutetaan"),
    "fr": ("Que dit ce texte sur le loyer ?", "loyer dans le contexte de l'inflation selon l'article 5"),
    "hi": ("इस लेख के अनुसार किराया कितना है?", "किराये का दस्तावेज़ कैसे बनवाएँ"),
    "hu": ("A szöveg szerint mennyi a bérleti díj?", "hogyan kell dokumentumot aláírni"),
    "id": ("Apa isi teks ini tentang sewa?", "cara mengubah teks pada dokumen Word"),
    "it": ("Che cosa dice questo testo sull'affitto?", "affitto nel contesto dell'inflazione secondo l'articolo 5"),
    "ja": ("この文章によると家賃はいくらですか？", "メールの本文を変更する方法"),
    "ko": ("이 글에 따르면 월세는 얼마인가요?", "문서에 글자 크기 바꾸는 방법"),
    "nl": ("Wat zegt deze tekst over de huur?", "huur volgens artikel 5 van de wet"),
    "pl": ("Co według tego tekstu wiadomo o czynszu?", "tłumaczenie tekstu umowy najmu"),
    "pt": ("O que diz este texto sobre o aluguel?", "aluguel no contexto da inflação segundo o artigo 5"),
    "ro": ("Ce spune acest text despre chirie?", "chirie în contextul inflației conform articolului 5"),
    "ru": ("Что в этом тексте сказано об аренде?", "как подписать документ согласно статье 15"),
    "sv": ("Vad säger den här texten om hyran?", "hyra i samband med inflation enligt lag"),
    "tr": ("Bu metne göre kira ne kadar?", "bu belgesel ne zaman çekildi"),
    "uk": ("Що в цьому тексті сказано про оренду?", "як підписати документ згідно з законом"),
    "vi": ("Đoạn văn này nói gì về tiền thuê?", "tiền thuê nhà theo văn bản luật năm nay"),
    "zh": ("本文对租金是怎么说的？", "如何在日本文化中理解租房"),
}


def _reason(query: str, language: str) -> str | None:
    problem = text_problem(query, Document("d", "x", metadata={"language": language}), language)
    return problem and str(problem.reason)


def test_there_is_a_pair_for_each_language():
    assert sorted(QUERIES) == languages_with_wording()


@pytest.mark.parametrize("language", QUERIES)
def test_what_only_a_reader_of_the_document_says_is_caught(language: str):
    caught, passes = QUERIES[language]
    assert _reason(caught, language) == "self_reference"
    assert _reason(passes, language) is None


def test_models_that_fall_into_english_are_caught_too():
    assert _reason("what does this passage say", "sw") == "self_reference"
    assert _reason("Was gilt laut dem Text", "de") == "self_reference"
    # whether "text" is said of the document is a matter of the query's language
    assert _reason("was laut der Passage der Alpen", "de") is None
