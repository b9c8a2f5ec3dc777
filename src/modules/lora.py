"""LoRA: low-rank adapters on frozen weights (Hu et al. 2021, arXiv:2106.09685), through peft.

Checkpoints hold the adapter only (the frozen weights are where they came from), and an export is a PEFT folder.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from peft import LoraConfig, get_peft_model
from torch import nn

from src.errors import UserError
from src.modules.causal_lm import CausalLM
from src.strategies.deepspeed import outside_partitioning


@dataclass(frozen=True)
class LoRASettings:
    """What of the model is adapted and how.

    Args:
        r: rank.
        alpha: the update is scaled by alpha / r, or alpha / sqrt(r) with ``use_rslora``.
        dropout: on the adapter's input.
        target_modules: names of the linear layers that get an adapter.
        use_dora: weight-decomposed adapters (Liu et al. 2024, arXiv:2402.09353).
        use_rslora: rank-stabilised scaling (Kalajdzievski 2023, arXiv:2312.03732).
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    use_dora: bool = False
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise UserError(f"adapter.r must be a whole number of at least 1, found {self.r!r}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"adapter.dropout must be at least 0 and below 1, found {self.dropout}")

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of ``peft.LoraConfig``; also what a checkpoint remembers of the adapter."""
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.target_modules),
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        }


class LoRA(CausalLM):
    """`CausalLM` with frozen weights and a trained adapter.

    Args:
        adapter: rank, scale and targets.
        causal_lm: settings of `CausalLM`.
    """

    def __init__(self, adapter: LoRASettings, **causal_lm: Any) -> None:
        super().__init__(**causal_lm)
        self.adapter = adapter
        self.save_hyperparameters({"model": asdict(self.spec), "adapter": adapter.arguments()})
        self.strict_loading = False  # checkpoints hold the adapter only
        self.built_from_weights = adapter.use_dora  # its magnitudes are norms of the weights

    def build(self) -> nn.Module:
        model: Any = super().build()
        config = LoraConfig(task_type="CAUSAL_LM", **self.adapter.arguments())
        # Inside zero.Init peft's zeroing of lora_B acts on an empty slice and the adapter starts at random.
        with outside_partitioning():
            try:
                return get_peft_model(model, config)
            except ValueError as error:
                raise UserError(
                    f"adapter.target_modules={list(self.adapter.target_modules)} does not fit {self.spec.name}: {error}"
                ) from error

    def check_quantization(self) -> None:
        strategy = self.trainer.strategy if self._trainer else None
        zero3 = isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3
        if zero3 or isinstance(strategy, ModelParallelStrategy):
            raise UserError(
                f"module.quantization={self.quantization} and a strategy that cuts the weights into pieces don't go "
                "together: give trainer=ddp or trainer=gpu, or adapter=lora"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()
        if "state_dict" not in checkpoint:  # DeepSpeed keeps the weights in files of its own
            return
        missing = {n for n, p in self.named_parameters() if p.requires_grad} - set(checkpoint["state_dict"])
        if missing:
            raise UserError(
                f"the checkpoint lacks {len(missing)} adapter weights, {sorted(missing)[0]} among them: "
                "resume with the adapter settings it was made with"
            )

    def trainable_parameters(self) -> tuple[int, int]:
        """Trained and all parameters."""
        sizes = [(p.requires_grad, p.numel()) for p in self._network().parameters()]
        return sum(size for trained, size in sizes if trained), sum(size for _, size in sizes)
