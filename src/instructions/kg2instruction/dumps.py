"""The steps that read the dumps: Wikidata into the index, Wikipedia's pages into parts, its redirects into a table."""

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, get_args

from datatrove.pipeline.base import PipelineStep

from src.corpus.progress import Pace
from src.errors import UserError
from src.instructions.kg2instruction.index import build_index
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikipedia import Site, read_pages, write_redirects
from src.instructions.kg2instruction.work import RowWriter, Work, write_json


class DumpStep(PipelineStep):
    """A step that needs nothing but the plan of the run."""

    type = "kg2instruction"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work


class ReadWikidata(DumpStep):
    """Makes the index; one task."""

    name = "wikidata"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        pace = Pace()
        work = self.work
        began = time.monotonic()
        found = build_index(work.wikidata, work.index, work.language, lambda done, n: pace.advance(done, n, done))
        work.write_counts(self.name, rank, found | {"seconds": round(time.monotonic() - began, 3)})


class SplitPages(DumpStep):
    """Deals the pages of one dump file out to its parts, and lists its redirects. One task a file."""

    name = "pages"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        work = self.work
        first = sum(work.parts[:rank])
        site, counts = Site(), Counter[str]()
        parts = [RowWriter(work.pages(first + part)) for part in range(work.parts[rank])]
        done = False
        try:
            with work.redirect_list(rank).open("w", encoding="utf-8") as redirects:
                self._deal(work.wikipedia[rank], site, parts, redirects, counts)
            done = True
        finally:
            for part in parts:
                part.close(keep=done)
        counts["other_pages"] = site.skipped
        write_json(
            work.site(rank), asdict(site) | {"namespaces": sorted(site.namespaces), "hidden": sorted(site.hidden)}
        )
        work.write_counts(self.name, rank, counts)

    def _check_language(self, file: Path, site: Site) -> None:
        wanted = f"{self.work.language}wiki"
        if site.name != wanted and site.name.removesuffix("wiki") in get_args(Language):
            raise UserError(f"{file} is a dump of {site.name}: give language={site.name[:2]}, or a dump of {wanted}")

    def _deal(self, file: Path, site: Site, parts: list[RowWriter], redirects: TextIO, counts: Counter[str]) -> None:
        pace = Pace()
        for page in read_pages(file, site, lambda done: pace.advance(done, counts["pages"], counts["characters"])):
            if not counts:
                self._check_language(file, site)
            if page.redirect is not None:
                redirects.write(json.dumps([page.title, page.redirect], ensure_ascii=False) + "\n")
                counts["redirects"] += 1
                continue
            parts[counts["pages"] % len(parts)].write([page.id, page.title, page.wikitext])
            counts["pages"] += 1
            counts["characters"] += len(page.wikitext)
        pace.advance(file.stat().st_size, counts["pages"], counts["characters"], last=True)


class CollectRedirects(DumpStep):
    """Makes one table of the redirects of all files; one task."""

    name = "redirects"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        work = self.work
        lists = [work.redirect_list(file) for file in range(len(work.wikipedia))]
        write_redirects(lists, work.redirects, work.language)
