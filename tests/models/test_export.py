"""Exports load in plain transformers and peft and give the logits of the model they were made from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.errors import UserError
from src.models.download import resolve
from src.models.export import (
    base_reference,
    export,
    export_adapter,
    export_gguf,
    export_gguf_adapter,
    export_model,
    merge_adapter,
    model_card,
)
from src.models.gguf.convert import convert
from src.models.load import load_model, load_tokenizer
from src.models.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
INPUT_IDS = torch.tensor([[5, 60, 7, 200, 11, 12]])
LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture
def peft_model(tiny_spec: ModelSpec) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(load_model(tiny_spec), LoraConfig(task_type="CAUSAL_LM", **LORA))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(INPUT_IDS).logits


def test_an_exported_model_gives_the_same_logits_in_plain_transformers(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    model = load_model(tiny_spec)
    folder = export_model(model, load_tokenizer(tiny_spec), tmp_path / "export")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model))
    tokenizer, original = AutoTokenizer.from_pretrained(folder), load_tokenizer(tiny_spec)
    assert tokenizer("the  12 你好")["input_ids"] == original("the  12 你好")["input_ids"]
    assert tokenizer.chat_template == original.chat_template
    assert {"generation_config.json", "model.safetensors", "README.md"} <= {file.name for file in folder.iterdir()}


def test_an_export_speaks_to_older_readers_too(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    folder = export(tiny_spec, tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_an_export_turns_the_cache_on_and_leaves_the_model_alone(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    model = load_model(tiny_spec)
    model.config.use_cache = False
    folder = export_model(model, load_tokenizer(tiny_spec), tmp_path / "export")
    assert model.config.use_cache is False
    assert AutoModelForCausalLM.from_pretrained(folder).config.use_cache is True


def test_an_exported_adapter_gives_the_same_logits_in_plain_peft(tiny_spec, peft_model, tmp_path: Path) -> None:
    folder = export_adapter(peft_model, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(resolve(tiny_spec), dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(base, str(folder)).eval()), logits(peft_model))
    by_itself = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)  # finds its base model
    assert torch.equal(logits(by_itself.eval()), logits(peft_model))


def test_an_adapter_of_a_hub_model_names_its_hub_id(peft_model, tmp_path: Path) -> None:
    folder = export_adapter(peft_model, tmp_path / "adapter", base=base_reference(ModelSpec(hub_id="owner/name")))
    assert '"base_model_name_or_path": "owner/name"' in (folder / "adapter_config.json").read_text()


def test_a_merged_model_gives_the_logits_of_base_and_adapter(tiny_spec, peft_model, tmp_path: Path) -> None:
    adapter = export_adapter(peft_model, tmp_path / "adapter")
    folder = merge_adapter(tiny_spec, adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert not hasattr(merged, "peft_config")
    torch.testing.assert_close(logits(merged), logits(peft_model), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_of_all_weights_becomes_a_folder(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    model = load_model(tiny_spec, from_scratch=True)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": {**state, "metric.total": torch.ones(1)}}, tmp_path / "last.ckpt")
    folder = export(tiny_spec, tmp_path / "export", checkpoint=tmp_path / "last.ckpt")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model.eval()))


def test_a_checkpoint_of_an_adapter_becomes_a_peft_folder(tiny_spec, peft_model, tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in peft_model.state_dict().items() if "lora_" in name}
    torch.save({"state_dict": state, "hyper_parameters": {"adapter": LORA}}, tmp_path / "last.ckpt")
    folder = export(tiny_spec, tmp_path / "export", checkpoint=tmp_path / "last.ckpt")
    adapted = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    assert torch.equal(logits(adapted.eval()), logits(peft_model))


def test_a_checkpoint_of_another_model_is_refused(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.other.weight": torch.ones(2)}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"does not fit model 'tiny': 21 weights are missing and 1 unknown"):
        export(tiny_spec, tmp_path / "export", checkpoint=tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.ckpt", "does not exist"), (".", "is a folder"), ("text.ckpt", "is not a Lightning checkpoint")],
)
def test_what_is_no_checkpoint_is_refused(tiny_spec: ModelSpec, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(UserError, match=message):
        export(tiny_spec, tmp_path / "export", checkpoint=tmp_path / name)


def test_adapter_and_checkpoint_together_are_refused(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both given"):
        export(tiny_spec, tmp_path / "export", adapter_path="a", checkpoint="b")


def test_an_earlier_export_is_replaced_and_anything_else_is_not(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    for _ in range(2):
        folder = export(tiny_spec, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir() if "export" in path.name] == ["export"]
    assert (folder / "config.json").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and is not an earlier export"):
        export(tiny_spec, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_failed_export_keeps_the_earlier_one(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    folder = export(tiny_spec, tmp_path / "export")
    with pytest.raises(AttributeError):
        export_model(load_model(tiny_spec), None, folder)  # type: ignore[arg-type]
    assert AutoModelForCausalLM.from_pretrained(folder) and not list(tmp_path.glob(".export*"))


def test_the_model_card_states_base_licence_data_and_command() -> None:
    card = model_card(
        "mine", {"base_model": "owner/base", "license": "mit", "training_data": "poems", "command": "python train.py"}
    )
    assert card.startswith("---\nlicense: mit\nbase_model: owner/base\nlibrary_name: transformers\n")
    for line in ("# mine", "- Base model: owner/base", "- Training data: poems", "- Made with: `python train.py`"):
        assert line in card.splitlines()


def from_gguf(file: Path, folder: Path) -> torch.nn.Module:
    """The model of a GGUF file, by this project's reader."""
    folder.mkdir()
    convert(file, folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_gguf_file_holds_the_model(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    found = export_gguf(tiny_spec, tmp_path / "m.gguf", "f32", verify=False)
    assert found.tensors == 21 and found.types == {"F32": 21}
    assert torch.equal(logits(from_gguf(tmp_path / "m.gguf", tmp_path / "back")), logits(load_model(tiny_spec).eval()))
    names = {path.name for path in tmp_path.iterdir()} - {"cache", "back"}
    assert names == {"m.gguf", "m.gguf.json"}


def test_writing_a_gguf_file_leaves_the_model_as_it_was(tiny_spec, peft_model: PeftModel, tmp_path: Path) -> None:
    adapter = export_adapter(peft_model, tmp_path / "adapter")
    merged = merge_adapter(tiny_spec, adapter, tmp_path / "merged")
    before = {file.name: file.read_bytes() for file in merged.iterdir()}
    export_gguf(ModelSpec(path=str(merged)), tmp_path / "m.gguf", "f32", verify=False)
    assert {file.name: file.read_bytes() for file in merged.iterdir()} == before
    assert (tmp_path / "m.gguf.merge.json").read_bytes() == before["merge.json"]
    export_gguf(tiny_spec, tmp_path / "m.gguf", "f32", verify=False)  # which nothing was merged into
    assert not (tmp_path / "m.gguf.merge.json").exists()


def test_what_a_killed_gguf_export_left_goes_with_the_next(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    program = (
        "import os; import src.models.export as export; from src.models.spec import ModelSpec; "
        "export.verify_gguf = lambda *_: os.abort(); "  # in the middle
        f"export.export_gguf(ModelSpec(path={str(resolve(tiny_spec))!r}), {str(tmp_path / 'm.gguf')!r}, 'f32')"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode
    assert list(tmp_path.glob(".m*")) and not list(tmp_path.glob("m*"))
    export_gguf(tiny_spec, tmp_path / "m.gguf", "f32", verify=False)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "m.gguf", "m.gguf.json"}


def test_a_model_larger_than_memory_gets_no_adapter(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    shutil.copytree(resolve(tiny_spec), tmp_path / "large")
    entry = {"dtype": "F32", "shape": [100_000, 1_000_000], "data_offsets": [0, 400_000_000_000]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (tmp_path / "large" / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 400_000_000_000)  # takes no room on the disk
    with pytest.raises(UserError, match="putting other weights into a model needs 460 GB of memory"):
        export_gguf(ModelSpec(path=str(tmp_path / "large")), tmp_path / "m.gguf", adapter_path="a", verify=False)


def test_an_adapter_is_merged_into_a_gguf_file(tiny_spec: ModelSpec, peft_model: PeftModel, tmp_path: Path) -> None:
    adapter = export_adapter(peft_model, tmp_path / "adapter")
    export_gguf(tiny_spec, tmp_path / "m.gguf", "f32", adapter_path=adapter, verify=False)
    merged = from_gguf(tmp_path / "m.gguf", tmp_path / "back")
    torch.testing.assert_close(logits(merged), logits(peft_model), atol=1e-4, rtol=1e-4)
    assert set(json.loads((tmp_path / "m.gguf.merge.json").read_text())["modules"]) == set(LORA["target_modules"])


def test_a_checkpoint_of_an_adapter_becomes_a_merged_gguf_file(tiny_spec, peft_model, tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in peft_model.state_dict().items() if "lora_" in name}
    torch.save({"state_dict": state, "hyper_parameters": {"adapter": LORA}}, tmp_path / "last.ckpt")
    export_gguf(tiny_spec, tmp_path / "m.gguf", "f32", checkpoint=tmp_path / "last.ckpt", verify=False)
    merged = from_gguf(tmp_path / "m.gguf", tmp_path / "back")
    torch.testing.assert_close(logits(merged), logits(peft_model), atol=1e-4, rtol=1e-4)


def test_an_adapter_alone_becomes_a_gguf_file(tiny_spec: ModelSpec, peft_model: PeftModel, tmp_path: Path) -> None:
    adapter = export_adapter(peft_model, tmp_path / "adapter")
    file = export_gguf_adapter(tiny_spec, tmp_path / "a.gguf", adapter)
    assert file.read_bytes()[:4] == b"GGUF" and not list(tmp_path.glob(".a*"))


def test_a_failed_gguf_export_keeps_the_earlier_file(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF of before")
    with pytest.raises(UserError, match="file_type=q3 is not known"):
        export_gguf(tiny_spec, tmp_path / "m.gguf", "q3")
    with pytest.raises(UserError, match="is not a PEFT folder"):
        export_gguf(tiny_spec, tmp_path / "m.gguf", adapter_path=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_bytes() == b"GGUF of before"


@pytest.mark.parametrize(("name", "message"), [("m.bin", r"ends in \.gguf"), ("thesis.gguf", "is no GGUF file")])
def test_a_gguf_file_is_not_written_over_anything_else(tiny_spec, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "thesis.gguf").write_text("precious")
    with pytest.raises(UserError, match=message):
        export_gguf(tiny_spec, tmp_path / name)
    assert (tmp_path / "thesis.gguf").read_text() == "precious"


@pytest.mark.slow
def test_the_command_writes_verifies_and_shows(llama_tiny: ModelSpec, tmp_path: Path) -> None:
    arguments = ["scripts/export.py", "model=llama_tiny", "format=gguf", "file_type=q8_0", f"output={tmp_path}/m.gguf"]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("mean KL", "of 48 greedy tokens", "8 of 8 texts", "m.gguf"):
        assert word in done.stdout
    refused = subprocess.run([sys.executable, *arguments, "format=gptq"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "error: format=gptq is none of: hf, gguf, gguf_adapter" in refused.stderr
