"""A conversation in the terminal, through real pipes and the real command where the model is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.errors import UserError
from src.generation.chat import Chat, changed
from src.generation.engine import Decoding, EngineDown, Event
from src.models.templates import messages_from_record

ROOT = Path(__file__).resolve().parents[2]


class Counting:
    """An engine that says how many messages it was given, and is interrupted when asked to wait."""

    def generate(self, requests):
        for request in requests:
            yield Event(request.id, f"{len(request.messages)} messages")
            if request.messages[-1].content == "wait":
                raise KeyboardInterrupt
            if request.messages[-1].content == "die":
                raise EngineDown("the engine is down", "it was killed")
            yield Event(request.id, "!", "stop", 1, 2)


def talk(*lines):
    script, shown = iter(lines), []

    def read(_):
        line = next(script, EOFError)
        if line in (EOFError, KeyboardInterrupt):
            raise line
        return line

    Chat(Counting(), Decoding(), read=read, write=shown.append).run()
    return "".join(shown)


def test_an_engine_that_is_down_does_not_end_the_conversation():
    shown = talk("a", "die", "b")
    assert "error: the engine is down: it was killed\n" in shown and shown.rstrip().count("messages!") == 2


def test_turns_add_up_until_reset_and_a_system_message_stays():
    shown = talk("/system Be brief.", "a", "b", "/reset", "c")
    assert [word for word in ("2 messages!", "4 messages!") if word in shown] == ["2 messages!", "4 messages!"]
    assert shown.count("2 messages!") == 2


def test_ctrl_c_ends_the_answer_and_the_conversation_goes_on():
    shown = talk("wait", KeyboardInterrupt, "after")
    assert "1 messages\n[stopped]" in shown and "3 messages!" in shown


def test_saving_adds_the_conversation_to_a_file_that_tuning_reads(tmp_path):
    file = tmp_path / "talks.jsonl"
    shown = talk("/save", f"/save {file}", "/system Be brief.", "a", f"/save {file}", "/reset", "b", f"/save {file}")
    assert shown.count("error: ") == 2 and "3 messages added" in shown
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [[message.role for message in messages_from_record(record)] for record in records] == [
        ["system", "user", "assistant"],
        ["system", "user", "assistant"],
    ]


def test_setting_a_temperature_turns_sampling_on_and_a_mistake_is_a_sentence():
    assert changed(Decoding(), "temperature=0.7 top_k=5") == Decoding(do_sample=True, temperature=0.7, top_k=5)
    assert changed(Decoding(do_sample=True, temperature=0.7), "num_beams=3") == Decoding(num_beams=3)
    for mistake in ("", "heat=1", "temperature", "temperature=hot", "temperature=-1", "max_new_tokens=0"):
        with pytest.raises(UserError):
            changed(Decoding(), mistake)
    assert "error: " in talk("/set heat=1") and "error: " in talk("/dance")


@pytest.mark.slow
def test_the_command_talks_through_pipes(smollm2_dir):
    lines = "hello\n/set temperature=0.7 seed=1\nand then?\n/reset\n/nope\n"
    command = [sys.executable, "generate.py", "interactive=true", "decoding.max_new_tokens=6"]
    result = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tokens/s") == 2 and "no command /nope" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of prompt"),
        (["prompt=x", "cases=general"], "found prompt and cases"),
        (["prompts=nothing.txt"], "needs output"),
        (["prompt=x", "output=a.jsonl"], "output= is for"),
        (["prompt=x", "decoding.temperature=0.7"], "does nothing without sampling"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(arguments, said):
    result = subprocess.run([sys.executable, "generate.py", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert said in result.stderr and "Traceback" not in result.stderr and result.stderr.count("\n") == 1
