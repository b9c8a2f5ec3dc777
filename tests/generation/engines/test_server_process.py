"""A server in a process of its own: started, started again after it was killed, and never left behind."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.errors import UserError
from src.generation.engine import EngineDown
from src.generation.engines import server_process
from src.generation.engines.server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[3]
ANSWERING = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def serving(script: str = ANSWERING, **options) -> ServerProcess:
    return ServerProcess("test", lambda port: [sys.executable, "-c", script, str(port)], **options)


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_started_server_answers_and_a_closed_one_is_gone():
    server = serving()
    server.start()
    pid = server.pid
    assert urllib.request.urlopen(server.require()).read() == b"hello"
    server.close()
    server.close()
    assert not alive(pid) and not server.is_ready() and not server.log_file.parent.exists()
    with pytest.raises(EngineDown):
        server.require()


def test_a_killed_server_is_started_again(monkeypatch):
    monkeypatch.setattr(server_process, "BACKOFF_S", (0.2,))
    server = serving()
    server.start()
    first = server.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not server.is_ready())
    with pytest.raises(EngineDown, match="SIGKILL"):
        server.require()
    wait_for(server.is_ready)
    assert server.pid != first and server.restarts == 1
    assert urllib.request.urlopen(server.require()).read() == b"hello"
    server.close()


def test_a_server_comes_back_without_its_log_folder_and_what_it_said_before_is_kept(monkeypatch, caplog):
    monkeypatch.setattr(server_process, "BACKOFF_S", (0.2,))
    server = serving("print('error: the last words', flush=True)\n" + ANSWERING)
    server.start()
    shutil.rmtree(server.log_file.parent)
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: server.restarts == 1 and server.is_ready())
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: server.restarts == 2 and server.is_ready())
    assert "ended with signal SIGKILL" in caplog.text and "error: the last words" in caplog.text
    assert "the last words" in server.log_file.with_suffix(".1").read_text()
    server.close()


def test_the_health_check_asks_no_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server = serving(start_timeout_s=20)
    server.start()
    assert server.is_ready()
    server.close()


def test_closing_while_it_starts_leaves_nothing_behind():
    launched = threading.Event()

    def command(port: int) -> list[str]:
        launched.set()
        time.sleep(0.3)  # closed meanwhile
        return [sys.executable, "-c", ANSWERING, str(port)]

    server = ServerProcess("test", command)
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(server.start)
        launched.wait()
        server.close()
        with pytest.raises(UserError, match="the test engine was closed"):
            starting.result(10)
    assert server._process is not None and server._process.poll() is not None


def test_a_server_that_cannot_start_is_a_sentence_with_its_own_last_words():
    with pytest.raises(
        UserError, match=r"the test engine could not start \(exit status 1\): ValueError: no such model"
    ):
        serving("raise ValueError('no such model')").start()


def test_a_server_that_never_answers_is_ended():
    server = serving("import time; time.sleep(60)", start_timeout_s=1.0)
    with pytest.raises(UserError, match="did not answer within 1 s"):
        server.start()
    assert server.pid is None


def test_a_server_that_does_not_listen_to_sigterm_is_killed():
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERING
    server = serving(script, stop_timeout_s=0.5)
    server.start()
    pid = server.pid
    server.close()
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only close() ends the child")
def test_what_a_server_has_started_dies_with_the_parent_too(tmp_path):
    started = tmp_path / "pid"
    starting = f"import subprocess\nopen({str(started)!r}, 'w').write(str(subprocess.Popen(['sleep', '300']).pid))\n"
    script = (
        "import sys, time\n"
        "from tests.generation.engines.test_server_process import serving\n"
        "server = serving(sys.argv[1]); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, starting + ANSWERING]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child, grandchild = int(parent.stdout.readline()), int(started.read_text())
    assert alive(child) and alive(grandchild)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child) and not alive(grandchild))


def test_a_server_dies_with_its_parent_however_that_dies(tmp_path):
    script = (
        "import sys, time\n"
        "from tests.generation.engines.test_server_process import serving\n"
        "server = serving(); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child))
