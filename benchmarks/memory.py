#!/usr/bin/env python
"""The memory estimate of `train.py … preflight=true` against what really happens, on the CPU.

    python benchmarks/memory.py [--models llama_15m smollm2_135m] [--quick]

    python benchmarks/memory.py --processes             two processes, DDP and ZeRO-3; needs the demo corpus's shards

Each case is a process of its own: it makes the model by the same code as training, random weights, and takes two
optimizer steps on random packed rows. Measured are

- saved: bytes that the graph of the loss holds on to, exactly, by saved-tensor hooks (which don't see what
  ``selective`` checkpointing keeps);
- peak: the highest resident memory of the process, less what it had before the model was made. Memory that the
  allocator keeps for later counts, as it does on a GPU.

Two processes are measured from outside, in real runs of ``train.py``: the peak of the larger one with llama_15m less
that with llama_tiny, which leaves out what libraries take.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "WANDB_MODE": "offline"}
os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from saving import save

from src.models.architecture import architecture_of
from src.models.zoo import find_model
from src.preflight.activations import head_input_bytes
from src.preflight.memory import estimate_memory
from src.preflight.plan import Plan

MIB = 2**20
SEGMENTS = 4  # in a row

# model, precision, rows, length, activation checkpointing, accumulation, attention, loss
CASES: list[tuple[str, str, int, int, str, int, str, str]] = [
    ("llama_15m", "32-true", 4, 256, "none", 1, "varlen", "chunked"),
    ("llama_15m", "32-true", 8, 512, "none", 1, "sdpa", "chunked"),
    ("llama_15m", "32-true", 8, 512, "full", 1, "varlen", "chunked"),
    ("llama_15m", "32-true", 8, 512, "selective", 1, "varlen", "chunked"),
    ("llama_15m", "32-true", 4, 512, "none", 2, "varlen", "full"),
    ("llama_15m", "bf16-mixed", 8, 512, "none", 1, "varlen", "chunked"),
    ("smollm2_135m", "32-true", 2, 512, "none", 1, "varlen", "chunked"),
    ("smollm2_135m", "32-true", 4, 512, "full", 2, "varlen", "chunked"),
    ("smollm2_135m", "bf16-mixed", 2, 512, "none", 1, "varlen", "chunked"),
    ("smollm2_135m", "bf16-mixed", 4, 512, "full", 2, "sdpa", "chunked"),
]


def plan_of(case: tuple[str, str, int, int, str, int, str, str]) -> Plan:
    _, precision, rows, length, checkpointing, accumulation, attention, loss = case
    return Plan(
        precision=precision,
        micro_batch=rows,
        length=length,
        accumulation=accumulation,
        activation_checkpointing=checkpointing,
        attention=attention,
        loss=loss,
        on_gpu=False,
    )


def saved_estimate(name: str, plan: Plan) -> int:
    """What `saved_bytes` should see: what layers keep, autocast's copies that stay, and what the loss keeps."""
    shape = architecture_of(find_model(name))
    parts = estimate_memory(shape, plan).parts
    checkpointed = plan.checkpointing.every
    copies = 0 if checkpointed == 1 else parts.weight_copies
    if plan.autocast and plan.loss == "chunked" and copies:
        copies -= shape.embedding_parameters * plan.compute_bytes  # the head's copy lives only while chunks run
    if plan.loss == "full":
        logits = plan.tokens * shape.vocabulary * 4
        return parts.kept + copies + head_input_bytes(shape, plan) + logits
    return parts.kept + copies + plan.tokens * shape.hidden_size * plan.residual_bytes + 4 * shape.embedding_parameters


def measure(case: tuple[str, str, int, int, str, int, str, str]) -> dict[str, float]:
    """Run in a process of its own: saved bytes and peak resident bytes of two steps."""
    import torch
    from hydra import compose, initialize_config_dir

    from src.command import CONFIGS
    from src.modules.loss import supervised_loss
    from src.preflight.saved_tensors import saved_bytes
    from src.training import build

    name, precision, rows, length, checkpointing, accumulation, attention, loss = case
    torch.set_num_threads(1)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = [f"model={name}", "module.from_scratch=true", f"module.activation_checkpointing={checkpointing}"]
        settings += [f"module.attn_implementation={attention}", f"module.loss={loss}", "logger=csv"]
        cfg = compose("train", overrides=settings)
    step_of("llama_tiny", cfg, 1, 64, precision, 1)  # libraries, thread pools, kernels
    spec = build(cfg.model)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts again from here
    model, optimizer, batch, kernel = made(spec, cfg, rows, length)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    for _ in range(2):  # the second one has the optimizer's states
        for _ in range(accumulation):
            with autocast:
                total = supervised_loss(model, batch, kernel).total
            total.backward()
            del total
        optimizer.step()
        optimizer.zero_grad()
    peak = resident("VmHWM") - before

    def forward() -> Any:
        with autocast:
            return supervised_loss(model, batch, kernel).total

    return {"peak": peak, "saved": saved_bytes(model, forward)}


def made(spec: Any, cfg: Any, rows: int, length: int) -> tuple[Any, ...]:
    """Model, optimizer, a batch of random packed rows and the loss kernel, as a run makes them."""
    import torch

    from src.modules.loss import with_targets
    from src.training import build

    module = build(cfg.module, model=spec)
    model = module.build().train()
    optimizer = module.optimizer_settings.build(model)
    ids = torch.randint(0, model.config.vocab_size, (rows, length))
    positions = torch.arange(length // SEGMENTS).repeat(SEGMENTS)[None].repeat(rows, 1)
    labels = ids.masked_fill(positions == 0, -100)
    batch = with_targets({"input_ids": ids, "labels": labels, "position_ids": positions})
    return model, optimizer, batch, getattr(module, "loss_kernel", None)


def step_of(name: str, cfg: Any, rows: int, length: int, precision: str, accumulation: int) -> None:
    import torch

    from src.modules.loss import supervised_loss

    model, optimizer, batch, kernel = made(find_model(name), cfg, rows, length)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        supervised_loss(model, batch, kernel).total.backward()
    optimizer.step()


def resident(key: str, status: Path = Path("/proc/self/status")) -> int:
    """Bytes of a process by ``/proc``: VmRSS now, VmHWM at its highest."""
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0  # a process that has just ended


def results(cases: list[Any]) -> list[dict[str, Any]]:
    found = []
    heads = "".join(f" {head:>8} {'measured':>8} {'ratio':>7}" for head in ("saved", "peak"))
    print(f"{'MiB':70}{heads}")
    for case in cases:
        output = subprocess.run(
            [sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True, check=False
        )
        if output.returncode:
            raise SystemExit(f"{case} failed:\n{output.stderr[-3000:]}")
        measured = json.loads(output.stdout.splitlines()[-1])
        plan = plan_of(case)
        memory = estimate_memory(architecture_of(find_model(case[0])), plan)
        line = f"{_name(case):70}"
        pairs = {"saved": saved_estimate(case[0], plan), "peak": memory.tensors}
        for quantity, estimated in pairs.items():
            if quantity == "saved" and plan.checkpointing.selective:
                line += 26 * " "
                continue
            found.append(_row(f"training.memory.{quantity}", case, estimated, measured[quantity]))
            line += f" {estimated / MIB:8.0f} {measured[quantity] / MIB:8.0f} {estimated / measured[quantity]:7.3f}"
        print(line, flush=True)
    return found


def process_results() -> list[dict[str, Any]]:
    """DDP and ZeRO-3 over two processes on the CPU, fp32."""
    found = []
    for trainer, strategy in (("ddp", "ddp"), ("deepspeed_zero3", "zero3")):
        plan = Plan(
            devices=2, strategy=strategy, micro_batch=4, length=512, accumulation=2, attention="varlen", on_gpu=False
        )
        models = ("llama_15m", "llama_tiny")
        estimated = [estimate_memory(architecture_of(find_model(name)), plan).tensors for name in models]
        measured = [peak_of_run(name, trainer, plan) for name in models]
        differences = estimated[0] - estimated[1], measured[0] - measured[1]
        case = (
            "llama_15m less llama_tiny",
            f"32-true, {trainer} over 2 processes",
            4,
            512,
            "none",
            2,
            "varlen",
            "chunked",
        )
        found.append(_row("training.memory.peak", case, *differences))
        print(
            f"{trainer:20} estimated {differences[0] / MIB:.0f} MiB, measured {differences[1] / MIB:.0f} MiB",
            flush=True,
        )
    return found


def peak_of_run(model: str, trainer: str, plan: Plan) -> int:
    """Highest resident bytes of a process of a run of ``train.py`` with the demo corpus."""
    command = [sys.executable, "train.py", "experiment=pretrain_demo", f"model={model}", f"trainer={trainer}"]
    command += ["trainer.accelerator=cpu", f"trainer.devices={plan.devices}", "trainer.precision=32-true"]
    command += ["trainer.max_steps=3", "trainer.limit_val_batches=0", "validate_before=false", "save_last=false"]
    command += [f"data.max_length={plan.length}", f"data.micro_batch_size={plan.micro_batch}"]
    command += [f"data.global_batch_size={plan.micro_batch * plan.accumulation * plan.devices}", "logger=csv"]
    command += [f"callbacks.{name}=null" for name in ("samples", "export", "best", "last", "loss_curve")]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    peak = 0
    while run.poll() is None:
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # it may have ended
                if os.getpgid(int(status.parent.name)) == run.pid:
                    peak = max(peak, resident("VmHWM", status))
        time.sleep(0.2)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stdout.read().decode()[-3000:] if run.stdout else ''}")
    return peak


def _name(case: Any) -> str:
    name, precision, rows, length, checkpointing, accumulation, attention, loss = case
    return f"{name} {precision} {rows}x{length} {checkpointing} accumulation {accumulation} {attention} {loss}"


def _row(metric: str, case: Any, estimated: float, measured: float) -> dict[str, Any]:
    return {
        "metric": metric,
        "ours": estimated / MIB,
        "peer": measured / MIB,
        "peer_name": "measured",
        "ratio": estimated / measured,
        "unit": "MiB",
        "note": _name(case),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["llama_15m", "smollm2_135m"])
    parser.add_argument("--quick", action="store_true", help="the first three cases, and nothing is written")
    parser.add_argument("--processes", action="store_true", help="DDP and ZeRO-3 over two processes instead")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(json.loads(arguments.case))))
        return
    if arguments.processes:
        save("memory_processes", process_results(), ("torch", "lightning", "deepspeed"))
        return
    cases = [case for case in CASES if case[0] in arguments.models][: 3 if arguments.quick else None]
    found = results(cases)
    if not arguments.quick:
        save("memory", found, ("torch", "transformers"))


if __name__ == "__main__":
    main()
