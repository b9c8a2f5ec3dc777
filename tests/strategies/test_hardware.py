"""What a run may ask of the machine."""

import os
import socket

import pytest
import torch

from src.errors import UserError
from src.strategies.hardware import check_hardware, measured_flops, suitable_precision

NO_GPU = not torch.cuda.is_available()


def test_auto_is_one_process_where_there_is_no_gpu() -> None:
    hardware = check_hardware("auto", "auto", 1)
    assert hardware.world_size >= 1 and hardware.accelerator == ("cpu" if NO_GPU else "gpu")


def test_missing_gpus_are_named_with_what_runs_here() -> None:
    with pytest.raises(UserError, match=r"needs 3 × 64 GPUs .* experiment=pretrain_demo"):
        check_hardware("gpu", 64, 3)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher, wherever the tests run."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_", "NODE_RANK", "RANK", "LOCAL_", "WORLD_SIZE")):
            monkeypatch.delenv(name)


def launched(monkeypatch: pytest.MonkeyPatch, world_size: int, local_world_size: int) -> None:
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_world_size))
    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")


def test_several_nodes_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="srun, torchrun or deepspeed"):
        check_hardware("cpu", 1, 3)
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert check_hardware("cpu", 1, 3).world_size == 3
    monkeypatch.setenv("NODE_RANK", "3")
    with pytest.raises(UserError, match=r"NODE_RANK=3 and trainer\.num_nodes=3: nodes are numbered from 0 to 2"):
        check_hardware("cpu", 1, 3)


def test_a_slurm_job_without_srun_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError, match="started once in a Slurm job: start it with srun"):
        check_hardware("cpu", 1, 3)


def test_auto_takes_what_the_launcher_started(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 6, 2)
    hardware = check_hardware("cpu", "auto", "auto")
    assert (hardware.num_nodes, hardware.devices, hardware.world_size) == (3, 2, 6)


@pytest.mark.parametrize(("devices", "num_nodes"), [(2, 1), (3, 2), ("auto", 2), (8, 3)])
def test_a_launcher_that_started_another_number_is_named(
    devices: int | str, num_nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, 6, 2)
    with pytest.raises(
        UserError, match=r"torchrun started 6 processes, 2 on .* give trainer.num_nodes=3 trainer.devices=2"
    ):
        check_hardware("cpu", devices, num_nodes)


@pytest.mark.skipif(not NO_GPU, reason="there are GPUs here")
def test_a_node_that_shows_no_gpus_to_its_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 6, 2)
    with pytest.raises(UserError, match=f"2 processes on {socket.gethostname()}, which shows no GPU to them"):
        check_hardware("gpu", 2, 3)


@pytest.mark.parametrize(("accelerator", "devices"), [("tpu", 1), ("cpu", 0), ("cpu", "two"), ("cpu", True)])
def test_impossible_devices_are_refused(accelerator: str, devices: int | str) -> None:
    with pytest.raises(UserError, match="must be"):
        check_hardware(accelerator, devices, 1)


def test_fp16_is_never_chosen_on_a_cpu() -> None:
    assert suitable_precision("cpu") in {"bf16-mixed", "32-true"}


def test_the_measured_peak_is_a_plausible_rate() -> None:
    assert 1e9 < measured_flops(torch.device("cpu"), torch.float32, size=512) < 1e14
