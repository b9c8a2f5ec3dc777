"""Requests and decodings that make no sense are refused in a sentence."""

import pytest

from src.errors import UserError
from src.generation.engine import Decoding, Request


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.7}, "temperature does nothing"),
        ({"seed": 1}, "seed does nothing"),
        ({"do_sample": True, "temperature": 0}, "decoding=greedy"),
        ({"do_sample": True, "num_beams": 2}, "beam search does not sample"),
        ({"top_p": 0, "do_sample": True}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_an_impossible_decoding_is_refused(settings, named):
    with pytest.raises(UserError, match=named):
        Decoding(**settings)


def test_a_request_has_either_a_prompt_or_messages():
    with pytest.raises(UserError, match="either"):
        Request("1")
