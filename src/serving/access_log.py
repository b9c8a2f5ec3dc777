"""One JSON line for each request: who, what, how long, how many tokens, and never what was written, unless asked for.

Lines go through a thread, because a full pipe must not hold up the answers; a line that finds the queue full is dropped
and counted.
"""

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Any

import orjson

from src.errors import UserError

QUEUE_LINES = 10_000
CLOSE_S = 2.0


@dataclass
class Trace:
    """What is known about a request; it fills as the request goes on.

    Args:
        aborted: why its answer was broken off: client_gone, slow_reader, timeout, draining, engine_down, …
        prompt: only where prompts are logged.
    """

    id: str
    method: str
    path: str
    client: str | None
    began: float = field(default_factory=time.perf_counter)
    key: str | None = None
    route: str = "unmatched"
    model: str | None = None
    status: int = 0
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float | None = None
    first_token_s: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    error: str | None = None
    aborted: str | None = None
    prompt: Any = None

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    def line(self) -> str:
        """The JSON line; what is not known is left out."""
        names = ("id", "key", "client", "method", "path", "route", "model", "status", "error", "aborted", "stream")
        known: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        known |= {("request_id" if name == "id" else name): getattr(self, name) for name in names}
        if self.model is not None:
            known |= {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
            known |= {"queue_s": _rounded(self.queue_s), "first_token_s": _rounded(self.first_token_s)}
            known |= {"finish_reasons": self.finish_reasons, "prompt": self.prompt}
        known["seconds"] = _rounded(self.seconds)
        kept = {name: value for name, value in known.items() if value is not None and value is not False}
        return orjson.dumps(kept, default=str).decode("utf-8")


class AccessLog:
    """Writes traces to stdout or a file, which may be moved away (logrotate). Raises `UserError` if it can't."""

    def __init__(self, file: str | None, dropped: Callable[[], None]):
        try:
            sink: logging.Handler = (
                logging.StreamHandler(sys.stdout) if file is None else WatchedFileHandler(Path(file), encoding="utf-8")
            )
        except OSError as error:
            raise UserError(f"log_file={file} can't be written ({error.strerror}): give another path") from error
        lines: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_LINES)
        self._handler = _Handler(lines, dropped)
        self._listener = QueueListener(lines, sink)
        self._sink = sink
        self._listener.start()

    def write(self, trace: Trace) -> None:
        """Add the line of a request that has ended."""
        self._handler.handle(logging.LogRecord("access", logging.INFO, "", 0, trace.line(), (), None))

    def close(self) -> None:
        """Write what is in the queue; what nobody takes within `CLOSE_S` is lost."""
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _close(self) -> None:
        with contextlib.suppress(queue.Full, OSError):  # nobody takes anything any more
            self._listener.stop()
            self._sink.close()


class _Handler(QueueHandler):
    def __init__(self, lines: "queue.Queue[logging.LogRecord]", dropped: Callable[[], None]):
        super().__init__(lines)
        self._dropped = dropped

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
