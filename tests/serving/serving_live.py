"""Servers for tests: one in a thread of this process, and the real command in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from fastapi import FastAPI

from src.generation.engines.server_process import free_port
from src.serving.server import Server, bind, config_of

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def in_thread(app: FastAPI) -> Iterator[str]:
    """Serve an app on a free port; gives its address. The engines stay open."""
    gateway = app.state.gateway
    with _running(Server(config_of(app, gateway.settings), gateway), gateway.settings.slow_reader_s) as url:
        yield url


@contextmanager
def uvicorn_in_thread(app: FastAPI) -> Iterator[str]:
    """Serve an app that has no gateway."""
    config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=2)
    with _running(uvicorn.Server(config), 30) as url:
        yield url


@contextmanager
def _running(server: uvicorn.Server, slow_reader_s: float) -> Iterator[str]:
    listener = bind("127.0.0.1", 0, slow_reader_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


class Command:
    """``python scripts/serve.py`` with these settings; its log of requests lies in ``log``."""

    def __init__(self, folder: Path, *settings: str, environment: dict[str, str] | None = None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log, self.errors = folder / "access.jsonl", folder / "stderr.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "scripts/serve.py", f"port={self.port}", f"log_file={self.log}", *settings],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def wait_until_ready(self, seconds: float = 180) -> "Command":
        """Until it prints its address."""
        end = time.monotonic() + seconds
        while "serving " not in self.said():
            assert self.process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.1)
        return self

    def said(self) -> str:
        """What it wrote to stderr."""
        return self.errors.read_text(encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def line(self, request_id: str, seconds: float = 10) -> dict[str, Any]:
        """The line of one request, which is written when it has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines():
                if line["request_id"] == request_id:
                    return line
            time.sleep(0.05)
        raise AssertionError(f"no line of request {request_id} within {seconds} s")

    def engine(self) -> psutil.Process:
        """The process of the engine."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(
            child for child in children if "src.generation.engines.llamacpp_server" in " ".join(child.cmdline())
        )

    def metric(self, name: str) -> float:
        """Sum over the labels of one metric."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as response:
            text = response.read().decode()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name
        )

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
