"""Finding: each pair of equal keys is found in one bucket, however many there are."""

import numpy as np
import pytest

from src.corpus.dedup.buckets import FOUND, FindDuplicates, find, found_file
from src.corpus.dedup.records import KEYS, open_records, sort_records, write_records
from src.corpus.dedup.settings import DedupSettings
from src.corpus.dedup.signatures import signature_file


def write_keys(folder, kind, parts):
    """parts: for each part a list of (key, low or None, document, line or None)."""
    for part, rows in enumerate(parts):
        records = np.array([tuple(v for v in row if v is not None) for row in rows], KEYS[kind])
        write_records(signature_file(folder, kind, part), sort_records(records))


def all_found(folder, kind, parts, buckets, max_records=1000):
    for bucket in range(buckets):
        find(folder, parts, kind, bucket, buckets, max_records)
    files = [found_file(folder, kind, bucket, buckets) for bucket in range(buckets)]
    return [open_records(file, FOUND[kind]).tolist() for file in files]


@pytest.mark.parametrize("buckets", [1, 2, 7])
@pytest.mark.parametrize("max_records", [1, 3, 1000])
def test_each_document_with_a_key_that_came_before_is_paired_with_the_first(tmp_path, buckets, max_records):
    big = (1 << 64) - 1
    parts = [
        [(5, None, 4, None), (big, None, 2, None)],
        [(5, None, 0, None), (6, None, 1, None), (5, None, 9, None)],
        [],
    ]
    parts.append([(big, None, 0, None)])
    write_keys(tmp_path, "minhash", parts)
    found = all_found(tmp_path, "minhash", 4, buckets, max_records)
    assert sorted(pair for bucket in found for pair in bucket) == [
        (1 << 32, 4),
        (1 << 32 | 9, 4),
        (3 << 32, 2),
    ]


def test_exact_keys_are_equal_in_both_halves_only(tmp_path):
    write_keys(tmp_path, "exact", [[(5, 1, 0, None), (5, 2, 1, None), (5, 1, 2, None), (6, 1, 3, None)]])
    assert all_found(tmp_path, "exact", 1, 1) == [[(2, 0)]]


@pytest.mark.parametrize("max_records", [1, 1000])
def test_all_occurrences_of_a_repeated_line_are_one_group_in_order(tmp_path, max_records):
    far = 1 << 63
    write_keys(tmp_path, "paragraph", [[(5, 1, 3, 8), (far, 0, 0, 0)], [(9, 9, 0, 0), (5, 1, 0, 2), (far, 0, 1, 1)]])
    (found,) = all_found(tmp_path, "paragraph", 2, 1, max_records)
    assert found == [(0, 3, 8), (0, 1 << 32, 2), (1, 0, 0), (1, 1 << 32 | 1, 1)]


def test_the_step_wants_one_task_a_bucket(tmp_path):
    with pytest.raises(ValueError, match="4 buckets need as many tasks"):
        FindDuplicates(tmp_path, DedupSettings(exact=True), 1, 4).run(None, 0, 3)
