"""Conversations that the browser keeps."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from src.serving.web.history import MAX_CHARACTERS, MAX_CONVERSATIONS, Conversation, History, plain, until_question

TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=20)})
CONVERSATION = st.builds(Conversation, system=st.text(max_size=9), turns=st.lists(TURN, max_size=4).map(tuple))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "turns", "x"]), inner),
    max_leaves=8,
)


def question(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@given(st.lists(CONVERSATION, max_size=5))
def test_what_is_stored_is_read_back(conversations: list[Conversation]) -> None:
    history = History()
    for conversation in conversations:
        history = history.put(conversation)
    assert History.read(json.loads(json.dumps(history.stored()))) == history


@given(st.dictionaries(st.sampled_from(["conversations", "current"]), ANYTHING) | ANYTHING)
def test_whatever_a_browser_stored_is_no_error(stored: Any) -> None:
    history = History.read(stored)
    assert history.current is None or history.get(history.current)


def test_the_conversation_written_to_last_is_first_and_current() -> None:
    a, b = Conversation(turns=(question("a"),)), Conversation(turns=(question("b"),))
    history = History().put(a).put(b).put(a)
    assert [one.title for one in history.conversations] == ["a", "b"] and history.current == a.id


def test_the_oldest_are_dropped_beyond_the_limits() -> None:
    history = History()
    for number in range(MAX_CONVERSATIONS + 5):
        history = history.put(Conversation(turns=(question(str(number)),)))
    assert len(history.conversations) == MAX_CONVERSATIONS
    assert history.conversations[0].title == str(MAX_CONVERSATIONS + 4)
    history = history.put(Conversation(turns=(question("x" * (MAX_CHARACTERS - 5)),)))
    assert len(history.conversations) < 5 and history.conversations[0].size == MAX_CHARACTERS - 5


def test_a_conversation_that_is_too_long_is_not_kept_and_the_others_are() -> None:
    a, b = Conversation(turns=(question("a"),)), Conversation(turns=(question("b"),))
    history = History().put(a).put(b)
    assert history.put(Conversation(turns=(question("x" * (MAX_CHARACTERS + 1)),))) == History((b, a), None)
    assert history.put(Conversation(a.id, turns=(question("x" * (MAX_CHARACTERS + 1)),))) == History((b, a), a.id)


def test_deleting_the_current_conversation_begins_a_new_one() -> None:
    a, b = Conversation(turns=(question("a"),)), Conversation(turns=(question("b"),))
    history = History().put(a).put(b)
    assert history.delete(b.id) == History((a,), None)
    assert history.delete(a.id) == History((b,), b.id)


def test_a_long_first_question_is_cut_in_the_title() -> None:
    title = Conversation(turns=(question("word " * 30),)).title
    assert title.startswith("word word") and title.endswith("…") and len(title) == 40


def test_turns_end_at_the_question_that_is_asked_again() -> None:
    turns = [question("a"), {"role": "assistant", "content": "1"}, question("b"), {"role": "assistant", "content": "2"}]
    assert until_question(turns) == tuple(turns[:3])
    assert until_question(turns, 1) == tuple(turns[:1])
    assert until_question(turns, 2) == tuple(turns[:3])
    assert until_question([]) == ()


def test_content_in_parts_becomes_text() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "metadata": 1}
    ]
    assert plain(messages) == (question("ab"),) and plain(None) == ()
