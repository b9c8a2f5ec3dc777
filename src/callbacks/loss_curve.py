"""The loss curve as a picture in the run folder, for those who would rather look than read."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.callbacks.full_disk import going_on
from src.callbacks.metrics import is_logged

Point = tuple[int, float]


class LossCurve(Callback):
    """Collects losses and draws them as a PNG at each validation and at the end.

    The points are part of the checkpoint, so a resumed run shows its whole curve.

    Args:
        path: of the PNG.
        title: over the picture.
    """

    def __init__(self, path: str, title: str = "") -> None:
        self.path, self.title = Path(path), title
        self.train: list[Point] = []
        self.validation: dict[str, list[Point]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logged(trainer, batch_idx) and "train/loss" in trainer.logged_metrics:
            self.train.append((trainer.global_step, float(trainer.logged_metrics["train/loss"])))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/") and name.endswith("/loss") and name != "val/loss":
                points = self.validation.setdefault(name.split("/")[1], [])
                if not points or points[-1][0] != trainer.global_step:
                    points.append((trainer.global_step, float(value)))
        if trainer.is_global_zero:
            self.draw()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.draw()

    def draw(self) -> None:
        """Write the PNG; nothing if there is no point yet."""
        if not self.train and not self.validation:
            return
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        if self.train:
            axes.plot(*zip(*self.train, strict=True), color="0.7", linewidth=1, label="training")
        for name, points in self.validation.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"validation: {name}")
        axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=self.title)
        axes.grid(alpha=0.3)
        axes.legend()
        with going_on(self.path.name):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.path, dpi=120)
        plt.close(figure)

    def state_dict(self) -> dict[str, Any]:
        return {"train": self.train, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train = [(int(step), float(loss)) for step, loss in state_dict["train"]]
        self.validation = {name: list(map(tuple, points)) for name, points in state_dict["validation"].items()}
