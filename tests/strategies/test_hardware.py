"""What a run may ask of the machine."""

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


def test_several_nodes_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="srun or torchrun"):
        check_hardware("cpu", 1, 3)
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert check_hardware("cpu", 1, 3).world_size == 3


@pytest.mark.parametrize(("accelerator", "devices"), [("tpu", 1), ("cpu", 0), ("cpu", "two")])
def test_impossible_devices_are_refused(accelerator: str, devices: int | str) -> None:
    with pytest.raises(UserError, match="must be"):
        check_hardware(accelerator, devices, 1)


def test_fp16_is_never_chosen_on_a_cpu() -> None:
    assert suitable_precision("cpu") in {"bf16-mixed", "32-true"}


def test_the_measured_peak_is_a_plausible_rate() -> None:
    assert 1e9 < measured_flops(torch.device("cpu"), torch.float32, size=512) < 1e14
