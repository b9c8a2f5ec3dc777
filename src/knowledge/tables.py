"""The tables of a knowledge store, and connections to them.

``name`` has every name as it was found, once for each type; ``entity`` is the name that stands for it: its own id
until a merge. ``fact`` is a triple of names, ``mention`` a place where one was found. ``merging`` and ``merged`` are
the merges that can be undone.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError

APPLICATION = 0x4B4C4D31  # marks our files
VERSION = 1
SCHEMA = """
CREATE TABLE name (id INTEGER PRIMARY KEY, text TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL,
                   entity INTEGER NOT NULL, UNIQUE (text, type));
CREATE INDEX name_key ON name (key);
CREATE INDEX name_entity ON name (entity);
CREATE VIRTUAL TABLE name_words USING fts5 (words, content='', detail='full', tokenize="unicode61 remove_diacritics 2");
CREATE TABLE relation (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE fact (id INTEGER PRIMARY KEY, head INTEGER NOT NULL, relation INTEGER NOT NULL, tail INTEGER NOT NULL,
                   UNIQUE (head, relation, tail));
CREATE INDEX fact_tail ON fact (tail, relation);
CREATE INDEX fact_relation ON fact (relation);
CREATE TABLE mention (id INTEGER PRIMARY KEY, number INTEGER NOT NULL UNIQUE, fact INTEGER NOT NULL,
                      document TEXT NOT NULL, source TEXT NOT NULL, sentence TEXT NOT NULL,
                      head_start INTEGER, head_end INTEGER, tail_start INTEGER, tail_end INTEGER, score REAL);
CREATE INDEX mention_fact ON mention (fact);
CREATE INDEX mention_document ON mention (document) WHERE document <> '';
CREATE TABLE merging (id INTEGER PRIMARY KEY AUTOINCREMENT, rules TEXT NOT NULL,
                      at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')));
CREATE TABLE merged (merging INTEGER NOT NULL, name INTEGER NOT NULL, before INTEGER NOT NULL,
                     PRIMARY KEY (merging, name)) WITHOUT ROWID;
"""


class Tables:
    """Connections to one file: one that writes, under a lock, and one for each thread that reads.

    Raises:
        UserError: the file is there and is no knowledge store, or a newer one; or it is not there and must be.
    """

    def __init__(self, path: str | Path, must_exist: bool = False):
        self.path = Path(path).expanduser()
        if must_exist and not self.path.is_file():
            raise UserError(f"there is no knowledge store {self.path}: make one with python scripts/knowledge.py add")
        self._all: list[sqlite3.Connection] = []
        self._readers = threading.local()
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._prepare()
        except UserError:
            self.close()
            raise
        except (sqlite3.DatabaseError, OSError) as error:
            self.close()
            raise UserError(f"{self.path} can't be opened as a knowledge store: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or nothing. Waits up to a minute for another process that writes."""
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @property
    def reader(self) -> sqlite3.Connection:
        """This thread's connection; what it iterates over is the store as it was when the query began."""
        if (found := getattr(self._readers, "connection", None)) is None:
            found = self._readers.connection = self._connect()
            found.execute("PRAGMA query_only = ON")
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self._all.append(connection)
        connection.execute("PRAGMA synchronous = NORMAL")  # with a log: a crash loses no more than the last commits
        connection.execute("PRAGMA cache_size = -65536")
        return connection

    def _prepare(self) -> None:
        application = self._number("application_id")
        if not application and not self._number("schema_version"):
            self._writer.execute("PRAGMA journal_mode = WAL")
            with self.writing() as connection:
                if not self._number("application_id"):  # another process may have been first
                    for statement in filter(str.strip, SCHEMA.split(";")):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
        elif application != APPLICATION:
            raise UserError(f"{self.path} is a database, but no knowledge store: give another path")
        if (found := self._number("user_version")) != VERSION:
            raise UserError(
                f"{self.path} has version {found} and this program reads version {VERSION}: export it there"
            )

    def _number(self, pragma: str) -> int:
        return int(self._writer.execute(f"PRAGMA {pragma}").fetchone()[0])
