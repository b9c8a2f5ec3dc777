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

    Scores in percent that are logged as ``val/NAME_f1`` are drawn below the losses. The points are part of the
    checkpoint, so a resumed run shows its whole curve.

    Args:
        path: of the PNG.
        title: over the picture.
    """

    def __init__(self, path: str, title: str = "") -> None:
        self.path, self.title = Path(path), title
        self.train: list[Point] = []
        self.validation: dict[str, list[Point]] = {}
        self.scores: dict[str, list[Point]] = {}

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
            elif name.startswith("val/") and name.endswith("_f1"):
                points = self.scores.setdefault(name.removeprefix("val/").removesuffix("_f1"), [])
            else:
                continue
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

        rows = 2 if self.scores else 1
        figure, all_axes = plt.subplots(
            rows, sharex=True, squeeze=False, figsize=(8, 4.5 + 2.5 * (rows - 1)), layout="constrained"
        )
        axes = all_axes[0, 0]
        if self.train:
            axes.plot(*zip(*self.train, strict=True), color="0.7", linewidth=1, label="training")
        for name, points in self.validation.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"validation: {name}")
        axes.set(ylabel="loss (nats per token)", title=self.title)
        for name, points in self.scores.items():
            all_axes[-1, 0].plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"validation: {name}")
        if self.scores:
            all_axes[-1, 0].set(ylabel="F1 (%)", ylim=(0, 100))
        all_axes[-1, 0].set(xlabel="optimizer step")
        for each in all_axes.flat:
            each.grid(alpha=0.3)
            each.legend()
        with going_on(self.path.name):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.path, dpi=120)
        plt.close(figure)

    def state_dict(self) -> dict[str, Any]:
        return {"train": self.train, "validation": self.validation, "scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train = [(int(step), float(loss)) for step, loss in state_dict["train"]]
        self.validation, self.scores = (
            {name: list(map(tuple, points)) for name, points in state_dict.get(kind, {}).items()}
            for kind in ("validation", "scores")
        )
