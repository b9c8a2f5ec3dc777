"""Reading a whole file in a test."""

from collections.abc import Callable

import pytest

from src.corpus.readers import Document, Reading, ReadReport, plan_parts, read_part

Read = Callable[..., tuple[list[Document], ReadReport]]


@pytest.fixture
def read() -> Read:
    """Read files in one part, with the settings given, and return the documents and the report."""

    def read_files(*files, **settings) -> tuple[list[Document], ReadReport]:
        reading, report = Reading(**settings), ReadReport()
        documents = [
            document
            for part in plan_parts(files, reading, part_bytes=10**12)
            for document in read_part(part, reading, report)
        ]
        assert report.records == report.documents + report.empty + report.bad.total()
        assert report.documents == len(documents)
        return documents, report

    return read_files
