"""Going on where a run stopped: from which checkpoint, in which folder, and with what of its logs.

A run logs more steps after its last checkpoint before it is killed. Those come again, so ``metrics.csv`` and
``samples.jsonl`` are continued from the rows up to the checkpoint.
"""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from src.callbacks import checkpoint_files as files
from src.callbacks.checkpoint_files import Manifest
from src.errors import UserError
from src.strategies.launch import agreed, this_rank

log = logging.getLogger(__name__)

_METRICS, _SAMPLES = "metrics.csv", "samples.jsonl"
NEWEST = ("last", "auto")
"""Values of ``ckpt_path`` that mean the newest checkpoint of the run; ``auto`` starts a new run if there is none."""


@dataclass(frozen=True)
class Resume:
    """The checkpoint to go on from; no manifest where it was not written by this project."""

    checkpoint: Path
    manifest: Manifest | None

    @property
    def run_folder(self) -> Path:
        return self.checkpoint.parents[1]

    @property
    def is_finished(self) -> bool:
        """Whether the run that wrote it came to its end."""
        return (self.run_folder / "metrics.json").exists()


def find_checkpoint(given: str | None, runs: Path, output_dir: Path, checksums: bool = True) -> Resume | None:
    """The checkpoint that ``ckpt_path`` names.

    Args:
        given: None, a path, ``last`` for the newest usable checkpoint, or ``auto`` for the same or a new start.
        runs: folder of all runs of this name.
        output_dir: of the run that is starting.
        checksums: compare checksums and not only sizes. Only the first rank does; the others take what it takes.

    Raises:
        UserError: there is none, or the one that was named is damaged.
    """
    checksums = checksums and this_rank() == 0
    if given is None:
        return None
    if given in NEWEST:
        search = newest_of(runs, output_dir, checksums)
        for sentence in search.skipped if this_rank() == 0 else ():
            log.warning("skipped checkpoint %s", sentence)
        chosen = agreed(f"checkpoint/{output_dir}", lambda: str(search.found or ""))
        if not chosen and (given == "last" or search.skipped):
            damaged = " that is complete" if search.skipped else ""
            raise UserError(f"ckpt_path={given} finds no checkpoint{damaged} in {runs}: start without it")
        return Resume(Path(chosen), files.read_manifest(Path(chosen))) if chosen else None
    path = Path(given)
    if not path.exists():
        raise UserError(f"no checkpoint at ckpt_path={given}: look in {runs}")
    path = path.resolve()  # last.ckpt is a link
    if files.step_of(path) < 0 and not files.manifest_path(path).exists():
        log.warning("%s has no manifest, so nothing tells whether it is complete", path)
        return Resume(path, None)
    if problem := files.problem_with(path, checksums):
        beside = files.newest([path.parent], checksums).found
        advice = f"give ckpt_path={beside}, the newest one beside it that is complete" if beside else "give another"
        raise UserError(f"ckpt_path={given} can't be used, {problem}: {advice}")
    return Resume(path, files.read_manifest(path))


def newest_of(runs: Path, output_dir: Path, checksums: bool) -> files.Search:
    """The newest usable checkpoint of all runs of one name, and of a folder that was given for this one."""
    folders = [*runs.glob("**/checkpoints"), output_dir / "checkpoints"]
    return files.newest([folder for folder in folders if folder.is_dir()], checksums)


def run_folder(runs: str, new: str, ckpt_path: str | None) -> str:
    """Folder of the run that is starting: with ``ckpt_path=last`` that of the run which goes on, else a new one."""
    if ckpt_path in NEWEST:
        search = newest_of(Path(runs), Path(runs, new), checksums=this_rank() == 0)
        chosen = agreed(f"run_folder/{runs}", lambda: str(search.found or ""))
        if chosen:
            return str(Path(chosen).parents[1])
    return str(Path(runs, new))


def set_aside(folder: Path) -> None:
    """Keep the metrics file of a run that goes on in this folder from `CSVLogger`, which would remove it."""
    if (metrics := folder / _METRICS).exists() and not _aside(folder).exists():
        metrics.replace(_aside(folder))


def keep_history(folder: Path) -> None:
    """Leave the metrics that were set aside in sight, where nothing says which of them belong to the checkpoint."""
    if _aside(folder).exists():
        _aside(folder).replace(folder / "metrics_before.csv")


def continue_history(loggers: Sequence[Logger], former: Path, folder: Path, step: int) -> None:
    """Begin the logs of a run in ``folder`` with what the run in ``former`` logged up to a checkpoint.

    Where both are the same folder, `set_aside` must have been called before the loggers opened their files. Only the
    first rank may call this.

    Args:
        step: optimizer steps in the checkpoint. The validation after them is not part of it.
    """
    path = _aside(former) if _aside(former).exists() else former / _METRICS
    rows = [row for row in _csv_rows(path) if _belongs(row, step)]
    for logger in loggers:
        if isinstance(logger, CSVLogger) and rows:
            writer: Any = logger.experiment
            writer.metrics_keys = sorted(rows[0])
            with Path(writer.metrics_file_path).open("w", encoding="utf-8", newline="") as file:
                out = csv.DictWriter(file, writer.metrics_keys)
                out.writeheader()
                out.writerows(rows)
    _aside(folder).unlink(missing_ok=True)
    if (former / _SAMPLES).exists():
        lines = (former / _SAMPLES).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step)
        temporary = folder / f".{_SAMPLES}.partial"
        temporary.write_text(kept, encoding="utf-8")
        temporary.replace(folder / _SAMPLES)


def _belongs(row: dict[str, str], step: int) -> bool:
    if not row["step"].isdigit():  # the last line of a file whose writer was killed
        return False
    logged = int(row["step"])
    validated = any(value for name, value in row.items() if name.startswith("val/"))
    return logged < step or (logged == step and not validated)


def _csv_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: value or "" for name, value in row.items() if name} for row in csv.DictReader(file)]


def _aside(folder: Path) -> Path:
    return folder / f".{_METRICS}.before"
