"""The access log: one JSON line a request, without what people wrote."""

import json
import os
import time
from pathlib import Path

import pytest

from src.errors import UserError
from src.serving.access_log import AccessLog, Trace


def test_a_line_is_json_and_keeps_what_would_break_a_line_in_quotes() -> None:
    trace = Trace("id", "GET", '/a"b\nc', "127.0.0.1", status=404)
    line = trace.line()
    assert "\n" not in line
    assert json.loads(line)["path"] == '/a"b\nc'


def test_counts_of_0_are_written_and_what_is_not_known_is_not() -> None:
    line = json.loads(Trace("id", "POST", "/v1/completions", None, model="m", queue_s=0.0).line())
    assert line["completion_tokens"] == 0 and line["queue_s"] == 0.0
    assert "client" not in line and "prompt" not in line and "aborted" not in line


def test_all_lines_are_in_the_file_once_the_log_is_closed(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), lambda: None)
    for number in range(500):
        log.write(Trace(str(number), "GET", "/", None))
    log.close()
    ids = [json.loads(line)["request_id"] for line in (tmp_path / "log").read_text().splitlines()]
    assert ids == [str(number) for number in range(500)]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), lambda: None)
    log.write(Trace("1", "GET", "/", None))
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        time.sleep(0.01)
    (tmp_path / "log").rename(tmp_path / "old")
    log.write(Trace("2", "GET", "/", None))
    log.close()
    assert '"2"' in (tmp_path / "log").read_text() and '"1"' in (tmp_path / "old").read_text()


def test_a_pipe_that_nobody_reads_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(pipe), lambda: None)
    for _ in range(500):
        log.write(Trace("x" * 1000, "GET", "/", None))
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 4
    os.set_blocking(reader, True)
    while os.read(reader, 1 << 16):  # so that its thread ends too
        pass
    os.close(reader)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="log_file"):
        AccessLog(str(tmp_path / "none" / "log"), lambda: None)
