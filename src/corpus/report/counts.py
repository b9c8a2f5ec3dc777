"""The counts of a corpus run, as every part of the input keeps them and as they add up to the report of the whole.

Adding is associative and a fresh report changes nothing, so parts may be merged in any grouping; examples are the first
five in the order of the parts. A report is plain values: `to_dict` and `from_dict` are inverse, through JSON too.
"""

from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from typing import Any

from src.corpus.steps import MAX_EXAMPLES, StepReport
from src.shards.manifest import Counts

FORMAT_VERSION = 1
LENGTH_BINS = 64  # of the lengths of segments, evenly from 1 to max_length
SIZE_BINS = 40  # of sizes without a limit: bin i holds the numbers of i binary digits
EXACT, NEAR, PARAGRAPHS = "exact", "near", "repeated_paragraphs"


@dataclass
class Histogram:
    """How many numbers fall into each bin; bin i holds those from ``edges[i]`` to below ``edges[i + 1]``."""

    edges: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @classmethod
    def of_sizes(cls, counts: list[int] | None = None) -> "Histogram":
        """Bins of 0, 1, 2-3, 4-7, …: number n is in bin ``n.bit_length()``."""
        return cls([0, *(1 << i for i in range(SIZE_BINS))], list(counts) if counts else [0] * SIZE_BINS)

    @classmethod
    def of_lengths(cls, max_length: int, counts: list[int] | None = None) -> "Histogram":
        """Even bins from 1 to `max_length`: length n is in bin ``(n - 1) * LENGTH_BINS // max_length``."""
        edges = [-(-i * max_length // LENGTH_BINS) + 1 for i in range(LENGTH_BINS + 1)]
        return cls(edges, list(counts) if counts else [0] * LENGTH_BINS)

    @property
    def total(self) -> int:
        """Numbers in all bins."""
        return sum(self.counts)

    def median_bin(self) -> int:
        """The bin in which the middle number lies; 0 where there is none."""
        half = (self.total + 1) // 2
        return next((i for i, below in enumerate(accumulate(self.counts)) if below >= half and below), 0)

    def __add__(self, other: "Histogram") -> "Histogram":
        if not self.edges or not other.edges:
            return Histogram(self.edges or other.edges, list(self.counts or other.counts))
        if self.edges != other.edges:
            raise ValueError(
                f"histograms over {self.edges[-1]} and {other.edges[-1]} cannot be added: the parts of a run share one "
                "max_length"
            )
        return Histogram(self.edges, [a + b for a, b in zip(self.counts, other.counts, strict=True)])


@dataclass(frozen=True)
class BadExample:
    """A record that could not be read: its place (line, row or ``@byte``) in a file, and what is wrong with it."""

    file: str
    place: str
    reason: str


@dataclass
class BadRecords:
    """Records that could not be read for one reason."""

    records: int = 0
    examples: list[BadExample] = field(default_factory=list)

    def __add__(self, other: "BadRecords") -> "BadRecords":
        return BadRecords(self.records + other.records, (self.examples + other.examples)[:MAX_EXAMPLES])

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BadRecords":
        """Build from what `dataclasses.asdict` made of one."""
        return cls(data["records"], [BadExample(**example) for example in data["examples"]])


@dataclass(frozen=True)
class DuplicateExample:
    """A document left out, the one that was kept for it, and how the former begins."""

    id: str
    kept: str
    text: str = ""


@dataclass
class Duplicates:
    """What was found more than once and kept once.

    found: documents left out; of repeated paragraphs, the paragraphs.
    bytes: UTF-8 text left out.
    clusters: how many of them were alike at a time, the kept one included.
    """

    found: int = 0
    bytes: int = 0
    examples: list[DuplicateExample] = field(default_factory=list)
    clusters: Histogram = field(default_factory=Histogram.of_sizes)

    def __add__(self, other: "Duplicates") -> "Duplicates":
        return Duplicates(
            self.found + other.found,
            self.bytes + other.bytes,
            (self.examples + other.examples)[:MAX_EXAMPLES],
            self.clusters + other.clusters,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Duplicates":
        """Build from what `dataclasses.asdict` made of one."""
        examples = [DuplicateExample(**example) for example in data["examples"]]
        return cls(data["found"], data["bytes"], examples, Histogram(**data["clusters"]))


@dataclass
class SourceReport:
    """What became of one source, or of a part of it.

    input_bytes: of the files, as they are stored.
    bad: records that could not be read, by reason.
    replaced: documents in which invalid UTF-8 was replaced.
    lost_bytes: input that could not even be cut into records, such as the rest of a damaged gzip file.
    empty: records whose text was empty; they make no document.
    skipped: web records that are no pages, such as images and redirects, by reason; they are not in `records`.
    steps: what each cleaning step saw and dropped, in their order.
    duplicates: by kind, one of ``exact``, ``near`` and ``repeated_paragraphs``; the last leaves out no documents.
    splits: what was written.
    packed_rows: rows of `max_length` that best-fit packing needs for the training split; 0 where it was not planned.
    """

    name: str
    language: str = ""
    max_length: int = 0
    files: int = 0
    input_bytes: int = 0
    records: int = 0
    bad: dict[str, BadRecords] = field(default_factory=dict)
    replaced: int = 0
    lost_bytes: int = 0
    empty: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    steps: list[StepReport] = field(default_factory=list)
    duplicates: dict[str, Duplicates] = field(default_factory=dict)
    splits: dict[str, Counts] = field(default_factory=dict)
    document_tokens: Histogram = field(default_factory=Histogram)
    segment_tokens: Histogram = field(default_factory=Histogram)
    packed_rows: int = 0
    cpu_seconds: float = 0.0

    @property
    def bad_records(self) -> int:
        """Records that could not be read."""
        return sum(bad.records for bad in self.bad.values())

    @property
    def dropped(self) -> int:
        """Documents that the cleaning steps dropped."""
        return sum(dropped.documents for step in self.steps for dropped in step.dropped.values())

    @property
    def duplicate_documents(self) -> int:
        """Documents left out because another one says the same."""
        return sum(found.found for kind, found in self.duplicates.items() if kind != PARAGRAPHS)

    @property
    def total(self) -> Counts:
        """What was written, over all splits."""
        return sum(self.splits.values(), Counts())

    @property
    def fill(self) -> float:
        """Mean length of a segment as a share of `max_length`."""
        return self.total.tokens / max(self.total.segments * self.max_length, 1)

    @property
    def packed_fill(self) -> float | None:
        """Share of the positions that are full once the training split is packed, None where that was not planned."""
        train = self.splits.get("train", Counts())
        return train.tokens / (self.packed_rows * self.max_length) if self.packed_rows else None

    def check_balance(self) -> None:
        """Raise a `RuntimeError` with the numbers where a document is neither in the shards nor counted as left out."""
        parts = {
            "bad": self.bad_records,
            "empty": self.empty,
            "dropped": self.dropped,
            "duplicates": self.duplicate_documents,
            "documents in shards": self.total.documents,
        }
        accounted = sum(parts.values())
        if accounted != self.records:
            numbers = " + ".join(f"{value} {name}" for name, value in parts.items())
            raise RuntimeError(
                f"source '{self.name}' does not add up: {self.records} records were read, but {numbers} = {accounted}"
            )
        for step in self.steps:
            dropped = sum(rule.documents for rule in step.dropped.values())
            if step.documents_in != step.documents_out + dropped:
                raise RuntimeError(
                    f"step '{step.name}' of source '{self.name}' does not add up: {step.documents_in} documents came "
                    f"in, but {step.documents_out} went on and {dropped} were dropped"
                )

    def __add__(self, other: "SourceReport") -> "SourceReport":
        if self.name != other.name:
            raise ValueError(f"reports of '{self.name}' and '{other.name}' cannot be added: they are different sources")
        total = SourceReport(self.name, self.language or other.language, self.max_length or other.max_length)
        for name in ("files", "input_bytes", "records", "replaced", "lost_bytes", "empty", "packed_rows"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        total.cpu_seconds = self.cpu_seconds + other.cpu_seconds
        for name in ("bad", "skipped", "duplicates", "splits"):
            setattr(total, name, _added(getattr(self, name), getattr(other, name)))
        total.steps = list(_added(_numbered(self.steps), _numbered(other.steps)).values())
        total.document_tokens = self.document_tokens + other.document_tokens
        total.segment_tokens = self.segment_tokens + other.segment_tokens
        return total

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "SourceReport":
        """Build from what `dataclasses.asdict` made of one."""
        report = cls(**_known(cls, data))
        report.bad = {reason: BadRecords.from_dict(bad) for reason, bad in data["bad"].items()}
        report.steps = [StepReport.from_dict(step) for step in data["steps"]]
        report.duplicates = {kind: Duplicates.from_dict(found) for kind, found in data["duplicates"].items()}
        report.splits = {split: Counts(**counts) for split, counts in data["splits"].items()}
        report.document_tokens = Histogram(**data["document_tokens"])
        report.segment_tokens = Histogram(**data["segment_tokens"])
        return report


@dataclass
class CorpusReport:
    """The report of a whole run.

    date: when it began, ISO 8601.
    seconds: how long it took on the clock, pauses between stops and resumes included.
    cpu_seconds: processor time of the tasks that read, clean and write.
    executor: where it ran, such as ``local, 2 workers``.
    settings: what the shards depend on, nothing of the machine.
    """

    corpus: str
    date: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    executor: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, SourceReport] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def check_balance(self) -> None:
        """Raise a `RuntimeError` with the numbers where a source has lost or invented a document."""
        for source in self.sources.values():
            source.check_balance()

    def __add__(self, other: "CorpusReport") -> "CorpusReport":
        if self.corpus != other.corpus:
            raise ValueError(f"reports of the corpora '{self.corpus}' and '{other.corpus}' cannot be added")
        return CorpusReport(
            corpus=self.corpus,
            date=min(filter(None, (self.date, other.date)), default=""),
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            executor=self.executor or other.executor,
            settings=other.settings | self.settings,
            sources=_added(self.sources, other.sources),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CorpusReport":
        """Build from what `to_dict` made of one."""
        report = cls(**_known(cls, data))
        report.sources = {name: SourceReport.from_dict(source) for name, source in data["sources"].items()}
        return report


def _added(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    """Both, with the values of common keys added; keys in the order in which they first appear."""
    return first | {key: first[key] + value if key in first else value for key, value in second.items()}


def _numbered(steps: list[StepReport]) -> dict[tuple[str, int], StepReport]:
    """Steps by name; a second one of the same name is another step."""
    found: dict[tuple[str, int], StepReport] = {}
    for step in steps:
        found[step.name, sum(name == step.name for name, _ in found)] = step
    return found


def _known(cls: Any, data: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {key: value for key, value in data.items() if key in names}
