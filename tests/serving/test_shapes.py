"""Answers in the shapes of the API's routes."""

from hypothesis import given
from hypothesis import strategies as st

from src.generation.engine import Event, TokenLogprob
from src.serving.shapes import Answer, joined, usage

TEXTS = st.lists(st.text(max_size=5), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=4), st.booleans()), max_size=30))
def test_joined_pieces_lose_no_text_wherever_the_batches_are_cut(events: list[tuple[int, str, bool]]) -> None:
    answers = [Answer() for _ in range(3)]
    whole = [""] * 3
    batch: list[tuple[int, Event]] = []
    counts = [0] * 3
    for number, text, cut in events:
        counts[number] += 1
        whole[number] += text
        token = TokenLogprob(text, text.encode(), -1.0)
        batch.append((number, Event("x", text, None, 7, counts[number], (token,))))
        if cut:
            for index, piece in joined(batch).items():
                answers[index].extend(piece)
            batch = []
    for index, piece in joined(batch).items():
        answers[index].extend(piece)
    assert [answer.text for answer in answers] == whole
    assert [answer.completion_tokens for answer in answers] == counts
    assert ["".join(token.token for token in answer.logprobs) for answer in answers] == whole


def test_a_prompt_with_several_answers_is_counted_once() -> None:
    answers = [Answer(prompt_tokens=5, completion_tokens=2) for _ in range(6)]
    assert usage(answers, n=3) == {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22}
