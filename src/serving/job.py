"""The answers to one HTTP request on their way: in line, at the engine, until they end or are no longer wanted.

Each answer has a task that waits for its place and then carries the engine's events into one box; where a request asks
for more answers than it may have places, each task sees to one after another, through the line again each time. Whoever
reads the box takes all that lies in it, so a reader slower than the engine gets fewer and larger pieces. Closing
`batches` ends the tasks, and with them the engine's work.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing

from src.errors import UserError
from src.generation.engine import Engine, EngineDown, Event, Request
from src.serving.admission import Admission, Ticket
from src.serving.errors import ApiError, api_error

log = logging.getLogger(__name__)

BOX_EVENTS = 512  # more than this waiting for the reader, and no further ones are taken from the engine


class Job:
    """Runs requests at an engine.

    Args:
        deadline_s: from the arrival of the request to the last event.
        spent_s: how much of it is gone.
        ping_s: `batches` yields an empty batch that often while nothing has come.
        request_id: for the log.
        queued: is given the seconds that an answer waited for its place.
        places: answers that may be in line or at work at a time; None for all.

    Raises:
        ApiError: 429 where there are no places for all of them.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Request],
        admission: Admission,
        deadline_s: float,
        spent_s: float,
        ping_s: float,
        request_id: str,
        queued: Callable[[float], None],
        places: int | None = None,
    ):
        self.engine, self.requests = engine, requests
        self.deadline_s, self.spent_s, self.ping_s = deadline_s, spent_s, ping_s
        self.request_id, self.queued = request_id, queued
        self.admission = admission
        self._tickets = admission.enter(min(len(requests), places or len(requests)))
        self._open = len(self._tickets)
        self._box: list[tuple[int, Event]] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._error: ApiError | None = None
        self._started = False  # an event has come
        self._placed = False  # an answer has a place; the others may wait behind it

    def fail(self, error: ApiError) -> None:
        """End all answers; `batches` raises the error after what has come so far."""
        self._error = self._error or error
        self._wake.set()

    def close(self) -> None:
        """Give up the places of a job whose `batches` was never read."""
        for ticket in self._tickets:
            ticket.close()

    async def batches(self) -> AsyncGenerator[list[tuple[int, Event]], None]:
        """What has come since the last batch: number of the answer, event. An empty batch is a sign of life."""
        loop = asyncio.get_running_loop()
        work = iter(list(enumerate(self.requests)))
        shares = [work if self._open < len(self.requests) else iter([next(work)]) for _ in self._tickets]
        tasks = [
            loop.create_task(self._answers(share, ticket)) for share, ticket in zip(shares, self._tickets, strict=True)
        ]
        end = loop.call_later(max(0.0, self.deadline_s - self.spent_s), self.fail, self._too_late())
        wait = loop.call_later(self.admission.wait_s, self._give_up_waiting)
        ping = loop.call_later(self.ping_s, self._wake.set)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._box = self._box, []
                self._room.set()
                if batch:
                    self._started = True
                    yield batch
                elif self._error is None and self._open and not self._started and loop.time() >= ping.when():
                    yield batch
                    ping = loop.call_later(self.ping_s, self._wake.set)
                if self._error is not None:
                    raise self._error
                if not self._open and not self._box:
                    return
        finally:
            end.cancel()
            wait.cancel()
            ping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()

    async def _answers(self, share: Iterator[tuple[int, Request]], ticket: Ticket) -> None:
        place = ticket.wait
        try:
            for number, request in share:
                came = time.perf_counter()
                await place()
                place = ticket.again
                self._placed = True
                self.queued(time.perf_counter() - came)
                await self._answer(number, request)
        except (ApiError, UserError, EngineDown) as error:
            self.fail(api_error(error, self.request_id))
        except Exception as error:
            log.exception("request %s failed", self.request_id)
            self.fail(api_error(error, self.request_id))
        finally:
            ticket.close()
            self._open -= 1
            self._wake.set()

    async def _answer(self, number: int, request: Request) -> None:
        async with aclosing(self.engine.stream(request)) as events:  # type: ignore[type-var]
            async for event in events:
                self._box.append((number, event))
                self._wake.set()
                if len(self._box) > BOX_EVENTS:
                    self._room.clear()
                    await self._room.wait()

    def _give_up_waiting(self) -> None:
        if not self._placed:
            self.fail(self.admission.waited_too_long())

    def _too_late(self) -> ApiError:
        return ApiError(
            504, f"the answer was not ready within {self.deadline_s:g} seconds: ask for fewer tokens", code="timeout"
        )
