"""What depends on the language of a text: which it is, where its words and sentences end, and what BM25 makes of them.

The language of a document is found once, when the corpus is made, and stands in its metadata; all else asks
``language_of``.
"""

from sharpen.evaluation.languages.identify import (
    LANGUAGE,
    Identified,
    find_languages,
    identify,
    is_another_language,
    language_name,
    language_of,
)
from sharpen.evaluation.languages.sentences import sentence_spans, sentences
from sharpen.evaluation.languages.terms import Analyzer
from sharpen.evaluation.languages.words import first_words, n_words, word_spans, words

__all__ = [
    "LANGUAGE",
    "Analyzer",
    "Identified",
    "find_languages",
    "first_words",
    "identify",
    "is_another_language",
    "language_name",
    "language_of",
    "n_words",
    "sentence_spans",
    "sentences",
    "word_spans",
    "words",
]
