"""Names are compared as MediaWiki and readers of either script do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.instructions.kg2instruction.names import Simplified, name_key, simplified, title_key


@pytest.mark.parametrize(
    ("title", "key"),
    [("computer_science", "Computer science"), ("NASA ", "NASA"), ("\u200eiPod", "IPod"), ("A  b", "A b")],
)
def test_a_title_begins_big_and_keeps_its_case(title: str, key: str) -> None:
    assert title_key(title, "en") == key


def test_chinese_names_are_the_same_in_both_scripts() -> None:
    assert name_key("陳遠山", "zh") == name_key("陈远山", "zh") == "陈远山"


@given(st.text(alphabet="陳遠山後發國a ", max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_places_lead_back_where_a_conversion_changes_lengths(text: str, one: int, other: int) -> None:
    def convert(part: str) -> str:  # two letters for one, and none for another
        return part.replace("後", "后后").replace("發", "")

    view = simplified(text, "zh", convert)
    start, end = sorted((min(one, len(view.text)), min(other, len(view.text))))
    back = view.back(start, end)
    if start < end and view.places is not None:
        part = text[slice(*back)]
        assert view.text[start:end] in convert(part)


def test_english_stays_as_it_is() -> None:
    assert simplified("後", "en") == Simplified("後")
