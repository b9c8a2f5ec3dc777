"""Wikidata's JSON: a dump's lines, or files of single entities, and what an entity says in one language.

Format: one JSON array, an entity a line with a comma at its end; https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from src.errors import UserError
from src.instructions.kg2instruction.dump_files import READ_ERRORS, damaged, open_dump
from src.instructions.kg2instruction.names import name_key, title_key
from src.instructions.kg2instruction.vocabulary import Language

# The languages whose names are taken, the best label first. "mul" holds names that are the same in all languages.
LABELS: Mapping[Language, tuple[str, ...]] = {
    "en": ("en", "en-gb", "en-ca", "en-us", "mul"),
    "zh": ("zh", "zh-hans", "zh-cn", "zh-hk", "zh-tw", "zh-hant", "zh-my", "zh-sg", "zh-mo", "mul"),
}
MAX_BAD_FRACTION = 0.05
MONTH, DAY, YEAR = 10, 11, 9  # precisions of a time


@dataclass(frozen=True)
class Value:
    """What a statement says that is no item.

    kind: ``time``, ``quantity`` or ``text``.
    data: [year, month, day, precision] with years before Christ negative, [amount, unit] or [string]; a unit of 0 is
        none.
    """

    property: int
    kind: str
    data: tuple[Any, ...]


@dataclass(frozen=True)
class Item:
    """An item as one language has it. ``label`` and ``title`` may be missing; ``names`` are keys, label included."""

    id: int
    label: str | None
    title: str | None
    names: tuple[str, ...]
    sitelinks: int
    relations: tuple[tuple[int, int], ...]
    values: tuple[Value, ...]


@dataclass
class DumpPosition:
    """How far a file has been read. ``bytes`` counts the file as it is stored."""

    lines: int = 0
    bytes: int = 0
    bad: int = 0


def read_entities(path: Path, position: DumpPosition) -> Iterator[dict[str, Any]]:
    """The entities of a file, after the lines that `position` says are behind; it moves with the reading.

    Raises:
        UserError: the file is damaged, holds no JSON, or too many of its lines are none.
    """
    behind = position.lines
    stream, raw = open_dump(path)
    try:
        with raw, stream:
            for line, rest in _lines(stream, path):
                if rest <= behind:
                    continue
                position.lines, position.bytes = rest, raw.tell()
                for entity in _entities(line):
                    if isinstance(entity, dict):
                        yield entity
                    else:
                        position.bad += 1
    except READ_ERRORS as error:
        raise damaged(path, error) from error
    if position.bad > MAX_BAD_FRACTION * position.lines:
        raise UserError(
            f"{path} has {position.bad} entries in {position.lines} lines that are no entities of Wikidata: give its "
            "JSON dump (latest-all.json.bz2) or files of entities"
        )


def _entities(line: bytes) -> Iterable[Any]:
    """What a JSON text holds: one entity, a list of them, or an answer of the API; None where it is no JSON."""
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        return (None,)
    if isinstance(data, list):
        return data
    found = data.get("entities") if isinstance(data, dict) else None
    return found.values() if isinstance(found, dict) else (data,)


def _lines(stream: IO[bytes], path: Path) -> Iterator[tuple[bytes, int]]:
    """The JSON texts of a file and their numbers: its lines, or all of it where one entity goes over many lines."""
    first = stream.readline()
    if first.strip() == b"{":
        yield first + stream.read(), 1
        return
    array = first.strip() == b"["
    closed = not array
    count = 0
    for line in itertools.chain([] if array else [first], stream):
        text = line.rstrip(b",\r\n ")
        if array and text == b"]":
            closed = True
        elif text:
            count += 1
            yield text, count
    if not closed:
        raise damaged(path, EOFError("the closing bracket is missing"))


def read_item(entity: Mapping[str, Any], language: Language, properties: Collection[int]) -> Item | None:
    """What an item says in a language about the given properties; None for what is no item.

    Deprecated statements and unknown values are left out.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the entity is not as Wikidata writes it.
    """
    if entity.get("type") != "item" or not str(entity.get("id", "")).startswith("Q"):
        return None
    names: dict[str, None] = {}
    label = None
    for code in LABELS[language]:
        if found := _mapping(entity, "labels").get(code):
            label = label or found["value"]
            names[name_key(found["value"], language)] = None
        for alias in _mapping(entity, "aliases").get(code, ()):
            names[name_key(alias["value"], language)] = None
    sitelinks = _mapping(entity, "sitelinks")
    title = sitelinks.get(f"{language}wiki", {}).get("title")
    relations: dict[tuple[int, int], None] = {}
    values: list[Value] = []
    for property, statements in _mapping(entity, "claims").items():
        if (number := int(property[1:])) not in properties:
            continue
        for statement in statements:
            found = _statement(statement)
            if isinstance(found, int):
                relations[number, found] = None
            elif found is not None:
                values.append(Value(number, *found))
    names.pop("", None)
    return Item(
        id=int(entity["id"][1:]),
        label=label,
        title=title_key(title, language) if title else None,
        names=tuple(names),
        sitelinks=sum(site.endswith("wiki") for site in sitelinks),
        relations=tuple(relations),
        values=tuple(dict.fromkeys(values)),
    )


def _mapping(entity: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return entity.get(key) or {}  # an empty mapping is written as []


def _statement(statement: Mapping[str, Any]) -> int | tuple[str, tuple[Any, ...]] | None:
    """The item that a statement points to, or the kind and data of its value."""
    snak = statement.get("mainsnak", {})
    if statement.get("rank") == "deprecated" or snak.get("snaktype") != "value":
        return None
    value = snak["datavalue"]
    kind, data = value["type"], value["value"]
    if kind == "wikibase-entityid":
        if data.get("entity-type", "item") != "item":
            return None
        return int(data["numeric-id"]) if "numeric-id" in data else int(data["id"][1:])
    if kind == "time":
        return _time(data)
    if kind == "quantity":
        unit = data.get("unit", "1")
        return "quantity", (data["amount"].lstrip("+"), int(unit.rpartition("Q")[2]) if "Q" in unit else 0)
    if kind == "monolingualtext":
        return "text", (data["text"],)
    return ("text", (data,)) if kind == "string" and snak.get("datatype", "string") == "string" else None


def _time(data: Mapping[str, Any]) -> tuple[str, tuple[int, ...]] | None:
    """Year, month and day as far as they are known; centuries and decades are left out."""
    if data["precision"] < YEAR:
        return None
    before, time = data["time"][0] == "-", data["time"].lstrip("+-")
    year, month, day = (int(part) for part in time.partition("T")[0].split("-"))
    return "time", (-year if before else year, month, day, min(data["precision"], DAY))
