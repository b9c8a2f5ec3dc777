"""What people see of a corpus run: progress bars, a table at its end, ``report.json`` and ``report.html``."""

from src.corpus.report.bars import PipelineProgress, StageProgress
from src.corpus.report.counts import (
    BadExample,
    BadRecords,
    CorpusReport,
    DuplicateExample,
    Duplicates,
    Histogram,
    SourceReport,
)
from src.corpus.report.page import write_report
from src.corpus.report.table import summary_table

__all__ = [
    "BadExample",
    "BadRecords",
    "CorpusReport",
    "DuplicateExample",
    "Duplicates",
    "Histogram",
    "PipelineProgress",
    "SourceReport",
    "StageProgress",
    "summary_table",
    "write_report",
]
