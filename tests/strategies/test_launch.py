"""Each launcher is recognised, and processes that can't become one run say why in a sentence."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from src.command import ROOT
from src.strategies.environments import LaunchedEnvironment, cluster_environment
from src.strategies.launch import Launch, RankFilter, agreed, find_launch, first_host, started_by_hand, this_rank

VARIABLES = {
    "torchrun": {
        **{"RANK": "13", "LOCAL_RANK": "5", "GROUP_RANK": "1", "WORLD_SIZE": "24", "LOCAL_WORLD_SIZE": "8"},
        **{"MASTER_ADDR": "node1", "MASTER_PORT": "1234", "TORCHELASTIC_RUN_ID": "run"},
    },
    "deepspeed": {
        **{"RANK": "13", "LOCAL_RANK": "5", "CROSS_RANK": "1", "CROSS_SIZE": "3", "WORLD_SIZE": "24"},
        **{"LOCAL_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"},
    },
    "srun": {
        **{"SLURM_PROCID": "13", "SLURM_LOCALID": "5", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "24"},
        **{"SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NODELIST": "node[1-3]", "SLURM_STEP_ID": "0"},
        **{"SLURM_JOB_ID": "77", "MASTER_PORT": "1234"},
    },
}
OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "CROSS_", "WORLD_SIZE", "LOCAL_", "MASTER_")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher, wherever the tests run."""
    for name in list(os.environ):
        if name.startswith((*OF_LAUNCHERS, "SLURM_", "TORCHELASTIC_", "KNOWLM_DEVICES")):
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("launcher", list(VARIABLES))
def test_each_launcher_is_recognised(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, VARIABLES[launcher])
    assert find_launch() == Launch(launcher, 13, 5, 1, 24, 8, "node1", 1234)
    assert this_rank() == 13 and not started_by_hand()
    environment = cluster_environment()
    assert isinstance(environment, LaunchedEnvironment) and environment.creates_processes_externally
    assert (environment.global_rank(), environment.local_rank(), environment.node_rank()) == (13, 5, 1)
    assert (environment.world_size(), environment.main_address, environment.main_port) == (24, "node1", 1234)


def test_a_shell_in_a_slurm_allocation_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {**VARIABLES["srun"], "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})
    assert find_launch() is None
    monkeypatch.delenv("SLURM_STEP_ID")  # the batch script itself has these but no step
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "24")
    assert find_launch() is None and this_rank() == 0


def test_jobs_on_one_node_get_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, VARIABLES["srun"])
    monkeypatch.delenv("MASTER_PORT")
    launches = []
    for job in ("77", "78"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        launches.append(find_launch())
    assert launches[0] and launches[1] and launches[0].port != launches[1].port


def test_a_node_started_by_hand_lets_lightning_start_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"MASTER_ADDR": "node1", "NODE_RANK": "2"})
    assert find_launch() is None and started_by_hand()
    assert not cluster_environment().creates_processes_externally
    given(monkeypatch, {"LOCAL_RANK": "3", "KNOWLM_DEVICES": "8"})  # what such a process inherits
    assert not started_by_hand() and this_rank() == 19


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node1", "node1"), ("node[03-05,9],other", "node03"), ("a7,b[1-2]", "a7"), ("gpu-[12]", "gpu-12")],
)
def test_the_first_host_of_a_slurm_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_one_process_agrees_with_itself() -> None:
    assert agreed("anything", lambda: "mine") == "mine"


def test_messages_of_other_ranks_begin_with_the_rank() -> None:
    record = logging.LogRecord("name", logging.WARNING, "file", 1, "lost %d", (3,), None)
    assert RankFilter(5).filter(record) and RankFilter(5).filter(record)
    assert record.getMessage() == "[rank 5] lost 3"


# Processes that meet

MEETING = """
import sys
from src.command import _sentences
from src.strategies.launch import agreed, meet
with _sentences("train", False):
    meet(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    print("agreed on", agreed("folder", lambda: "folder of " + sys.argv[4]))
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        port: int = server.getsockname()[1]
        return port


def process(
    port: int, nodes: int, devices: int, name: str, timeout_s: float, **variables: str
) -> subprocess.Popen[str]:
    environment = {**os.environ, **variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = [str(nodes), str(devices), str(timeout_s), name]
    return subprocess.Popen(
        [sys.executable, "-c", MEETING, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def of_world(rank: int, world_size: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}


def last_lines(*processes: subprocess.Popen[str]) -> list[str]:
    return [one.communicate(timeout=120)[0].strip().splitlines()[-1] for one in processes]


@pytest.mark.slow
def test_processes_meet_and_take_the_first_ones_word() -> None:
    port = free_port()
    ranks = [process(port, 1, 3, f"rank {rank}", 60, **of_world(rank, 3)) for rank in range(3)]
    assert last_lines(*ranks) == ["agreed on folder of rank 0"] * 3


@pytest.mark.slow
def test_nodes_that_disagree_are_named() -> None:
    port = free_port()
    nodes = [process(port, count, 4, "", 60, NODE_RANK=str(rank)) for rank, count in enumerate((2, 3))]
    for line in last_lines(*nodes):
        assert f"node 1 on {socket.gethostname()} was started with trainer.num_nodes=3 trainer.devices=4" in line
        assert "node 0 with trainer.num_nodes=2 trainer.devices=4: start all of them with the same command" in line
    assert [node.returncode for node in nodes] == [2, 2]


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named() -> None:
    port = free_port()
    ranks = [process(port, 1, 3, "", 6, **of_world(rank, 3)) for rank in (0, 2)]
    for line in last_lines(*ranks):
        assert f"1 of 3 ranks have not come to 127.0.0.1:{port} within 6 s, rank 1: look at their output" in line


@pytest.mark.slow
def test_a_first_process_that_does_not_come_is_an_error_after_the_timeout() -> None:
    port = free_port()
    (line,) = last_lines(process(port, 1, 2, "", 2, **of_world(1, 2)))
    assert f"gets no answer from rank 0 at 127.0.0.1:{port} within 2 s" in line and line.startswith(
        "error: [rank 1 on "
    )


@pytest.mark.slow
def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::", 0))
        server.listen()
        port = server.getsockname()[1]
        (line,) = last_lines(process(port, 1, 2, "", 5, **of_world(0, 2)))
    assert f"port {port} on {socket.gethostname()} is in use: give another MASTER_PORT" in line


def test_srun_is_known_again_after_deepspeed_has_set_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES["srun"].items():
        monkeypatch.setenv(name, value)
    first = find_launch()
    later = {"RANK": "13", "LOCAL_RANK": "5", "WORLD_SIZE": "24", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
    for name, value in later.items():
        monkeypatch.setenv(name, value)
    assert first is not None and find_launch() == first and first.nodes == 3
