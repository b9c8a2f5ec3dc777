"""Schemas out of pydantic models and JSON schemas."""

import pytest
from pydantic import BaseModel, Field

from src.errors import UserError
from src.extraction.readers.schemas import read_schema
from src.extraction.schema import EntityType, EventType, RecordType, RelationType, Role


class Pair(BaseModel):
    subject: str
    object: str


class Arguments(BaseModel):
    buyer: str | None = Field(None, description="who buys")


class Deal(BaseModel):
    """A company buys another."""

    trigger: str
    arguments: Arguments


class Person(BaseModel):
    born: str = Field(description="date of birth")
    works: list[str] = []


class News(BaseModel):
    places: list[str] = Field(description="names of places")
    founder: list[Pair]
    deal: list[Deal]
    person: list[Person]


class Card(BaseModel):
    name: str
    age: int | None = None


def test_the_fields_of_a_model_become_types_by_their_shape() -> None:
    schema = read_schema(News)
    assert schema.name == "News"
    assert schema.entities == (EntityType("places", "names of places"),)
    assert schema.relations == (RelationType("founder"),)
    assert schema.events == (EventType("deal", (Role("buyer", "who buys"),), "A company buys another."),)
    assert schema.records == (RecordType("person", (Role("born", "date of birth"), Role("works"))),)


def test_a_model_of_single_values_is_one_record() -> None:
    assert read_schema(Card).records == (RecordType("Card", (Role("name"), Role("age"))),)


def test_a_json_schema_is_read_as_its_model_is() -> None:
    assert read_schema(News.model_json_schema()) == read_schema(News)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {}}, "no object with properties"),
        ({"$ref": "#/$defs/A"}, "has no '#/\\$defs/A'"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "in a circle"),
    ],
)
def test_a_json_schema_without_an_object_is_said(schema: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_schema(schema)
