"""An embedded store of facts: one SQLite file with every triple once, all its mentions, and lookup by entity.

Adding is a stream that is committed every few thousand triples; a killed process loses the last batch and nothing else,
and adding the same again changes nothing. Entities that are one can be merged (`merge_duplicates`) and unmerged; their
names as found stay. Safe for several threads and processes: writers wait for each other, readers never wait.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from src.errors import UserError
from src.knowledge.facts import Fact, says_more
from src.knowledge.iris import statement_number
from src.knowledge.merging import Merge, merge_duplicates, undo_merge, unite
from src.knowledge.names import NameRules, name_key, words
from src.knowledge.tables import Tables
from src.knowledge.triples import Provenance, Span, Triple

BATCH = 20_000  # triples in one transaction
KNOWN = 1_000_000  # names whose ids are kept in memory while adding: about 150 MB

Pair = tuple[str, str]  # a name and its type

ADD_FACT = "INSERT OR IGNORE INTO fact (head, relation, tail) VALUES (?, ?, ?)"
ADD_MENTION = """
INSERT INTO mention (number, document, source, sentence, head_start, head_end, tail_start, tail_end, score, fact)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, id FROM fact WHERE head = ? AND relation = ? AND tail = ?
ON CONFLICT (number) DO NOTHING
"""
FACTS = """
SELECT group_concat(f.id), h.entity, r.text, t.entity FROM fact f
JOIN name h ON h.id = f.head JOIN relation r ON r.id = f.relation JOIN name t ON t.id = f.tail
WHERE {condition} GROUP BY h.entity, f.relation, t.entity
"""
MENTION = """
h.text, r.text, t.text, h.type, t.type, m.head_start, m.head_end, m.tail_start, m.tail_end, m.score,
m.document, m.source, m.sentence
FROM fact f JOIN name h ON h.id = f.head JOIN relation r ON r.id = f.relation JOIN name t ON t.id = f.tail
"""
ALL_MENTIONS = f"SELECT {MENTION} LEFT JOIN mention m ON m.fact = f.id ORDER BY f.id, m.id"
MENTIONS_OF = f"SELECT {MENTION} LEFT JOIN mention m ON m.fact = f.id WHERE f.id = ? ORDER BY m.id"
MENTIONED = f"""
SELECT eh.text, eh.type, et.text, et.type, {MENTION}
JOIN mention m ON m.fact = f.id JOIN name eh ON eh.id = h.entity JOIN name et ON et.id = t.entity WHERE {{condition}}
"""


@dataclass(frozen=True)
class Added:
    """How many facts and mentions were new."""

    facts: int = 0
    mentions: int = 0


@dataclass(frozen=True)
class KnownEntity:
    """An entity of the store, or a value: its name, its other names, and how many facts it is head and tail of."""

    id: int
    name: str
    type: str = ""
    aliases: tuple[str, ...] = ()
    outgoing: int = 0
    incoming: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"aliases": list(self.aliases)}


@dataclass(frozen=True)
class About:
    """What the store knows about one entity."""

    entity: KnownEntity
    outgoing: tuple[Fact, ...]
    incoming: tuple[Fact, ...]


class KnowledgeStore:
    """Facts in one file.

    Args:
        path: made where it is not there.
        must_exist: that is an error instead.

    Raises:
        UserError: the file is no knowledge store.
    """

    def __init__(self, path: str | Path, must_exist: bool = False):
        self.tables = Tables(path, must_exist)
        self._name_ids: dict[Pair, int] = {}

    def __enter__(self) -> "KnowledgeStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the store can't be used any more."""
        self.tables.close()

    def __len__(self) -> int:
        """Facts, as found: merges make none of them the same."""
        return int(self.tables.reader.execute("SELECT count(*) FROM fact").fetchone()[0])

    def __iter__(self) -> Iterator[Triple]:
        """Every mention of every fact, names as found, by fact in the order of adding."""
        return (_triple(row) for row in self.tables.reader.execute(ALL_MENTIONS))

    def add(self, triples: Iterable[Triple]) -> Added:
        """Add triples as they come; those that are there already, with the same provenance, are passed over.

        Raises:
            UserError: a triple lacks its head, relation or tail. The batches before it are kept.
        """
        new = Added()
        stream = iter(triples)
        while batch := list(itertools.islice(stream, BATCH)):
            with self.tables.writing() as connection:
                ids = self._add_names(connection, batch)
                found = self._add(connection, batch, ids)
            new = Added(new.facts + found.facts, new.mentions + found.mentions)
            self._name_ids |= ids  # not before the commit: a rollback takes them back
        return new

    def remove(self, document: str) -> int:
        """Take out what one document says, such as before it is read again; returns the number of mentions.

        A fact goes with the last of its mentions, also where it was once added without any provenance.
        """
        with self.tables.writing() as connection:
            facts = [row[0] for row in connection.execute("SELECT fact FROM mention WHERE document = ?", (document,))]
            connection.execute("DELETE FROM mention WHERE document = ?", (document,))
            connection.executemany(
                "DELETE FROM fact WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM mention WHERE fact = ?1)",
                ((fact,) for fact in set(facts)),
            )
            return len(facts)

    def match(self, head: str | None = None, relation: str | None = None, tail: str | None = None) -> Iterator[Fact]:
        """Facts with these parts; None is any. Names match by any of an entity's names, see `find`."""
        heads, tails = self._ids(head), self._ids(tail)
        if heads == [] or tails == []:
            return iter(())
        return self.facts_between(heads, relation, tails)

    def about(self, name: str) -> list[About]:
        """The entities of a name, each with its facts; the one with most facts first, none where nobody knows it."""
        found = []
        for entity in self.find(name):
            outgoing = tuple(self.facts_between([entity.id], None, None))
            incoming = tuple(self.facts_between(None, None, [entity.id]))
            found.append(About(entity, outgoing, incoming))
        return found

    def find(self, name: str) -> list[KnownEntity]:
        """Entities that have a name: exactly it, else one that differs in case, width, spaces and marks only."""
        ids = self._ids(name) or []
        return sorted(map(self._known, ids), key=lambda known: (-known.outgoing - known.incoming, known.id))

    def search(self, text: str, limit: int = 20) -> list[KnownEntity]:
        """Entities with a name that has this in it: whole words, the last of them a beginning; any part in Chinese.

        Where there is no word in it, such as in an emoji, all names are looked through.
        """
        if not (key := name_key(text)):
            return []
        has, value = ("name_words MATCH ?", f'"{wanted}"*') if (wanted := words(text)) else ("instr(n.key, ?)", key)
        rows = self.tables.reader.execute(
            f"SELECT DISTINCT n.entity FROM name_words w JOIN name n ON n.id = w.rowid WHERE {has} "
            "ORDER BY n.key <> ?, length(n.text), n.id LIMIT ?",
            (value, key, limit),
        )
        return [self._known(row[0]) for row in rows.fetchall()]

    def entities(self, type: str | None = None) -> Iterator[KnownEntity]:
        """All entities and values, or those of one type, in the order of adding."""
        where, values = ("", ()) if type is None else ("AND type = ?", (type,))
        rows = self.tables.reader.execute(f"SELECT id FROM name WHERE entity = id {where} ORDER BY id", values)
        return (self._known(row[0]) for row in rows)

    def relations(self) -> dict[str, int]:
        """The relations and how many facts each has, the most frequent first."""
        rows = self.tables.reader.execute(
            "SELECT r.text, count(*) FROM fact f JOIN relation r ON r.id = f.relation GROUP BY r.id ORDER BY 2 DESC, 1"
        )
        return dict(rows.fetchall())

    def counts(self) -> dict[str, int]:
        """Entities and values, names, relations, facts, mentions, documents, merges."""
        asked = {
            "entities": "count(*) FROM name WHERE entity = id",
            "names": "count(*) FROM name",
            "relations": "count(DISTINCT relation) FROM fact",
            "facts": "count(*) FROM fact",
            "mentions": "count(*) FROM mention",
            "documents": "count(DISTINCT document) FROM mention WHERE document <> ''",
            "merges": "count(*) FROM merging",
        }
        return {key: self.tables.reader.execute(f"SELECT {sql}").fetchone()[0] for key, sql in asked.items()}

    def query(self, sparql: str) -> "Any":
        """Ask in SPARQL, see `src.knowledge.sparql`. Returns an ``rdflib.query.Result``. Raises `UserError`."""
        from src.knowledge.sparql import query

        return query(self, sparql)

    def merge_duplicates(self, rules: NameRules | None = None) -> Merge:
        """Make entities of one name one, see `src.knowledge.merging`."""
        return merge_duplicates(self.tables, rules or NameRules())

    def merge(self, into: str, names: Iterable[str]) -> Merge:
        """Say that names are names of one entity. Raises `UserError` where one is not known, or known of several."""
        return unite(self.tables, [self._only(name) for name in (into, *names)])

    def undo_merge(self) -> int:
        """Undo the last merge that is not undone yet; returns how many names have an entity of their own again."""
        return undo_merge(self.tables)

    def facts(self, condition: str = "true", values: tuple[Any, ...] = (), mentions: bool = True) -> Iterator[Fact]:
        """All facts, or those of an SQL condition on fact f, head name h, relation r and tail name t.

        mentions: False leaves them out, which is faster.
        """
        rows = self.tables.reader.execute(FACTS.format(condition=condition), values)
        names: dict[int, Pair] = {}
        for ids, head, relation, tail in rows:
            for entity in (head, tail):
                if entity not in names:
                    if len(names) >= KNOWN:
                        names.clear()
                    names[entity] = self._name(entity)
            fact = _fact(names[head], relation, names[tail], ())
            yield replace(fact, mentions=self._mentions(ids, fact)) if mentions else fact

    def facts_between(
        self, heads: list[int] | None, relation: str | None, tails: list[int] | None, mentions: bool = True
    ) -> Iterator[Fact]:
        """Facts by ids of entities (`KnownEntity.id`); None is any."""
        conditions, values = ["true"], list[Any]()
        for column, entities in (("f.head", heads), ("f.tail", tails)):
            if entities is not None:
                marks = ", ".join("?" * len(entities))
                conditions.append(f"{column} IN (SELECT id FROM name WHERE entity IN ({marks}))")
                values += entities
        if relation is not None:
            conditions.append("f.relation = (SELECT id FROM relation WHERE text = ?)")
            values.append(relation)
        return self.facts(" AND ".join(conditions), tuple(values), mentions)

    def mentioned(self, condition: str = "true", values: tuple[Any, ...] = ()) -> Iterator[Fact]:
        """Each mention as a fact of its own; the condition may also speak of mention m."""
        for row in self.tables.reader.execute(MENTIONED.format(condition=condition), values):
            mention = _triple(row[4:])
            yield _fact(row[:2], mention.relation, row[2:4], (mention,))

    def _add(self, connection: sqlite3.Connection, triples: list[Triple], names: Mapping[Pair, int]) -> Added:
        if bad := next((t for t in triples if not (t.head and t.relation and t.tail)), None):
            raise UserError(f"the triple {bad.as_dict()} has an empty head, relation or tail: leave it out")
        relations = self._add_relations(connection, {triple.relation for triple in triples})
        keys = [(names[t.head, t.head_type], relations[t.relation], names[t.tail, t.tail_type]) for t in triples]
        rows = [(*_mention_row(t), *key) for t, key in zip(triples, keys, strict=True) if says_more(t)]
        facts = connection.executemany(ADD_FACT, keys).rowcount
        return Added(facts, connection.executemany(ADD_MENTION, rows).rowcount if rows else 0)

    def _add_names(self, connection: sqlite3.Connection, triples: list[Triple]) -> dict[Pair, int]:
        if len(self._name_ids) > KNOWN:
            self._name_ids = {}
        wanted = dict.fromkeys(pair for t in triples for pair in ((t.head, t.head_type), (t.tail, t.tail_type)))
        ids: dict[Pair, int] = {}
        fresh = []
        last = connection.execute("SELECT coalesce(max(id), 0) FROM name").fetchone()[0]
        for pair in wanted:
            if (known := self._name_ids.get(pair)) is not None:
                ids[pair] = known
            elif row := connection.execute("SELECT id FROM name WHERE text = ? AND type = ?", pair).fetchone():
                ids[pair] = row[0]
            else:
                last += 1
                ids[pair] = last
                fresh.append((last, *pair, name_key(pair[0]), last))
        connection.executemany("INSERT INTO name VALUES (?, ?, ?, ?, ?)", fresh)
        connection.executemany(
            "INSERT INTO name_words (rowid, words) VALUES (?, ?)", ((row[0], words(row[1])) for row in fresh)
        )
        return ids

    def _add_relations(self, connection: sqlite3.Connection, relations: set[str]) -> dict[str, int]:
        connection.executemany("INSERT OR IGNORE INTO relation (text) VALUES (?)", ((r,) for r in sorted(relations)))
        return dict(connection.execute("SELECT text, id FROM relation").fetchall())

    def _mentions(self, ids: str, fact: Fact) -> tuple[Triple, ...]:
        """Mentions of the facts that are one; what was found without more is one if it has other names."""
        ask = self.tables.reader.execute  # one prepared statement for all
        found = (_triple(row) for id in ids.split(",") for row in ask(MENTIONS_OF, (int(id),)))
        bare = Triple(fact.head, fact.relation, fact.tail, fact.head_type, fact.tail_type)
        return tuple(triple for triple in found if triple != bare or says_more(triple))

    def _ids(self, name: str | None) -> list[int] | None:
        """Entities that have a name; None for any."""
        if name is None:
            return None
        for column, value in (("text", name), ("key", name_key(name))):
            rows = self.tables.reader.execute(f"SELECT DISTINCT entity FROM name WHERE {column} = ?", (value,))
            if found := [row[0] for row in rows]:
                return found
        return []

    def _only(self, name: str) -> int:
        ids = self._ids(name) or []
        if len(ids) != 1:
            types = ", ".join(self._name(each)[1] or "no type" for each in ids)
            what = f"{len(ids)} entities are called '{name}' ({types})" if ids else f"nothing is called '{name}'"
            raise UserError(f"{what}: give names of one entity each; python scripts/knowledge.py search finds them")
        return ids[0]

    def _name(self, entity: int) -> tuple[str, str]:
        row: tuple[str, str] = self.tables.reader.execute(
            "SELECT text, type FROM name WHERE id = ?", (entity,)
        ).fetchone()
        return row

    def _known(self, entity: int) -> KnownEntity:
        ask = self.tables.reader.execute
        name, type = self._name(entity)
        aliases = ask("SELECT DISTINCT text FROM name WHERE entity = ? AND text <> ? ORDER BY id", (entity, name))
        ends = [
            ask(
                f"SELECT count(*) FROM fact WHERE {end} IN (SELECT id FROM name WHERE entity = ?)", (entity,)
            ).fetchone()[0]
            for end in ("head", "tail")
        ]
        return KnownEntity(entity, name, type, tuple(row[0] for row in aliases), *ends)


def _mention_row(triple: Triple) -> tuple[Any, ...]:
    head_span, tail_span = triple.head_span or (None, None), triple.tail_span or (None, None)
    where = triple.provenance or Provenance()
    return (
        *(statement_number(triple), where.document, where.source, where.sentence),
        *(*head_span, *tail_span, triple.score),
    )


def _fact(head: Sequence[str], relation: str, tail: Sequence[str], mentions: tuple[Triple, ...]) -> Fact:
    return Fact(head[0], relation, tail[0], head[1], tail[1], mentions)


def _triple(row: tuple[Any, ...]) -> Triple:
    head, relation, tail, head_type, tail_type, start, end, tail_start, tail_end, score, *where = row
    head_span = None if start is None else Span(start, end)
    tail_span = None if tail_start is None else Span(tail_start, tail_end)
    provenance = Provenance(*where) if any(where) else None
    return Triple(head, relation, tail, head_type, tail_type, head_span, tail_span, score, provenance)
