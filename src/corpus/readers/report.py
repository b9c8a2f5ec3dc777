"""What a reader met: counted while reading, written as JSON per task, added up per source."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_EXAMPLES = 5  # of each reason


@dataclass(frozen=True)
class Example:
    """One input record that could not be read: `place` is its line, row or ``@byte`` in `file`."""

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.place}: {self.reason}" if self.place else f"{self.file}: {self.reason}"


@dataclass
class ReadReport:
    """Counts of what was read: ``records = documents + empty + bad`` always holds.

    records: records that should have become documents; damage to a file counts as one.
    documents, empty: those that did, and those with an empty text, which are left out.
    bad, examples: those that could not be read, by reason, and the first few of each reason, in the order they came.
    replaced: documents in which invalid UTF-8, or a lone surrogate, was replaced by U+FFFD.
    skipped: web records that are no pages, such as images and redirects, by reason; they are not in `records`.
    input_bytes, position: input bytes as they lie on disk, and how many of them are behind the reader.
    lost_bytes: input bytes that damage made unreadable.
    """

    records: int = 0
    documents: int = 0
    empty: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    replaced: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    input_bytes: int = 0
    position: int = 0
    lost_bytes: int = 0

    def add_bad(self, file: str, place: str, reason: str, count: int = 1) -> None:
        """Count records that are left out, and keep the first few of each reason."""
        self.records += count
        self.bad[reason] += count
        self._keep(Example(file, place, reason))

    def _keep(self, example: Example) -> None:
        if sum(kept.reason == example.reason for kept in self.examples) < MAX_EXAMPLES:
            self.examples.append(example)

    def __add__(self, other: "ReadReport") -> "ReadReport":
        total = ReadReport(
            records=self.records + other.records,
            documents=self.documents + other.documents,
            empty=self.empty + other.empty,
            bad=self.bad + other.bad,
            replaced=self.replaced + other.replaced,
            skipped=self.skipped + other.skipped,
            input_bytes=self.input_bytes + other.input_bytes,
            position=self.position + other.position,
            lost_bytes=self.lost_bytes + other.lost_bytes,
        )
        for example in self.examples + other.examples:
            total._keep(example)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives the same report back."""
        return {**asdict(self), "bad": dict(self.bad), "skipped": dict(self.skipped)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ReadReport":
        """Build from what `to_dict` gave."""
        report = cls(**data)
        report.bad, report.skipped = Counter(data["bad"]), Counter(data["skipped"])
        report.examples = [Example(**example) for example in data["examples"]]
        return report
