"""Identifiers that are the same are told apart by more words of their documents."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count

from sharpen.evaluation.generative.identifiers import Identifier
from sharpen.sdg.drawing import drawn
from sharpen.sdg.identifiers.words import joined

MOST_ADDED = 3
"""Words that are added at most, before a number is."""


def same_key(text: str) -> str:
    """Equal for identifiers that differ in case, white space and ways to write a letter only: tokenizers may make one
    of them.

    >>> same_key("Salt,  Tea") == same_key("salt, tea"), same_key("caf\u00e9") == same_key("cafe\u0301")
    (True, True)
    """
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def make_unique(
    made: Mapping[str, Identifier],
    words_of: Callable[[str], Sequence[str]],
    known: Collection[Identifier] = (),
) -> dict[str, Identifier]:
    """``made`` by document ID, in the same order, with what tells those apart whose texts are the same but for case.

    ``words_of``: all words of a document, the most characteristic first; none, of one that is not there any more.
    ``known``: identifiers that are taken, which stay as they are. One of those with the same text keeps it: a known
    one, else the document that is drawn by its ID. The others get the most characteristic word that none of them has
    but they; where there is none, up to three of their rarest ones; and a number at last. What is added stands in
    ``Identifier.added``.

    A document whose text no other has keeps it, whatever is added to the corpus.

    >>> made = {i: Identifier(i, "ferry", "title") for i in "ab"}
    >>> texts = {"a": ["rhine", "ferry"], "b": ["ferry", "oslo"]}
    >>> [row.text for row in make_unique(made, texts.__getitem__).values()]
    ['ferry, rhine', 'ferry']
    """
    groups: dict[str, list[str]] = {}
    for doc_id, row in made.items():
        groups.setdefault(same_key(row.text), []).append(doc_id)
    taken = {same_key(row.text) for row in known}
    bare, others = set[str](), list[str]()
    for key, members in groups.items():
        members.sort(key=_draw)
        first = 0 if key in taken else 1
        bare.update(members[:first])
        others += members[first:]
    taken |= groups.keys()  # no text with something added takes what another document has without
    rare = _rarity(groups, words_of, known)
    result = {doc_id: made[doc_id] for doc_id in bare}
    numbers = {key: count(2) for key in rare}  # each group goes on with its own: copies may be many
    for doc_id in sorted(others, key=_draw):
        row = made[doc_id]
        key = same_key(row.text)
        for added in _additions(row.text, words_of(doc_id), rare[key], numbers[key]):
            text = joined([row.text, added])
            if same_key(text) not in taken:
                taken.add(same_key(text))
                result[doc_id] = Identifier(doc_id, text, row.source, added)
                break
    return {doc_id: result[doc_id] for doc_id in made}


def _draw(doc_id: str) -> int:
    return drawn(0, "identifiers", doc_id)


def _rarity(
    groups: Mapping[str, Sequence[str]], words_of: Callable[[str], Sequence[str]], known: Iterable[Identifier]
) -> dict[str, Counter[str]]:
    """In how many documents a word is, of those with the same text, by that text; words of all of them are left out."""
    alike = {key: list(members) for key, members in groups.items()}
    for row in known:
        bare = row.text.removesuffix(joined(["", row.added])) if row.added else row.text
        for key in {same_key(row.text), same_key(bare)} & alike.keys():
            alike[key].append(row.id)
    counts = {key: Counter(w for i in ids for w in _keys(words_of(i))) for key, ids in alike.items() if len(ids) > 1}
    # what all have tells none from another
    return {key: Counter({w: n for w, n in c.items() if n < len(alike[key])}) for key, c in counts.items()}


def _keys(words: Iterable[str]) -> set[str]:
    return {same_key(word) for word in words}


def _additions(text: str, words: Sequence[str], rare: Counter[str], numbers: Iterator[int]) -> Iterator[str]:
    """What may be added to a text, the best first, without end. ``rare``: in how many documents of the same text a word
    is."""
    inside = _keys(text.replace(",", " ").split())
    new = [word for word in words if same_key(word) not in inside and same_key(word) in rare]
    by_rarity = sorted(new, key=lambda word: rare[same_key(word)])
    yield from (word for word in by_rarity if rare[same_key(word)] == 1)
    yield from (joined(by_rarity[:n]) for n in range(1, min(MOST_ADDED, len(by_rarity)) + 1))
    yield from map(str, numbers)
