"""What each API key may ask for: requests a minute, tokens a minute, requests at a time.

Token buckets: a bucket holds what a minute allows and fills evenly. Requests are paid for when they come, tokens when
they have been used, since nobody knows before how long an answer gets: a bucket may be overdrawn by what runs, and is
then closed until it has filled up again.
"""

import math
import time
from collections.abc import Callable

from src.serving.errors import ApiError


class Bucket:
    """``per_minute`` units a minute; ``now`` gives seconds."""

    def __init__(self, per_minute: float, now: Callable[[], float] = time.monotonic):
        self.per_minute, self.now = per_minute, now
        self.level, self._at = per_minute, now()

    def wait_s(self, needed: float) -> float:
        """Seconds until it holds so much; 0 where it does now."""
        now = self.now()
        self.level = min(self.per_minute, self.level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return max(0.0, (needed - self.level) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Take out, below zero if need be."""
        self.wait_s(0)
        self.level -= amount


class KeyLimits:
    """The limits of every key; 0 means none.

    Args:
        requests_per_minute: requests that generate or tokenize.
        tokens_per_minute: of prompts and answers.
        concurrent: requests at a time.
    """

    def __init__(
        self,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        concurrent: int = 0,
        now: Callable[[], float] = time.monotonic,
    ):
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self.concurrent, self.now = concurrent, now
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}
        self._running: dict[str, int] = {}

    def enter(self, key: str) -> None:
        """Begin a request of a key; `leave` must follow. Raises 429 with the seconds to wait."""
        running = self._running.get(key, 0)
        if self.concurrent and running >= self.concurrent:
            raise _too_many(f"{running} requests of this key run, and {self.concurrent} may at a time", 1)
        if self.tokens_per_minute:
            bucket = self._tokens.setdefault(key, Bucket(self.tokens_per_minute, self.now))
            if (wait := bucket.wait_s(1)) > 0:
                raise _too_many(f"this key has used its {self.tokens_per_minute:g} tokens a minute", wait)
        if self.requests_per_minute:
            bucket = self._requests.setdefault(key, Bucket(self.requests_per_minute, self.now))
            if (wait := bucket.wait_s(1)) > 0:
                raise _too_many(f"this key has made its {self.requests_per_minute:g} requests a minute", wait)
            bucket.take(1)
        self._running[key] = running + 1

    def leave(self, key: str, tokens: int, refund: bool = False) -> None:
        """End a request that used so many tokens; with ``refund`` it does not count as a request."""
        self._running[key] -= 1
        if refund and self.requests_per_minute:
            self._requests[key].take(-1)
        if self.tokens_per_minute:
            self._tokens[key].take(tokens)


def _too_many(message: str, wait_s: float) -> ApiError:
    seconds = max(1, math.ceil(wait_s))
    return ApiError(
        429, f"{message}: try again in {seconds} seconds", code="rate_limit_exceeded", retry_after_s=seconds
    )
