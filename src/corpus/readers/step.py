"""Reading as a step of a datatrove pipeline."""

from collections.abc import Iterable, Iterator, Sequence

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.readers.parts import Part
from src.corpus.readers.read import read_part
from src.corpus.readers.reading import Reading
from src.corpus.readers.report import ReadReport


class ReadParts(PipelineStep):
    """Read the documents of parts: task r of n reads the parts r, r + n, r + 2n…, so as many tasks as parts read one
    each. After `run`, `report` says what was met."""

    type = "reader"
    name = "parts"

    def __init__(self, parts: Sequence[Part], reading: Reading) -> None:
        super().__init__()
        self.parts = parts
        self.reading = reading
        self.report = ReadReport()

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data or ()
        self.report = ReadReport()
        for part in self.parts[rank::world_size]:
            yield from read_part(part, self.reading, self.report)
        self.stat_update("documents", value=self.report.documents)
        self.stat_update("bad", value=self.report.bad.total())
