"""Requests and decodings that make no sense are refused in a sentence."""

import asyncio
import signal
import threading
import time

import pytest

from src.errors import UserError
from src.generation.engine import Decoding, Event, Request, generate_in_thread


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
        ({"json_schema": {}, "ignore_eos": True}, "ignore_eos does not go with json_schema"),
    ],
)
def test_an_impossible_decoding_is_refused(settings, named):
    with pytest.raises(UserError, match=named):
        Decoding(**settings)


def test_a_request_has_either_a_prompt_or_messages():
    with pytest.raises(UserError, match="either"):
        Request("1")


def test_one_stop_text_may_stand_without_a_list():
    assert Decoding(stop="END").stop == ("END",)


class Slow:
    """An engine that thinks for a minute about "slow" and answers everything else at once."""

    max_parallel, left = 1, False

    def check(self, request):
        return 0

    async def stream(self, request):
        try:
            await asyncio.sleep(60 if request.prompt == "slow" else 0)
            yield Event(request.id, "!", "stop", 1, 1)
        finally:
            self.left = True

    async def release(self):
        pass


def test_ctrl_c_before_the_first_event_stops_the_work():
    engine, began, main = Slow(), time.monotonic(), threading.get_ident()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(generate_in_thread(engine, [Request("1", prompt="slow")]))
    finally:
        signal.signal(signal.SIGINT, before)
    assert engine.left and time.monotonic() - began < 10


def test_leaving_at_the_last_event_is_no_error():
    events = generate_in_thread(Slow(), [Request("1", prompt="fast")])
    assert next(events).finish_reason == "stop"
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("Thread") and thread.daemon for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    events.close()


def test_a_grammar_is_no_text():
    with pytest.raises(UserError, match=r"decoding\.grammar is 'start: .*: it must be a Grammar"):
        Decoding(grammar="start: /a/")
