"""The pipeline end to end: what is written is the text, whatever the number of workers, and once is enough."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from src.corpus import finish
from src.corpus.dedup.settings import DedupSettings, ParagraphSettings
from src.corpus.executors import Executor, Local, Ray, Slurm
from src.corpus.finish import validation_threshold
from src.corpus.preprocess import Settings, SourceSpec, preprocess_corpus
from src.corpus.report import CorpusReport
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
    def run(source=None, workers=1, **options):
        spec = SourceSpec.from_config("en", {"path": str(raw), "language": "en"} | (source or {}))
        values = {"output_dir": tmp_path / "shards", "max_length": 64, "validation_fraction": 0.1} | options
        report = preprocess_corpus([spec], Settings(tokenizer=byte_level_folder, **values), Local(workers))
        assert isinstance(report, CorpusReport)
        return Manifest.load(values["output_dir"] / "en")

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


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of every source by name, but the report, which tells processor time."""
    files = [path for path in sorted(folder.glob("[!.]*/*")) if path.name != "report.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_the_shards_hold_the_tokens_of_every_document_and_the_manifest_counts_them(make, tmp_path, encoders):
    manifest = make()
    eos = encoders["byte_level"].eos_id
    expected = Counter(tuple([*ids.tolist(), eos]) for ids in encoders["byte_level"].encode_batch(TEXTS))
    assert documents(tmp_path / "shards" / "en") == expected
    total = manifest.total
    assert (total.documents, total.tokens) == (len(TEXTS), sum(map(len, expected)))
    assert total.bytes == sum(len(text.encode()) for text in TEXTS)
    assert manifest.empty_documents == 1
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


@pytest.mark.parametrize("dedup", [DedupSettings(), DedupSettings(exact=True, minhash={})], ids=["plain", "dedup"])
def test_shards_are_the_same_byte_for_byte_with_any_number_of_workers(make, tmp_path, dedup):
    options = {"part_bytes": 20_000, "dedup": dedup}
    make(output_dir=tmp_path / "one", **options)
    make(output_dir=tmp_path / "three", workers=3, **options)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "three")
    assert len(list((tmp_path / "one" / "en").glob("train-*.idx"))) > 2


def test_parts_hold_together_the_documents_of_the_whole(make, tmp_path):
    make(output_dir=tmp_path / "whole", part_bytes=10**9)
    make(output_dir=tmp_path / "parts", part_bytes=5_000)
    assert documents(tmp_path / "whole" / "en") == documents(tmp_path / "parts" / "en")


def test_a_second_run_changes_nothing_and_other_settings_need_overwrite(make, tmp_path, raw):
    first = make()
    before = state(tmp_path / "shards" / "en")
    assert make() == first
    assert make(workers=2) == first
    assert state(tmp_path / "shards" / "en") == before
    assert make(source={"weight": 3.0}).weight == 3.0
    with pytest.raises(UserError, match="made with max_length=64, now max_length=32 is asked for: give overwrite=true"):
        make(max_length=32)
    with pytest.raises(UserError, match="made with other settings of dedup"):
        make(dedup=DedupSettings(exact=True))
    raw.write_text(json.dumps({"text": "other"}) + "\n")
    with pytest.raises(UserError, match="made from other input files"):
        make()
    assert make(max_length=32, overwrite=True).total.documents == 1
    assert visible(tmp_path / "shards") == ["en", "report.html", "report.json"]


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


def test_bad_records_are_counted_and_too_many_stop_the_run(make, tmp_path, raw):
    with raw.open("a") as stream:
        stream.write('{broken\n{"txt": 1}\n')
    assert make().bad_records == {"not JSON": 1, "no field 'text'": 1}
    with pytest.raises(UserError, match=r"2 of 303 records.*raw\.jsonl.*not JSON"):
        make(output_dir=tmp_path / "strict", max_bad_fraction=0.001, workers=2)
    assert visible(tmp_path / "strict") == [".work"]
    assert make(output_dir=tmp_path / "strict", max_bad_fraction=0.1).total.documents == len(TEXTS)


def test_duplicates_are_left_out_within_and_across_sources(tmp_path, byte_level_folder):
    texts = [f"{text} Number {number}." for number, text in enumerate(TEXTS[20:60])]
    near = [text.replace("It ends.", "It ended.") for text in texts if len(text) > 400]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in [*texts, *texts[:5]]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in [*texts[:9], *near, "new one"]))
    specs = [SourceSpec.from_config(name, {"path": str(tmp_path / f"{name}.jsonl"), "language": "en"}) for name in "ab"]
    settings = Settings(
        byte_level_folder,
        tmp_path / "shards",
        validation_fraction=0.0,
        dedup=DedupSettings(exact=True, minhash=None, scope="corpus"),
    )
    report = preprocess_corpus(specs, settings, Local(1))
    assert Manifest.load(tmp_path / "shards" / "a").total.documents == len(texts)
    assert Manifest.load(tmp_path / "shards" / "b").total.documents == len(near) + 1
    report.check_balance()


@pytest.fixture
def long_run(raw, tmp_path, byte_level_folder):
    """A command that preprocesses for some seconds in many parts, into the folder it is given."""
    with raw.open("a") as stream:
        for i in range(30_000):
            stream.write(json.dumps({"text": f"{i} " + "The fox sat down again. " * 20}) + "\n")
    script = (
        "import sys\n"
        "from src.corpus.dedup.settings import DedupSettings\n"
        "from src.corpus.executors import Local\n"
        "from src.corpus.preprocess import *\n"
        "if __name__ == '__main__':\n"
        f"    spec = SourceSpec('en', {str(raw)!r}, 'en')\n"
        "    dedup = DedupSettings(exact=sys.argv[3] == 'dedup')\n"
        f"    tokenizer = Path({str(byte_level_folder)!r})\n"
        "    settings = Settings(tokenizer, Path(sys.argv[1]), part_bytes=2_000_000, dedup=dedup)\n"
        "    preprocess_corpus([spec], settings, Local(int(sys.argv[2])))\n"
    )
    (tmp_path / "run.py").write_text(script)

    def start(folder: Path, workers: int, dedup: str) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, tmp_path / "run.py", folder, str(workers), dedup]
        return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE)

    return start


def children(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE], "a worker outlived its run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "dedup", "moment"),
    [
        (1, "plain", "results/read-00003.json"),
        (2, "dedup", "cleaned/00004.jsonl.zst"),
        (2, "dedup", "results/write-00004.json"),
    ],
)
def test_a_run_that_was_killed_goes_on_and_ends_with_the_bytes_of_an_uninterrupted_one(
    long_run, tmp_path, workers, dedup, moment
):
    killed = tmp_path / "killed"
    process = long_run(killed, workers, dedup)
    deadline = time.monotonic() + 100
    while not (killed / ".work" / moment).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers_of_run = children(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert visible(killed) == [".work"]
    wait_until_gone(workers_of_run)
    with pytest.raises(UserError):
        Source.open(killed / "en")
    kept = {path: path.stat().st_mtime_ns for path in killed.glob(".work/logs/*/completions/*")}
    assert kept
    again = long_run(killed, 3 - workers, dedup)
    _, said = again.communicate()
    assert again.returncode == 0 and b"Traceback" not in said, said.decode()
    whole = long_run(tmp_path / "whole", 2, dedup)
    assert whole.wait() == 0
    assert shard_bytes(killed) == shard_bytes(tmp_path / "whole")
    assert visible(killed) == ["en", "report.html", "report.json"]


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(long_run, tmp_path, make):
    small = tmp_path / "small"
    small.mkdir()
    script = f"{sys.executable} {tmp_path}/run.py {small} 1 plain"
    command = f"mount -t tmpfs -o size=3m none {small} && {script}; ls -A {small}/en"
    if shutil.which("unshare") is None:
        pytest.skip("this machine has no unshare")
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(small)], capture_output=True)
    if probe.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    long_run(tmp_path / "script", 1, "plain").kill()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, env=environment)
    assert "no space left" in done.stderr.lower() and "run the same command again" in done.stderr
    assert "manifest.json" not in done.stdout


def test_two_runs_at_once_on_the_same_folder_are_refused(make, tmp_path):
    from filelock import FileLock

    (tmp_path / "shards").mkdir()
    with FileLock(tmp_path / "shards" / ".lock"), pytest.raises(UserError, match="another run is writing"):
        make()


def test_a_worker_that_is_killed_is_a_sentence_and_not_a_hang(long_run, tmp_path):
    process = long_run(tmp_path / "out", 2, "plain")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / ".work" / "results").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    next(child for child in children(process) if "spawn_main" in " ".join(child.cmdline())).kill()
    _, said = process.communicate(timeout=60)
    assert b"a worker process was killed" in said


def cluster(name: str, folder: Path) -> Executor:
    """An executor of this kind where the machine has what it takes."""
    if name == "slurm":
        if shutil.which("sinfo") is None or subprocess.run(["sinfo", "-h"], capture_output=True).returncode:
            pytest.skip("this machine is part of no Slurm cluster")
        partition = subprocess.run(["sinfo", "-ho", "%R"], capture_output=True, text=True).stdout.split()[0]
        return Slurm(partition=partition, time="00:10:00", workers=2)
    pytest.importorskip("ray")
    return Ray(workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_cluster_writes_the_same_bytes_as_this_machine(make, tmp_path, raw, byte_level_folder, name):
    options = {"part_bytes": 20_000, "dedup": DedupSettings(exact=True), "max_length": 64, "validation_fraction": 0.1}
    spec = SourceSpec.from_config("en", {"path": str(raw), "language": "en"})
    executor = cluster(name, tmp_path)
    settings = Settings(byte_level_folder, tmp_path / "there", **options)
    report = preprocess_corpus([spec], settings, executor)
    assert (report is not None) == executor.waits
    deadline = time.monotonic() + 300
    while not (tmp_path / "there" / "report.html").exists():
        assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("there/.work/logs/*/slurm*/*")]
        time.sleep(0.5)
    make(output_dir=tmp_path / "here", **options)
    assert shard_bytes(tmp_path / "here") == shard_bytes(tmp_path / "there")


@pytest.mark.parametrize("place", ["second source", "report"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_was_stopped_while_it_finished_comes_to_the_same_end(
    tmp_path, raw, byte_level_folder, monkeypatch, place, overwrite
):
    specs = [SourceSpec.from_config(name, {"path": str(raw), "language": "en"}) for name in "ab"]

    def run(folder):
        settings = Settings(byte_level_folder, tmp_path / folder, max_length=64, overwrite=overwrite)
        return preprocess_corpus(specs, settings, Local(1))

    wanted = run("whole")

    class Killed(BaseException):
        pass

    def stop(*arguments):
        if place == "report" or str(arguments[1]).endswith("/b"):
            raise Killed
        return real(*arguments)

    name = "write_report" if place == "report" else "take_place"
    real = getattr(finish, name)
    monkeypatch.setattr(finish, name, stop)
    with pytest.raises(Killed):
        run("stopped")
    monkeypatch.setattr(finish, name, real)
    report = run("stopped")
    assert shard_bytes(tmp_path / "stopped") == shard_bytes(tmp_path / "whole")
    for source in report.sources.values():
        source.cpu_seconds = wanted.sources[source.name].cpu_seconds
    assert report.sources == wanted.sources
    assert visible(tmp_path / "stopped") == ["a", "b", "report.html", "report.json"]


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_and_the_same_command_goes_on(long_run, tmp_path):
    process = long_run(tmp_path / "out", 2, "plain")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / ".work" / "results").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(process)
    assert len(workers) >= 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    wait_until_gone(workers)
    assert long_run(tmp_path / "out", 2, "plain").wait() == 0


def test_another_name_or_other_words_begin_anew(tmp_path, raw, byte_level_folder):
    words = tmp_path / "words.txt"
    words.write_text("nothing of this\n")
    harm = {"_target_": "src.corpus.cleaning.harm.HarmfulWords", "path": str(words), "max_matches": 0}

    def run(name="en", **options):
        spec = SourceSpec.from_config(name, {"path": str(raw), "language": "en", "cleaning": {"harm": harm}})
        settings = Settings(byte_level_folder, tmp_path / "shards", max_length=64, **options)
        return preprocess_corpus([spec], settings, Local(1)).sources[name]

    assert run().total.documents == len(TEXTS)
    moved = words.rename(tmp_path / "moved.txt")
    harm["path"] = str(moved)
    assert run().total.documents == len(TEXTS)
    moved.write_text("fox\n")
    with pytest.raises(UserError, match="made with other cleaning steps"):
        run()
    assert run(overwrite=True).dropped > 0
    assert run(name="other").dropped > 0


def test_a_wrong_field_stops_a_run_before_its_end_and_a_few_bad_lines_at_the_head_do_not(make, raw, tmp_path):
    lines = raw.read_text()
    raw.write_text("{bad\n" * 60 + lines * 10)
    assert make(output_dir=tmp_path / "head").total.documents == 10 * len(TEXTS)
    raw.write_text(lines * 5)
    with pytest.raises(UserError, match=r"1505 of the first 1505 records .* no field 'txt'"):
        make(source={"text_field": "txt"})


def test_a_file_of_any_name_is_read_as_the_format_it_is_said_to_have(make, raw, tmp_path):
    raw.rename(tmp_path / "raw.dat")
    assert make(source={"path": str(tmp_path / "raw.dat"), "format": "jsonl"}).total.documents == len(TEXTS)


def test_a_split_of_equal_texts_is_not_empty():
    sizes = [(place, 100) for place in (0.1, 0.1, 0.5, 0.5, 0.9, 0.9)]
    threshold = validation_threshold(sizes, 0.0001, 200)
    assert sum(place < threshold for place, _ in sizes) == 2


def test_one_document_is_for_training():
    assert validation_threshold([(0.3, 4)], 0.05, 20_000) <= 0.3


def test_every_part_is_counted_among_those_looked_through_for_paragraphs(make, raw, tmp_path):
    line = "The same long line, which comes back in some of the documents of this corpus."
    texts = [f"{text}\n{line}" if number < 9 else text for number, text in enumerate(TEXTS)]
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    make(part_bytes=20_000, dedup=DedupSettings(paragraphs=ParagraphSettings(min_characters=60)), max_length=128)
    report = CorpusReport.from_dict(json.loads((tmp_path / "shards" / "report.json").read_text())).sources["en"]
    assert report.steps[-1].documents_in == len(TEXTS)
    assert report.duplicates["repeated_paragraphs"].found >= 8


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
    with pytest.raises(UserError, match="workers=0"):
        make(workers=0)
    for step in ({"_target_": "src.corpus.steps.Nothing"}, {"min_characters": 5}):
        with pytest.raises(UserError, match="cleaning step 'quality'"):
            make(source={"cleaning": {"quality": step}})
    raw.write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="holds no text to write"):
        make(output_dir=tmp_path / "empty")


def test_the_writing_path_imports_neither_torch_nor_transformers():
    code = "import sys, src.corpus.preprocess, src.corpus.report; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
