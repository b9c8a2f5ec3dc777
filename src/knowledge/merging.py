"""Names that mean one entity become one entity, and can be taken apart again.

Names of one key (`NameRules`) are merged where their types allow it: all of one type, or of one type and none. Where a
key has several types, the names of each type are merged among themselves and those without a type stay as they are;
such keys are counted as ambiguous. Values (numbers, dates) are never merged. The name that most facts use stands for
the entity, one with a type before one without.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from src.errors import UserError
from src.knowledge.iris import is_value
from src.knowledge.names import NameRules
from src.knowledge.tables import Tables


@dataclass(frozen=True)
class Merge:
    """What a merge did.

    id: 0 where there was nothing to merge, and nothing is recorded.
    entities: that have more names than before.
    names: that are now another entity's.
    ambiguous: keys whose names have several types.
    """

    id: int
    entities: int
    names: int
    ambiguous: tuple[str, ...] = ()


def merge_duplicates(tables: Tables, rules: NameRules) -> Merge:
    """Merge all names of one key."""
    with tables.writing() as connection:
        groups: dict[str, dict[int, str]] = defaultdict(dict)
        for entity, text, type in connection.execute("SELECT id, text, type FROM name WHERE entity = id"):
            if not is_value(text, type):
                groups[rules.key(text)][entity] = type
        ambiguous = []
        sets: list[list[int]] = []
        for key, types in groups.items():
            if len(types) < 2:
                continue
            if len(set(filter(None, types.values()))) > 1:
                ambiguous.append(key)
            sets += _mergeable(types)
        merged = _record(connection, sets, f"legal_forms={rules.legal_forms}, simplified={rules.simplified}")
    return Merge(merged.id, merged.entities, merged.names, tuple(sorted(ambiguous)))


def unite(tables: Tables, entities: list[int]) -> Merge:
    """Merge entities into the first of them."""
    with tables.writing() as connection:
        return _record(connection, [list(dict.fromkeys(entities))], "by hand", keep_order=True)


def undo_merge(tables: Tables) -> int:
    """Undo the last merge. Raises `UserError` where there is none."""
    with tables.writing() as connection:
        last = connection.execute("SELECT max(id) FROM merging").fetchone()[0]
        if last is None:
            raise UserError(f"nothing was merged in {tables.path}: there is nothing to undo")
        rows = connection.execute("SELECT before, name FROM merged WHERE merging = ?", (last,)).fetchall()
        connection.executemany("UPDATE name SET entity = ? WHERE id = ?", rows)
        connection.execute("DELETE FROM merged WHERE merging = ?", (last,))
        connection.execute("DELETE FROM merging WHERE id = ?", (last,))
        return len(rows)


def _mergeable(types: dict[int, str]) -> Iterator[list[int]]:
    by_type: dict[str, list[int]] = defaultdict(list)
    for entity, type in types.items():
        by_type[type].append(entity)
    if len([type for type in by_type if type]) == 1:
        yield list(types)
    else:
        yield from (entities for entities in by_type.values() if len(entities) > 1)


def _record(connection: sqlite3.Connection, sets: list[list[int]], rules: str, keep_order: bool = False) -> Merge:
    """Give each set one entity, and write down what every name was before."""
    sets = [entities for entities in sets if len(entities) > 1]
    if not sets:
        return Merge(0, 0, 0)
    merging = connection.execute("INSERT INTO merging (rules) VALUES (?)", (rules,)).lastrowid or 0
    names = 0
    for entities in sets:
        into = entities[0] if keep_order else max(entities, key=lambda entity: _weight(connection, entity))
        for entity in entities:
            if entity != into:
                connection.execute(
                    "INSERT INTO merged SELECT ?, id, entity FROM name WHERE entity = ?", (merging, entity)
                )
                names += connection.execute("UPDATE name SET entity = ? WHERE entity = ?", (into, entity)).rowcount
    return Merge(merging, len(sets), names)


def _weight(connection: sqlite3.Connection, entity: int) -> tuple[bool, int, int]:
    typed, facts = connection.execute(
        "SELECT type <> '', (SELECT count(*) FROM fact WHERE head = ?1) + (SELECT count(*) FROM fact WHERE tail = ?1) "
        "FROM name WHERE id = ?1",
        (entity,),
    ).fetchone()
    return bool(typed), facts, -entity
