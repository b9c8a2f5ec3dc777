"""DeepSpeed ZeRO through Lightning (Rajbhandari et al. 2019, arXiv:1910.02054), without its silent faults.

With lightning 2.6.6, deepspeed 0.19.8 and transformers 5.23 these things train the wrong model, or hang, without a
word:

- gradients are divided by the accumulation steps twice, once by Lightning and once by DeepSpeed
  (`ZeroStrategy.backward`);
- a model built inside ``zero.Init`` gets wrong initial weights unless transformers knows of it, and pretrained weights
  fail to load (`partition_while_loading`);
- peft's adapters are not zero at the start when made inside ``zero.Init`` (`outside_partitioning`);
- on a CPU, DeepSpeed compiles an extension when the processes meet, and a process killed meanwhile leaves a lock at
  which every later run waits for ever (`ZeroStrategy.setup_distributed` does without the extension).

A checkpoint is a folder with files for each process; `src.models.zero_checkpoint` reads it on any number of them.
DeepSpeed is imported only when a run uses it: the import takes seconds.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from src.errors import UserError
from src.models.zero_checkpoint import ZeroCheckpoint
from src.strategies.zero_resume import restore

log = logging.getLogger(__name__)


class ZeroStrategy(DeepSpeedStrategy):
    """`DeepSpeedStrategy` on GPUs or on CPU processes, where everything is communicated through gloo.

    With the optimizer in host memory it accepts PyTorch's AdamW, which DeepSpeed refuses unless told not to.

    Args:
        deepspeed: more of DeepSpeed's configuration, section by section as its documentation names them, such as
            ``{"zero_optimization": {"stage3_prefetch_bucket_size": 50_000_000}}``.
        settings: of `DeepSpeedStrategy`.

    Attributes:
        discard_gradients: set to True before an optimizer step, on every process, it makes that step drop its gradients
            and leave weights, moments, step counts and loss scale as they are; False again afterwards.
        left_out: whether DeepSpeed itself left the last optimizer step out, because its gradients were not finite; who
            has seen it sets it to False.
    """

    def __init__(self, deepspeed: Mapping[str, Mapping[str, Any]] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False
        for section, values in (deepspeed or {}).items():
            self.config.setdefault(section, {}).update(values)
        self.discard_gradients = self.left_out = False
        self._zero_step: Callable[..., Any] | None = None
        self._engine: Any = None

    # Processes

    @property
    def root_device(self) -> torch.device:
        device = super().root_device
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device  # DeepSpeed asks for an index

    def setup_environment(self) -> None:
        if self.root_device.type != "cpu":
            super().setup_environment()
            return
        from deepspeed.accelerator import get_accelerator

        if (found := get_accelerator().device_name()) != "cpu":
            raise UserError(
                f"DeepSpeed was imported for {found} and this run is on the CPU: set the environment variable "
                "DS_ACCELERATOR=cpu before it starts"
            )
        super(DeepSpeedStrategy, self).setup_environment()  # Lightning's own refuses whatever is not CUDA

    def setup_distributed(self) -> None:
        if self.root_device.type != "cpu":
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        with _without_shared_memory_extension():
            self._init_deepspeed_distributed()

    # Engines: one to train, one for each validation apart from training

    def init_deepspeed(self) -> None:
        if self._engine is not None:  # its hooks on the model would take part in what comes
            if hasattr(self._engine.optimizer, "empty_partition_cache"):
                self._engine.optimizer.empty_partition_cache()
            self._engine.destroy()
            self._zero_step = None
        super().init_deepspeed()
        self._engine = self.model

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        # Lightning's own takes all hooks off the model, also those of the model itself and of adapters.
        import deepspeed

        assert isinstance(self.config, dict)
        names = {"fp16", "bf16"} | (
            {"zero_optimization", "zero_allow_untested_optimizer"} if self.zero_stage_3 else set()
        )
        config = {name: self.config[name] for name in names & self.config.keys()}
        self.model, *_ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.root_device.index),
            config={"train_micro_batch_size_per_gpu": 1, **config},
            model=model,
            model_parameters=[],
            dist_init_required=False,
        )

    # Steps

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def _initialize_deepspeed_train(self, model: nn.Module) -> None:
        super()._initialize_deepspeed_train(model)
        # The decision to discard may come as late as in on_before_optimizer_step, after which the engine is on its own.
        zero = self.deepspeed_engine.optimizer
        zero.check_grad_overflow = True  # stages 1 and 2 in float32 would not look at their gradients
        self._zero_step, zero.step = zero.step, self._step_or_discard

    def _step_or_discard(self, *args: Any, **kwargs: Any) -> Any:
        assert self._zero_step is not None
        if not self.discard_gradients:
            result = self._zero_step(*args, **kwargs)
            self.left_out = bool(self.deepspeed_engine.optimizer.overflow)
            return result
        self.discard_gradients = False
        return _discard(self.deepspeed_engine.optimizer, self._zero_step)

    @property
    def grad_norm(self) -> float | None:
        """Norm of the gradients of the optimizer step just made, before clipping.

        None between optimizer steps and after a discarded one; infinite after one that overflowed in fp16.
        """
        engine = self.deepspeed_engine
        if not engine.global_steps or engine.micro_steps % engine.gradient_accumulation_steps():
            return None
        norm = engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    # Weights

    def gathered_state_dict(self, module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
        """Whole weights of a module in host memory, on rank 0; an empty dict elsewhere.

        All ranks must call it. Parameters are gathered one after the other, so a device holds one of them whole at a
        time. What is trained comes from the optimizer's float32 copy where the model is in 16 bit. Names are those of
        ``module.state_dict()``; tied weights appear under the first of their names.
        """
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        state: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            if trained_only and not parameter.requires_grad:
                continue
            whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad and self._zero_step else None
            if whole is not None:
                if self.is_global_zero:
                    state[name] = whole.to("cpu", copy=True)
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.zero_stage_3):
                if self.is_global_zero:
                    state[name] = parameter.detach().to("cpu", copy=True)
        return state

    # Checkpoints

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Restore a run, also one of another number of processes or another stage.

        Raises:
            UserError: the checkpoint is not one of ZeRO's, or lacks what this run trains.
        """
        assert self.lightning_module is not None and isinstance(self.config, dict)
        checkpoint = ZeroCheckpoint(checkpoint_path)
        stage = self.config["zero_optimization"]["stage"]
        if self.lightning_module.trainer.state.fn != TrainerFn.FITTING or checkpoint.is_laid_out_for(
            self.world_size, stage
        ):
            with _scaler_of_this_precision(getattr(self.deepspeed_engine, "optimizer", None)):
                return super().load_checkpoint(checkpoint_path, weights_only)
        log.info(
            "%s was saved by %d processes under ZeRO-%d: sharing it out anew to %d under ZeRO-%d",
            checkpoint_path,
            checkpoint.processes,
            checkpoint.stage,
            self.world_size,
            stage,
        )
        return restore(self.deepspeed_engine, checkpoint)


@contextmanager
def _scaler_of_this_precision(zero: Any) -> Iterator[None]:
    """Keep the loss scaler of a ZeRO optimizer where a checkpoint brings that of fp16 to bf16, or the other way."""
    scaler, dynamic = getattr(zero, "loss_scaler", None), getattr(zero, "dynamic_loss_scale", None)
    yield
    if scaler is not None and zero.dynamic_loss_scale != dynamic:
        log.info("the checkpoint was made in another precision: the loss scale starts anew")
        zero.loss_scaler, zero.dynamic_loss_scale = scaler, dynamic


def _discard(zero: Any, step: Callable[[], Any]) -> None:
    """Drop the accumulated gradients of a ZeRO optimizer the way it does itself when their norm is infinite."""
    infinity = torch.tensor(torch.inf, device=zero.device)
    is_stage_3 = hasattr(zero, "_get_norm_groups")
    norms = "_get_norm_groups" if is_stage_3 else "scaled_global_norm"
    had_check = getattr(zero, "check_grad_overflow", None)
    setattr(zero, norms, lambda: [infinity] if is_stage_3 else infinity)
    zero.check_grad_overflow = True  # or stages 1 and 2 ignore the norm in bf16
    zero.loss_scaler.update_scale = lambda overflow: None  # it is no overflow
    try:
        step()
    finally:
        delattr(zero, norms)
        del zero.loss_scaler.update_scale
        zero.check_grad_overflow = had_check
        zero._global_grad_norm = None


@contextmanager
def _without_shared_memory_extension() -> Iterator[None]:
    """Let DeepSpeed's CPU processes meet without compiling its extension for collectives in shared memory.

    The compilation takes minutes, needs a compiler, and hangs for ever at the lock that a killed one leaves behind.
    """
    import deepspeed.comm  # noqa: F401

    backend: Any = sys.modules["deepspeed.comm.torch"]
    build, backend.build_shm_op = backend.build_shm_op, lambda: None
    try:
        yield
    finally:
        backend.build_shm_op = build


@contextmanager
def partition_while_loading(strategy: Strategy | None) -> Iterator[Any]:
    """Let transformers build and load a model that ZeRO-3 partitions on the way: no rank ever holds all of it.

    Yields an object that must stay alive as long as the model does; None where nothing is partitioned. An earlier
    model of this process, in a sweep for example, then no longer makes transformers partition.
    """
    if not isinstance(strategy, DeepSpeedStrategy) or not strategy.zero_stage_3:
        if "transformers.integrations.deepspeed" in sys.modules:
            sys.modules["transformers.integrations.deepspeed"].unset_hf_deepspeed_config()
        yield None
        return
    from transformers.integrations import HfDeepSpeedConfig

    assert isinstance(strategy.config, dict)
    alive = HfDeepSpeedConfig({**strategy.config, "train_micro_batch_size_per_gpu": 1})
    yield alive


@contextmanager
def outside_partitioning() -> Iterator[None]:
    """Build small dense parameters, such as adapters, inside a model that is being partitioned."""
    partitioning = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if partitioning is None or not partitioning.zero_init_context:
        yield
        return
    partitioning.shutdown_init_context()
    try:
        yield
    finally:
        partitioning.restore_init_context()
