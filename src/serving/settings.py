"""What can be set about the server, apart from its models."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from src.errors import UserError
from src.generation.engine import Decoding
from src.serving.keys import KeyRing

MAX_STOP = 4  # stop texts of one request, as the OpenAI API has it
LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")


@dataclass(frozen=True)
class Settings:
    """Limits, keys, logs. Seconds and bytes where the name says so; 0 is no limit where a comment says so.

    Args:
        keys: who may use the server; empty lets everybody in.
        host: where it listens.
        insecure: listen beyond this machine without keys all the same.
        max_body_bytes: of a request.
        body_timeout_s: for receiving the headers of a request, and again for its body.
        max_connections: further ones are closed at once; a process may open 1,024 files on most machines.
        max_messages, max_prompts, max_n: of one request; documents of an extraction count as prompts.
        max_extract_answers: answers that the model may have to write for one extraction.
        max_stop: stop texts of one request.
        max_tokens_limit: the most that ``max_tokens`` may be; 0 for what the context leaves.
        default_max_tokens: for chats that don't say; 0 for what the context leaves.
        max_waiting: answers that wait for a place at an engine.
        queue_wait_s: the longest that a request waits for the first place of its answers.
        request_timeout_s: from a request's arrival to its last byte; its header X-Request-Timeout may lower it.
        slow_reader_s: a client that takes nothing for so long is dropped.
        ping_s: a comment goes into a stream that often while it waits. The first one settles its status as 200, so a
            stream is refused with 503 only where this is above `queue_wait_s`.
        drain_s: for what runs when the server is told to end.
        drain_min_s: it listens for so long all the same, with /ready at 503, for load balancers to see.
        requests_per_minute, tokens_per_minute, concurrent_per_key: of each key; 0 for none.
        strict: refuse keys of the body that are not known, instead of ignoring them.
        decoding: takes the place of the OpenAI API's defaults where a request says nothing.
        metrics: who may read /metrics: everybody (open), those with a key (keys), nobody (off).
        cors_origins: pages of which web sites may call the API; empty for none.
        log_file: for the access log; None is stdout.
        log_prompts: put prompts into the access log.
        unhealthy_after_s: /health says 503 once an engine has been down for so long.
    """

    keys: KeyRing = field(default_factory=lambda: KeyRing({}))
    host: str = "127.0.0.1"
    insecure: bool = False
    max_body_bytes: int = 1 << 20
    body_timeout_s: float = 30.0
    max_connections: int = 512
    max_messages: int = 512
    max_prompts: int = 64
    max_extract_answers: int = 512
    max_n: int = 8
    max_stop: int = MAX_STOP
    max_tokens_limit: int = 0
    default_max_tokens: int = 0
    max_waiting: int = 64
    queue_wait_s: float = 30.0
    request_timeout_s: float = 300.0
    slow_reader_s: float = 30.0
    ping_s: float = 35.0
    drain_s: float = 30.0
    drain_min_s: float = 1.0
    requests_per_minute: float = 0
    tokens_per_minute: float = 0
    concurrent_per_key: int = 0
    strict: bool = False
    decoding: Decoding | None = None
    metrics: Literal["open", "keys", "off"] = "keys"
    cors_origins: Sequence[str] = ()
    log_file: str | None = None
    log_prompts: bool = False
    unhealthy_after_s: float = 60.0

    def __post_init__(self) -> None:
        above_zero = (
            "max_body_bytes body_timeout_s max_connections max_messages max_prompts max_n max_extract_answers "
            "queue_wait_s request_timeout_s slow_reader_s ping_s"
        )
        zero_or_more = (
            "max_stop max_tokens_limit default_max_tokens max_waiting drain_s drain_min_s requests_per_minute "
            "tokens_per_minute concurrent_per_key unhealthy_after_s"
        )
        for names, least, words in ((above_zero, 1e-9, "above 0"), (zero_or_more, 0, "0 or more")):
            for name in names.split():
                if getattr(self, name) < least:
                    raise UserError(f"{name} is {getattr(self, name)}: it must be {words}")
        if self.metrics not in ("open", "keys", "off"):
            raise UserError(f"metrics={self.metrics} is not known: set open, keys or off")
        for origin in self.cors_origins:
            if origin != "*" and "://" not in origin:
                raise UserError(f"cors_origins has '{origin}': write scheme and host, such as https://example.org")
        if self.log_file is not None and not Path(self.log_file).absolute().parent.is_dir():
            raise UserError(f"log_file={self.log_file} is in a folder that does not exist: make it, or give another")
        if not self.is_local and not len(self.keys) and not self.insecure:
            raise UserError(
                f"host={self.host} can be reached from other machines and there is no API key: make one with "
                "new_key=NAME and give keys_file=FILE, or set insecure=true"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return on_loopback(self.host)

    @property
    def checks_host(self) -> bool:
        """Whether requests must name this machine in their Host header.

        Without keys this is what keeps a web page in the user's browser from reading answers through a name that it
        points at 127.0.0.1 (DNS rebinding).
        """
        return self.is_local and not len(self.keys) and not self.insecure


def on_loopback(host: str) -> bool:
    """Whether a name or address means this machine and no other."""
    return host in ("localhost", "::1") or LOOPBACK.fullmatch(host) is not None
