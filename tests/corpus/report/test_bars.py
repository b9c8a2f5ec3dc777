"""Progress of stages: bars on a terminal, lines elsewhere, and never more than all of it."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.corpus.report import PipelineProgress, StageProgress

numbers = st.integers(0, 1000)


def shown(terminal: bool, updates: list[StageProgress], line_every_s: float = 0.0) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with PipelineProgress(console, line_every_s) as progress:
        for update in updates:
            progress.update(update)
    return stream.getvalue()


STAGES = [
    StageProgress("clean", 0, 4, 0, 1000, 0, 0),
    StageProgress("clean", 2, 4, 600, 1000, 1234, 2_000_000),
    StageProgress("write", 1, 4, 100, 1000, 10, 100_000),
]


def test_a_file_gets_a_line_an_update_and_one_when_a_stage_is_done():
    lines = shown(False, STAGES).splitlines()
    assert [line.split(":")[0] for line in lines] == ["clean", "clean", "clean", "write", "write"]
    assert "60%, 2 of 4 tasks, 1,234 documents" in lines[1]
    assert re.search(r"clean: done in \d+\.\d s, 1,234 documents", lines[2])


def test_a_quick_stage_gets_one_line():
    assert len(shown(False, STAGES[:2] * 50, line_every_s=1000).splitlines()) == 1
    assert re.fullmatch(
        r"finish: done in \d+\.\d s\n", shown(False, [StageProgress("finish", 1, 1)], line_every_s=1000)
    )


def test_a_terminal_gets_a_bar_for_each_stage_and_finished_ones_are_full():
    last = shown(True, STAGES).split("\r")[-1]
    assert "clean" in last and "write" in last
    assert last.count("100%") == 2


def test_a_failed_stage_is_not_called_done():
    stream = io.StringIO()
    with pytest.raises(KeyError), PipelineProgress(Console(file=stream, force_terminal=False)) as progress:
        progress.update(STAGES[1])
        raise KeyError
    assert "done" not in stream.getvalue()


@given(numbers, numbers, numbers, numbers)
def test_the_share_is_between_nothing_and_all(tasks, total_tasks, size, total_bytes):
    assert 0 <= StageProgress("clean", tasks, total_tasks, size, total_bytes).share <= 1


def test_tasks_of_an_earlier_run_count_as_done():
    assert StageProgress("clean", 3, 4, 0, 1000).share == 0.75
