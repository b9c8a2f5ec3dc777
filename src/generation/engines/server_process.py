"""A serving engine in a process of its own: started, waited for, watched, started again when it dies, and ended.

llama.cpp and vLLM both run this way. What kills the engine (memory, a bad kernel, ``kill -9``) leaves the caller alive,
and an engine that pins its own torch can have its own environment. The child ends when its parent does, however that
ends.
"""

import contextlib
import http.client
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from src.errors import UserError
from src.generation.engine import EngineDown

log = logging.getLogger(__name__)

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # before each further start in a row; then it stays at the last
STEADY_S = 60.0  # a child that answered for so long starts the row anew
LAST_BYTES = 65536  # of the log, in which its last words are looked for
POLL_S = 0.1
# Linux ends the child with its parent at once (PR_SET_PDEATHSIG = 1); elsewhere the reaper does.
_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "getattr(ctypes.CDLL(None), 'prctl', lambda *a: 0)(1, 9)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit('the parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)

# What a server has started itself (vLLM: the processes that hold the GPUs) would outlive it so. This process waits for
# the end of a pipe whose other end the parent holds, and then ends them all.
_REAPER = (
    "import os, sys\n"
    "os.read(0, 1)\n"
    "try: os.killpg(int(sys.argv[1]), 9)\n"
    "except (ProcessLookupError, PermissionError): pass\n"
)

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


class ServerProcess:
    """One HTTP server on a loopback port, kept running.

    Args:
        name: for messages: llama.cpp, vLLM.
        command: the program and its arguments for a port.
        health: path that answers 200 once the server can be used.
        environment: variables besides those of this process.
        start_timeout_s: seconds for loading the model; a server that takes longer is ended.
        stop_timeout_s: seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        health: str = "/health",
        environment: dict[str, str] | None = None,
        start_timeout_s: float = 600.0,
        stop_timeout_s: float = 10.0,
    ):
        self.name, self.command, self.health = name, command, health
        self.environment = {**os.environ, **(environment or {})}
        self.start_timeout_s, self.stop_timeout_s = start_timeout_s, stop_timeout_s
        self.log_file = Path(tempfile.mkdtemp(prefix="knowlm-engine-")) / "log.txt"
        self.restarts = 0
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._settled = threading.Event()  # the first start has succeeded or failed
        self._closing = threading.Event()
        self._failure = ""  # what happened last, for everyone
        self._words = ""  # what the server printed at that, for whoever runs it
        self._watcher = threading.Thread(target=self._keep_running, name=f"{name} watcher", daemon=True)

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            UserError: it ended before it answered, or did not answer in time; with the end of what it printed.
        """
        self._watcher.start()
        try:
            self._settled.wait()
        except BaseException:  # Ctrl-C while a model loads
            self.close()
            raise
        if not self._ready.is_set():
            failure = ": ".join(filter(None, [f"the {self.name} engine {self._failure}", self._words]))
            self.close()
            raise UserError(failure)

    @property
    def pid(self) -> int | None:
        """Process id of the server that runs now."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def is_ready(self) -> bool:
        """Whether the server answers, as far as is known."""
        return self._ready.is_set() and self.pid is not None

    def require(self) -> str:
        """The address, such as ``http://127.0.0.1:8123``. Raises `EngineDown` while the server does not answer."""
        if not self.is_ready():
            raise EngineDown(f"the {self.name} engine is not running (it {self._failure or 'is being started'})")
        return self.address

    def close(self) -> None:
        """End the server: SIGTERM, then SIGKILL for its whole process group."""
        self._closing.set()
        self._ready.clear()
        self._end()
        if self._watcher.is_alive() and threading.current_thread() is not self._watcher:
            self._watcher.join(self.stop_timeout_s + 5)
        shutil.rmtree(self.log_file.parent, ignore_errors=True)

    def _keep_running(self) -> None:
        in_a_row = 0
        while not self._closing.is_set():
            answered_s = 0.0
            try:
                self._launch()
                if self._wait_until_healthy():
                    answered_s = self._until_it_ends()
            except Exception as error:  # no room on the disk, say: the next start may have it
                log.exception("the %s engine can't be watched", self.name)
                self._failure, self._words = "could not be started or watched", f"{type(error).__name__}: {error}"
            self._ready.clear()
            self._end()  # what is left of its process group
            if self._closing.is_set():
                self._failure = self._failure or "was closed"
                self._settled.set()
                return
            if not self._settled.is_set():  # a server that never worked will not work the next time
                self._settled.set()
                return
            in_a_row = 0 if answered_s > STEADY_S else in_a_row + 1
            pause = BACKOFF_S[min(max(in_a_row, 1), len(BACKOFF_S)) - 1]
            log.error("the %s engine %s; next start in %.0f s: %s", self.name, self._failure, pause, self._words)
            if self._closing.wait(pause):
                return
            self.restarts += 1

    def _until_it_ends(self) -> float:
        """Let requests come until the process ends; returns the seconds."""
        assert self._process is not None
        began = time.monotonic()
        self._failure = ""
        self._ready.set()
        self._settled.set()
        self._process.wait()
        self._failure = f"ended with {_status(self._process)} and is being started again"
        self._words = self._last_words()
        return time.monotonic() - began

    def _launch(self) -> None:
        self._reap()
        self._process, port = None, free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", _WITH_PARENT, str(os.getpid()), *map(str, self.command(port))]
        self.log_file.parent.mkdir(parents=True, exist_ok=True)  # cleaners of temporary folders come by
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".1"))
        with self.log_file.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the parent, which lets running answers end first
            )
        self._reaper = subprocess.Popen(
            [sys.executable, "-S", "-c", _REAPER, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _reap(self) -> None:
        """End what is left of the last child's group."""
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            assert reaper.stdin is not None
            reaper.stdin.close()
            reaper.wait()

    def _wait_until_healthy(self) -> bool:
        deadline = time.monotonic() + self.start_timeout_s
        process = self._process
        assert process is not None
        while not self._closing.is_set():
            if process.poll() is not None:
                self._failure, self._words = f"could not start ({_status(process)})", self._last_words()
                return False
            if _answers(self.address + self.health):
                return True
            if time.monotonic() > deadline:
                self._failure = f"did not answer within {self.start_timeout_s:.0f} s"
                self._words = self._last_words()
                return False
            time.sleep(POLL_S)
        return False

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(self.stop_timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("the %s engine did not end within %.0f s: killing it", self.name, self.stop_timeout_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its own children too
        process.wait()
        self._reap()

    def _last_words(self) -> str:
        """The lines that most likely say why: the last that names an error and what follows it."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, self.log_file.stat().st_size - LAST_BYTES))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError as error:
            return f"its log is gone ({error})"
        causes = [
            place for place, line in enumerate(lines) if "error" in line.lower() and "errors.pydantic" not in line
        ]
        chosen = lines[causes[-1] :][:3] if causes else lines[-3:]
        return " ".join(" ".join(chosen or ["it printed nothing"]).split())[:500]


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _status(process: subprocess.Popen[bytes] | None) -> str:
    code = process.poll() if process is not None else None
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
