"""A `Schema` out of a JSON schema, such as ``Model.model_json_schema()`` of a pydantic model.

What becomes of a property of the outermost object:

- a text or a list of texts: an entity type;
- an object, or a list of objects, with ``subject`` and ``object`` (or ``head`` and ``tail``): a relation;
- one with ``trigger``: an event, its other properties (or those of ``arguments``) the roles;
- any other object: a record (task KG), its properties the attributes.

An object whose properties are all single values is itself one record, named by its title.
"""

from collections.abc import Mapping
from typing import Any

from src.errors import UserError
from src.extraction.schema import EntityType, EventType, RecordType, RelationType, Role, Schema

MAX_DEPTH = 16  # of references to references


def from_json_schema(root: Mapping[str, Any]) -> Schema:
    """The schema that a JSON schema of an object describes. Raises `UserError` for one without properties."""
    outer = _resolved(root, root)
    properties = outer.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise UserError("the JSON schema describes no object with properties: give a model with fields")
    title = str(outer.get("title") or "record")
    parts = {str(name): _resolved(each, root) for name, each in properties.items()}
    if not any(each.get("type") in ("array", "object") or "properties" in each for each in parts.values()):
        record = RecordType(title, _roles(properties, root), _description(outer))
        return Schema(records=(record,), name=title)
    entities, relations, events, records = [], [], [], []
    for name, each in parts.items():
        inner = _resolved(each["items"], root) if "items" in each else each
        fields = inner.get("properties")
        about = _description(each) or _description(inner)
        if not isinstance(fields, Mapping):
            entities.append(EntityType(name, about))
        elif {"subject", "object"} <= set(fields) or {"head", "tail"} <= set(fields):
            relations.append(RelationType(name, description=about))
        elif "trigger" in fields:
            arguments = _resolved(fields.get("arguments") or {}, root).get("properties")
            roles = arguments or {key: value for key, value in fields.items() if key not in ("trigger", "arguments")}
            events.append(EventType(name, _roles(roles, root), about))
        else:
            records.append(RecordType(name, _roles(fields, root), about))
    return Schema(tuple(entities), tuple(relations), tuple(events), tuple(records), name=title)


def _roles(properties: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[Role, ...]:
    return tuple(Role(str(name), _description(_resolved(each, root))) for name, each in properties.items())


def _description(node: Mapping[str, Any]) -> str:
    return " ".join(str(node.get("description") or "").split())


def _resolved(node: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A node with its references followed and "or null" left out; what stands beside a reference wins."""
    found = dict(node) if isinstance(node, Mapping) else {}
    for _ in range(MAX_DEPTH):
        if "$ref" in found:
            beside = {key: value for key, value in found.items() if key != "$ref"}
            found = {**_target(str(found["$ref"]), root), **beside}
        elif alternatives := found.get("anyOf") or found.get("oneOf") or found.get("allOf"):
            if not isinstance(alternatives, list):
                raise UserError(f"anyOf, oneOf and allOf of a JSON schema are lists: found {alternatives!r:.60}")
            beside = {key: value for key, value in found.items() if key not in ("anyOf", "oneOf", "allOf")}
            some = [each for each in alternatives if isinstance(each, Mapping) and each.get("type") != "null"]
            found = {**(some[0] if some else {}), **beside}
        else:
            return found
    raise UserError("the references of the JSON schema go in a circle or are nested too deeply: make it flatter")


def _target(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    node: Any = root
    for key in reference.removeprefix("#/").split("/"):
        node = node.get(key) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        raise UserError(f"the JSON schema has no '{reference}': give it whole, with its $defs")
    return node
