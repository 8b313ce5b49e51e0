"""What people mark as relevant to a query or not: kept with who and when, and written as judged queries in BEIR layout,
which ``evaluation.data`` or ``labelled`` of a next run takes."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, Qrels, Query, text_key, write_qrels, write_queries
from sharpen.evaluation.files import InputError, link_or_copy, read_jsonl
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.serving.log import append, now
from sharpen.sdg.splitting import read_split

MARKS = "marks"
"""Of a run's folder: judged queries in BEIR layout, and the file below."""
LOG = "marks.jsonl"
"""Every mark with who and when; of a query and a document the last one counts."""
SPLIT = "test"
QRELS = Path("qrels") / f"{SPLIT}.tsv"
PREFIX = "marked-"
"""Before the IDs of marked queries, so that none is another query's."""


@dataclass(frozen=True)
class Marks:
    """The marks of a run. ``corpus_file``: its documents, which the folder gets a link to.

    >>> import tempfile
    >>> from sharpen.evaluation.beir import Document, write_corpus
    >>> folder = Path(tempfile.mkdtemp())
    >>> corpus = {"a": Document("a", "Bake the bread."), "b": Document("b", "Ice flows downhill.")}
    >>> write_corpus(folder / "corpus.jsonl", corpus)
    >>> marks = Marks(folder / "marks", corpus, folder / "corpus.jsonl")
    >>> marks.mark("how ice flows", "b", True, "Anna")
    >>> marks.mark("how ice flows", "a", False, "Anna")
    >>> marks.of("How  ice flows")
    {'b': True, 'a': False}
    >>> (marks.folder / "qrels" / "test.tsv").read_text().split()[3:]
    ['marked-1fdc2f093b8e', 'b', '1', 'marked-1fdc2f093b8e', 'a', '0']
    """

    folder: Path
    corpus: Corpus
    corpus_file: Path

    @classmethod
    def of_run(cls, run: Path, corpus: Corpus) -> Marks:
        return cls(run / MARKS, corpus, run / "corpus" / "corpus.jsonl")

    def mark(self, query: str, document: str, relevant: bool | None, who: str) -> None:
        """Note that a document is relevant to a query, or not; None takes back what was said. Raises ``InputError`` for
        a query without words and for a document that the run has not."""
        if not query.strip():
            raise InputError("a query without words cannot be marked")
        if document not in self.corpus:
            raise InputError(f"{document!r}: no such document in this run")
        row = {"query": query.strip(), "document": document, "relevant": relevant, "who": who, "when": now()}
        append(self.folder / LOG, row, self._write)

    def of(self, query: str) -> dict[str, bool]:
        """Document to whether it was marked as relevant to the query."""
        return self._all().get(_query_id(query), (query, {}))[1]

    def count(self) -> tuple[int, int]:
        """Queries with marks, and marks."""
        marks = [of_query for _, of_query in self._all().values() if of_query]
        return len(marks), sum(map(len, marks))

    def how_to_use(self) -> str:
        """What to do with a run's marks, for people."""
        run = self.folder.parent
        miners = f"[{{kind: given, data: {self.folder / QRELS}}}, {{kind: bm25}}]"
        labelled = f"{{data: {self.folder}, split: {SPLIT}, fraction: {self._fraction(run):.3g}}}"
        return f"""to compare on them: sharpen run {run} evaluation.data={self.folder}
to train on them: sharpen run {run} 'labelled={labelled}'
and with what is not relevant as negatives: ... 'negatives.miners={miners}' negatives.too_few=others"""

    def _fraction(self, run: Path) -> float:
        """Of marked queries beside all of the generated ones that the run trained on: at a higher one generated ones
        make way for them, most of all where there are few marks. Documents that are held out answer none."""
        sides = read_split(run / "pairs" / "split.jsonl")
        marks = [of_query for _, of_query in self._all().values()]
        number = sum(any(yes and sides.get(i) == "train" for i, yes in of_query.items()) for of_query in marks) or 1
        counts = Inputs(run).manifest("pairs")["counts"]
        return number / (number + counts["train"] - counts.get("labelled_in_train", 0))

    def _all(self) -> dict[str, tuple[str, dict[str, bool]]]:
        """Query ID to its text and its marks."""
        path = self.folder / LOG
        found: dict[str, tuple[str, dict[str, bool]]] = {}
        for number, row in read_jsonl(path) if path.exists() else ():
            query, document, relevant = _checked(row, path, number)
            of_query = found.setdefault(_query_id(query), (query, {}))[1]
            of_query.pop(document, None)
            if relevant is not None:
                of_query[document] = relevant
        return found

    def _write(self) -> None:
        """The judged queries. Queries first, which only grow, and qrels last: at any moment they fit together."""
        marks = self._all()
        corpus = self.folder / "corpus.jsonl"
        if not corpus.exists() or not filecmp.cmp(self.corpus_file, corpus):  # since then the run has read others
            corpus.unlink(missing_ok=True)
            link_or_copy(self.corpus_file, corpus)
        write_queries(self.folder / "queries.jsonl", [Query(i, text) for i, (text, _) in marks.items()])
        qrels: Qrels = {
            i: {d: int(relevant) for d, relevant in of_query.items() if d in self.corpus}
            for i, (_, of_query) in marks.items()
        }
        write_qrels(self.folder / QRELS, qrels)


def _query_id(query: str) -> str:
    """Of all spellings that differ only in case and blanks the same."""
    return PREFIX + text_key(query)[:12]


def _checked(row: dict[str, Any], path: Path, number: int) -> tuple[str, str, bool | None]:
    query, document, relevant = (row.get(key) for key in ("query", "document", "relevant"))
    if not isinstance(query, str) or not isinstance(document, str) or relevant not in (True, False, None):
        raise InputError(f"{path}, line {number}: a mark has query, document and relevant (true, false or null)")
    return query, document, relevant
