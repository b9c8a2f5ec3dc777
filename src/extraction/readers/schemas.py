"""A `Schema` out of whatever people have: a name, a file of one of several forms, a pydantic model, plain Python data.

Forms of files, told apart by what is in them:

- YAML with ``entities``, ``relations``, ``events``, ``records`` (``configs/schema/person_org_place.yaml`` explains it),
  for one language, or for several under ``en:`` and ``zh:``;
- IEPile's two or three JSON lines: types, roles or relations, type → roles;
- InstructIE's object: topic → [[head type_relation_tail type, …], [relation, …]];
- DuIE's list of ``{subject_type, predicate, object_type}``, as one array or one object a line;
- a JSON schema, such as a pydantic model's: `src.extraction.readers.json_schemas` says what becomes of its properties.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.items import Argument, Entity, Event, Items
from src.extraction.schema import EntityType, EventType, Language, RecordType, RelationType, Role, Schema

__all__ = ["SCHEMAS", "read_readable", "read_schema", "read_topics", "renamed", "renamed_items", "schema_names"]

SCHEMAS = Path(__file__).resolve().parents[3] / "configs" / "schema"
LANGUAGES: tuple[Language, ...] = ("en", "zh")
KINDS = ("entities", "relations", "events", "records")
KEYS = {"name", "language", "readable", *KINDS}


def schema_names() -> list[str]:
    """The schemas that have a name: the files of ``configs/schema``."""
    return sorted(path.stem for path in SCHEMAS.glob("*.yaml"))


def read_schema(source: Any, language: Language | None = None, topic: str | None = None) -> Schema:
    """A schema from a name, a path, a pydantic model, a JSON schema, or plain data.

    Plain data are a list of entity types, an object from entity type to description, or the content of a YAML file.

    Args:
        language: of the prompt; where a file has several, which one. None: the file's, or its first.
        topic: of an InstructIE file.

    Raises:
        UserError: there is no such schema, or it can't be read.
    """
    if isinstance(source, Schema):
        return replace(source, language=language or source.language)
    if hasattr(source, "model_json_schema"):
        source = source.model_json_schema()
    if not isinstance(source, (str, Path)):
        return _of_data(source, language, topic, "")
    path = _path(source)
    try:
        return _of_data(_load(path), language, topic, path.stem)
    except UserError as error:
        raise UserError(f"schema {path}: {error}") from error


def read_topics(source: str | Path, language: Language | None = None) -> dict[str, Schema]:
    """The schemas of an InstructIE file by topic; empty for every other kind of source."""
    try:
        data = _load(_path(source))
    except UserError as error:
        raise UserError(f"schema {source}: {error}") from error
    return {topic: _of_data(data, language, topic, topic) for topic in data} if _is_topics(data) else {}


def read_readable(source: Any, language: Language | None = None) -> dict[str, str]:
    """Readable names for the labels of a data set, from ``readable:`` in its YAML file; empty where it has none."""
    data = _load(_path(source)) if isinstance(source, (str, Path)) else source
    if not _is_fields(data):
        return {}
    return {str(label): str(name) for label, name in (_section(data, language)[0].get("readable") or {}).items()}


def renamed(schema: Schema, names: Mapping[str, str]) -> Schema:
    """A schema whose types, relations and roles have other names; those not in ``names`` keep theirs."""

    def name(old: str) -> str:
        return names.get(old, old)

    def roles(old: Iterable[Role]) -> tuple[Role, ...]:
        return tuple(replace(role, name=name(role.name)) for role in old)

    return replace(
        schema,
        entities=tuple(replace(each, name=name(each.name)) for each in schema.entities),
        relations=tuple(
            replace(each, name=name(each.name), head_type=name(each.head_type), tail_type=name(each.tail_type))
            for each in schema.relations
        ),
        events=tuple(replace(each, name=name(each.name), roles=roles(each.roles)) for each in schema.events),
        records=tuple(
            replace(each, name=name(each.name), attributes=roles(each.attributes)) for each in schema.records
        ),
    )


def renamed_items(items: Items, names: Mapping[str, str]) -> Items:
    """Items with the same other names as `renamed` gives their schema."""

    def entity(old: Entity) -> Entity:
        return replace(old, type=names.get(old.type, old.type))

    def argument(old: Argument) -> Argument:
        return replace(old, role=names.get(old.role, old.role))

    def event(old: Event) -> Event:
        return replace(old, type=names.get(old.type, old.type), arguments=tuple(map(argument, old.arguments)))

    relations = (
        replace(
            old,
            relation=names.get(old.relation, old.relation),
            head_type=names.get(old.head_type, old.head_type),
            tail_type=names.get(old.tail_type, old.tail_type),
        )
        for old in items.relations
    )
    return Items(tuple(map(entity, items.entities)), tuple(relations), tuple(map(event, items.events)))


def write_schema(schema: Schema, path: str | Path) -> None:
    """Write a schema as YAML that `read_schema` reads as the same schema."""
    import yaml

    text = yaml.safe_dump(as_data(schema), allow_unicode=True, sort_keys=False, width=110)
    Path(path).write_text(f"# A schema of what to extract, as configs/schema/person_org_place.yaml.\n{text}", "utf-8")


def as_data(schema: Schema) -> dict[str, Any]:
    """A schema as the content of its YAML file."""
    data: dict[str, Any] = {"name": schema.name} if schema.name else {}
    data["language"] = schema.language
    if schema.entities:
        data["entities"] = [_fields(name=each.name, description=each.description) for each in schema.entities]
    if schema.relations:
        data["relations"] = [
            _fields(name=each.name, head=each.head_type, tail=each.tail_type, description=each.description)
            for each in schema.relations
        ]
    if schema.events:
        data["events"] = [
            _fields(name=each.name, description=each.description, roles=_roles_as_data(each.roles))
            for each in schema.events
        ]
    if schema.records:
        data["records"] = [
            _fields(name=each.name, description=each.description, attributes=_roles_as_data(each.attributes))
            for each in schema.records
        ]
    return data


def _roles_as_data(roles: Iterable[Role]) -> list[Any]:
    return [_fields(name=role.name, description=role.description) for role in roles]


def _fields(**fields: Any) -> Any:
    """What has a value; a name alone as itself."""
    kept = {key: value for key, value in fields.items() if value}
    return kept["name"] if set(kept) == {"name"} else kept


# Finding and loading


def _path(source: str | Path) -> Path:
    if isinstance(source, str) and source in (names := schema_names()):
        return SCHEMAS / f"{source}.yaml"
    path = Path(source).expanduser()
    if not path.is_file():
        names = schema_names()
        raise UserError(f"schema={source} is neither a file nor one of the schemas here: {', '.join(names)}")
    return path


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            return yaml.safe_load(text)
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"the file is not UTF-8 (byte {error.start}): convert it, with iconv for instance") from None
    except json.JSONDecodeError as error:
        raise UserError(f"the file is neither JSON nor lines of JSON ({error}): mend it or write YAML") from None
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise UserError(f"the file is not YAML ({' '.join(str(error).split())}): mend it") from None
        raise


def _of_data(data: Any, language: Language | None, topic: str | None, name: str) -> Schema:
    if isinstance(data, Mapping):
        if _is_topics(data):
            schema = _of_topic(data, topic)
        elif "properties" in data or "$ref" in data:
            from src.extraction.readers.json_schemas import from_json_schema

            schema = from_json_schema(data)
        elif _is_fields(data):
            fields, found = _section(data, language)
            schema = replace(_of_fields(fields), language=found, name=str(fields.get("name") or ""))
        elif all(value is None or isinstance(value, str) for value in data.values()):
            schema = Schema(entities=tuple(EntityType(str(key), value or "") for key, value in data.items()))
        else:
            raise UserError(f"a schema has the keys {', '.join(KINDS)}: found {', '.join(map(str, data))}")
    elif isinstance(data, Sequence) and not isinstance(data, str) and data:
        schema = _of_sequence(data)
    else:
        raise UserError(f"a schema is a list of types or an object with {', '.join(KINDS)}: found {data!r:.60}")
    if not isinstance(data, Mapping) or "language" not in data:
        guessed = language or (schema.language if _has_sections(data) else _language_of(schema))
        schema = replace(schema, language=guessed)
    return replace(schema, language=language or schema.language, name=schema.name or name)


def _of_sequence(data: Sequence[Any]) -> Schema:
    if all(isinstance(each, str) for each in data):
        return Schema(entities=tuple(EntityType(each) for each in data))
    if all(isinstance(each, Mapping) and "predicate" in each for each in data):
        return Schema(relations=tuple(relation for each in data for relation in _of_duie(each)))
    lines = len(data) in (2, 3) and all(isinstance(each, list) for each in data[:2])
    if lines and (len(data) == 2 or isinstance(data[2], Mapping)):
        return _of_lines(data[0], data[1], data[2] if len(data) == 3 else {})
    raise UserError(
        "a list is one of type names, IEPile's three lines, or DuIE's objects with 'predicate': found other"
    )


# YAML


def _is_fields(data: Any) -> bool:
    """Whether this is the content of a YAML file and not an object from type to description."""
    if not isinstance(data, Mapping) or not set(data) <= KEYS | set(LANGUAGES):
        return False
    return any(isinstance(data.get(key), (list, Mapping)) for key in (*KINDS, *LANGUAGES))


def _has_sections(data: Any) -> bool:
    return isinstance(data, Mapping) and any(key in data for key in LANGUAGES)


def _section(data: Mapping[str, Any], language: Language | None) -> tuple[Mapping[str, Any], Language]:
    """The part of a YAML file that is for a language, with what the file says for all."""
    sections = [each for each in LANGUAGES if each in data]
    if not sections:
        return data, data.get("language") or language or "en"
    chosen = language if language in sections else sections[0]
    if not isinstance(data[chosen], Mapping):
        raise UserError(f"'{chosen}' of a schema is an object with {', '.join(KINDS)}: found {data[chosen]!r:.60}")
    return {**{key: value for key, value in data.items() if key not in LANGUAGES}, **data[chosen]}, chosen


def _of_fields(data: Mapping[str, Any]) -> Schema:
    if not any(data.get(kind) for kind in KINDS):
        raise UserError(f"there is nothing to extract: give one of {', '.join(KINDS)}")
    return Schema(
        entities=tuple(EntityType(name, _text(more)) for name, more in _entries(data.get("entities"), "entities")),
        relations=tuple(
            RelationType(name, head, tail, _text(more))
            for name, more in _entries(data.get("relations"), "relations")
            for head, tail in product(_types(more, "head"), _types(more, "tail"))
        ),
        events=tuple(
            EventType(name, _roles(more, "roles"), _text(more)) for name, more in _entries(data.get("events"), "events")
        ),
        records=tuple(
            RecordType(name, _roles(more, "attributes"), _text(more))
            for name, more in _entries(data.get("records"), "records")
        ),
    )


def _entries(data: Any, kind: str) -> Iterator[tuple[str, Any]]:
    """Names with what is said of them, from a list of names and objects or an object by name."""
    if data is None:
        return
    if isinstance(data, Mapping):
        yield from ((str(name), more) for name, more in data.items())
        return
    if not isinstance(data, list):
        raise UserError(f"'{kind}' is a list or an object by name: found {data!r:.60}")
    for each in data:
        if isinstance(each, Mapping):
            if not each.get("name"):
                raise UserError(f"an entry of '{kind}' has no name: found {dict(each)!r:.80}")
            yield str(each["name"]), each
        else:
            yield str(each), None


def _text(more: Any) -> str:
    if isinstance(more, Mapping):
        more = more.get("description")
    return str(more).strip() if isinstance(more, (str, int, float)) else ""


def _types(more: Any, end: str) -> list[str]:
    found = more.get(end) if isinstance(more, Mapping) else None
    return [str(each) for each in found] if isinstance(found, list) else [str(found or "")]


def _roles(more: Any, key: str) -> tuple[Role, ...]:
    found = more.get(key) if isinstance(more, Mapping) else more
    return tuple(Role(name, _text(about)) for name, about in _entries(found, key))


# Data sets


def _is_topics(data: Any) -> bool:
    """Whether this is InstructIE's object of topics, each with two lists."""
    return (
        isinstance(data, Mapping)
        and bool(data)
        and not set(data) <= KEYS
        and all(isinstance(each, list) and len(each) == 2 and isinstance(each[0], list) for each in data.values())
    )


def _of_topic(data: Mapping[str, Any], topic: str | None) -> Schema:
    if topic is None or topic not in data:
        given = f"topic={topic} is not in it" if topic else "the schema has one part for each topic"
        raise UserError(f"{given}: give topic=… as one of {', '.join(data)}")
    relations = [_typed(each) for each in data[topic][0]] or [RelationType(each) for each in data[topic][1]]
    return Schema(relations=tuple(relations), name=topic)


def _typed(text: str) -> RelationType:
    """A relation from ``head type_relation_tail type``; a relation may hold the line below, a type may not."""
    head, *middle, tail = text.split("_")
    if not middle:
        raise UserError(f"'{text}' is not of the form head type_relation_tail type")
    return RelationType("_".join(middle), head, tail)


def _of_lines(types: list[str], names: list[str], roles: Mapping[str, list[str]]) -> Schema:
    if not types:
        return Schema(relations=tuple(RelationType(name) for name in names))
    if all(each.count("_") >= 2 and _typed(each).name in names for each in types):
        records = tuple(RecordType(name, tuple(map(Role, each))) for name, each in roles.items())
        return Schema(relations=tuple(map(_typed, types)), records=records)
    events = tuple(EventType(each, tuple(map(Role, roles.get(each, ())))) for each in types)
    if roles:
        return Schema(events=events)
    return Schema(entities=tuple(map(EntityType, types)), events=events)  # NER's and EET's files look the same


def _of_duie(each: Mapping[str, Any]) -> list[RelationType]:
    """The relation of a predicate, and ``predicate:slot`` for each further part of a complex object."""
    tails = each.get("object_type") or ""
    slots = tails if isinstance(tails, Mapping) else {"@value": tails}
    head, name = str(each.get("subject_type") or ""), str(each["predicate"])
    ordered = sorted(slots.items(), key=lambda slot: slot[0] != "@value")
    return [RelationType(name if slot == "@value" else f"{name}:{slot}", head, str(tail)) for slot, tail in ordered]


def _language_of(schema: Schema) -> Language:
    """Chinese where any name holds a Chinese character."""
    kinds: tuple[Sequence[Any], ...] = (schema.entities, schema.relations, schema.events, schema.records)
    names = "".join(each.name for kind in kinds for each in kind)
    return "zh" if any("一" <= letter <= "鿿" for letter in names) else "en"
