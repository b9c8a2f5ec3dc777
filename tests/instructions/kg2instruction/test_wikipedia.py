"""Dumps are read whatever their version and packing, and damage is told."""

import bz2
from pathlib import Path

import pytest

from src.errors import UserError
from src.instructions.kg2instruction.wikipedia import Page, Site, read_pages
from tests.instructions.kg2instruction.conftest import FIXTURE

DUMP = FIXTURE / "enwiki.xml"


@pytest.mark.parametrize("version", ["0.9", "0.10", "0.11", "1.0"])
def test_any_version_of_the_format_is_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress(DUMP.read_bytes().replace(b"export-0.11", f"export-{version}".encode())))
    site = Site()
    pages = list(read_pages(path, site))
    assert len(pages) == 8 and site.skipped == 1
    assert site.name == "enwiki" and "category" in site.namespaces and "" not in site.namespaces


def test_redirects_are_told_apart() -> None:
    assert [page for page in read_pages(DUMP, Site()) if page.redirect] == [
        Page(2, "Brackwater City", "", "Brackwater")
    ]


def test_namespaces_have_the_names_of_the_wiki() -> None:
    site = Site()
    next(read_pages(FIXTURE / "zhwiki.xml", site))
    assert {"文件", "分类", "file"} <= site.namespaces and {"文件", "分类"} <= site.hidden


@pytest.mark.parametrize("packed", [True, False])
def test_a_dump_that_is_cut_short_is_an_error(tmp_path: Path, packed: bool) -> None:
    raw = DUMP.read_bytes()
    path = tmp_path / ("dump.xml.bz2" if packed else "dump.xml")
    path.write_bytes(bz2.compress(raw)[:-50] if packed else raw[:-50])
    with pytest.raises(UserError, match="cannot be read to its end"):
        list(read_pages(path, Site()))


def test_what_is_no_xml_is_said(tmp_path: Path) -> None:
    path = tmp_path / "page.xml"
    path.write_text("{}")
    with pytest.raises(UserError, match="is no XML"):
        list(read_pages(path, Site()))


def test_another_kind_of_xml_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "feed.xml"
    path.write_text("<rss><page/></rss>")
    with pytest.raises(UserError, match="its root is <rss>"):
        list(read_pages(path, Site()))
