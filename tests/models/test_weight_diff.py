"""A difference gives the tuned model back bit for bit, or says which tensor is not what it should be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.models.weight_diff import add, make_diff, recover, subtract
from src.models.weight_files import write_safetensors

ROOT = Path(__file__).resolve().parents[2]
Tensors = dict[str, torch.Tensor]


def write_model(folder: Path, *shards: Tensors) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "name": folder.name}))
    (folder / "tokenizer.json").write_text(f"the tokenizer of {folder.name}")
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    first = {"embed.weight": random(10, 4), "norm.weight": random(4, dtype=torch.float32)}
    return write_model(tmp_path / "raw", first, {"q.weight": random(4, 4, dtype=torch.float16), "old": random(3)})


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Two more rows, one tensor unchanged, one of another type, one new, one gone; in other shards."""
    first = {"embed.weight": random(12, 4, seed=1), "q.weight": random(4, 4, dtype=torch.float16, seed=2)}
    second = {"norm.weight": random(4, dtype=torch.float32), "new": random(5), "other": random(2, dtype=torch.float64)}
    return write_model(tmp_path / "tuned", first, second)


def same(one: Path, other: Path) -> None:
    for file in one.iterdir():
        if file.suffix != ".safetensors":
            continue
        before, after = load_file(file), load_file(other / file.name)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype and tensor.shape == after[name].shape
            assert tensor.contiguous().view(torch.uint8).equal(after[name].contiguous().view(torch.uint8))


@given(data=st.data(), kind=st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]))
def test_adding_undoes_subtracting_for_all_bits_and_numbers_of_rows(data: st.DataObject, kind: type) -> None:
    columns = data.draw(st.integers(1, 4))
    rows = st.integers(0, 5)
    tuned = data.draw(arrays.arrays(kind, (data.draw(rows), columns)))
    raw = data.draw(arrays.arrays(kind, (data.draw(rows), columns)))
    difference = subtract(tuned, raw)
    assert np.array_equal(add(difference, raw), tuned)
    assert np.array_equal(difference[len(raw) :], tuned[len(raw) :])


@given(values=arrays.arrays(np.uint32, (2, 20)))
def test_infinities_and_what_is_no_number_come_back_too(values: np.ndarray) -> None:
    values[0, :3] = np.array([np.inf, -np.inf, np.nan], np.float32).view(np.uint32)
    assert np.array_equal(add(subtract(values[0], values[1]), values[1]), values[0])
    assert np.array_equal(add(subtract(values[1], values[0]), values[0]), values[1])


def test_subtracting_floats_would_not_do() -> None:
    raw, tuned = random(1000, seed=1), random(1000, seed=2)
    assert not torch.equal(raw + (tuned - raw), tuned)


def test_the_tuned_model_comes_back_bit_for_bit(raw: Path, tuned: Path, tmp_path: Path) -> None:
    made = make_diff(raw, tuned, tmp_path / "diff", ("owner/raw", "tuned"))
    assert json.loads((tmp_path / "diff" / "weight_diff.json").read_text())["raw"] == "owner/raw"
    assert made.tensors == {"added": 2, "same": 1, "whole": 2} and made.only_raw == ["old"]
    back = recover(raw, tmp_path / "diff", tmp_path / "back")
    assert back.verified
    same(tuned, tmp_path / "back")
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tuned / name).read_bytes()
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((tuned / "model.safetensors.index.json").read_text())["weight_map"]


def test_a_tied_head_that_only_one_side_stores_is_no_trouble(tmp_path: Path) -> None:
    embed = random(6, 4)
    untied = write_model(tmp_path / "untied", {"embed": embed, "lm_head": embed.clone()})
    tied = write_model(tmp_path / "tied", {"embed": random(6, 4, seed=3)})
    for raw, tuned in ((untied, tied), (tied, untied)):
        make_diff(raw, tuned, tmp_path / f"{tuned.name}_diff")
        assert recover(raw, tmp_path / f"{tuned.name}_diff", tmp_path / f"{tuned.name}_back").verified
        same(tuned, tmp_path / f"{tuned.name}_back")


def test_the_difference_does_not_hold_the_models(raw: Path, tuned: Path, tmp_path: Path) -> None:
    make_diff(raw, tuned, tmp_path / "diff")
    stored = {name: t for file in (tmp_path / "diff").glob("*.safetensors") for name, t in load_file(file).items()}
    assert "norm.weight" not in stored and stored["embed.weight"].dtype == torch.uint16
    bits = load_file(tuned / "model-00001-of-00002.safetensors")["embed.weight"].view(torch.uint16)
    assert (stored["embed.weight"][:10] != bits[:10]).any()  # a difference
    assert torch.equal(stored["embed.weight"][10:], bits[10:])  # rows that the raw model lacks
    assert not (tmp_path / "diff" / "config.json").exists()  # nobody loads it as a model


def test_pickles_become_safetensors(raw: Path, tuned: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    tensors = {name: t for file in sorted(tuned.glob("*.safetensors")) for name, t in load_file(file).items()}
    torch.save(tensors, pickled / "pytorch_model.bin")
    make_diff(raw, pickled, tmp_path / "diff")
    recover(raw, tmp_path / "diff", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_another_raw_model_is_named_by_its_first_tensor(raw: Path, tuned: Path, tmp_path: Path) -> None:
    make_diff(raw, tuned, tmp_path / "diff")
    file = raw / "model-00002-of-00002.safetensors"
    tensors = load_file(file)
    tensors["q.weight"][0, 0] += 1
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"tensor q\.weight of the raw model .* is not the one .* give raw"):
        recover(raw, tmp_path / "diff", tmp_path / "back")
    assert not [path for path in tmp_path.iterdir() if "back" in path.name]


@pytest.mark.parametrize("name", ["embed.weight", "new"])
def test_a_damaged_difference_is_named_by_its_first_tensor(raw: Path, tuned: Path, tmp_path: Path, name: str) -> None:
    make_diff(raw, tuned, tmp_path / "diff")
    for file in (tmp_path / "diff").glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            tensors[name].view(torch.uint8).flatten()[3] ^= 1
            save_file(tensors, file)
    with pytest.raises(UserError, match=rf"tensor {name} does not come out as it was: difference-0000\d"):
        recover(raw, tmp_path / "diff", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("difference-00002.safetensors", "lacks difference-00002"),
        ("files/tokenizer.json", "tokenizer.json of the difference is missing or changed"),
    ],
)
def test_a_lost_file_is_named(raw: Path, tuned: Path, tmp_path: Path, lost: str, message: str) -> None:
    make_diff(raw, tuned, tmp_path / "diff")
    (tmp_path / "diff" / lost).unlink()
    with pytest.raises(UserError, match=message):
        recover(raw, tmp_path / "diff", tmp_path / "back")


def test_an_earlier_result_is_replaced_and_anything_else_is_not(raw: Path, tuned: Path, tmp_path: Path) -> None:
    for _ in range(2):
        make_diff(raw, tuned, tmp_path / "diff")
        recover(raw, tmp_path / "diff", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "diff", "raw", "tuned"]
    with pytest.raises(UserError, match="exists and is not an earlier result"):
        make_diff(raw, tuned, raw)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("action", ["make", "recover"])
def test_a_stopped_run_keeps_the_shards_that_are_right(
    raw: Path, tuned: Path, tmp_path: Path, monkeypatch, action: str, damaged: bool
) -> None:
    diff, first = tmp_path / "diff", "model-00001-of-00002.safetensors"
    output, first = (diff, "difference-00001.safetensors") if action == "make" else (tmp_path / "back", first)
    if action == "recover":
        make_diff(raw, tuned, diff)
    written = []

    def stop_at_the_second(file: Path, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(file)
        return write_safetensors(file, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("src.models.weight_diff.write_safetensors", stop_at_the_second)
        make_diff(raw, tuned, diff) if action == "make" else recover(raw, diff, output)
    kept = tmp_path / f".{output.name}.partial" / first
    before = kept.stat().st_ino, kept.stat().st_mtime_ns
    if damaged:
        content = bytearray(kept.read_bytes())
        content[-1] ^= 1
        kept.write_bytes(content)
        before = (0, 0)
    make_diff(raw, tuned, diff) if action == "make" else recover(raw, diff, output)
    after = (output / first).stat()
    assert ((after.st_ino, after.st_mtime_ns) == before) is not damaged
    recover(raw, diff, tmp_path / "back")
    same(tuned, tmp_path / "back")


def test_knowlms_differences_are_added_and_said_to_be_unchecked(tmp_path: Path, caplog) -> None:
    """KnowLM's make_diff: tuned - raw in float32, saved as a model."""
    raw = {"q.weight": random(4, 4, dtype=torch.float16), "rest": random(3, dtype=torch.float16)}
    tuned = {"q.weight": random(4, 4, dtype=torch.float32, seed=4)}
    change = {"q.weight": tuned["q.weight"] - raw["q.weight"].float(), "x.rotary_emb.inv_freq": torch.zeros(2)}
    folder = write_model(tmp_path / "theirs", change)
    made = recover(write_model(tmp_path / "raw", raw), folder, tmp_path / "back")
    assert not made.verified and "came without hashes" in caplog.text
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == {"q.weight"}
    assert torch.equal(back["q.weight"], change["q.weight"] + raw["q.weight"].float())
    recover(tmp_path / "raw", folder, tmp_path / "half", dtype="bfloat16")
    half = load_file(tmp_path / "half" / "model.safetensors")["q.weight"]
    assert torch.equal(half, back["q.weight"].to(torch.bfloat16))
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_difference_of_knowlms_for_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "theirs", {"q.weight": random(4, 4)})
    with pytest.raises(UserError, match=r"tensor q\.weight has shape \[5, 4\] in the raw model and \[4, 4\]"):
        recover(write_model(tmp_path / "raw", {"q.weight": random(5, 4)}), folder, tmp_path / "back")
    with pytest.raises(UserError, match=r"has no tensor q\.weight"):
        recover(write_model(tmp_path / "bare", {"k.weight": random(5, 4)}), folder, tmp_path / "back")


def test_what_is_no_difference_is_a_sentence(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is no difference: expected weight_diff\.json in it"):
        recover(raw, tmp_path / "empty", tmp_path / "back")
    (tmp_path / "empty" / "weight_diff.json").write_text('{"format": 1, "shards": []}')
    with pytest.raises(UserError, match="is damaged"):
        recover(raw, tmp_path / "empty", tmp_path / "back")


@pytest.mark.parametrize("name", ["../stolen.json", "/tmp/stolen.json", ".bashrc", "a/b"])
def test_a_difference_cannot_name_files_outside_of_its_folder(
    raw: Path, tuned: Path, tmp_path: Path, name: str
) -> None:
    make_diff(raw, tuned, tmp_path / "diff")
    manifest = tmp_path / "diff" / "weight_diff.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = content["files"].pop("config.json")
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no plain file name"):
        recover(raw, tmp_path / "diff", tmp_path / "back")


@pytest.mark.slow
def test_a_killed_run_leaves_no_folder_and_goes_on_by_shards(tmp_path: Path) -> None:
    shards = [{f"w{n}": random(1500, 1500, dtype=torch.float32, seed=n)} for n in range(12)]
    raw = write_model(tmp_path / "raw", *shards)
    tuned = write_model(tmp_path / "tuned", *({name: t * 1.5 for name, t in shard.items()} for shard in shards))
    command = [
        sys.executable,
        "scripts/weight_diff.py",
        "make",
        f"raw={raw}",
        f"tuned={tuned}",
        f"output={tmp_path}/diff",
    ]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    work = tmp_path / ".diff.partial"
    deadline = time.monotonic() + 120
    while not list(work.glob(".difference-00003*.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "diff").exists()
    kept = {file.name: file.stat().st_mtime_ns for file in work.glob("difference-*.safetensors")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = tmp_path / "diff" / "difference-00001.safetensors"
    assert first.stat().st_mtime_ns == kept[first.name]
    recover(raw, tmp_path / "diff", tmp_path / "back")
    same(tuned, tmp_path / "back")


@pytest.mark.slow
def test_memory_is_that_of_a_few_tensors_and_not_of_the_model(tmp_path: Path) -> None:
    """Two models of 480 MB in one file each; the largest tensor has 16 MB."""
    tensors = {f"w{n}": torch.full((2000, 2000), float(n)) for n in range(30)}
    raw = write_model(tmp_path / "raw", tensors)
    tuned = write_model(tmp_path / "tuned", {name: tensor + 1 for name, tensor in tensors.items()})
    shutil.rmtree(tmp_path / "diff", ignore_errors=True)
    program = (
        "import resource; from src.models.weight_diff import make_diff, recover; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); "
        f"make_diff('{raw}', '{tuned}', '{tmp_path}/diff'); recover('{raw}', '{tmp_path}/diff', '{tmp_path}/back'); "
        "print((peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 120
