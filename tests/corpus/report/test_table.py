"""The table at the end of a run: a row a source and split, and what was left out once a source."""

from rich.console import Console

from src.corpus.report import SourceReport, summary_table
from src.shards.manifest import Counts, Manifest


def lines(of, width=80) -> list[list[str]]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(of))
    return [line.split() for line in console.export_text().splitlines()]


def test_a_report_fits_eighty_columns(report):
    found = lines(report)
    assert ["zh", "train", "8,500", "14.00", "4.51M", "13k", "33.9%", "3.10", "870", "550", "10", "10"] in found
    assert ["validation", "60", "0.14", "45.6k", "90", "49.4%", "3.07"] in found


def test_manifests_know_bad_and_empty_records_only():
    manifest = Manifest("en", "tiny", "", 300, 10, "uint16", splits={"train": Counts(2, 5, 40, 100)})
    manifest.bad_records, manifest.empty_documents = {"not JSON": 3}, 4
    assert ["en", "train", "2", "0.00", "40", "5", "80.0%", "2.50", "3", "4"] in lines([manifest])


def test_a_split_without_tokens_divides_by_nothing():
    empty = SourceReport("zh", max_length=8, splits={"train": Counts()})
    assert ["zh", "train", "0", "0.00", "0", "0", "0", "0", "0", "0"] in lines([empty])
    assert ["new", "0", "0.00", "0", "0", "0", "0", "0", "0"] in lines([SourceReport("new")])
