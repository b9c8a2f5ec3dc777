"""Answers on their way: when the page changes, how they are stopped, what is said at their end."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from src.serving.web.client import PageError, Piece
from src.serving.web.streaming import Running, Runs, error_line, watch
from src.serving.web.texts import texts_of

TEXTS = texts_of("en")


class Slow:
    """Pieces "0", "1", … as an API would send them; knows whether it was closed and how many were taken."""

    def __init__(self, count: int, seconds: float = 0.02, error: PageError | None = None):
        self.count, self.seconds, self.error = count, seconds, error
        self.taken, self.closed = 0, False

    async def pieces(self) -> AsyncIterator[Piece]:
        try:
            for number in range(self.count):
                await asyncio.sleep(self.seconds)
                self.taken += 1
                yield Piece(str(number % 10))
            if self.error:
                raise self.error
            yield Piece("", "stop", self.count)
        finally:
            self.closed = True


def test_text_grows_in_steps_and_ends_with_a_note() -> None:
    async def run() -> tuple[list[str], Running]:
        answer, seen = Running(Slow(20).pieces()), []
        async for _ in watch([answer], asyncio.Event()):
            seen.append(answer.text)
        return seen, answer

    seen, answer = asyncio.run(run())
    assert len(set(seen)) >= 3 and all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    assert seen[-1] == "01234567890123456789" and "20 tokens" in answer.note(TEXTS) and "finished" in answer.note(TEXTS)


def test_updates_are_fewer_than_pieces() -> None:
    async def run() -> int:
        return len([1 async for _ in watch([Running(Slow(200, 0.001).pieces())], asyncio.Event())])

    assert asyncio.run(run()) < 40


def test_stopping_closes_the_source_and_keeps_the_text() -> None:
    async def run() -> tuple[Slow, Running]:
        source, stop = Slow(10_000), asyncio.Event()
        answer = Running(source.pieces())
        async for _ in watch([answer], stop):
            if len(answer.text) > 3:
                stop.set()
        return source, answer

    source, answer = asyncio.run(run())
    assert source.closed and source.taken < 50 and answer.text.startswith("0123")
    assert "stopped" in answer.note(TEXTS) and "tokens" not in answer.note(TEXTS)  # nobody counted them


def test_a_source_that_says_nothing_can_be_stopped() -> None:
    async def run() -> Slow:
        source, stop = Slow(1, seconds=60), asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, stop.set)
        async with asyncio.timeout(5):
            async for _ in watch([Running(source.pieces())], stop):
                pass
        return source

    assert asyncio.run(run()).closed


def test_leaving_early_closes_all_sources() -> None:
    async def run() -> list[Slow]:
        sources = [Slow(10_000), Slow(10_000)]
        watched = watch([Running(source.pieces()) for source in sources], asyncio.Event())
        await anext(watched)
        await watched.aclose()  # type: ignore[attr-defined]
        return sources

    assert all(source.closed for source in asyncio.run(run()))


def test_two_answers_come_side_by_side() -> None:
    async def run() -> list[tuple[int, int]]:
        answers = [Running(Slow(20).pieces()), Running(Slow(20).pieces())]
        return [(len(answers[0].text), len(answers[1].text)) async for _ in watch(answers, asyncio.Event())]

    assert any(0 < left < 20 and 0 < right < 20 for left, right in asyncio.run(run()))


def test_an_error_of_one_answer_leaves_the_other_alone() -> None:
    async def run() -> list[Running]:
        broken = Slow(3, error=PageError("it broke", 500))
        answers = [Running(broken.pieces()), Running(Slow(12).pieces())]
        async for _ in watch(answers, asyncio.Event()):
            pass
        return answers

    broken, whole = asyncio.run(run())
    assert "it broke" in broken.note(TEXTS) and broken.text == "012" and whole.finish_reason == "stop"


def test_a_mistake_of_our_own_ends_the_answer_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong() -> AsyncIterator[Piece]:
        yield Piece("a")
        raise KeyError("ours")

    async def run() -> Running:
        answer = Running(wrong())
        async for _ in watch([answer], asyncio.Event()):
            pass
        return answer

    answer = asyncio.run(run())
    assert answer.ended and answer.text == "a" and "ours" in caplog.text
    assert "log" in answer.note(TEXTS) and "ours" not in answer.note(TEXTS)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("status", [0, 400, 401, 403, 404, 413, 429, 500, 503, 504])
def test_errors_are_sentences_with_what_the_server_said(language: str, status: int) -> None:
    error = PageError("the prompt is long {x}", status, "some_code", "prompt", "7")
    line = error_line(error, texts_of(language))
    assert line.startswith("⚠ ") and "the prompt is long {x}" in line and "Traceback" not in line
    assert status == 0 or "7" in line


def test_a_newer_run_takes_the_page_from_an_older_one() -> None:
    runs = Runs()
    first = runs.begin("visitor", "chat")
    other = runs.begin("visitor", "compare")
    second = runs.begin("visitor", "chat")
    assert first.superseded and first.stop.is_set() and not second.superseded and not other.stop.is_set()
    runs.end("visitor", "chat", first)  # too late: the place is the second's
    runs.stop("visitor", "chat")
    assert second.stop.is_set() and not second.superseded
    runs.stop("nobody", "chat")
