"""Fully sharded data parallelism of PyTorch (FSDP2, `torch.distributed.fsdp.fully_shard`) through Lightning.

Weights, gradients and optimizer states lie in pieces over all processes, as in ZeRO-3 (Rajbhandari et al. 2019,
arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277): each decoder layer is one group, and embedding, final norm and
head are the group of the root. A piece is a `DTensor` with rows of its parameter, so optimizers, clipping and
checkpoints see the whole shape. Nothing but PyTorch is needed, and it runs on CPU processes (gloo) as well.

How the weights get into their pieces is `src.strategies.sharded_loading`.
"""

import dataclasses
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from src.errors import UserError
from src.models.fsdp2_checkpoint import METADATA_FILE, saved_names

_CALL = "call_within_root"


class ShardedPrecision(Precision):
    """``bf16-mixed`` as `fully_shard` does it: bf16 weights and activations, fp32 master pieces and reductions."""

    precision = "bf16-mixed"

    def forward_context(self) -> AbstractContextManager[None]:
        return nullcontext()  # the weights are cast as they are gathered: autocast would cast them once more


class FullyShard(ModelParallelStrategy):
    """Shards the model of a `CausalLM` over all processes, decoder layer by decoder layer.

    Args:
        reshard_after_forward: free gathered layers after the forward pass and gather them again in the backward pass
            (ZeRO-3). False keeps them: faster, as much memory for weights as one process needs (ZeRO-2).
        offload: keep pieces and optimizer states in host memory; the optimizer then runs there.
        sync_each_micro_batch: reduce gradients after each micro-batch instead of after the last one of a step. More
            communication; without it a process keeps whole fp32 gradients between the micro-batches of a step.
        replicas: copies of the sharded model; ``replicas=N`` on N nodes shards within each node and averages gradients
            between them (hybrid sharding).
        timeout_s: how long a process waits for the others in one communication.
    """

    def __init__(
        self,
        reshard_after_forward: bool = True,
        offload: bool = False,
        sync_each_micro_batch: bool = False,
        replicas: int = 1,
        timeout_s: float = 1800,
    ) -> None:
        super().__init__(timeout=timedelta(seconds=timeout_s))
        self.reshard_after_forward, self.offload = reshard_after_forward, offload
        self.sync_each_micro_batch, self.replicas = sync_each_micro_batch, replicas

    # Set-up

    @property
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = ShardedPrecision() if isinstance(plugin, MixedPrecision) else plugin

    def setup_environment(self) -> None:
        world = self.num_nodes * self.num_processes
        if self.replicas < 1 or world % self.replicas:
            raise UserError(
                f"trainer.strategy.replicas={self.replicas} does not divide the {world} processes of this run: give 1, "
                "or the number of nodes"
            )
        if self.offload and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # norms of pieces in host memory are reduced there
        self._data_parallel_size, self._tensor_parallel_size = self.replicas, world // self.replicas
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        assert self.lightning_module is not None
        reshard(self.lightning_module)  # or the optimizer would be made over gathered weights
        # Tensors gathered in inference mode could not take part in a backward pass later.
        trainer.validate_loop.inference_mode = trainer.fit_loop.epoch_loop.val_loop.inference_mode = False
        super().setup(trainer)

    def model_to_device(self) -> None:
        assert self.model is not None
        if not self.offload:
            super().model_to_device()
            return
        for module in self.model.modules():  # weights stay in host memory, buffers are used on the device
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.root_device))

    def shard(self, root: nn.Module) -> None:
        """Cut a transformers model into pieces in place: its decoder layers, then what is left.

        Tied embeddings stay one parameter, because embedding and head are in the same group.
        """
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
        from torch.distributed.fsdp import register_fsdp_forward_method as register

        mixed = self.precision_plugin.precision == "bf16-mixed"
        settings: dict[str, Any] = {
            "mesh": self.device_mesh if self.replicas > 1 else self.device_mesh["tensor_parallel"],
            "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy(),
            "offload_policy": CPUOffloadPolicy() if self._offloads() else OffloadPolicy(),
        }
        for layer in decoder_layers(root):
            _give_memory(layer, self.root_device)
            fully_shard(layer, reshard_after_forward=self.reshard_after_forward, **settings)
        _give_memory(root, self.root_device)
        fully_shard(root, **settings)
        setattr(root, _CALL, _call.__get__(root))
        register(root, _CALL)

    def _offloads(self) -> bool:
        return self.offload and self.root_device.type != "cpu"

    # Training

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        assert self.lightning_module is not None
        if self.sync_each_micro_batch:
            yield
            return
        roots = sharded_roots(self.lightning_module)
        for root in roots:
            root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            for root in roots:
                root.set_requires_gradient_sync(True)

    # Checkpoints: a folder with a file for each process, in PyTorch's distributed format, which reshards on loading

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        reshard(self.lightning_module)
        return {name: parameter.detach() for name, parameter in self.lightning_module.named_parameters()}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        assert self.lightning_module is not None
        reshard(self.lightning_module)
        return super().optimizer_state(optimizer)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read this rank's pieces of weights and moments, whatever number of processes wrote them."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        assert self.lightning_module is not None
        path = Path(self.broadcast(str(checkpoint_path)))
        saved = saved_names(path)
        weights = self.lightning_module_state_dict()
        needed = {name for name, p in self.lightning_module.named_parameters() if p.requires_grad}
        if not self.lightning_module.strict_loading:  # frozen weights of an adapter run are where they came from
            weights = {name: tensor for name, tensor in weights.items() if f"state_dict.{name}" in saved}
        missing = sorted(name for name in needed | set(weights) if f"state_dict.{name}" not in saved)
        if missing:
            raise UserError(
                f"checkpoint '{path}' lacks {len(missing)} weights of this model, {missing[0]} among them: resume with "
                "the model and adapter settings it was made with"
            )
        dcp.load({"state_dict": weights}, checkpoint_id=path)
        for number, optimizer in enumerate(self.optimizers):
            key = f"optimizer_{number}"
            if not any(name.startswith(f"{key}.") for name in saved):
                raise UserError(f"checkpoint '{path}' holds weights only: resume from a step_*.ckpt or last.ckpt")
            state = {key: get_optimizer_state_dict(self.lightning_module, optimizer)}
            dcp.load(state, checkpoint_id=path)
            set_optimizer_state_dict(self.lightning_module, optimizer, optim_state_dict=state[key])
        content: dict[str, Any] = torch.load(path / METADATA_FILE, map_location="cpu", weights_only=weights_only)
        return content


def call_within_root(model: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(model, *arguments)``, with the root's own weights gathered where the model is sharded.

    `fully_shard` gathers embedding, norm and head when the root's ``forward`` is called; our loss calls decoder and
    head apart. The result is a tensor, a tuple of tensors or a dataclass of tensors.
    """
    root: Any = base_model(model)
    if not hasattr(root, _CALL):
        return function(model, *arguments)
    kind: list[type] = []

    def tensors() -> Any:
        result = function(model, *arguments)
        if not dataclasses.is_dataclass(result):
            return result
        kind.append(type(result))  # hooks for the backward pass are put on tensors in plain containers only
        return tuple(getattr(result, field.name) for field in dataclasses.fields(result))

    result = getattr(root, _CALL)(tensors)
    return kind[0](*result) if kind else result


def _call(root: nn.Module, function: Callable[[], Any]) -> Any:
    return function()


def _give_memory(module: nn.Module, device: torch.device) -> None:
    """Memory for parameters made by `without_weights`, for the moment in which their group is cut into pieces."""
    for parameter in module.parameters():
        if not hasattr(parameter, "to_local") and parameter.numel() > 1 and not any(parameter.stride()):
            parameter.data = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)


def gathered_state_dict(module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
    """Whole weights of a sharded module in host memory, on rank 0; an empty dict elsewhere.

    All ranks must call it. Parameters are gathered one after the other: a device holds one of them whole at a time.
    Names are those of ``module.state_dict()``; tied weights appear under the first of their names.
    """
    reshard(module)
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if trained_only and not parameter.requires_grad:
            continue
        whole = full_tensor(parameter.detach())
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            state[name] = whole.cpu()
    return state


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be in pieces; all ranks must call it."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def reshard(module: nn.Module) -> None:
    """Free gathered weights, so that ``module.parameters()`` are the pieces; after validation the root's are whole."""
    for root in sharded_roots(module):
        for part in root.modules():
            if hasattr(part, "reshard"):
                part.reshard()


def sharded_roots(module: nn.Module) -> list[Any]:
    """The models within a module that `FullyShard.shard` cut."""
    return [part for part in module.modules() if hasattr(part, _CALL)]


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model itself, without the peft model around it."""
    inner: Any = model
    return inner.get_base_model() if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model") else inner


def decoder_layers(root: nn.Module) -> list[nn.Module]:
    """The blocks transformers says must not be split, in order."""
    names = set(getattr(root, "_no_split_modules", None) or ())
    layers = [module for module in root.modules() if type(module).__name__ in names]
    if not layers:
        raise UserError(f"trainer=fsdp2 finds no decoder layers in {type(root).__name__}: use trainer=deepspeed_zero3")
    return layers
