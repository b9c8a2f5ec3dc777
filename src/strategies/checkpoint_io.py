"""How a checkpoint of one file is written and read: without a copy of it in memory, in either direction.

Lightning's own plugin first builds the whole file in a buffer. Here PyTorch's zip file goes to the disk as it comes
into being, and loading maps it. DeepSpeed and FSDP2 write folders by means of their own and don't use this.
"""

import errno
import os
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO

from src.errors import UserError


class StreamedCheckpointIO(CheckpointIO):
    """`torch.save` straight into the file, `torch.load` by mapping it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file that is on the disk when this returns.

        Raises:
            OSError: it could not be written; nothing is left of it.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb", buffering=0) as file:
                sink = _Sink(file)
                try:
                    torch.save(checkpoint, sink)  # type: ignore[arg-type]
                except Exception as error:
                    raise (sink.error or error) from None  # PyTorch reports a failed write as one of its own faults
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """The content of a file, its tensors mapped and not yet read; every rank reads the file that rank 0 names.

        Raises:
            UserError: it is not there, or not a checkpoint.
        """
        path = _agreed(path)
        try:
            return torch.load(path, map_location="cpu", mmap=True, weights_only=bool(weights_only))
        except FileNotFoundError as error:
            raise UserError(f"no checkpoint at {path}") from error
        except (RuntimeError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path} can't be read as a checkpoint ({reason}): give another ckpt_path") from error

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class _Sink:
    """A file for `torch.save` that remembers why a write failed and never writes half a block."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                written = self._file.write(view[done:])
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += written
        except OSError as error:
            self.error = error
            raise
        return len(view)

    def flush(self) -> None:
        pass


def _agreed(path: Any) -> Any:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return path
    paths = [path]
    torch.distributed.broadcast_object_list(paths, src=0)
    return paths[0]
