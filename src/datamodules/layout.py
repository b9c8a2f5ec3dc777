"""Where in a batch the segments and the supervised tokens are, as plain numbers and indices.

Both decide shapes, and a shape that depends on data on a GPU makes the program wait for it. So the loader works them
out while the batch is in host memory; the step then only uses them.
"""

from typing import Any

import torch

IGNORED = -100


def with_layout(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with what `with_targets` and `with_segments` add."""
    return with_segments(with_targets(batch))


def with_targets(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with ``predictors`` and ``targets``, both ``[supervised]``, int64.

    A predictor is the place of a hidden state among all of the batch, ``row × length + column``; its target is the
    token after it.
    """
    length = batch["labels"].shape[1]
    row, column = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    return {**batch, "predictors": row * length + column, "targets": batch["labels"][row, column + 1]}


def with_segments(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with ``segment_starts``, int32 ``[segments + 1]``, and ``longest_segment``, an int.

    Rows are laid end to end, so the first start is 0 and the last one the number of tokens; the padding of a row is a
    segment. It is what kernels for sequences of several lengths call ``cu_seqlens``.
    """
    positions = batch["position_ids"]
    starts = torch.ones_like(positions, dtype=torch.bool)  # a segment never goes on in the next row
    starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    end = positions.new_tensor([positions.numel()])
    segment_starts = torch.cat([starts.flatten().nonzero()[:, 0], end]).to(torch.int32)
    return {**batch, "segment_starts": segment_starts, "longest_segment": int(segment_starts.diff().max())}
