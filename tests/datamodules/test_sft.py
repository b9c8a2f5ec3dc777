"""Instruction files become examples with loss on answers only; what does not fit or parse is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.datamodules.batches import IGNORED
from src.datamodules.sft import SFTDataModule, read_records
from src.errors import UserError
from src.models.load import load_tokenizer
from src.models.spec import ModelSpec

ALPACA = {"instruction": "翻译", "input": "good morning", "output": "早上好"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello 👋"}]}


def module(spec: ModelSpec, path: Path, **settings: Any) -> SFTDataModule:
    defaults = {"max_length": 128, "micro_batch_size": 1, "global_batch_size": 2, "validation_fraction": 0.0}
    return SFTDataModule(model=spec, train=str(path), **{**defaults, **settings})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("template", [None, "alpaca", "chatml"])
@pytest.mark.parametrize(("record", "answer"), [(ALPACA, "早上好"), (CHAT, "Hello 👋")])
def test_only_the_answer_and_its_end_are_learned(
    llama_tiny: ModelSpec, tmp_path: Path, template: str | None, record: dict[str, Any], answer: str
) -> None:
    data = module(llama_tiny, write(tmp_path / "a.jsonl", [record]), template=template)
    examples = data.sources.train["answers"]
    learned = [int(token) for token in examples.labels(0) if token != IGNORED]
    tokenizer = load_tokenizer(llama_tiny)
    assert tokenizer.decode(learned, skip_special_tokens=True) == answer
    assert learned[-1] == tokenizer.eos_token_id


def test_json_arrays_and_jsonl_are_read_alike(tmp_path: Path) -> None:
    array = tmp_path / "a.json"
    array.write_text(json.dumps([ALPACA, CHAT], indent=1), encoding="utf-8-sig")
    assert list(read_records(array)) == list(read_records(write(tmp_path / "a.jsonl", [ALPACA, CHAT])))


def test_long_and_malformed_examples_are_left_out_and_counted(llama_tiny: ModelSpec, tmp_path: Path) -> None:
    rows = [
        ALPACA,
        {**ALPACA, "output": "长" * 500},
        {"instruction": "no answer"},
        {"question": "?"},
        {**ALPACA, "output": ""},
    ]
    data = module(llama_tiny, write(tmp_path / "a.jsonl", rows))
    assert len(data.sources.train["answers"].lengths) == 1
    report = data.reports[0]
    assert (report.records, report.too_long, report.bad) == (5, 1, 3)
    assert "record 3" in report.first_bad and "1 of 5 examples kept" in str(report)


def test_held_out_records_are_the_same_in_any_order(llama_tiny: ModelSpec, tmp_path: Path) -> None:
    rows = [{**ALPACA, "output": str(number)} for number in range(60)]
    held_out = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        data = module(llama_tiny, write(tmp_path / f"{name}.jsonl", order), validation_fraction=0.2)
        held = data.sources.validation["answers"]
        held_out.append({tuple(held.tokens(index).tolist()) for index in range(len(held.lengths))})
    assert held_out[0] == held_out[1] and 3 <= len(held_out[0]) <= 25


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no instruction file"), ('{"instruction": 1,}', "line 1 is not JSON"), ('{"a": 1}', "no training example")],
)
def test_unusable_files_are_named(llama_tiny: ModelSpec, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        module(llama_tiny, path).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "data.max_length"),
        ({"micro_batch_size": 3}, "not a multiple"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_impossible_settings_are_refused(
    llama_tiny: ModelSpec, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        module(llama_tiny, write(tmp_path / "a.jsonl", [ALPACA]), **settings)


def test_a_checkpoint_of_other_data_or_order_is_refused(llama_tiny: ModelSpec, tmp_path: Path) -> None:
    rows = [{**ALPACA, "output": str(number)} for number in range(20)]
    path = write(tmp_path / "a.jsonl", rows)
    state = module(llama_tiny, path).state_dict()
    module(llama_tiny, path).load_state_dict(state)
    others = [module(llama_tiny, path, seed=1), module(llama_tiny, path, global_batch_size=4)]
    others.append(module(llama_tiny, write(tmp_path / "b.jsonl", rows[:15])))
    for other, key in zip(others, ("seed", "global_batch_size", "tokens"), strict=True):
        with pytest.raises(UserError, match=key):
            other.load_state_dict(state)
