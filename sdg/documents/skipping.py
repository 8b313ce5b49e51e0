"""What was not read, and why: nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sharpen.evaluation.files import InputError

EXTRA = "pip install 'sharpen[documents]'"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, or a part of one, that is no document. ``reason``: what it is counted under. ``by_choice``: as the
    settings say or as is the custom (hidden files), which is no error even where ``strict`` is set."""

    file: str
    reason: str
    detail: str = ""
    by_choice: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


class Unreadable(Exception):
    """Raised by a reader: the file is skipped under ``reason``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass
class ReadingLog:
    """What reading found out.

    ``files``: read ones, of a folder. ``encodings``: name to files, of those that are not UTF-8. ``repeated``: lines
    that stand in at least half of the documents, to their number; ``documents``: of how many.
    """

    skipped: list[Skipped] = field(default_factory=list)
    files: int = 0
    encodings: Counter[str] = field(default_factory=Counter)
    repeated: dict[str, int] = field(default_factory=dict)
    documents: int = 0

    def refuse(self, source: str) -> None:
        """Raise ``InputError`` that names the first files that were skipped other than by choice."""
        failed = [s for s in self.skipped if not s.by_choice]
        if failed:
            reasons = _counts(Counter(s.reason for s in failed).most_common())
            more = f" and {len(failed) - 5:,} more" if len(failed) > 5 else ""
            raise InputError(
                f"{source}: strict is set, and {len(failed):,} of its files cannot be read ({reasons}):"
                f" {'; '.join(map(str, failed[:5]))}{more}."
                " Mend them, move them out, or choose by file_pattern or file_extensions"
            )

    def reasons(self) -> dict[str, int]:
        """Reason to the number of skipped ones, the most frequent first."""
        return dict(Counter(s.reason for s in self.skipped).most_common())

    def sentences(self) -> list[str]:
        """For people: what was skipped, which encodings were guessed, what repeats."""
        found = []
        failed = Counter(s.reason for s in self.skipped if not s.by_choice)
        if failed:
            found.append(f"{_plural(failed.total(), 'file')} skipped: {_counts(failed.most_common())}.")
        if self.encodings:
            found.append(f"Not UTF-8, read as what they seem to be: {_counts(self.encodings.most_common())}.")
        found += [
            f'Repeated in {n:,} of {self.documents:,} documents: "{line}"' for line, n in [*self.repeated.items()][:5]
        ]
        return found

    def counts(self) -> dict[str, Any]:
        """For a manifest; what there is none of is left out."""
        counts: dict[str, Any] = {
            "files": self.files,
            "skipped": len(self.skipped),
            "skipped_because": self.reasons(),
            "encodings": dict(self.encodings),
            "repeated_lines": {_short(line): n for line, n in [*self.repeated.items()][:10]},
        }
        return {name: value for name, value in counts.items() if value}

    def rows(self) -> Iterable[dict[str, Any]]:
        """A row for each that was skipped, for ``skipped.jsonl``."""
        return ({k: v for k, v in asdict(s).items() if v or k in ("file", "reason")} for s in self.skipped)


def _short(line: str) -> str:
    """For a cell of a table."""
    line = line.replace("|", "¦")
    return line if len(line) <= 80 else f"{line[:79]}…"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _counts(pairs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in pairs)
