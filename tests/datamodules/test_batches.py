"""Packed rows, loss counts, and which rank sees which sample."""

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, default_collate

from src.datamodules.batches import IGNORED, ON_HOST, EvaluationDataset, PackedDataset, RankBatches, collate, packed_row
from src.datamodules.order import SampleOrder
from src.datamodules.packed import PackedDataModule, TimedLoader
from src.datamodules.sft import EncodedExamples
from src.shards.packing import pack


def encoded(lengths: list[int]) -> EncodedExamples:
    """Examples whose second half is the answer."""
    ids = np.arange(10, 10 + sum(lengths), dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = ids.copy()
    for start, length in zip(starts, lengths, strict=False):
        labels[start : start + length // 2] = IGNORED
    return EncodedExamples(ids, labels, starts)


def dataset(lengths: list[int], block: int = 4) -> PackedDataset:
    segments = encoded(lengths)
    rows = pack(segments.lengths, 16)
    return PackedDataset([segments], [rows], SampleOrder([len(rows)], [1.0], block, 0), 16, 0)


def test_positions_restart_and_first_tokens_have_no_loss() -> None:
    row = packed_row(encoded([4, 6]), np.array([1, 0]), 12, pad_id=9)
    assert row["input_ids"].tolist() == [14, 15, 16, 17, 18, 19, 10, 11, 12, 13, 9, 9]
    assert row["position_ids"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1]
    assert row["labels"].tolist() == [-100, -100, -100, 17, 18, 19, -100, -100, 12, 13, -100, -100]


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40))
def test_loss_tokens_of_a_global_batch_are_those_of_its_labels(lengths: list[int]) -> None:
    data = dataset(lengths)
    for batch in range(3):
        samples = [data[index] for index in range(batch * 4, batch * 4 + 4)]
        supervised = sum(int((sample["labels"] != IGNORED).sum()) for sample in samples)
        assert all(int(sample["loss_tokens"]) == max(supervised, 1) for sample in samples)


@given(st.integers(0, 5), st.sampled_from([(1, 12), (2, 6), (3, 4), (6, 1)]))
def test_a_global_batch_holds_the_same_samples_on_any_number_of_ranks(batch: int, layout: tuple[int, int]) -> None:
    world_size, micro_batch_size = layout
    steps = 12 // (world_size * micro_batch_size)
    seen: list[int] = []
    for rank in range(world_size):
        batches = iter(RankBatches(batch * 12, micro_batch_size, rank, world_size))
        seen += itertools.chain.from_iterable(itertools.islice(batches, steps))
    assert sorted(seen) == list(range(batch * 12, batch * 12 + 12))


@given(st.integers(0, 40), st.sampled_from([(1, 12), (2, 6), (3, 4), (6, 2)]))
def test_ranks_end_together_with_the_last_whole_global_batch(consumed: int, layout: tuple[int, int]) -> None:
    world_size, micro_batch_size = layout
    ranks = [list(RankBatches(consumed * 12, micro_batch_size, rank, world_size, 360)) for rank in range(world_size)]
    seen = [sample for batches in ranks for batch in batches for sample in batch]
    assert sorted(seen) == list(range(consumed * 12, 360))
    assert len({len(batches) for batches in ranks}) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30), st.integers(1, 1500))
def test_samples_asked_for_in_any_order_have_their_places(indices: list[int], block: int) -> None:
    data = dataset([16] * 3000, block)
    assert [data.place(index) for index in indices] == [data.order.place(index) for index in indices]


def test_evaluation_pads_with_rows_without_loss() -> None:
    segments = encoded([16, 16, 16])
    data = EvaluationDataset(segments, pack(segments.lengths, 16), 16, 0, count=4)
    assert len(data) == 4
    assert bool((data[3]["labels"] == IGNORED).all())
    assert sum(int((data[index]["labels"] != IGNORED).sum()) for index in range(4)) == 3 * 8


def test_evaluation_reads_no_row_beyond_those_that_are_used() -> None:
    segments = encoded([16, 16, 16])
    data = EvaluationDataset(segments, pack(segments.lengths, 16), 16, 0, count=2, used=1)
    assert data[0]["counts"].tolist()[2] == 8 and data[1]["counts"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("length", [1, 16])
def test_segments_of_extreme_lengths_fit(length: int) -> None:
    row = packed_row(encoded([length]), np.array([0]), 16, pad_id=0)
    assert row["position_ids"].tolist() == list(range(length)) + list(range(16 - length))


@given(st.lists(st.integers(1, 16), min_size=1, max_size=6).filter(lambda lengths: sum(lengths) <= 40))
def test_counts_are_those_of_the_row(lengths: list[int]) -> None:
    row = packed_row(encoded(lengths), np.arange(len(lengths)), 40, pad_id=0)
    real = sum(lengths)
    pairs = int((row["position_ids"][:real] + 1).sum())  # a query sees itself and what is before it in its segment
    assert row["counts"].tolist() == [real, pairs, int((row["labels"] != IGNORED).sum())]


def test_rows_know_their_source() -> None:
    sources = [encoded([16] * 8), encoded([16] * 8)]
    rows = [pack(segments.lengths, 16) for segments in sources]
    data = PackedDataset(sources, rows, SampleOrder([8, 8], [1.0, 3.0], 4, 0), 16, 0)
    batch = collate([data[index] for index in range(8)])
    assert batch["source"].tolist() == [data.place(index).source for index in range(8)]
    assert sorted(batch["source"].tolist()) == [0, 0, 1, 1, 1, 1, 1, 1]


def test_a_batch_holds_what_pytorch_collates() -> None:
    rows = [dataset([16, 9, 4])[index] for index in range(4)]
    ours, wanted = collate(rows), default_collate(rows)
    assert all(torch.equal(ours[key], wanted[key]) for key in wanted)


def test_counts_stay_on_the_host_and_the_rest_goes_to_the_device() -> None:
    batch = collate([dataset([16, 9, 4])[0]])
    moved = PackedDataModule.transfer_batch_to_device(None, batch, torch.device("meta"), 0)  # type: ignore[arg-type]
    assert moved.keys() == batch.keys()
    for key, value in moved.items():
        on_host = not isinstance(value, torch.Tensor) or value.device.type == "cpu"
        assert on_host == (key in ON_HOST)
    assert "counts" in ON_HOST and "input_ids" not in ON_HOST


def test_a_loader_knows_how_long_it_let_others_wait() -> None:
    class Slow(Dataset[dict[str, torch.Tensor]]):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            time.sleep(0.02)
            return {"index": torch.tensor(index)}

        def __len__(self) -> int:
            return 4

    loader = TimedLoader(Slow())
    for _ in loader:
        time.sleep(0.05)  # what is done with a batch does not count
    assert 0.08 <= loader.waited_s < 0.18
