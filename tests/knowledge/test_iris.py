"""IRIs of names in any script: one for each name, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.knowledge.iris import (
    ENTITY,
    XSD,
    Value,
    iri,
    is_value,
    names_in,
    object_of,
    statement_iri,
    statement_number,
    statement_number_in,
)
from src.knowledge.triples import Triple
from tests.knowledge.cases import any_triples, names, types


def test_chinese_names_are_percent_encoded() -> None:
    assert iri(ENTITY, "北京", "城市") == "urn:knowlm:entity:%E5%8C%97%E4%BA%AC:%E5%9F%8E%E5%B8%82"


@given(names, types)
def test_an_iri_gives_back_name_and_type(name: str, type: str) -> None:
    assert names_in(iri(ENTITY, name, type)) == (name, type)


@pytest.mark.parametrize("text", ["1815", "-3.5", "1,000", "50%", "2020年", "2020年5月1日", "5月1日", "1815-12-10"])
def test_untyped_numbers_and_dates_are_values(text: str) -> None:
    assert is_value(text, "")
    assert not is_value(text, "Book")


@pytest.mark.parametrize("text", ["Paris", "2020年奥运会", "7-Eleven", "3M", "北京"])
def test_untyped_names_are_entities(text: str) -> None:
    assert not is_value(text, "")
    assert is_value(text, "Text")


@pytest.mark.parametrize(
    ("text", "datatype"),
    [("36", "integer"), ("1.5", "decimal"), ("1815-12-10", "date"), ("1815-13-10", ""), ("007", ""), ("1.50", "")],
)
def test_only_canonical_values_have_a_data_type(text: str, datatype: str) -> None:
    assert object_of(text, "Text") == Value(text, datatype and XSD + datatype)


@given(any_triples)
def test_a_statement_is_found_by_its_iri(triple: Triple) -> None:
    number = statement_number(triple)
    assert statement_number_in(statement_iri(number)) == number


@given(st.text())
def test_what_is_no_statement_has_no_number_or_one_of_64_bits(text: str) -> None:
    number = statement_number_in(f"urn:knowlm:statement:{text}")
    assert number is None or -(1 << 63) <= number < 1 << 63
