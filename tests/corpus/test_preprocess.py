"""The pipeline end to end: what is written is the text, whatever the number of workers, and once is enough."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from src.corpus.preprocess import Settings, SourceSpec, preprocess_corpus
from src.corpus.report import summary_table
from src.corpus.worker import split_position, validation_threshold
from src.errors import UserError
from src.shards.format import Shard
from src.shards.manifest import Manifest
from src.shards.source import Source

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [f"Document {i} begins here. {'The fox sat down again. ' * (i % 37)}\n\nIt ends." for i in range(300)]


@pytest.fixture
def raw(tmp_path):
    file = tmp_path / "raw.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]))
    return file


@pytest.fixture
def make(tmp_path, raw, byte_level_folder):
    def run(source=None, **options):
        spec = SourceSpec.from_config("en", {"path": str(raw), "language": "en"} | (source or {}))
        values = {"output_dir": tmp_path / "shards", "max_length": 64, "validation_fraction": 0.1} | options
        (manifest,) = preprocess_corpus([spec], Settings(tokenizer=byte_level_folder, **values))
        return manifest

    return run


def documents(folder: Path) -> Counter[tuple[int, ...]]:
    """Every document of every shard as one tuple of ids."""
    found: Counter[tuple[int, ...]] = Counter()
    for index in folder.glob("*.idx"):
        shard = Shard(index.with_suffix(""))
        for first, last in zip(shard.document_indices[:-1], shard.document_indices[1:], strict=True):
            found[tuple(np.concatenate([shard.segment(i) for i in range(first, last)]).tolist())] += 1
    return found


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_the_shards_hold_the_tokens_of_every_document_and_the_manifest_counts_them(make, tmp_path, encoders):
    manifest = make()
    eos = encoders["byte_level"].eos_id
    expected = Counter(tuple([*ids.tolist(), eos]) for ids in encoders["byte_level"].encode_batch(TEXTS))
    assert documents(tmp_path / "shards" / "en") == expected
    total = manifest.total
    assert (total.documents, total.tokens) == (len(TEXTS), sum(map(len, expected)))
    assert total.bytes == sum(len(text.encode()) for text in TEXTS)
    assert manifest.empty_documents == 1
    assert Manifest.load(tmp_path / "shards" / "en") == manifest
    for split in ("train", "validation"):
        source = Source.open(tmp_path / "shards" / "en", split)
        source.manifest.check_tokenizer(encoders["byte_level"])
        assert len(source) == manifest.splits[split].segments
        assert source.lengths.max() <= 64


def test_bos_and_eos_are_those_asked_for(make, tmp_path, encoders):
    make(document_bos="<s>", document_eos="")
    bos = encoders["byte_level"].token_id("<s>")
    assert {ids[0] for ids in documents(tmp_path / "shards" / "en")} == {bos}
    assert encoders["byte_level"].eos_id not in {ids[-1] for ids in documents(tmp_path / "shards" / "en")}


def test_two_workers_write_the_same_documents_as_one(make, tmp_path):
    one = make(output_dir=tmp_path / "one")
    two = make(output_dir=tmp_path / "two", workers=2)
    assert documents(tmp_path / "one" / "en") == documents(tmp_path / "two" / "en")
    assert one == two
    assert len(list((tmp_path / "two" / "en").glob("train-*.idx"))) == 2


def test_a_second_run_changes_nothing_and_other_settings_need_overwrite(make, tmp_path, raw):
    first = make()
    before = state(tmp_path / "shards" / "en")
    assert make() == first
    assert make(workers=2) == first
    assert state(tmp_path / "shards" / "en") == before
    assert make(source={"weight": 3.0}).weight == 3.0
    with pytest.raises(UserError, match="made with max_length=64, now max_length=32 is asked for: give overwrite=true"):
        make(max_length=32)
    raw.write_text(json.dumps({"text": "other"}) + "\n")
    with pytest.raises(UserError, match="made from other input files"):
        make()
    assert make(max_length=32, overwrite=True).total.documents == 1
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["en"]


def test_equal_texts_fall_into_the_same_split_and_the_minimum_is_kept(make, tmp_path, raw):
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 2))
    manifest = make(validation_fraction=0.001, min_validation_bytes=8000)
    assert 8000 <= manifest.splits["validation"].bytes < 12000
    folder = tmp_path / "shards" / "en"
    assert set(documents(folder).values()) == {2}
    assert manifest.splits["validation"].documents % 2 == 0


def test_no_fraction_means_no_validation_and_half_is_the_most(make):
    manifest = make(validation_fraction=0.0)
    assert set(manifest.splits) == {"train"}
    assert make(min_validation_bytes=10**9, overwrite=True).splits["validation"].bytes * 2 <= manifest.total.bytes


def test_one_document_is_for_training():
    from src.corpus.readers import Document

    threshold = validation_threshold([Document("only", "1")], 0.05, 20_000)
    assert split_position("only") >= threshold


def test_bad_records_are_counted_and_too_many_stop_the_run(make, tmp_path, raw):
    with raw.open("a") as stream:
        stream.write('{broken\n{"txt": 1}\n')
    assert make().bad_records == {"not JSON": 1, "no field 'text'": 1}
    with pytest.raises(UserError, match=r"2 of 303 records.*raw\.jsonl:302: not JSON"):
        make(output_dir=tmp_path / "strict", max_bad_fraction=0.001, workers=2)
    assert list((tmp_path / "strict").iterdir()) == []


def test_an_error_in_a_worker_process_reaches_the_user(make, raw, tmp_path):
    (tmp_path / "z.jsonl.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(UserError, match=r"z\.jsonl\.gz is damaged"):
        make(source={"path": [str(raw), str(tmp_path / "z.jsonl.gz")]}, workers=2, min_validation_bytes=0)
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_nothing_that_opens_and_the_next_one_clears_it_away(
    make, raw, tmp_path, byte_level_folder, workers
):
    with raw.open("a") as stream:
        for i in range(60_000):
            stream.write(json.dumps({"text": f"{i} " + "The fox sat down again. " * 20}) + "\n")
    script = (
        "from src.corpus.preprocess import *\n"
        "if __name__ == '__main__':\n"
        f"    spec = SourceSpec('en', {str(raw)!r}, 'en')\n"
        f"    folders = [Path({str(byte_level_folder)!r}), Path({str(tmp_path / 'shards')!r})]\n"
        f"    preprocess_corpus([spec], Settings(*folders, workers={workers}, min_validation_bytes=0))\n"
    )
    (tmp_path / "run.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("shards/.en.partial-*/train-*.bin.tmp")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("shards/**/*.idx"))
    with pytest.raises(UserError):
        Source.open(tmp_path / "shards" / "en")
    raw.write_text(json.dumps({"text": "short"}) + "\n")
    make()
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["en"]


def test_mistakes_in_the_config_are_sentences(make, raw, tmp_path):
    with pytest.raises(UserError, match="unknown setting 'txt_field'"):
        make(source={"txt_field": "text"})
    with pytest.raises(UserError, match="has no 'language'"):
        SourceSpec.from_config("x", {"path": "y"})
    with pytest.raises(UserError, match="language 'fr'"):
        make(source={"language": "fr"})
    with pytest.raises(UserError, match="has no token '<nope>'"):
        make(document_eos="<nope>")
    with pytest.raises(UserError, match="max_length=1"):
        make(max_length=1)
    raw.write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="holds no text"):
        make(output_dir=tmp_path / "empty")


def test_the_table_shows_every_split(make):
    table = summary_table([make()])
    assert [len(list(column.cells)) for column in table.columns] == [2] * 10


def test_the_writing_path_imports_neither_torch_nor_transformers():
    code = "import sys, src.corpus.preprocess, src.corpus.report; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
