"""Wikipedia's XML dumps: pages as a stream, whatever the version of the export format.

The XML namespace is read from the root element and the names of the page namespaces from the dump, which a wiki has in
its own language. Format: https://www.mediawiki.org/wiki/Help:Export
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from src.errors import UserError
from src.instructions.kg2instruction.dump_files import READ_ERRORS, damaged, open_dump
from src.instructions.kg2instruction.names import title_key
from src.instructions.kg2instruction.vocabulary import Language

# Links to these show nothing where they stand. A dump names its namespaces in one way; Chinese pages use all of these.
HIDDEN = ("file", "image", "category", "文件", "档案", "檔案", "图像", "圖像", "分类", "分類")
# every wiki knows these besides its own names
CANONICAL = ("file", "image", "category", "template", "wikipedia", "help", "portal", "user", "talk", "special", "media")
FILES, CATEGORIES = "6", "14"  # numbers of namespaces, the same in all wikis
MAX_REDIRECTS = 3  # MediaWiki follows one; a few more cost nothing


@dataclass(frozen=True)
class Page:
    """A page of the main namespace. ``redirect``: the title it leads to; its wikitext then is empty."""

    id: int
    title: str
    wikitext: str
    redirect: str | None = None


@dataclass
class Site:
    """What the head of a dump says: its database name, and the lower-case names of namespaces that are not articles.

    hidden: those of files and categories, to which links show nothing.
    """

    name: str = ""
    namespaces: frozenset[str] = frozenset(CANONICAL)
    hidden: frozenset[str] = frozenset(HIDDEN)
    skipped: int = field(default=0, compare=False)  # pages of other namespaces, or no wikitext


def read_pages(path: Path, site: Site, on_position: Callable[[int], None] | None = None) -> Iterator[Page]:
    """The pages of a dump file in its order; `site` is filled in from the head of the file before the first page.

    Args:
        on_position: told how many bytes of the file are behind.

    Raises:
        UserError: the file is no dump, or damaged.
    """
    stream, raw = open_dump(path)
    root = None
    try:
        with raw, stream:
            events = ElementTree.iterparse(stream, events=("start", "end"))
            _, root = next(events)
            space, brace, tag = root.tag.rpartition("}")
            if tag != "mediawiki":
                raise UserError(f"{path} is no dump of a wiki (its root is <{tag}>): give …-pages-articles.xml.bz2")
            prefix = space + brace
            for event, element in events:
                if event != "end":
                    continue
                if element.tag == f"{prefix}siteinfo":
                    _read_site(element, prefix, site)
                elif element.tag == f"{prefix}page":
                    page = _read_page(element, prefix)
                    root.clear()  # what has been read would else stay in memory
                    if on_position is not None:
                        on_position(raw.tell())
                    if page is None:
                        site.skipped += 1
                    else:
                        yield page
    except ElementTree.ParseError as error:
        if root is None:
            raise UserError(f"{path} is no XML ({error}): give …-pages-articles.xml.bz2") from error
        raise damaged(path, error) from error
    except READ_ERRORS as error:
        raise damaged(path, error) from error


def _read_site(element: ElementTree.Element, prefix: str, site: Site) -> None:
    site.name = element.findtext(f"{prefix}dbname") or ""
    named = [(entry.get("key"), entry.text.lower()) for entry in element.iter(f"{prefix}namespace") if entry.text]
    site.namespaces = frozenset(name for key, name in named if key != "0") | set(CANONICAL)
    site.hidden = frozenset(name for key, name in named if key in (FILES, CATEGORIES)) | set(HIDDEN)


def _read_page(element: ElementTree.Element, prefix: str) -> Page | None:
    """A page, or None for what is no article."""

    def text(path: str) -> str:
        return element.findtext("/".join(f"{prefix}{tag}" for tag in path.split("/"))) or ""

    if text("ns") not in ("", "0") or text("revision/model") not in ("", "wikitext"):
        return None
    found = element.find(f"{prefix}redirect")
    redirect = found.get("title") if found is not None else None
    wikitext = "" if redirect is not None else text("revision/text")
    return Page(int(text("id") or 0), text("title"), wikitext, redirect)


def write_redirects(lists: Iterable[Path], target: Path, language: Language) -> int:
    """Make a SQLite file of redirects out of files with one ``["title", "target"]`` a line; how many there are."""
    target.unlink(missing_ok=True)
    base = sqlite3.connect(target)
    with base:
        base.execute("create table redirect(title text primary key, target text) without rowid")
        for file in lists:
            with file.open(encoding="utf-8") as lines:
                pairs = (json.loads(line) for line in lines)
                rows = ((title_key(a, language), title_key(b.partition("#")[0], language)) for a, b in pairs)
                base.executemany("insert or ignore into redirect values (?, ?)", rows)
        count = base.execute("select count(*) from redirect").fetchone()[0]
    base.close()
    return int(count)


class Redirects:
    """Where a title leads, from what `write_redirects` wrote."""

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)

    def follow(self, title: str) -> str:
        """The title key that a title key leads to: itself where it is no redirect."""
        for _ in range(MAX_REDIRECTS):
            found = self._base.execute("select target from redirect where title = ?", (title,)).fetchone()
            if found is None:
                break
            title = found[0]
        return title
