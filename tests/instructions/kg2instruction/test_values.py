"""Dates and quantities are found as people write them, and only as whole words and numbers."""

import pytest

from src.instructions.kg2instruction.values import dates, find_value, numbers, renderings
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikidata import Value

BIRTH = Value(569, "time", (1852, 3, 12, 11))


def found(
    text: str, value: Value, language: Language = "en", units: tuple[str, ...] = (), bare_years: bool = False
) -> str | None:
    place = find_value(text, 0, len(text), renderings(value, language, units, (), bare_years), value.kind)
    return text[slice(*place)] if place else None


@pytest.mark.parametrize(
    "text",
    ["12 March 1852", "March 12, 1852", "12 Mar 1852", "1852-03-12", "March 12th, 1852", "March 1852", "12 March"],
)
def test_an_english_date_is_found(text: str) -> None:
    assert found(f"born on {text}, they say", BIRTH) == text


@pytest.mark.parametrize(
    "text", ["1852年3月12日", "1852年三月12日", "1852年03月12日", "公元1852年3月12日", "3月12日", "1852年"]
)
def test_a_chinese_date_is_found(text: str) -> None:
    assert found(f"生于{text}。", BIRTH, "zh") == text


@pytest.mark.parametrize("text", ["March 13, 1852", "112 March 18521", "in 1852", "12 March1"])
def test_another_date_is_not_found(text: str) -> None:
    assert found(text, BIRTH) is None


@pytest.mark.parametrize(
    ("text", "value", "language"),
    [
        ("On March 12, 1865 he spoke", BIRTH, "en"),
        ("on 12 March 1865", BIRTH, "en"),
        ("on 3 March 1852", BIRTH, "en"),
        ("on May 3, 1852", BIRTH, "en"),
        ("in 1852 BC", BIRTH, "en"),
        ("44 people", Value(569, "time", (44, 0, 0, 9)), "en"),
        ("他于1852年5月3日来", BIRTH, "zh"),
        ("他于1936年3月12日来", BIRTH, "zh"),
        ("在1852年代", BIRTH, "zh"),
        ("公元前252年", Value(569, "time", (252, 0, 0, 9)), "zh"),
        ("他住了25年", Value(569, "time", (25, 0, 0, 9)), "zh"),
        ("十一月25日", Value(569, "time", (1881, 1, 25, 11)), "zh"),
    ],
)
def test_a_date_is_not_taken_out_of_another_one(text: str, value: Value, language: Language) -> None:
    assert found(text, value, language, bare_years=True) is None


def test_a_bare_year_is_a_date_only_where_that_is_asked_for() -> None:
    assert found("in 1852", BIRTH, bare_years=True) == "1852"


def test_the_most_exact_spelling_is_taken() -> None:
    assert found("In March 1852, on March 12, 1852, it was.", BIRTH) == "March 12, 1852"


@pytest.mark.parametrize(
    ("text", "language"),
    [("44 BC", "en"), ("15 March 44 BCE", "en"), ("公元前44年3月15日", "zh"), ("前44年", "zh")],
)
def test_years_before_christ_need_their_mark(text: str, language: Language) -> None:
    value = Value(570, "time", (-44, 3, 15, 11))
    assert found(f"({text})", value, language) == text
    assert not any(spelling in ("44", "44年") for spelling in dates(-44, 3, 15, 11, language, True))


@pytest.mark.parametrize(
    ("amount", "language", "spelling"),
    [
        ("1234567", "en", "1,234,567"),
        ("1500000", "en", "1.5 million"),
        ("12000000", "zh", "1200万"),
        ("27.4", "en", "27.4"),
        ("943.62", "en", "944"),
        ("0.25", "en", "0.25"),
    ],
)
def test_a_number_is_spelled(amount: str, language: Language, spelling: str) -> None:
    assert spelling in numbers(amount, language)


def test_a_number_is_not_rounded_far() -> None:
    assert "2" not in numbers("2.4", "en") and "2.4" in numbers("2.4", "en")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It covers 468 km2 there", "468 km2"),
        ("It covers 468km2.", "468km2"),
        ("It covers 1,468 km2.", None),
        ("It covers 468 km2s", None),
        ("468", None),
    ],
)
def test_a_quantity_needs_its_unit(text: str, expected: str | None) -> None:
    assert found(text, Value(2046, "quantity", ("468", 712226)), units=("km2", "square kilometres")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("48,312 live", "48,312"), ("148,312 live", None), ("48,312.5", None), ("48312", "48312"), ("348,312", None)],
)
def test_a_number_within_another_is_not_found(text: str, expected: str | None) -> None:
    assert found(text, Value(1082, "quantity", ("48312", 0))) == expected


@pytest.mark.parametrize(
    ("text", "amount", "units", "language"),
    [
        ("at 5 m/s", "5", ("m",), "en"),
        ("3 miles per hour", "3", ("miles",), "en"),
        ("1,234 million", "1234", (), "en"),
        ("1234万人", "1234", (), "zh"),
        ("1万5千人", "10000", (), "zh"),
    ],
)
def test_a_quantity_is_not_taken_out_of_another_one(
    text: str, amount: str, units: tuple[str, ...], language: Language
) -> None:
    value = Value(2046, "quantity", (amount, 1 if units else 0))
    assert found(text, value, language, units) is None


def test_the_mass_of_a_star_in_kilograms_is_a_number_like_others() -> None:
    assert "1988550000000000000000000000000" in numbers("1988550000000000000000000000000", "en")


def test_small_numbers_without_unit_are_not_looked_for() -> None:
    assert found("in 12 years", Value(1120, "quantity", ("12", 0))) is None
