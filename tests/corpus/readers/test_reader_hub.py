"""Hub data sets become local files once; what goes wrong is said in one sentence."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from src.command import ROOT
from src.corpus.readers import find_files
from src.corpus.readers.hub import HubFiles, download_dataset
from src.errors import UserError

FETCH = """
import sys
from src.corpus.readers.hub import download_dataset
for file in download_dataset("zh", {config}, {folder!r}):
    print(file)
"""
NOWHERE = "http://127.0.0.1:9"  # nothing listens on the discard port


def fetch(endpoint: str, folder: Path, **config: object) -> subprocess.CompletedProcess[str]:
    """Fetch in a process of its own, because the hub library reads its settings when it is imported."""
    code = FETCH.format(config={"repo": "owner/texts", "files": "zh/*.jsonl", **config}, folder=str(folder / "raw"))
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def test_files_are_fetched_once_and_found_again_offline(hub: "Hub", tmp_path: Path) -> None:
    done = fetch(hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.split()]
    assert [file.read_bytes() for file in files] == [hub.files["zh/1.jsonl"], hub.files["zh/2.jsonl"]]
    assert files == [tmp_path / "raw" / "zh" / "1.jsonl", tmp_path / "raw" / "zh" / "2.jsonl"]
    assert find_files(tmp_path / "raw") == files  # and nothing that the download left beside them
    assert fetch(NOWHERE, tmp_path).stdout == done.stdout
    assert json.loads((tmp_path / "raw" / ".hub.json").read_text())["commit"] == _HubHandler.COMMIT


def test_a_folder_with_another_download_is_not_mixed_with_it(hub: "Hub", tmp_path: Path) -> None:
    assert fetch(hub.url, tmp_path).returncode == 0
    message = fetch(hub.url, tmp_path, files="en/*").stderr
    assert "holds files of another download (files=['zh/*.jsonl'], not ['en/*']): give another path" in message


def test_a_file_that_was_cut_afterwards_is_fetched_again(hub: "Hub", tmp_path: Path) -> None:
    file = Path(fetch(hub.url, tmp_path).stdout.split()[0])
    file.write_bytes(b"cut")
    os.utime(file, (1, 1))
    assert fetch(hub.url, tmp_path).returncode == 0
    assert file.read_bytes() == hub.files["zh/1.jsonl"]


def test_a_download_that_broke_off_is_no_finished_one(hub: "Hub", tmp_path: Path) -> None:
    hub.refused = "zh/2.jsonl"
    assert "cannot be reached" in fetch(hub.url, tmp_path).stderr
    assert fetch(NOWHERE, tmp_path).returncode != 0
    hub.refused = ""
    assert fetch(hub.url, tmp_path).returncode == 0


def test_an_unreachable_hub_is_one_sentence_that_names_the_offline_alternative(tmp_path: Path) -> None:
    message = fetch(NOWHERE, tmp_path).stderr.splitlines()[-1]
    assert message.startswith(
        "src.errors.UserError: the hub that holds the data set 'owner/texts' of source 'zh' cannot"
    )
    assert (
        "put the files into" in message
        and "leave out the source's hub setting" in message
        and "HF_ENDPOINT=" in message
    )


def test_patterns_without_a_file_and_closed_data_sets_are_named(hub: "Hub", tmp_path: Path) -> None:
    message = fetch(hub.url, tmp_path, files="fr/*").stderr
    assert "'owner/texts' has no file that matches fr/*; it has, for instance, README.md, en/1.jsonl" in message
    message = fetch(hub.url, tmp_path, repo="owner/closed").stderr.splitlines()[-1]
    assert "gives no access to the data set 'owner/closed'" in message and "hf auth login" in message


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hub of source 'zh' has the unknown setting 'branch'"):
        HubFiles.from_config("zh", {"repo": "a/b", "files": "*", "branch": "x"})
    with pytest.raises(UserError, match="hub of source 'zh' has no 'files'"):
        HubFiles.from_config("zh", {"repo": "a/b"})
    with pytest.raises(UserError, match="path must be one folder"):
        download_dataset("zh", {"repo": "a/b", "files": "*"}, ["a", "b"])  # type: ignore[arg-type]


class Hub(http.server.ThreadingHTTPServer):
    """The answers of a hub that a download needs, for one data set of small files."""

    files: ClassVar[dict[str, bytes]] = {
        "README.md": b"about",
        "zh/1.jsonl": b'{"text": "1"}\n',
        "zh/2.jsonl": b'{"text": "2"}\n',
        "en/1.jsonl": b'{"text": "en"}\n',
    }
    refused = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), _HubHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub
    COMMIT = "a" * 40

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.partition(f"/resolve/{self.COMMIT}/")[2]
        if path.startswith("/api/datasets/owner/texts"):
            entries = [self._entry(name) for name in self.server.files]
            answer = entries if "/tree/" in path else {"id": "owner/texts", "sha": self.COMMIT, "siblings": entries}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)
        elif name in self.server.files and name != self.server.refused:
            content = self.server.files[name]
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.COMMIT}, body)
        else:
            gated = {"X-Error-Code": "GatedRepo"} if "closed" in path else {}
            self._send(403, b"", gated, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _entry(self, name: str) -> dict:
        content = self.server.files[name]
        digest = hashlib.sha256(content).hexdigest()[:40]
        return {"rfilename": name, "path": name, "type": "file", "size": len(content), "oid": digest}

    def log_message(self, *_: object) -> None:
        pass
