"""Settings that cannot work are refused at once."""

import pickle

import pytest

from src.corpus.readers import Reading
from src.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"txt_documents": "page"}, "txt_documents=page is none of: file, paragraph, line"),
        ({"format": "pdf"}, "format=pdf is none of: jsonl, txt"),
        ({"encoding": "utf-16"}, "encoding=utf-16 is unknown or does not keep ASCII"),
        ({"encoding": "nonsense"}, "encoding=nonsense is unknown"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Reading(**settings)


def test_settings_travel_to_other_processes():
    reading = Reading(text_field="content", encoding="gb18030")
    assert pickle.loads(pickle.dumps(reading)) == reading
