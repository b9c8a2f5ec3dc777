"""Sharded checkpoints that are not whole, and settings of the strategy: what can be said without starting processes."""

from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.models.export import read_checkpoint
from src.models.zero_checkpoint import WEIGHT, ZeroCheckpoint
from src.strategies.deepspeed import ZeroStrategy


def write_stage_3(folder: Path, weights: dict[str, torch.Tensor], processes: int) -> None:
    """A checkpoint of ZeRO-3 in DeepSpeed's layout, with moments that are the weights plus one and plus two."""
    inside = folder / "checkpoint"
    inside.mkdir(parents=True)
    for rank in range(processes):
        parts = [_part(value.flatten(), rank, processes) for value in weights.values()]
        flat = torch.cat(parts)
        state = {"step": torch.tensor(7.0), "exp_avg": flat + 1, "exp_avg_sq": flat + 2}
        optimizer = {
            "zero_stage": 3,
            "fp32_flat_groups": [flat],
            "optimizer_state_dict": {"state": {0: state}, "param_groups": [{"lr": 0.5, "params": [0]}]},
        }
        name = f"zero_pp_rank_{rank}_mp_rank_00"
        torch.save({"optimizer_state_dict": optimizer}, inside / f"{name}_optim_states.pt")
        model = {"param_shapes": [{key: value.shape for key, value in weights.items()}], "hyper_parameters": {"a": 1}}
        torch.save(model, inside / f"{name}_model_states.pt")


def _part(flat: torch.Tensor, rank: int, processes: int) -> torch.Tensor:
    length = -(-len(flat) // processes)
    padded = torch.cat([flat, torch.full((length * processes - len(flat),), -100.0)])
    return padded[rank * length : (rank + 1) * length]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_whole_weights_and_moments_come_out_of_any_number_of_pieces(tmp_path: Path, processes: int) -> None:
    weights = {"model.a": torch.randn(7, 3), "model.b": torch.randn(2), "model.c": torch.randn(4, 4)}
    write_stage_3(tmp_path / "last.ckpt", weights, processes)
    checkpoint = ZeroCheckpoint(tmp_path / "last.ckpt")
    assert (checkpoint.processes, checkpoint.stage) == (processes, 3)
    found = dict(checkpoint.parameters())
    assert list(found) == list(weights)
    for name, state in found.items():
        torch.testing.assert_close(state[WEIGHT], weights[name], rtol=0, atol=0)
        torch.testing.assert_close(state["exp_avg"], weights[name] + 1, rtol=0, atol=0)
        torch.testing.assert_close(state["exp_avg_sq"], weights[name] + 2, rtol=0, atol=0)
        assert float(state["step"]) == 7
    trained, hyper_parameters = read_checkpoint(tmp_path / "last.ckpt")
    assert trained["a"].equal(weights["model.a"]) and hyper_parameters == {"a": 1}


def test_a_missing_piece_is_said(tmp_path: Path) -> None:
    write_stage_3(tmp_path / "last.ckpt", {"a": torch.ones(4)}, 3)
    (tmp_path / "last.ckpt" / "checkpoint" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(UserError, match="without DeepSpeed's pieces"):
        ZeroCheckpoint(tmp_path / "last.ckpt")


def test_a_half_written_piece_is_named(tmp_path: Path) -> None:
    write_stage_3(tmp_path / "last.ckpt", {"a": torch.ones(4000)}, 2)
    piece = tmp_path / "last.ckpt" / "checkpoint" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    piece.write_bytes(piece.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"zero_pp_rank_1_mp_rank_00_optim_states.pt' can't be read"):
        dict(ZeroCheckpoint(tmp_path / "last.ckpt").parameters())


def test_a_checkpoint_of_one_file_is_no_sharded_one(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"zip")
    with pytest.raises(UserError, match="not a folder of DeepSpeed's: resume it with the trainer that made it"):
        ZeroCheckpoint(tmp_path / "last.ckpt")


def test_zero_1_and_2_share_a_layout_and_zero_3_has_its_own(tmp_path: Path) -> None:
    write_stage_3(tmp_path / "last.ckpt", {"a": torch.ones(4)}, 2)
    checkpoint = ZeroCheckpoint(tmp_path / "last.ckpt")
    assert checkpoint.is_laid_out_for(2, 3)
    assert not checkpoint.is_laid_out_for(2, 2) and not checkpoint.is_laid_out_for(1, 3)


def test_more_of_deepspeeds_settings_are_added_to_lightnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    more = {"zero_optimization": {"stage3_max_live_parameters": 5}, "data_types": {"grad_accum_dtype": "fp32"}}
    config = ZeroStrategy(stage=3, deepspeed=more).config
    assert isinstance(config, dict)
    assert config["zero_optimization"]["stage3_max_live_parameters"] == 5 and config["zero_optimization"]["stage"] == 3
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["zero_force_ds_cpu_optimizer"] is False  # or it refuses PyTorch's AdamW in host memory
