"""Answers while they come: their text so far, what to say about them, and how to stop them.

A page of Gradio gets a whole new state with each update, so updates are made a few times a second rather than for each
token. Closing an answer closes its HTTP request, which ends the work on the server.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from src.serving.web.client import PageError, Piece
from src.serving.web.texts import Texts

log = logging.getLogger(__name__)

UPDATE_S = 0.06  # between two updates of the page


class Running:
    """One answer on its way; `watch` drives it.

    Attributes:
        text: what has come so far.
        error: why it ended early, None where it did not.
        stopped: whether the reader ended it.
        ended: whether nothing more comes.
    """

    def __init__(self, pieces: AsyncIterator[Piece]):
        self._pieces = pieces
        self.text = ""
        self.finish_reason: str | None = None
        self.completion_tokens: int | None = None
        self.error: PageError | None = None
        self.remark = ""
        self.stopped = self.ended = False
        self._start = time.perf_counter()
        self.first_s: float | None = None
        self.total_s = 0.0

    async def receive(self) -> None:
        """Take pieces until the answer ends; cancelling this ends it at once."""
        try:
            async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    if self.first_s is None and (piece.text or piece.completion_tokens):
                        self.first_s = time.perf_counter() - self._start
                    self.text += piece.text
                    self.remark = piece.remark or self.remark
                    self.finish_reason = piece.finish_reason or self.finish_reason
                    self.completion_tokens = piece.completion_tokens or self.completion_tokens
        except PageError as error:
            self.error = error
        except asyncio.CancelledError:
            self.stopped = True
            raise
        except Exception:
            log.exception("an answer on the page failed")
            self.error = PageError("see the log of the server", code="internal")
        finally:
            self.total_s, self.ended = time.perf_counter() - self._start, True

    @property
    def begun(self) -> bool:
        """Whether the model has written something, seen here or not."""
        return bool(self.text or self.completion_tokens)

    def note(self, texts: Texts) -> str:
        """One line on how it goes or went: tokens, speed and why it ended, or the error."""
        if self.error is not None:
            return error_line(self.error, texts)
        if not self.ended:
            return texts("note_writing" if self.begun else "note_waiting")
        parts = []
        if self.completion_tokens and self.total_s:
            rate = self.completion_tokens / self.total_s
            parts.append(texts("note_tokens", tokens=self.completion_tokens, seconds=self.total_s, rate=rate))
        elif self.total_s:
            parts.append(texts("note_seconds", seconds=self.total_s))
        if self.first_s is not None:
            parts.append(texts("note_first", seconds=self.first_s))
        if self.stopped:
            parts.append(texts("finish_stopped"))
        elif self.finish_reason in ("stop", "length"):
            parts.append(texts(f"finish_{self.finish_reason}"))
        elif self.finish_reason:
            parts.append(self.finish_reason)
        if self.remark:
            parts.append(texts(self.remark))
        return " · ".join(parts)


def error_line(error: PageError, texts: Texts) -> str:
    """A sentence about an error of the API, in the language of the page; what the API said is kept as it is."""
    if error.code == "bad_key":
        return texts("error_key")
    if error.code == "internal":
        return texts("error_internal")
    if error.status == 0:
        return texts("error_unreachable", message=error.message)
    about = ", ".join(part for part in (error.code, error.param) if part)
    head = f"error_{error.status}" if f"error_{error.status}" in texts else "error_other"
    line = texts(head, message=error.message, status=error.status, about=f" ({about})" if about else "")
    return line + (texts("error_retry_after", seconds=error.retry_after) if error.retry_after else "")


async def watch(answers: Sequence[Running], stop: asyncio.Event) -> AsyncIterator[None]:
    """Receive answers side by side until all have ended or ``stop`` is set; yields whenever the page should change.

    Leaving early (the browser has gone) ends the answers too.
    """
    tasks = [asyncio.create_task(answer.receive()) for answer in answers]
    stopping = asyncio.create_task(stop.wait())
    shown = [(answer.text, answer.begun, answer.ended) for answer in answers]
    try:
        while not stopping.done() and not all(task.done() for task in tasks):
            await asyncio.wait([stopping, *tasks], timeout=UPDATE_S, return_when=asyncio.FIRST_COMPLETED)
            if (now := [(answer.text, answer.begun, answer.ended) for answer in answers]) != shown:
                shown = now
                yield
                await asyncio.sleep(UPDATE_S / 2)
    finally:
        for task in [stopping, *tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    yield


@dataclass
class Run:
    """What one visitor has running in one tab. superseded: a newer run owns the page, so this one must not draw."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    superseded: bool = False


class Runs:
    """The running answers of all visitors, so that a button pressed elsewhere can stop them.

    For the event loop that the answers come in, and no other thread.
    """

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], Run] = {}

    def begin(self, session: str, tab: str) -> Run:
        """A new run of a visitor in a tab; one that still goes on there is stopped."""
        self.supersede(session, tab)
        run = self._runs[session, tab] = Run()
        return run

    def end(self, session: str, tab: str, run: Run) -> None:
        """Forget a run that is over."""
        if self._runs.get((session, tab)) is run:
            del self._runs[session, tab]

    def stop(self, session: str, tab: str) -> None:
        """Stop what a visitor has running in a tab; what has come of it stays on the page."""
        if run := self._runs.get((session, tab)):
            run.stop.set()

    def supersede(self, session: str, tab: str) -> None:
        """Stop it, and keep it from drawing on the page again."""
        if run := self._runs.pop((session, tab), None):
            run.superseded = True
            run.stop.set()
