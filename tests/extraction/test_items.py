"""Sample records: items from JSON and back."""

import pytest

from src.errors import UserError
from src.extraction.items import Sample, items_from_record

RECORD = {
    "id": "1",
    "text": "IBM fired Al.",
    "source": "mine",
    "cate": "Event",
    "entity": [{"entity": "IBM", "entity_type": "company", "start": 0, "end": 3, "score": 0.5}],
    "relation": [{"head": "Al", "relation": "employer", "tail": "IBM", "tail_type": "company", "head_span": [10, 12]}],
    "event": [
        {
            "event_trigger": "fired",
            "event_type": "dismissal",
            "arguments": [{"argument": "Al", "role": "person", "start": 10, "end": 12}],
        }
    ],
}


def test_a_record_comes_back_as_it_was() -> None:
    items = items_from_record(RECORD)
    assert Sample("1", "IBM fired Al.", items, "mine", "Event").as_dict() == RECORD
    assert len(items) == 3
    assert (items + items).entities == items.entities * 2


@pytest.mark.parametrize(
    "record",
    [
        {"entity": [{"entity": "x"}]},
        {"entity": [{"entity": ["x"], "entity_type": "y"}]},
        {"relation": "x"},
        {"event": [3]},
    ],
)
def test_labels_of_another_shape_are_refused(record: dict) -> None:
    with pytest.raises(UserError, match=r"must be lists of entity"):
        items_from_record(record)
