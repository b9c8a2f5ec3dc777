"""Who may use an engine now: as many requests as it works on at a time, a bounded line behind them, a "no" for more.

The line is first come, first served. A refusal comes at once, with the seconds after which a place is likely free.
"""

import asyncio
import math
import time
from collections import deque

from src.serving.errors import ApiError

FIRST_GUESS_S = 2.0  # how long an answer takes, before any has been measured
MEMORY = 0.1  # weight of the newest answer in the mean duration
MAX_RETRY_S = 120


class Admission:
    """Places at one engine.

    Args:
        parallel: answers it works on at a time.
        max_waiting: answers that may wait for a place.
        wait_s: seconds that a request may wait for the first of its places; its `Job` sees to it.
    """

    def __init__(self, parallel: int, max_waiting: int, wait_s: float):
        self.parallel, self.max_waiting, self.wait_s = max(1, parallel), max_waiting, wait_s
        self.running = 0
        self.waiting = 0
        self.mean_s = FIRST_GUESS_S
        self._line: deque[asyncio.Future[None]] = deque()

    def enter(self, count: int) -> list["Ticket"]:
        """Tickets for the answers of one request, all or none. Raises 429 where the line is too long for them."""
        if count > self.parallel + self.max_waiting:
            raise ApiError(
                400,
                f"the request asks for {count} answers, and the server takes {self.parallel + self.max_waiting} at a "
                "time: ask for fewer in one request",
                code="too_many_choices",
            )
        if self.running + self.waiting + count > self.parallel + self.max_waiting:
            raise ApiError(
                429,
                f"the server is full: {self.running} answers are being written and {self.waiting} wait; try again "
                "after the seconds in Retry-After",
                code="queue_full",
                retry_after_s=self.retry_after_s(count),
            )
        self.waiting += count
        return [Ticket(self) for _ in range(count)]

    def retry_after_s(self, count: int = 1) -> int:
        """Whole seconds until so many answers have likely ended that ``count`` more can enter."""
        ahead = max(1, self.running + self.waiting + count - self.parallel - self.max_waiting)
        return max(1, min(MAX_RETRY_S, math.ceil(ahead * self.mean_s / self.parallel)))

    def waited_too_long(self) -> ApiError:
        """What a request is told that has waited for `wait_s`."""
        return ApiError(
            503,
            f"no place became free within {self.wait_s:g} seconds: try again after the seconds in Retry-After",
            code="queue_timeout",
            retry_after_s=self.retry_after_s(),
        )

    async def _take(self) -> None:
        """Wait for a place, in turn."""
        if self.running < self.parallel and not self._line:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the place came at the same moment
            else:
                self._leave_line(turn)
            raise

    def _leave_line(self, turn: "asyncio.Future[None]") -> None:
        turn.cancel()
        if turn in self._line:
            self._line.remove(turn)

    def _give(self) -> None:
        """Free a place: the next in line has it."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1


class Ticket:
    """One answer's way through the line; `close` is right at any moment, and more than once."""

    def __init__(self, admission: Admission):
        self.admission = admission
        self._state = "waiting"
        self._began = 0.0

    async def wait(self) -> None:
        """Until it is this answer's turn."""
        await self.admission._take()
        self._state, self._began = "running", time.monotonic()
        self.admission.waiting -= 1

    async def again(self) -> None:
        """Go to the end of the line with the next piece of the same work, so that others are served in between."""
        self.close()
        self.admission.waiting += 1
        self._state = "waiting"
        await self.wait()

    def close(self) -> None:
        """Give up the place, or the place in the line."""
        state, self._state = self._state, "closed"
        if state == "waiting":
            self.admission.waiting -= 1
        elif state == "running":
            took = time.monotonic() - self._began
            self.admission.mean_s += MEMORY * (took - self.admission.mean_s)
            self.admission._give()
