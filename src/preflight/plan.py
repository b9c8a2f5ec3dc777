"""What a run will do to memory and time, as plain numbers: how it is spread, in which precision, with what kept.

`src.preflight.preflight` makes a `Plan` of a training config; `src.preflight.memory` and `src.preflight.step_time`
say what follows from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from src.errors import UserError
from src.models.activation_checkpointing import Checkpointing

STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")
QUANTIZATIONS = {"nf4": 4.127, "fp4": 4.127, "nf4-single": 4.5, "int8": 8.0}  # bits a weight, scales included


@dataclass(frozen=True)
class AdapterPlan:
    """A low-rank adapter on frozen weights; names of `target_modules` are those of the linear layers."""

    r: int
    target_modules: Sequence[str]
    dropout: float = 0.0
    use_dora: bool = False


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Args:
        devices: in each node.
        strategy: ``single``, ``ddp``, ``zero1`` to ``zero3`` (DeepSpeed) or ``fsdp2``.
        precision: as Lightning names it. Under DeepSpeed 16-mixed and bf16-mixed keep 16-bit weights and float32
            masters; elsewhere they are autocast over float32 weights.
        weights_dtype: of the weights as they are loaded.
        micro_batch: rows on one device at once, of ``length`` tokens each.
        accumulation: micro-batches of one device in an optimizer step.
        activation_checkpointing: ``none``, ``full``, ``selective`` (matrix products and attention are kept, the rest is
            computed again) or ``every_N`` (each Nth layer is computed again).
        attention: ``module.attn_implementation``. ``sdpa`` gets a dense mask for packed rows, ``eager`` keeps all
            scores, the others get the segments.
        loss: ``module.loss``: ``full`` has all logits at once, ``chunked`` those of ``loss_chunk`` tokens, ``liger``
            those of as many as make them no larger than the hidden states.
        quantization: of frozen weights: ``nf4``, ``fp4``, ``int8`` or None.
        reduce_bucket, live_parameters: DeepSpeed's reduce_bucket_size and stage3_max_live_parameters, in elements.
        whole_gradients: FSDP2 keeps whole float32 gradients between the micro-batches of a step.
        replicas: FSDP2's copies of the sharded model; each is spread over ``world_size / replicas`` devices.
        on_gpu: False for processes on a CPU, which keep a dropout mask as a number and need no CUDA context.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "single"
    precision: str = "32-true"
    weights_dtype: str = "float32"
    micro_batch: int = 1
    length: int = 1024
    accumulation: int = 1
    activation_checkpointing: str = "none"
    attention: str = "sdpa"
    loss: str = "chunked"
    loss_chunk: int = 512
    adapter: AdapterPlan | None = None
    quantization: str | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False
    reduce_bucket: int = 200_000_000
    live_parameters: int = 1_000_000_000
    whole_gradients: bool = False
    replicas: int = 1
    on_gpu: bool = True

    def __post_init__(self) -> None:
        for name, known in (("strategy", STRATEGIES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} '{getattr(self, name)}' can't be estimated: expected one of {', '.join(known)}"
                )
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise UserError(
                f"quantization '{self.quantization}' can't be estimated: expected one of {', '.join(QUANTIZATIONS)}"
            )
        Checkpointing.parse(self.activation_checkpointing)

    @property
    def world_size(self) -> int:
        return self.devices * self.nodes

    @property
    def pieces(self) -> int:
        """Devices over which one copy of what is partitioned is spread."""
        return max(1, self.world_size // self.replicas)

    @property
    def checkpointing(self) -> Checkpointing:
        return Checkpointing.parse(self.activation_checkpointing)

    @property
    def deepspeed(self) -> bool:
        return self.strategy.startswith("zero")

    @property
    def stage(self) -> int:
        """ZeRO stage; 0 where nothing is partitioned by DeepSpeed."""
        return int(self.strategy[-1]) if self.deepspeed else 0

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on one device."""
        return self.micro_batch * self.length

    @property
    def tokens_per_step(self) -> int:
        return self.tokens * self.accumulation * self.world_size

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in matrix products."""
        return 4 if self.precision == "32-true" and self.weights_dtype == "float32" else 2

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight while the model runs; of a frozen one before it is quantised."""
        if self.precision.endswith("true") and self.precision != "32-true":
            return 2
        if self.deepspeed and self.precision != "32-true":
            return 2
        return 4 if self.weights_dtype == "float32" else 2

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight: adapters stay float32 on 16-bit weights unless everything is made 16-bit."""
        if self.adapter is not None and not self.deepspeed and not self.precision.endswith("16-true"):
            return 4
        return self.weight_bytes

    @property
    def autocast(self) -> bool:
        """Whether weights are cast for each product, as Lightning's mixed precision does outside DeepSpeed and FSDP."""
        return self.precision.endswith("mixed") and not self.deepspeed and self.strategy != "fsdp2"

    @property
    def residual_bytes(self) -> int:
        """Bytes of a number that flows from layer to layer: the embedding's type, which FSDP casts with the weights."""
        if self.strategy == "fsdp2":
            return self.compute_bytes
        return self.weight_bytes
