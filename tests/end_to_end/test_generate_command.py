"""``python generate.py`` as a person runs it: prompts, cases, memory that is named, and mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.models.devices import visible_gpus
from tests.end_to_end.tiny_runs import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
ENDPOINT = ["engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "engine.model=any"]  # nobody is there


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "generate.py"), *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=600,
    )


def test_a_prompt_is_answered_and_with_echo_it_stands_before_the_answer() -> None:
    plain = generate("prompt=What is the capital of France?", "decoding.max_new_tokens=16")
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "The capital of France is Paris.\n", "")
    echoed = generate(
        "prompt=The capital of France is", "chat=false", "decoding.max_new_tokens=4", "--echo", "--verbose"
    )
    assert echoed.stdout.startswith("The capital of France is Paris")
    assert "30 layers" not in echoed.stderr and "embed_tokens, layers 0-29" in echoed.stderr
    assert "4 tokens" in echoed.stderr and "cut off" in echoed.stderr


@pytest.mark.skipif(visible_gpus() > 0, reason="has GPUs")
def test_gpus_that_are_not_there_are_said_before_anything_is_fetched() -> None:
    done = generate("model=knowlm_13b_zhixi", "allocate=[10,10,10]", "prompt=你好")
    assert done.returncode == 2 and "names 3 GPUs and this machine has 0" in done.stderr


def test_layers_on_disk_and_8_bits_give_the_same_answer() -> None:
    spilled = generate(
        "prompt=What is the capital of France?", "allocate=[]", "cpu_gb=0.3", "disk_gb=1", "dtype=float32"
    )
    assert spilled.stdout == "The capital of France is Paris.\n"
    assert "disk" in spilled.stderr and "layers" in spilled.stderr
    small = generate("prompt=What is the capital of France?", "quantization=8bit")
    assert small.stdout == "The capital of France is Paris.\n"


def test_settings_of_the_command_line_go_over_those_of_the_cases() -> None:
    done = generate("cases=extraction", "decoding.max_new_tokens=3", "decoding.num_beams=1")
    assert done.returncode == 0, done.stderr
    assert "beams" not in done.stdout.replace("beam search", "") and done.stdout.count("repetition penalty 1.3") == 4


def test_cases_are_shown_marked_and_written(tmp_path: Path) -> None:
    output = tmp_path / "cases"
    done = generate("cases=extraction", f"output={output}", "decoding.max_new_tokens=5")
    assert done.returncode == 0, done.stderr
    assert "beams 2, repetition penalty 1.3" in done.stdout
    assert "4 cases: 0 finished, 4 cut off, 0 repeated; 20 tokens" in done.stdout
    found = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert [one["id"] for one in found["results"]] == ["event", "entities", "relations-json", "relations-text"]
    assert found["settings"]["batch_size"] == 8
    assert found["model"] == "smollm2_135m" and found["versions"]["torch"] and found["settings"]["device"] == "cpu"
    assert output.with_suffix(".md").read_text(encoding="utf-8").startswith("# Cases: extraction")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt=a", "cases=general"], "found prompt and cases"),
        (["cases=general", "output=x.txt"], "must end in .md, .json, .jsonl"),
        (["cases=generl"], "choose one of extraction, general, pretraining"),
        (["prompt=a", "allocate=auto", "device=cpu"], "give one of them"),
        (["prompt=a", "allocate=[]", "cpu_gb=0.05"], "smollm2_135m does not fit"),
        (["prompt=a", "quantization=int8"], "set none, 8bit, 4bit"),
        (["prompts=p.txt", "output=a.jsonl", "--echo"], "echo=true is for prompt="),
        ([*ENDPOINT, "prompt=a"], "the endpoint failed: http://127.0.0.1:9/v1: Connection error"),
        ([*ENDPOINT, "prompt=a", "dtype=float32"], "engine=openai takes no dtype"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: str) -> None:
    done = generate(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
