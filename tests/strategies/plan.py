"""Runs of one small model under several strategies, and what they start from; `zero_worker` carries them out."""

import json
from pathlib import Path
from typing import Any

STEPS = 20
SAMPLES = {
    "prompts": ["Add 3 and 8.", "Add 12 and 6. Please."],
    "chat": False,
    "decoding": {"_target_": "src.generation.engine.Decoding", "max_new_tokens": 8},
}


class Plan:
    """Runs of 20 steps that share a folder and a start of processes; each saves a checkpoint at step ``saved``."""

    def __init__(self, folder: Path, pretrained: Path, instructions: Path, saved: int, *more: str) -> None:
        self.folder, self.saved, self.runs = folder, saved, list[dict[str, Any]]()
        self.base = [
            "experiment=sft_demo",
            f"data.train='{instructions}'",
            "data.max_length=64",
            "data.micro_batch_size=1",
            "data.global_batch_size=4",  # accumulation 2 on two processes, 4 on one
            "trainer.precision=32-true",
            f"trainer.max_steps={STEPS}",
            f"trainer.val_every_n_steps={STEPS}",
            "trainer.gradient_clip_val=0.3",  # norms are above 1
            "scheduler.warmup_steps=2",
            "validate_before=false",
            *more,
        ]
        custom = ["model=custom", f"model.path='{pretrained}'"]
        self.models = {
            "random": ["adapter=none", "model=llama_tiny"],
            "pretrained": ["adapter=none", *custom],
            "lora": [*custom, "adapter.dropout=0"],
            "dora": [*custom, "adapter.dropout=0", "adapter.use_dora=true"],
        }

    def add(self, name: str, model: str, trainer: str, processes: int, *more: str, **callbacks: Any) -> None:
        """A run of one of `models`, or of a ``model=…`` override."""
        watched: dict[str, Any] = {
            "losses": {"_target_": "tests.strategies.zero_worker.Losses", "folder": str(self.folder / name)},
            "metrics": {},
            "last": {"every_n_steps": self.saved, "keep_last": 5},
        }
        if trainer == "fsdp2":
            watched["pieces"] = {
                "_target_": "tests.strategies.fsdp2_worker.Pieces",
                "folder": str(self.folder / name),
                "weights": model in self.models,
            }
        devices = ["trainer.accelerator=cpu", f"trainer.devices={processes}"]
        overrides = [*self.base, *self.models.get(model, [model]), f"trainer={trainer}", *devices, *more]
        self.runs.append({"name": name, "overrides": overrides, "callbacks": {**watched, **callbacks}})

    def write(self, name: str) -> Path:
        """The file of the runs added since the last one was written."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(self.runs))
        self.runs = []
        return path

    def checkpoint(self, run: str, step: int | None = None) -> str:
        return str(self.folder / run / "checkpoints" / f"step_{step or self.saved:08d}.ckpt")
