"""The ledger remembers what was edited, through crashes, and refuses what is not its own."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from src.editing.deltas import EditedWeights, fingerprint
from src.editing.edit import Edit
from src.editing.ledger import Ledger
from src.errors import UserError
from tests.editing.test_deltas import rank_one, same, state
from tests.editing.tiny_families import tiny

ROOT = Path(__file__).resolve().parents[2]


def edit(number: int, target: str = "x") -> Edit:
    return Edit(f"Place {number} is in", target, f"Place {number}", id=f"e{number}")


def test_edits_are_there_again_and_any_can_be_taken_back(tmp_path: Path) -> None:
    model = tiny("llama")
    before, print_ = state(model), fingerprint(model)
    weights = EditedWeights(model)
    with Ledger(tmp_path, "tiny", print_) as ledger:
        for number in range(3):
            entry = ledger.add([edit(number)], rank_one(model, number), "rome", {"layer": 1})
            weights.apply(entry.id, ledger.delta(entry.id))
        assert [entry.id for entry in ledger.active] == ["e0", "e1", "e2"]
        weights.remove(ledger.remove("e1").id)
        with pytest.raises(UserError, match="taken back already"):
            ledger.remove("e1")
        with pytest.raises(UserError, match="there is no edit 'e9'"):
            ledger.remove("e9")
    again = tiny("llama")
    with Ledger(tmp_path, "tiny", print_) as ledger:
        assert [entry.id for entry in ledger.active] == ["e0", "e2"] and list(ledger.history) == ["e0", "e1", "e2"]
        first = ledger.history["e0"]
        assert (first.edits, first.method, first.settings) == ((edit(0),), "rome", {"layer": 1})
        assert first.time.endswith("+00:00") and first.numbers == 32 + 80
        others = EditedWeights(again)
        ledger.restore(others)
        assert same(state(model), state(again))
        others.clear()
        assert same(state(again), before)


def test_contradicting_edits_are_reported(tmp_path: Path) -> None:
    model = tiny("llama")
    with Ledger(tmp_path, "tiny", "f") as ledger:
        ledger.add([edit(0), edit(1)], rank_one(model, 0), "memit")
        assert [entry.id for entry in ledger.conflicts(edit(1, "other"))] == ["1"]
        assert not ledger.conflicts(edit(1)) and not ledger.conflicts(edit(2))
        ledger.remove("1")
        assert not ledger.conflicts(edit(1, "other"))


def test_ids_are_unique_and_safe_names_of_files(tmp_path: Path) -> None:
    delta = rank_one(tiny("llama"), 0)
    with Ledger(tmp_path, "tiny", "f") as ledger:
        given = [edit(0), edit(0), Edit("A", "b", id="../up"), Edit("A", "b", id="北京")]
        assert [ledger.add([each], delta, "rome").id for each in given] == ["e0", "e0-2", "3", "4"]
    assert sorted(path.name for path in (tmp_path / "deltas").iterdir()) == sorted(
        f"{id}.safetensors" for id in ("e0", "e0-2", "3", "4")
    )


def test_what_a_crash_left_is_put_right(tmp_path: Path) -> None:
    delta = rank_one(tiny("llama"), 0)
    with Ledger(tmp_path, "tiny", "f") as ledger:
        ledger.add([edit(0)], delta, "rome")
        ledger.add([edit(1)], delta, "rome")
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # the last line was being written
    (tmp_path / "deltas" / "e2.partial").write_bytes(b"half")
    with Ledger(tmp_path, "tiny", "f") as ledger:
        assert [entry.id for entry in ledger.active] == ["e0"]
        assert [path.name for path in (tmp_path / "deltas").iterdir()] == ["e0.safetensors"]
        ledger.add([edit(1)], delta, "rome")
    with Ledger(tmp_path, "tiny", "f") as ledger:
        assert [entry.id for entry in ledger.active] == ["e0", "e1"]


def test_other_models_processes_and_files_are_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path, "tiny", "f"), pytest.raises(UserError, match="another process writes"):
        Ledger(tmp_path, "tiny", "f")
    with pytest.raises(UserError, match=r"of other weights \('tiny', here 'big'\)"):
        Ledger(tmp_path, "big", "g")
    file = tmp_path / "ledger.jsonl"
    whole = file.read_text()
    for line, said in (('{"event": "burn"}', "line 2 is no event"), ("{", "line 2 is no event")):
        file.write_text(whole + line + "\n")
        with pytest.raises(UserError, match=said):
            Ledger(tmp_path, "tiny", "f")
    file.write_text(json.dumps({"format": 9, "model": "m", "fingerprint": "f"}) + "\n")
    with pytest.raises(UserError, match="format 9"):
        Ledger(tmp_path, "tiny", "f")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no ledger can be kept"):
        Ledger(tmp_path / "file", "tiny", "f")


def test_a_changed_delta_is_not_put_on(tmp_path: Path) -> None:
    model = tiny("llama")
    with Ledger(tmp_path, "tiny", "f") as ledger:
        ledger.add([edit(0)], rank_one(model, 0), "rome")
        path = tmp_path / "deltas" / "e0.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
        before = state(model)
        with pytest.raises(UserError, match="SHA-256 differs"):
            ledger.restore(EditedWeights(model))
        assert same(state(model), before)


@pytest.mark.slow
def test_a_killed_process_leaves_a_ledger_that_is_whole(tmp_path: Path) -> None:
    program = """
        import sys, torch
        from src.editing.deltas import Change
        from src.editing.edit import Edit
        from src.editing.ledger import Ledger
        with Ledger(sys.argv[1], "tiny", "f") as ledger:
            number = len(ledger.history)
            while True:
                delta = {"w": Change(torch.full((200, 1), number), torch.ones(1, 200))}
                ledger.add([Edit("A", "b", id=f"e{number}")], delta, "rome")
                number += 1
                print(number, flush=True)
    """
    told = 0
    for stop_after in (1, 7, 13):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert process.stdout is not None
        for _ in range(stop_after):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in process.stdout.read().split() if line.isdigit())])
        process.wait()
        with Ledger(tmp_path, "tiny", "f") as ledger:
            assert len(ledger.active) in (told, told + 1)
            for number, entry in enumerate(ledger.active):
                assert torch.equal(ledger.delta(entry.id)["w"].dense(), torch.full((200, 200), float(number)))
