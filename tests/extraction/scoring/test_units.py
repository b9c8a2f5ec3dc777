"""What of the gold items a schema asks for."""

from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.schema import EntityType, EventType, RecordType, RelationType, Role, Schema, Task
from src.extraction.scoring.units import VIEWS, asked_for, units

SCHEMA = Schema(
    (EntityType("loc"),),
    (RelationType("in", "loc", "loc"),),
    (EventType("die", (Role("victim"),)),),
    (RecordType("person", (Role("alias"),)),),
)


def test_every_view_of_every_task_has_units():
    assert all(units(Items(), task, view) == [] for task, views in VIEWS.items() for view in views)
    assert set(VIEWS) == set(Task)


def test_types_that_are_not_asked_for_are_left_out():
    kept = asked_for(Items((Entity("a", "loc"), Entity("b", "per")), (Relation("a", "in", "b"),)), SCHEMA, Task.NER)
    assert kept == Items((Entity("a", "loc"),))


def test_relations_are_asked_for_by_name_and_for_spo_by_types_where_gold_has_them():
    named, other = Relation("a", "in", "b", "per", "loc"), Relation("a", "near", "b")
    typed, untyped = Relation("a", "in", "b", "loc", "loc"), Relation("a", "in", "b")
    items = Items(relations=(named, other, typed, untyped))
    assert asked_for(items, SCHEMA, Task.RE).relations == (named, typed, untyped)
    assert asked_for(items, SCHEMA, Task.SPO).relations == (typed, untyped)


def test_roles_that_are_not_asked_for_are_left_out_of_an_event():
    event = Event("die", "shot", (Argument("Al", "victim"), Argument("1999", "time")))
    kept = asked_for(Items(events=(event, Event("marry", "wed"))), SCHEMA, Task.EE)
    assert kept.events == (Event("die", "shot", (Argument("Al", "victim"),)),)


def test_attributes_are_asked_for_by_the_type_of_their_entity_where_it_is_known():
    alias, untyped = Relation("a", "alias", "b", "person"), Relation("a", "alias", "b")
    items = Items((Entity("a", "person"), Entity("c", "loc")), (alias, untyped, Relation("a", "alias", "b", "dog")))
    assert asked_for(items, SCHEMA, Task.KG) == Items((Entity("a", "person"),), (alias, untyped))
