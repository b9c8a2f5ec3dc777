"""Settings of runs that take seconds: a model of two layers, a hundred instructions, LoRA, float32."""

import os
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def tiny_run(instructions: Path, *more: str) -> list[str]:
    """Overrides of ``train.py``; two samples a step unless ``more`` says otherwise."""
    return [
        "experiment=sft_demo",
        "model=llama_tiny",
        f"data.train='{instructions}'",
        "data.max_length=64",
        "data.micro_batch_size=1",
        "data.global_batch_size=2",
        "trainer.precision=32-true",
        "validate_before=false",
        "logger=csv",
        *more,
    ]
