"""Before a run: what it takes in memory, time and money, computed from its config alone.

``python train.py experiment=… preflight=true`` starts nothing on a GPU, touches no network and no weights, and needs no
token shards (where they are there, the steps of an epoch are counted exactly). The numbers are those of
`src.preflight.memory` and `src.preflight.step_time`; a run that can't fit is refused with what would fit, see
`src.preflight.advice`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.errors import UserError
from src.models.architecture import Architecture, architecture_of
from src.models.spec import ModelSpec
from src.preflight.advice import advice, fits
from src.preflight.gpus import GIB, Gpu, find_gpu, gpu_present
from src.preflight.memory import MemoryEstimate, estimate_memory
from src.preflight.plan import AdapterPlan, Plan
from src.preflight.step_time import Assumptions, StepTime, estimate_step
from src.preflight.table import preflight_table
from src.strategies.launch import find_launch

log = logging.getLogger(__name__)

ASSUMED_DEVICES = 8  # where devices=auto and the machine of the run is another one


@dataclass(frozen=True)
class Preflight:
    """Everything `preflight` found out.

    rows_per_epoch, steps: None where neither shards nor the config say them.
    price: dollars of one device for an hour.
    """

    model: str
    shape: Architecture
    plan: Plan
    device: Gpu
    memory: MemoryEstimate
    time: StepTime
    assumed: Assumptions
    price: float
    rows_per_epoch: int | None
    steps: int | None
    notes: list[str]

    @property
    def global_batch(self) -> int:
        return self.plan.micro_batch * self.plan.accumulation * self.plan.world_size

    @property
    def hours(self) -> float | None:
        return None if self.steps is None else self.steps * self.time.total / 3600

    @property
    def dollars(self) -> float | None:
        return None if self.hours is None else self.hours * self.plan.world_size * self.price

    def as_json(self) -> dict[str, Any]:
        """What ``preflight.json`` holds; bytes, seconds and dollars."""
        memory = {field.name: getattr(self.memory, field.name) for field in dataclasses.fields(self.memory)}
        memory["parts"] = dataclasses.asdict(self.memory.parts)
        time = {"step_s": self.time.total, "tokens_per_s": self.time.tokens_per_s, "mfu": self.time.mfu}
        return {
            "model": self.model,
            "architecture": {**dataclasses.asdict(self.shape), "parameters": self.shape.parameters},
            "plan": dataclasses.asdict(self.plan),
            "device": dataclasses.asdict(self.device),
            "memory": {**memory, "total": self.memory.total, "fits": fits(self.memory, self.device)},
            "time": {**dataclasses.asdict(self.time), **time},
            "assumptions": {**dataclasses.asdict(self.assumed), "price_per_gpu_hour": self.price},
            "run": {
                "global_batch": self.global_batch,
                "tokens_per_step": self.plan.tokens_per_step,
                "rows_per_epoch": self.rows_per_epoch,
                "steps": self.steps,
                "tokens": None if self.steps is None else self.steps * self.plan.tokens_per_step,
                "hours": self.hours,
                "dollars": self.dollars,
            },
            "notes": self.notes,
        }


def preflight(cfg: DictConfig) -> Preflight:
    """Estimate the run that a config describes, print it, and write ``preflight.json`` into the run folder.

    Raises:
        UserError: it can't fit; says what would.
    """
    from rich.console import Console

    found = estimate(cfg)
    Console(width=None if os.environ.get("COLUMNS") else 110).print(preflight_table(found))
    path = Path(cfg.paths.output_dir, "preflight.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    log.info("estimate: %s", path)
    refuse(found, cfg.preflight.get("host_memory_gib"))
    return found


def estimate(cfg: DictConfig) -> Preflight:
    """The same without printing or refusing anything."""
    from hydra.utils import instantiate

    settings, notes = cfg.preflight, list[str]()
    spec: ModelSpec = instantiate(cfg.model)
    shape = architecture_of(spec)
    if shape.context_length and cfg.data.max_length > shape.context_length:
        raise UserError(
            f"data.max_length={cfg.data.max_length} is more than the context of {spec.name}, "
            f"{shape.context_length} tokens: give at most that"
        )
    device = _device(cfg, notes)
    plan = plan_of(cfg, device, notes)
    rows = _rows_per_epoch(cfg, spec, notes)
    assumed = Assumptions(
        peak_flops=device.peak_flops,
        link=device.link,
        host_link=device.host_link,
        mfu=settings.mfu,
        node_network=settings.node_network_gbit * 1e9 / 8,
        overlap=settings.overlap,
    )
    return Preflight(
        model=spec.name,
        shape=shape,
        plan=plan,
        device=device,
        memory=estimate_memory(shape, plan),
        time=estimate_step(shape, plan, assumed),
        assumed=assumed,
        price=device.dollars_per_hour if settings.price_per_gpu_hour is None else settings.price_per_gpu_hour,
        rows_per_epoch=rows,
        steps=_steps(cfg, rows),
        notes=notes,
    )


def refuse(found: Preflight, host_memory_gib: float | None) -> None:
    """Raise where the run can't fit.

    Raises:
        UserError: with the changes that would make it fit.
    """
    if not fits(found.memory, found.device):
        raise UserError(
            f"{found.model} needs {found.memory.total / GIB:.1f} GiB on each {found.device.name} and "
            f"{found.device.memory / GIB:.1f} are there: {advice(found.shape, found.plan, found.device)}"
        )
    if host_memory_gib and found.memory.host > host_memory_gib * GIB:
        raise UserError(
            f"{found.model} needs {found.memory.host / GIB:.0f} GiB of host memory on each node and "
            f"preflight.host_memory_gib={host_memory_gib:g}: "
            + (
                "spread it over more nodes with trainer.num_nodes=…, or keep the optimizer on the GPUs with "
                "trainer.strategy.offload_optimizer=false"
                if found.plan.strategy in ("zero3", "fsdp2")
                else "each process loads the whole model there; trainer=deepspeed_zero3 and trainer=fsdp2 load pieces"
            )
        )


def plan_of(cfg: DictConfig, device: Gpu, notes: list[str]) -> Plan:
    """The plan that a training config describes.

    Raises:
        UserError: a strategy or setting that can't be estimated, or a global batch that can't be shared out.
    """
    on_gpu = device.name != "CPU"
    devices, nodes = _devices(cfg, on_gpu, notes), _nodes(cfg, notes)
    strategy, from_strategy = _strategy(cfg.trainer.strategy, devices * nodes)
    micro_batch, batch = cfg.data.micro_batch_size, cfg.data.global_batch_size
    if batch % (micro_batch * devices * nodes):
        raise UserError(
            f"data.global_batch_size={batch} can't be shared by {devices * nodes} devices with "
            f"data.micro_batch_size={micro_batch}: make it a multiple of {micro_batch * devices * nodes}"
        )
    precision = _precision(cfg.trainer.precision, device)
    if strategy == "fsdp2" and precision.startswith("16"):
        raise UserError(
            f"trainer=fsdp2 has no fp16 and this run would take it ({precision} on {device.name}): use "
            "trainer=deepspeed_zero3, or GPUs with bf16"
        )
    if _quantization(cfg) and strategy in ("zero3", "fsdp2"):
        raise UserError(
            f"module.quantization={_quantization(cfg)} does not go with weights in pieces: use trainer=ddp or "
            "trainer=deepspeed_zero2, or adapter=lora"
        )
    return Plan(
        devices=devices,
        nodes=nodes,
        strategy=strategy,
        precision=precision,
        weights_dtype=cfg.module.dtype,
        micro_batch=micro_batch,
        length=cfg.data.max_length,
        accumulation=batch // (micro_batch * devices * nodes),
        activation_checkpointing=_activation_checkpointing(cfg.module),
        attention=_attention(cfg.module, on_gpu, device, precision),
        **_loss(cfg.module),
        adapter=_adapter(cfg),
        quantization=_quantization(cfg),
        **from_strategy,
        on_gpu=on_gpu,
    )


def _device(cfg: DictConfig, notes: list[str]) -> Gpu:
    """The GPU that ``preflight.gpu`` names, else the one of this machine, else the CPU if the run may take it."""
    if cfg.trainer.accelerator != "cpu":
        if cfg.preflight.gpu:
            return find_gpu(cfg.preflight.gpu)
        if (here := gpu_present()) is not None:
            return here
        if cfg.trainer.accelerator == "gpu":
            raise UserError(
                "this run is for GPUs and there is none here to look at: say which with preflight.gpu=…, such as "
                "preflight.gpu=A100-80GB"
            )
    import torch

    from src.strategies.hardware import measured_flops, suitable_precision

    precision = _precision(cfg.trainer.precision, None)
    dtype = torch.float32 if (precision or suitable_precision("cpu")).startswith("32") else torch.bfloat16
    processes = cfg.trainer.devices if isinstance(cfg.trainer.devices, int) else 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    notes.append("peak of the CPU: a matrix product measured here")
    flops = measured_flops(torch.device("cpu"), dtype) / processes
    return Gpu("CPU", flops, memory // processes, link=2e9, host_link=1e12, dollars_per_hour=0.0)


def _devices(cfg: DictConfig, on_gpu: bool, notes: list[str]) -> int:
    devices = cfg.trainer.devices
    if isinstance(devices, int) and not isinstance(devices, bool) and devices > 0:
        return devices
    if devices != "auto":
        raise UserError(f"trainer.devices must be auto or a whole number of at least 1, found {devices!r}")
    if not on_gpu:
        return 1
    import torch

    if not cfg.preflight.gpu and torch.cuda.is_available():  # else they are another machine's
        return torch.cuda.device_count()
    notes.append(f"trainer.devices=auto: {ASSUMED_DEVICES} GPUs in a node assumed")
    return ASSUMED_DEVICES


def _nodes(cfg: DictConfig, notes: list[str]) -> int:
    nodes = cfg.trainer.num_nodes
    if nodes == "auto":
        launch = find_launch()
        if launch is None:
            notes.append("trainer.num_nodes=auto: 1 node assumed, because no launcher started this")
        return launch.nodes if launch else 1
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
        raise UserError(f"trainer.num_nodes must be auto or a whole number of at least 1, found {nodes!r}")
    return nodes


def _strategy(given: Any, world_size: int) -> tuple[str, dict[str, Any]]:
    """Name of a strategy in `Plan`, and the settings of it that matter."""
    if not OmegaConf.is_config(given):
        name = str(given)
        if name.startswith("deepspeed_stage_"):
            stage, _, offload = name.removeprefix("deepspeed_stage_").partition("_")
            return f"zero{stage}", {"offload_optimizer": bool(offload)}
        if name == "auto" or name.startswith(("ddp", "single")):
            return ("ddp" if world_size > 1 else "single"), {}
        raise UserError(f"trainer.strategy={name} can't be estimated: give auto, ddp, or one of configs/trainer")
    target = str(given.get("_target_", ""))
    if "stage" in given or "Zero" in target or "DeepSpeed" in target:
        zero = OmegaConf.select(given, "deepspeed.zero_optimization") or {}
        return f"zero{given.get('stage', 2)}", {
            "offload_optimizer": bool(given.get("offload_optimizer")),
            "offload_parameters": bool(given.get("offload_parameters")),
            "reduce_bucket": int(given.get("reduce_bucket_size", 200_000_000)),
            "live_parameters": int(zero.get("stage3_max_live_parameters", 1_000_000_000)),
        }
    if "FullyShard" in target:
        keep_on_host = bool(given.get("offload"))
        return "fsdp2", {
            "offload_optimizer": keep_on_host,
            "offload_parameters": keep_on_host,
            "whole_gradients": not given.get("sync_each_micro_batch", False),
            "replicas": int(given.get("replicas", 1)),
        }
    if "DDP" in target or "Ddp" in target or "DataParallel" in target:
        return ("ddp" if world_size > 1 else "single"), {}
    raise UserError(f"trainer.strategy._target_={target} can't be estimated: give one of configs/trainer")


def _precision(given: str, device: Gpu | None) -> str:
    if given != "auto":
        return str(given)
    if device is not None and device.name != "CPU":
        return "bf16-mixed" if device.bf16 else "16-mixed"
    from src.strategies.hardware import suitable_precision

    return suitable_precision("cpu")


def _activation_checkpointing(module: DictConfig) -> str:
    if "activation_checkpointing" in module:
        return str(module.activation_checkpointing)
    return "full" if module.get("gradient_checkpointing") else "none"


def _attention(module: DictConfig, on_gpu: bool, device: Gpu, precision: str) -> str:
    """What ``auto`` will be: segments where a kernel takes them, which needs 16 bits and a GPU that has bf16."""
    given = str(module.attn_implementation)
    if given != "auto":
        return given
    return "varlen" if not on_gpu or (device.bf16 and precision != "32-true") else "sdpa"


def _loss(module: DictConfig) -> dict[str, Any]:
    name = str(module.get("loss", "full"))
    return {
        "loss": "chunked" if name == "auto" else name,  # liger takes less than that
        "loss_chunk": int(module.get("loss_chunk_tokens", 512)),
    }


def _adapter(cfg: DictConfig) -> AdapterPlan | None:
    adapter = cfg.get("adapter")
    if not adapter:
        return None
    dora = bool(adapter.get("use_dora"))
    return AdapterPlan(adapter.r, tuple(adapter.target_modules), adapter.dropout, dora)


def _quantization(cfg: DictConfig) -> str | None:
    """``nf4`` and the like, wherever the config says it."""
    given = OmegaConf.select(cfg, "adapter.quantization") or OmegaConf.select(cfg, "module.quantization")
    if not given or str(given).lower() in {"none", "false"}:
        return None
    return {"4bit": "nf4", "8bit": "int8"}.get(str(given), str(given))


def _rows_per_epoch(cfg: DictConfig, spec: ModelSpec, notes: list[str]) -> int | None:
    """Packed rows of an epoch: counted in the shards where they are, else as the config says it."""
    from src.preflight.rows import count_rows

    try:
        return count_rows(cfg, spec)
    except UserError as missing:
        given = cfg.preflight.rows_per_epoch
        if given:
            notes.append(
                f"rows of an epoch: preflight.rows_per_epoch, because the data can't be counted here ({missing})"
            )
        else:
            notes.append(f"the steps of an epoch are not known here ({missing})")
        return int(given) if given else None


def _steps(cfg: DictConfig, rows: int | None) -> int | None:
    if cfg.trainer.max_steps is not None:
        return int(cfg.trainer.max_steps)
    if rows is None or cfg.trainer.max_epochs is None:
        return None
    return max(1, math.ceil(cfg.trainer.max_epochs * rows / cfg.data.global_batch_size))
