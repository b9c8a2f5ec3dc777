"""Losses are added up by source, without anybody waiting for the device."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from src.modules.loss import SupervisedLoss
from src.modules.loss_sums import LossSums

BYTES = torch.tensor([1, 2, 3, 4])


def loss_of(tokens: list[float], rows: list[int], targets: list[int]) -> SupervisedLoss:
    losses = torch.tensor(tokens, dtype=torch.float32)
    return SupervisedLoss(losses.sum(), losses, torch.tensor(rows), torch.tensor(targets))


@given(st.lists(st.tuples(st.floats(0, 20, width=32), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_sums_are_those_of_each_source(tokens: list[tuple[float, int, int]]) -> None:
    sums = LossSums(["a", "b", "c"], BYTES, torch.device("cpu"))
    source = [0, 2, 2, 0]  # of four rows
    half = len(tokens) // 2
    for part in (tokens[:half], tokens[half:]):
        losses, rows, targets = ([one[column] for one in part] for column in range(3))
        sums.add(
            SupervisedLoss(
                torch.zeros(()),
                torch.tensor(losses, dtype=torch.float32),
                torch.tensor(rows, dtype=torch.int64),
                torch.tensor(targets, dtype=torch.int64),
            ),
            torch.tensor(source),
        )
    for number in range(3):
        own = [(loss, BYTES[target].item()) for loss, row, target in tokens if source[row] == number]
        wanted = [sum(loss for loss, _ in own), len(own), sum(size for _, size in own)]
        assert sums.sums[number].tolist() == pytest.approx(wanted)


def test_metrics_are_means_over_tokens_and_bits_over_bytes() -> None:
    sums = LossSums(["zh", "en", "unread"], BYTES, torch.device("cpu"))
    sums.add(loss_of([1.0, 2.0, 6.0], [0, 0, 1], [3, 3, 1]), torch.tensor([0, 1]))
    found = sums.metrics(sums.sums.tolist())
    assert found["train/loss"] == pytest.approx(3)
    assert found["train/zh/loss"] == pytest.approx(1.5) and found["train/en/loss"] == pytest.approx(6)
    assert found["train/bits_per_byte"] == pytest.approx(9 / math.log(2) / (4 + 4 + 2))
    assert "train/unread/loss" not in found
    sums.reset()
    assert math.isnan(sums.metrics(sums.sums.tolist())["train/loss"])


def test_a_broken_batch_does_not_hide_the_others() -> None:
    sums = LossSums(["a"], BYTES, torch.device("cpu"))
    sums.add(loss_of([math.nan, math.inf], [0, 0], [0, 0]), torch.tensor([0]))
    assert math.isnan(sums.metrics(sums.sums.tolist())["train/loss"])
    sums.add(loss_of([2.0], [0], [0]), torch.tensor([0]))
    assert sums.metrics(sums.sums.tolist())["train/loss"] == pytest.approx(2)


def test_adding_reads_nothing_from_the_device() -> None:
    with FakeTensorMode():  # tensors without values: reading one is an error
        sums = LossSums(["a", "b"], torch.ones(50, dtype=torch.int64), torch.device("cpu"))
        losses = torch.empty(17)
        index = torch.zeros(17, dtype=torch.int64)
        sums.add(SupervisedLoss(losses.sum(), losses, index, index), torch.zeros(4, dtype=torch.int64))
        with pytest.raises(DataDependentOutputException):
            sums.sums.sum().item()
