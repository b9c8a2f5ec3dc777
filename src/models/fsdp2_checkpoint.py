"""Sharded checkpoints of PyTorch's distributed format, as `src.strategies.fsdp2` writes them, read by one process.

A checkpoint is a folder: ``*.distcp`` with the pieces of each process, ``.metadata`` that says where each tensor lies,
and Lightning's ``meta.pt`` with all that is no tensor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from src.errors import UserError

METADATA_FILE = "meta.pt"  # Lightning's name for what of a sharded checkpoint is no tensor


def consolidated(folder: Path) -> dict[str, Any]:
    """A sharded checkpoint as one with whole weights, without starting processes; they must fit in memory."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    content: dict[str, Any] = torch.load(folder / METADATA_FILE, map_location="cpu", weights_only=False, mmap=True)
    entries = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name.removeprefix("state_dict."): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith("state_dict.") and isinstance(entry, TensorStorageMetadata)
    }
    dcp.load({"state_dict": state}, checkpoint_id=folder, no_dist=True)
    return {**content, "state_dict": state}


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a checkpoint is a folder that `FullyShard` wrote."""
    return (path / METADATA_FILE).is_file() and (path / ".metadata").is_file()


def saved_names(path: Path) -> Mapping[str, Any]:
    """Names in a sharded checkpoint. Raises `UserError` where it is none."""
    import torch.distributed.checkpoint as dcp

    if not is_sharded_checkpoint(path):
        raise UserError(
            f"checkpoint '{path}' was not written by trainer=fsdp2: resume with the trainer that wrote it, or export "
            "it with scripts/export.py and start a new run with model=FOLDER"
        )
    return dcp.FileSystemReader(path).read_metadata().state_dict_metadata
