"""Damage to compressed files: what can be read is read, what cannot is counted, and the run goes on."""

import gzip
import json
import random

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.corpus.readers import Reading, ReadReport, Slice, plan_parts, read_part

COMPRESS = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}
PIECE = {".gz": "gzip member", ".zst": "zstd frame"}
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def piece(name, records=200):
    """Texts that do not compress well, so that bytes in the middle matter."""
    generator = random.Random(name)
    texts = [f"{name} {i} {generator.randbytes(40).hex()}" for i in range(records)]
    return texts, b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_files_made_of_several_pieces_are_read_to_the_end(tmp_path, read, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    pieces = [piece(name) for name in "abc"]
    padding = b"\0" * 9 if suffix == ".gz" else b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"  # zeros; a skippable frame
    file.write_bytes(padding.join(COMPRESS[suffix](content) for _, content in pieces) + padding)
    documents, report = read(file)
    assert [document.text for document in documents] == [text for texts, _ in pieces for text in texts]
    assert (report.bad, report.lost_bytes) == ({}, 0)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_damaged_piece_is_passed_over_and_counted(tmp_path, read, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    (before, _), _, (after, _) = pieces = [piece(name, 3000) for name in "abc"]
    first, middle, last = (COMPRESS[suffix](content) for _, content in pieces)
    half = len(middle) // 2
    file.write_bytes(first + middle[:half] + b"\xff" * 99 + middle[half + 99 :] + last)
    documents, report = read(file)
    texts = [document.text for document in documents]
    assert texts[: len(before)] == before and texts[-len(after) :] == after
    assert report.bad[f"damaged {PIECE[suffix]}"] == 1
    assert 0 < report.lost_bytes < len(middle)
    assert report.position == file.stat().st_size


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_cut_short_keeps_what_arrived(tmp_path, read, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    texts, content = piece("a", 5000)
    file.write_bytes(COMPRESS[suffix](content)[:-2000])
    documents, report = read(file)
    found = [document.text for document in documents]
    assert found == texts[: len(found)] and len(found) > (4000 if suffix == ".gz" else 500)
    assert report.bad == {f"last {PIECE[suffix]} is cut short": 1}
    assert report.lost_bytes == 0


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_follows_the_last_piece_is_counted(tmp_path, read, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    texts, content = piece("a")
    file.write_bytes(COMPRESS[suffix](content) + b"garbage")
    documents, report = read(file)
    assert [document.text for document in documents] == texts
    assert report.bad == {f"damaged {PIECE[suffix]}": 1} and report.lost_bytes == 7


@pytest.mark.parametrize("suffix", COMPRESS)
def test_of_several_strides_one_counts_the_damage_and_all_go_on(tmp_path, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    (first, content), (last, more) = piece("a", 500), piece("b", 500)
    file.write_bytes(COMPRESS[suffix](content) + b"garbage" + COMPRESS[suffix](more))
    documents, total = [], ReadReport()
    for part in plan_parts([file], Reading(), 10_000):
        report = ReadReport()
        documents += [document.text for document in read_part(part, Reading(), report)]
        total += report
    assert sorted(documents) == sorted(first + last)
    assert total.bad.total() == 1 and total.lost_bytes == 7
    assert total.position == total.input_bytes == file.stat().st_size


@SETTINGS
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 3000), holes=st.integers(0, 3))
@pytest.mark.parametrize("suffix", COMPRESS)
def test_no_damage_stops_a_run_or_makes_counts_that_do_not_add_up(tmp_path, suffix, seed, cut, holes):
    file = tmp_path / f"a.jsonl{suffix}"
    generator = random.Random(seed)
    raw = bytearray(b"".join(COMPRESS[suffix](piece(name, 30)[1]) for name in "abcd"))
    for _ in range(holes):
        at = generator.randrange(4, len(raw))
        raw[at : at + generator.randrange(1, 50)] = generator.randbytes(generator.randrange(60))
    file.write_bytes(raw[: max(len(raw) - cut, 4)])
    report = ReadReport()
    documents = list(read_part((Slice(str(file)),), Reading(), report))
    assert report.records == report.documents + report.empty + report.bad.total()
    assert report.documents == len(documents)
    assert 0 <= report.lost_bytes <= file.stat().st_size == report.position


def test_text_before_and_behind_damage_is_not_joined(tmp_path, read):
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(b"one\n") + b"garbage" + gzip.compress(b"two\n"))
    documents, report = read(file, txt_documents="paragraph")
    assert [document.text for document in documents] == ["one\n", "two\n"]
    assert read(file)[0][0].text == "one\ntwo\n"
    assert report.bad == {"damaged gzip member": 1}


def test_an_empty_compressed_file_holds_nothing(tmp_path, read):
    (tmp_path / "a.jsonl.gz").write_bytes(b"")
    documents, report = read(tmp_path / "a.jsonl.gz")
    assert (documents, report.records) == ([], 0)
