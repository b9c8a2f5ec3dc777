"""The knowledge that all later steps read: a SQLite file made in one pass over Wikidata and never changed again.

Tables: ``item`` (label, title, number of Wikipedias), ``name`` (many names to many items), ``relation`` and ``value``.
Rows are appended without indexes, together with how far the reading is, in one transaction; a run that is stopped goes
on there. The indexes are made at the end.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import orjson

from src.errors import UserError
from src.instructions.kg2instruction.vocabulary import INSTANCE_OF, SUBCLASS_OF, Language, load_vocabulary
from src.instructions.kg2instruction.wikidata import DumpPosition, Item, Value, read_entities, read_item

FORMAT = 1
COMMIT_ITEMS = 20_000
PROGRESS_ITEMS = 500
TABLES = """
create table item(id integer primary key, label text, title text, sitelinks integer);
create table name(name text, item integer);
create table relation(head integer, property integer, tail integer);
create table value(item integer, property integer, kind text, data text);
create table done(file text primary key, lines integer, bad integer);
create table meta(key text primary key, value text);
"""
INDEXES = """
create index if not exists title on item(title) where title is not null;
create index if not exists name_item on name(name, item);
create index if not exists item_name on name(item, name);
create index if not exists head on relation(head, property, tail);
create index if not exists tail on relation(tail, property, head);
create index if not exists item_value on value(item);
"""

OnProgress = Callable[[int, int], None]  # bytes of the dump and items that are behind


def index_request(files: Iterable[Path], language: Language) -> str:
    """What tells an index of other files, another language or another vocabulary."""
    properties = sorted(load_vocabulary().properties)
    return json.dumps([FORMAT, language, properties, [[file.name, file.stat().st_size] for file in files]])


def build_index(files: Iterable[Path], target: Path, language: Language, on_progress: OnProgress) -> dict[str, int]:
    """Read dump files into the index; an index that was begun from the same files goes on.

    Returns:
        Counts of what the index holds.

    Raises:
        UserError: a file is damaged or holds no items.
    """
    files = list(files)
    properties = load_vocabulary().properties
    part = target.with_name(f"{target.name}.part")
    with _begin(part, index_request(files, language)) as base:
        size = items = 0
        for file in files:
            items = _read_file(base, file, language, properties, (size, items), on_progress)
            size += file.stat().st_size
        if not (items := base.execute("select count(*) from item").fetchone()[0]):
            raise UserError(f"{files[0]} holds no item with a {language} name: give Wikidata's JSON dump")
        base.executescript(INDEXES)
        counts = {"items": items} | {
            table: base.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("name", "relation", "value")
        }
        counts["bad_lines"] = base.execute("select coalesce(sum(bad), 0) from done").fetchone()[0]
        base.execute(
            "insert or replace into meta values ('language', ?), ('counts', ?)", (language, json.dumps(counts))
        )
    base.close()
    os.replace(part, target)
    return counts


def _begin(part: Path, request: str) -> sqlite3.Connection:
    """Open what an earlier run began, if it was for the same files, else an empty base."""
    if part.exists():
        base = sqlite3.connect(part)
        try:
            found = base.execute("select value from meta where key = 'request'").fetchone()
        except sqlite3.DatabaseError:
            found = None
        if found is not None and found[0] == request:
            return base
        base.close()
        part.unlink()
    part.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(part)
    base.execute("pragma synchronous = normal")
    base.executescript(TABLES)
    with base:
        base.execute("insert into meta values ('request', ?)", (request,))
    return base


def _read_file(
    base: sqlite3.Connection,
    file: Path,
    language: Language,
    properties: frozenset[int],
    before: tuple[int, int],
    on_progress: OnProgress,
) -> int:
    """Append the items of a file; ``before``: bytes and items that are behind already. Items behind now."""
    name = str(file)
    lines, bad = base.execute("select lines, bad from done where file = ?", (name,)).fetchone() or (0, 0)
    position = DumpPosition(lines=lines, bad=bad)
    size, items = before

    def commit(lines: int) -> None:
        base.execute("insert or replace into done values (?, ?, ?)", (name, lines, position.bad))
        base.commit()

    for entity in read_entities(file, position):
        try:
            item = read_item(entity, language, properties)
        except (KeyError, TypeError, ValueError, AttributeError):
            position.bad += 1  # one odd entity must not end the reading of a hundred million
            continue
        if item is None or not _append(base, item):
            continue
        items += 1
        if items % PROGRESS_ITEMS == 0:
            on_progress(size + position.bytes, items)
        if items % COMMIT_ITEMS == 0:
            commit(position.lines - 1)  # the line may hold more; what is there already is not taken twice
    commit(position.lines)
    on_progress(size + file.stat().st_size, items)
    return items


def _append(base: sqlite3.Connection, item: Item) -> bool:
    """Append the rows of an item; False where it says nothing or is there already."""
    if not (item.names or item.title or item.relations):
        return False
    row = (item.id, item.label, item.title, item.sitelinks)
    if not base.execute("insert or ignore into item values (?, ?, ?, ?)", row).rowcount:
        return False
    base.executemany("insert into name values (?, ?)", [(name, item.id) for name in item.names])
    base.executemany("insert into relation values (?, ?, ?)", [(item.id, p, tail) for p, tail in item.relations])
    rows = [(item.id, value.property, value.kind, orjson.dumps(value.data).decode()) for value in item.values]
    base.executemany("insert into value values (?, ?, ?, ?)", rows)
    return True


class KnowledgeIndex:
    """A finished index, read-only, for any number of processes.

    Raises:
        UserError: there is no index at the path, or it is for another language.
    """

    def __init__(self, path: Path, language: Language) -> None:
        if not path.is_file():
            raise UserError(f"there is no index at {path}: give wikidata=… to make one")
        self.path = path
        self.language = language
        self._base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            found = self._base.execute("select value from meta where key = 'language'").fetchone()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} is no index of Wikidata ({error}): delete it or give another path") from error
        if found is None or found[0] != language:
            raise UserError(f"{path} is an index for language={found and found[0]}, not {language}: give another path")
        self.relations = lru_cache(maxsize=1 << 16)(self._relations)
        self.names = lru_cache(maxsize=1 << 16)(self._names)
        self.values = lru_cache(maxsize=1 << 14)(self._values)

    def counts(self) -> dict[str, int]:
        """What `build_index` counted."""
        return json.loads(self._base.execute("select value from meta where key = 'counts'").fetchone()[0])  # type: ignore[no-any-return]

    def label(self, item: int) -> str:
        """The label of an item, or its Q number where it has none."""
        found = self._base.execute("select label from item where id = ?", (item,)).fetchone()
        return (found and found[0]) or f"Q{item}"

    def titled(self, title: str) -> int | None:
        """The item of a page, by the key of its title."""
        found = self._base.execute("select id from item where title = ?", (title,)).fetchone()
        return found and found[0]

    def named(self, name: str) -> list[int]:
        """Every item that a name key may mean, those with the most Wikipedia pages first."""
        rows = self._base.execute(
            "select id from name join item on item = id where name = ? order by sitelinks desc, id", (name,)
        )
        return [row[0] for row in rows]

    def sitelinks(self, item: int) -> int:
        """In how many Wikipedias an item has a page; how well known it is."""
        found = self._base.execute("select sitelinks from item where id = ?", (item,)).fetchone()
        return found[0] if found else 0

    def _names(self, item: int) -> list[str]:
        """The name keys of an item."""
        return [row[0] for row in self._base.execute("select name from name where item = ? order by name", (item,))]

    def all_names(self) -> Iterator[str]:
        """Every name key once."""
        return (row[0] for row in self._base.execute("select distinct name from name"))

    def _relations(self, head: int) -> list[tuple[int, int]]:
        """[(property, tail), …] of an item, classes left out."""
        rows = self._base.execute("select property, tail from relation where head = ? order by property, tail", (head,))
        return [(p, tail) for p, tail in rows if p not in (INSTANCE_OF, SUBCLASS_OF)]

    def heads(self, tail: int, limit: int) -> list[int]:
        """Items with a relation to this one, at most so many, classes left out."""
        rows = self._base.execute(
            "select distinct head from relation where tail = ? and property not in (?, ?) order by head limit ?",
            (tail, INSTANCE_OF, SUBCLASS_OF, limit),
        )
        return [row[0] for row in rows]

    def _values(self, item: int) -> list[Value]:
        """The times, quantities and texts of an item."""
        rows = self._base.execute("select property, kind, data from value where item = ?", (item,))
        return [Value(property, kind, tuple(orjson.loads(data))) for property, kind, data in rows]

    def classes(self, item: int, property: int) -> list[int]:
        """What an item is an instance of (31) or a subclass of (279)."""
        rows = self._base.execute(
            "select tail from relation where head = ? and property = ? order by tail", (item, property)
        )
        return [row[0] for row in rows]
