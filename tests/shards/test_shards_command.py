"""``scripts/shards.py`` as people type it."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.command import ROOT
from src.shards.collection import open_collection
from src.shards.source import Source
from tests.shards.shard_cases import make_source, write

SCRIPT = ROOT / "scripts" / "shards.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("it's a 语料, [1]")
    make_source(root, "zh"), make_source(root, "en"), write(root / "bare")
    return root


def test_verbs_and_paths_need_no_keys_whatever_the_paths_look_like(folder):
    merged = run("merge", folder / "zh", folder / "en", f"output={folder / 'both'}")
    assert merged.returncode == 0, merged.stderr
    assert merged.stdout.endswith("both: 20 documents, 24 segments, 40 tokens (megatron)\n")
    assert len(Source.open(folder / "both")) == 12


def test_inspect_shows_counts_and_a_sample(folder):
    shown = run("inspect", folder / "zh", "sample=0")
    assert shown.returncode == 0, shown.stderr
    assert "megatron, uint16, 1 file" in shown.stdout and "segment 0, 3 tokens: 1 2 3" in shown.stdout


def test_convert_and_split_write_what_they_say(folder):
    assert run("action=convert", f"path={folder / 'bare'}", "to=npy", f"output={folder / 'stream'}").returncode == 0
    parts = run("split", folder / "stream.npy", "parts=2", f"output={folder / 'part'}")
    assert parts.returncode == 0, parts.stderr
    assert [open_collection(folder / f"part-0000{number}").format for number in (0, 1)] == ["npy", "npy"]


def test_verify_of_damaged_shards_fails_with_one_sentence(folder):
    damaged = make_source(folder, "damaged")
    good = run("verify", damaged)
    assert good.returncode == 0 and "checksum" in good.stdout
    (damaged / "train-00000.bin").write_bytes(bytes(20))
    bad = run("verify", damaged)
    assert bad.returncode == 2
    assert bad.stderr == (
        "error: 1 of 10 checks failed: train-00000.bin: its contents changed since it was written (other SHA-256)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["look", "x"], "action=look is none of: inspect, verify, merge, split, convert"),
        (["inspect"], "give a path: python scripts/shards.py inspect data/shards/demo/zh"),
        (["inspect", "nowhere"], "nowhere is no token shard"),
        (["convert", "{}/bare", "to=npy"], "give output=… for what convert writes"),
        (["split", "{}/bare", "output=x"], "split needs parts=4 or fractions=[0.9,0.1]"),
        (["split", "{}/bare", "output=x", "parts=2.5"], "parts=2.5 is no number of parts"),
        (["split", "{}/bare", "output=x", "fractions=0.5"], "fractions=0.5 is no list"),
        (["split", "{}/bare", "output=x", "fractions=[a,b]"], "parts of sizes ['a', 'b'] can't be made"),
        (["verify", "{}/bare", "{}/zh"], "verify takes one path, found 2"),
    ],
)
def test_mistakes_are_one_sentence(folder, arguments, message):
    done = run(*[argument.replace("{}", str(folder)) for argument in arguments])
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
