"""Adapter presets: they start as the base model, learn, and mean the same in a PEFT folder as in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from peft import PeftModel
from torch import Tensor

from src.datamodules.layout import with_layout
from src.errors import UserError
from src.models.export import export_adapter
from src.models.load import load_model, load_tokenizer
from src.models.spec import ModelSpec
from src.models.zoo import find_model
from src.modules.loss import supervised_loss
from src.training import build

Compose = Callable[[Sequence[str]], DictConfig]
PRESETS = ["lora", "dora", "rslora", "qlora"]


@pytest.fixture(scope="module")
def base(llama_tiny: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A small model whose weights lie in files, as quantisation wants them."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    load_model(llama_tiny).save_pretrained(folder)
    load_tokenizer(llama_tiny).save_pretrained(folder)
    return find_model(str(folder))


def batch() -> dict[str, Any]:
    ids = torch.randint(5, 4000, (2, 32), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(20), torch.arange(12)]).repeat(2, 1)
    return with_layout({"input_ids": ids, "position_ids": positions, "labels": ids.clone()})


def made(compose_train: Compose, base: ModelSpec, preset: str, *more: str) -> Any:
    if preset == "qlora":
        pytest.importorskip("bitsandbytes")
    cfg = compose_train(["experiment=sft_demo", f"adapter={preset}", "adapter.dropout=0", *more])
    torch.manual_seed(0)
    module = build(cfg.module, model=base)
    module.configure_model()
    return module


def tuned(module: Any, steps: int = 20) -> list[float]:
    """Losses of steps on one batch."""
    parameters = [parameter for parameter in module.model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(parameters, lr=5e-3), []
    for _ in range(steps):
        total = supervised_loss(module.model, batch()).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=batch()["input_ids"], use_cache=False).logits.float()


@pytest.mark.parametrize("preset", PRESETS)
def test_an_adapter_starts_as_its_base_and_learns(preset: str, compose_train: Compose, base: ModelSpec) -> None:
    module = made(compose_train, base, preset)
    model = module.model.eval()
    start = logits(model)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), start, atol=2e-2 if preset == "qlora" else 1e-5, rtol=0)
    losses = tuned(module, steps=30)
    assert losses[-1] < 0.95 * losses[0]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("preset", ["lora", "dora", "rslora"])
def test_an_exported_adapter_gives_the_logits_of_the_one_in_memory(
    preset: str, compose_train: Compose, base: ModelSpec, tmp_path: Path
) -> None:
    module = made(compose_train, base, preset)
    tuned(module, steps=5)
    folder = export_adapter(module.model.eval(), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(load_model(base), str(folder)).eval()
    torch.testing.assert_close(logits(loaded), logits(module.model), atol=1e-5, rtol=1e-5)
    merged: Any = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(module.model), atol=1e-3, rtol=1e-3)


def test_rslora_and_lora_have_the_same_scale(compose_train: Compose, base: ModelSpec) -> None:
    scales = {
        preset: made(compose_train, base, preset).model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"]
        for preset in ("lora", "rslora")
    }
    assert scales == {"lora": 2.0, "rslora": 2.0}


def test_qlora_keeps_four_bits_a_weight_and_its_adapter_fits_whole_weights(
    compose_train: Compose, base: ModelSpec, tmp_path: Path
) -> None:
    module = made(compose_train, base, "qlora", "module.dtype=float32")
    layer = module.model.base_model.model.model.layers[0].mlp.up_proj
    weights = layer.base_layer.weight
    assert weights.dtype == torch.uint8 and weights.numel() == layer.in_features * layer.out_features // 2
    assert layer.lora_A["default"].weight.dtype == torch.float32
    tuned(module)
    folder = export_adapter(module.model.eval(), tmp_path / "adapter", str(base.path))
    whole = PeftModel.from_pretrained(load_model(base), str(folder)).eval()
    with torch.no_grad():
        losses = [float(supervised_loss(model, batch()).total) for model in (module.model, whole, load_model(base))]
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] < 0.95 * losses[2]


def test_gradients_pass_through_weights_of_four_bits_after_an_evaluation_too(
    compose_train: Compose, base: ModelSpec
) -> None:
    module = made(compose_train, base, "qlora")
    tuned(module, steps=1)  # or the adapter's second half is zero and the first gets no gradient
    found = []
    for _ in range(2):
        module.model.train().zero_grad()
        supervised_loss(module.model, batch()).total.backward()
        found.append([p.grad.clone() for p in module.model.parameters() if p.requires_grad])
        logits(module.model.eval())
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(after, before)


def test_the_frozen_weights_may_be_bfloat16_under_an_adapter_of_float32(
    compose_train: Compose, base: ModelSpec
) -> None:
    module = made(compose_train, base, "lora", "module.dtype=bfloat16")
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in module.model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    losses = tuned(module)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["adapter=none"], "module.quantization=nf4 freezes the weights and this run trains all of them: add adapter="),
        (["module.from_scratch=true"], "module.quantization is for pretrained weights and these are random"),
        (["module.quantization=int3"], "module.quantization must be null or nf4, fp4, found 'int3'"),
    ],
)
def test_impossible_quantisation_is_refused(
    overrides: list[str], words: str, compose_train: Compose, base: ModelSpec
) -> None:
    cfg = compose_train(["experiment=sft_demo", "module.quantization=nf4", *overrides])
    with pytest.raises(UserError, match=words):
        build(cfg.module, model=base).configure_model()


def test_without_bitsandbytes_the_error_says_what_to_install(
    compose_train: Compose, base: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    cfg = compose_train(["experiment=sft_demo", "adapter=qlora"])
    with pytest.raises(UserError, match="needs the package bitsandbytes: pip install"):
        build(cfg.module, model=base).configure_model()


@pytest.mark.parametrize("strategy", ["deepspeed_zero3", "fsdp2"])
def test_qlora_under_strategies_that_cut_weights_into_pieces_is_refused(
    strategy: str, compose_train: Compose, base: ModelSpec
) -> None:
    cfg = compose_train(["experiment=sft_demo", "adapter=qlora", f"trainer={strategy}"])
    module = build(cfg.module, model=base)
    module._trainer = type("Attached", (), {"strategy": build(cfg.trainer.strategy)})()
    with pytest.raises(UserError, match=r"cuts the weights into pieces .* give trainer=ddp or trainer=gpu"):
        module.check_quantization()
