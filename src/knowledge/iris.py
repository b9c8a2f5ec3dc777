"""Names as RDF has them: percent-encoded IRIs for entities, types and relations, literals for values.

An entity is ``urn:knowlm:entity:NAME:TYPE``, or without ``:TYPE`` where its type is not known, so that two things of
one name and different types stay two. The same name has the same IRI in every file. A tail is a value where its type is
one of `VALUE_TYPES`, or where it has no type and reads as a number or a date.
"""

import re
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from urllib.parse import quote, unquote

from src.knowledge.triples import Provenance, Triple

BASE = "urn:knowlm:"
ENTITY, TYPE, RELATION, STATEMENT, TERM = (
    f"{BASE}{kind}:" for kind in ("entity", "type", "relation", "statement", "term")
)
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
SKOS = "http://www.w3.org/2004/02/skos/core#"
XSD = "http://www.w3.org/2001/XMLSchema#"
PREFIXES = {
    "e": ENTITY,
    "t": TYPE,
    "r": RELATION,
    "s": STATEMENT,
    "k": TERM,
    "rdf": RDF,
    "rdfs": RDFS,
    "skos": SKOS,
    "xsd": XSD,
}

VALUE_TYPES = frozenset(
    (
        *("date", "time", "datetime", "year", "number", "numeral", "numeric", "integer", "float", "quantity", "amount"),
        *("money", "percent", "percentage", "text", "string", "literal", "url", "value"),
        *("日期", "时间", "年份", "年", "数字", "数值", "数量", "数", "金额", "百分比", "文本", "字符串", "网址"),
    )
)
VALUE = re.compile(
    r"[+-]?\d[\d,. ]*\s*[%‰]?|\d{1,4}-\d{1,2}(-\d{1,2})?|\d{1,4}年(\d{1,2}月(\d{1,2}[日号])?)?|\d{1,2}月\d{1,2}[日号]"
)
# Only what every RDF reader writes back as it was: 007 or 1.50 would come back as 7 or 1.5.
INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
DECIMAL = re.compile(r"-?(0|[1-9]\d{0,17})\.\d{0,17}[1-9]")
NUMBER = re.compile("[0-9a-f]{16}")
DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class Value:
    """A literal: its text and the IRI of its data type, "" for plain text."""

    text: str
    datatype: str = ""


def iri(kind: str, name: str, type: str = "") -> str:
    """The IRI of a name; ``kind`` is one of the prefixes above."""
    return f"{kind}{quote(name, safe='')}" + (f":{quote(type, safe='')}" if type else "")


def names_in(iri: str) -> tuple[str, str]:
    """Name and type that an IRI of ours holds."""
    name, _, type = iri.split(":", 3)[-1].partition(":")
    return unquote(name), unquote(type)


def is_value(text: str, type: str) -> bool:
    """Whether a tail is a value and no entity."""
    return type.casefold() in VALUE_TYPES if type else VALUE.fullmatch(text) is not None


def object_of(text: str, type: str) -> str | Value:
    """A tail: the IRI of an entity, or a value."""
    return value_of(text) if is_value(text, type) else iri(ENTITY, text, type)


def value_of(text: str) -> Value:
    """A literal with the data type that its text has in canonical form, else plain text."""
    if INTEGER.fullmatch(text):
        return Value(text, f"{XSD}integer")
    if DECIMAL.fullmatch(text):
        return Value(text, f"{XSD}decimal")
    if DATE.fullmatch(text) and _is_day(text):
        return Value(text, f"{XSD}date")
    return Value(text)


def statement_number(triple: Triple) -> int:
    """64 bits that say which statement this is: what, where and by whom, but not its score."""
    where = triple.provenance or Provenance()
    head, tail = triple.head_span, triple.tail_span
    places = f"{head[0]} {head[1]}" if head else "", f"{tail[0]} {tail[1]}" if tail else ""
    parts = (triple.head, triple.head_type, triple.relation, triple.tail, triple.tail_type, *places)
    said = "\0".join((*parts, where.document, where.source, where.sentence))
    return int.from_bytes(blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)


def statement_iri(number: int) -> str:
    """The IRI of a statement by its number."""
    return f"{STATEMENT}{number & 0xFFFFFFFFFFFFFFFF:016x}"


def statement_number_in(iri: str) -> int | None:
    """The other way; None where it is none of ours."""
    if not NUMBER.fullmatch(digits := iri.removeprefix(STATEMENT)):
        return None
    number = int(digits, 16)
    return number - (1 << 64) if number >> 63 else number


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).year > 0
    except ValueError:
        return False
