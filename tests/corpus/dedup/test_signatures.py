"""Key files: independent of batches and runs on disk, and written in bounded memory."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.dedup.records import KEYS, open_records
from src.corpus.dedup.settings import DedupSettings, MinHashSettings, ParagraphSettings
from src.corpus.dedup.signatures import SignatureWriter, signature_file

ALL = DedupSettings(True, MinHashSettings(ngram=2, bands=3, rows=2), ParagraphSettings(4))
TEXTS = st.lists(st.text(st.sampled_from("ab \n。今\ud800"), max_size=20), max_size=30)


def write(folder, texts, settings=ALL, source="", max_records=1 << 18) -> dict[str, np.ndarray]:
    with SignatureWriter(folder, 7, settings, source, max_records) as writer:
        for text in texts:
            writer.add(text)
    return {kind: np.array(open_records(signature_file(folder, kind, 7), KEYS[kind])) for kind in settings.kinds}


@given(texts=TEXTS, max_records=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_runs_on_disk_do_not_change_the_files(tmp_path_factory, texts, max_records):
    whole = write(tmp_path_factory.mktemp("whole"), texts)
    folder = tmp_path_factory.mktemp("runs")
    in_runs = write(folder, texts, max_records=max_records)
    assert all(np.array_equal(whole[kind], in_runs[kind]) for kind in whole)
    assert sorted(file.suffix for file in folder.rglob("*.*")) == [".keys"] * 3


def test_exact_keys_are_the_hash_of_the_text(tmp_path):
    texts = ["今天", "", "今天 "]
    found = write(tmp_path, texts)["exact"]
    digests = {hashlib.blake2b(text.encode(), digest_size=16).digest(): i for i, text in enumerate(texts)}
    assert {record.tobytes()[:16]: int(record["document"]) for record in found} == digests
    assert found["key"].tolist() == sorted(found["key"].tolist())


def test_paragraph_keys_name_document_and_line_of_long_enough_lines(tmp_path):
    found = write(tmp_path, ["long line\nabc\n\n  long line\t", "", "long line"])["paragraph"]
    assert len(set(found["key"].tolist())) == 1
    assert found[["document", "line"]].tolist() == [(0, 0), (0, 3), (2, 0)]


def test_a_text_without_words_has_no_band_keys(tmp_path):
    assert set(write(tmp_path, ["...", "a b c", ""])["minhash"]["document"].tolist()) == {1}


def test_with_scope_source_the_same_text_has_other_keys_in_another_source(tmp_path):
    scoped = DedupSettings(True, MinHashSettings(), ParagraphSettings(4), scope="source")
    texts = ["a long enough line of text"]
    first, again, other = (write(tmp_path, texts, scoped, source) for source in ("zh", "zh", "en"))
    for kind in scoped.kinds:
        assert np.array_equal(first[kind], again[kind])
        assert not set(first[kind]["key"].tolist()) & set(other[kind]["key"].tolist())


def test_a_failed_pass_leaves_no_file_under_its_final_name(tmp_path):
    with pytest.raises(RuntimeError), SignatureWriter(tmp_path, 0, ALL, max_records=2) as writer:
        for text in ["a b c", "d e f"] * 5000:
            writer.add(text)
        raise RuntimeError
    assert not list(tmp_path.rglob("*.keys"))
    assert not list(tmp_path.rglob("*.run*"))


def test_left_over_runs_of_a_killed_pass_are_not_read(tmp_path):
    path = signature_file(tmp_path, "exact", 7)
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".run0").write_bytes(b"\xff" * 20)
    assert len(write(tmp_path, ["one", "two"])["exact"]) == 2
    assert not list(tmp_path.rglob("*.run*"))


def test_memory_does_not_grow_with_the_part(tmp_path):
    peaks = []
    for count in (4_000, 16_000):
        texts = (
            f"document {i} has words {i * 7919} and {i * 104729}\nand a line of its own, number {i}"
            for i in range(count)
        )
        tracemalloc.start()
        with SignatureWriter(
            tmp_path, 0, DedupSettings(True, MinHashSettings(), ParagraphSettings(10)), "", 20_000
        ) as w:
            for text in texts:
                w.add(text)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 40e6
