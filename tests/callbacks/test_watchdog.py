"""A rank that hangs, dies or is slow is named, and nobody waits for ever: on two real processes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from src.callbacks.heartbeats import EXIT_HANGING, Beat, process_start, ranks_in_words
from src.callbacks.watchdog import OwnTime, Watchdog, slow_ranks
from src.command import ROOT
from src.errors import UserError

FAULTS = ["none", "data", "together", "stopped", "first", "killed", "locked", "error", "slow"]
HANGING = ["data", "together", "stopped", "first", "locked"]


class Ended:
    """How the runs of all faults ended and what their processes said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ends = folder, json.loads((folder / "ends.json").read_text())

    def said(self, fault: str, rank: int) -> str:
        return (self.folder / f"{fault}.{rank}.log").read_text()

    def status(self, fault: str, rank: int) -> int:
        assert f"{fault}.{rank}" in self.ends, f"rank {rank} did not end: {self.said(fault, rank)}"
        return self.ends[f"{fault}.{rank}"]["status"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("watched")
    command = [sys.executable, str(Path(__file__).with_name("watched_run.py")), str(folder), *FAULTS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, timeout=400, check=True)
    return Ended(folder)


@pytest.mark.slow
@pytest.mark.parametrize("fault", HANGING)
def test_a_run_that_hangs_ends_with_the_status_that_asks_for_a_restart(ended: Ended, fault: str) -> None:
    statuses = {ended.status(fault, rank) for rank in (0, 1)}
    assert EXIT_HANGING in statuses
    assert statuses <= {EXIT_HANGING, -9}  # a process that can't end itself is killed


@pytest.mark.slow
def test_a_rank_that_waits_for_data_is_named_with_the_line_it_waits_in(ended: Ended) -> None:
    said = ended.said("data", 0)
    assert "rank 1 on " in said and "has not got on with step 3" in said and "rank 0 waits for it" in said
    assert "it is waiting for data (watched_run.py:" in said and "in __getitem__)" in said


@pytest.mark.slow
def test_the_rank_that_hangs_writes_its_stacks_and_the_waiting_one_does_not(ended: Ended) -> None:
    assert "stacks of rank 1, waiting for data in step 3" in ended.said("data", 1)
    assert 'watched_run.py", line' in ended.said("data", 1) and "dataloader.py" in ended.said("data", 1)
    assert "stacks of rank 0" not in ended.said("data", 0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stopped", "locked"])
def test_a_rank_without_a_sign_of_life_is_named_and_killed(ended: Ended, fault: str) -> None:
    assert ended.status(fault, 0) == EXIT_HANGING and ended.status(fault, 1) == -9
    said = ended.said(fault, 0)
    assert "rank 1 on " in said and "has given no sign of life" in said and "rank 0 waits for it" in said


@pytest.mark.slow
def test_a_rank_whose_threads_are_all_stuck_still_writes_its_stacks(ended: Ended) -> None:
    assert "in training_step" in ended.said("locked", 1)


@pytest.mark.slow
def test_nobody_waits_for_ever_for_a_stopped_rank_0(ended: Ended) -> None:
    assert ended.status("first", 1) == EXIT_HANGING
    assert "does not answer" in ended.said("first", 1)


@pytest.mark.slow
def test_nobody_is_blamed_where_no_rank_is_behind(ended: Ended) -> None:
    assert "none is behind the others (all are waiting for data)" in ended.said("together", 0)
    for rank in (0, 1):
        assert f"stacks of rank {rank}" in ended.said("together", rank)


@pytest.mark.slow
def test_a_rank_that_was_killed_is_named(ended: Ended) -> None:
    assert ended.status("killed", 0) == 1 and ended.status("killed", 1) == -9
    said = ended.said("killed", 0)
    assert "rank 1 on " in said and " died " in said and "rank 0 can't go on without it" in said


@pytest.mark.slow
def test_the_error_of_another_rank_is_told(ended: Ended) -> None:
    assert ended.status("error", 0) == 1 and ended.status("error", 1) == 1
    assert "failed in the forward pass in step 3: ValueError: a weight has gone missing" in ended.said("error", 0)
    assert "rank 0" not in ended.said("error", 1)


@pytest.mark.slow
def test_a_slow_rank_is_named_and_the_run_goes_on(ended: Ended) -> None:
    assert ended.status("slow", 0) == 0 and ended.status("slow", 1) == 0
    said = ended.said("slow", 0)
    assert "rank 1 on " in said and "is slow: 0.1" in said and "rank 0 on" not in said


@pytest.mark.slow
def test_a_healthy_run_hears_nothing_of_the_watchdog(ended: Ended) -> None:
    for rank in (0, 1):
        assert ended.status("none", rank) == 0
        assert not any(word in ended.said("none", rank) for word in ("rank 0 on", "rank 1 on", "stacks"))


def beat(rank: int) -> Beat:
    return Beat(rank, f"node{rank // 2}", 100 + rank, "1", 1, 1, 1, "waiting for data", 0, "a.py:1 in f", "running")


def test_a_rank_is_slow_by_its_share_of_the_median() -> None:
    beats = {rank: beat(rank) for rank in range(4)}
    times = [(1.0, 0.1), (1.1, 0.1), (1.0, 0.1), (1.49, 0.5)]
    assert slow_ranks(times, 1.5, beats) == []
    (sentence,) = slow_ranks([*times[:3], (1.7, 0.5)], 1.5, beats)
    assert "rank 3 on node1 (process 103) is slow: 1.7 s of its own for a step, 0.5 s of these for data" in sentence


def test_of_two_ranks_the_faster_one_is_what_is_usual() -> None:
    beats = {rank: beat(rank) for rank in range(2)}
    assert len(slow_ranks([(1.0, 0.0), (1.6, 0.0)], 1.5, beats)) == 1


def test_a_few_milliseconds_are_not_worth_a_warning() -> None:
    beats = {rank: beat(rank) for rank in range(2)}
    assert slow_ranks([(0.004, 0.0), (0.012, 0.0)], 1.5, beats) == []


def test_steps_around_a_validation_do_not_count_as_own_time() -> None:
    import torch

    own, device = OwnTime(), torch.device("cpu")
    for pause in (0.0, 0.2, 0.0):
        own.begin(device)
        if pause:
            own.interrupted()
            time.sleep(pause)
        own.end(device)
    assert own.steps == 2
    seconds, waited = own.means()
    assert seconds < 0.1 and waited == 0


def test_an_ended_process_is_told_from_a_later_one_with_its_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    assert started is not None and started == process_start(process.pid)
    assert started != process_start(os.getpid())
    process.kill()
    deadline = time.monotonic() + 20
    while process_start(process.pid) is not None:  # a zombie has ended, before anybody has asked for its status
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.communicate()


def test_waiting_ranks_are_told_in_few_words() -> None:
    assert ranks_in_words([0]) == "rank 0 waits"
    assert ranks_in_words([7, 0, 1, 2, 5]) == "ranks 0-2, 5, 7 wait"


def test_what_a_rank_does_is_told_with_its_step() -> None:
    assert beat(0).doing == "waiting for data in step 1"
    assert replace(beat(0), phase="setting up", step=0).doing == "setting up"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"timeout_s": 0}, "watchdog.timeout_s must be a positive number"),
        ({"timeout_s": "long"}, "watchdog.timeout_s must be a positive number"),
        ({"slow_factor": 1}, "watchdog.slow_factor must be a number above 1"),
        ({"window": 0}, "watchdog.window"),
        ({"timeout_s": 6}, "at least twice heartbeat_s=5"),
    ],
)
def test_an_impossible_setting_is_one_sentence(setting: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Watchdog(**setting)
