#!/usr/bin/env python
"""How fast and how true a model is on a CPU with weights of 16, 8 and 4 bits: what ``quantization=`` was chosen by.

    python benchmarks/quantized_loading.py [--model smollm2_135m] [--repeats 9] [--torchao FOLDER]

All ways hold the same model in one process with one thread and take turns, so that other work on the machine meets all
of them; what counts is CPU time. A decoding step gives one token to each of 1 or 8 rows after a prompt of 62 tokens, a
prompt is read by 8 rows of 62. Truth is against float32 over 512 tokens of this project's pages: how often the
likeliest token is the same, and the mean Kullback-Leibler divergence of the next token in nats.

Peers: bfloat16 as PyTorch has it, and with weights that oneDNN has laid out beforehand; bitsandbytes; PyTorch's
``quantize_dynamic``, which rounds a whole batch of activations to 8 bits at one scale; its kernel for 8-bit weights and
bfloat16 activations; torchao, where ``pip install --no-deps --target FOLDER torchao`` has put it.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "BITSANDBYTES_NOWELCOME": "1"}

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from saving import Result, save
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from src.models.download import resolve
from src.models.load import load_for_generation, load_model, load_tokenizer
from src.models.spec import ModelSpec
from src.models.zoo import find_model

PROMPT, ROWS, TEXT_TOKENS = 62, 8, 512
PROMPT_EVERY = 3  # turns: reading prompts takes longest
REFERENCE, PEER = "float32", "bfloat16"

Way = Callable[[ModelSpec], Any]


class Prepacked(nn.Module):
    """bfloat16 weights in the layout that oneDNN multiplies, made once."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), 1)
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class WeightOnly8(nn.Module):
    """PyTorch's kernel for 8-bit weights and bfloat16 activations."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1) / 127
        self.integers, self.scale = (weight / scale[:, None]).round().to(torch.int8), scale.bfloat16()
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.integers, self.scale)
        rows = rows if self.bias is None else rows + self.bias
        return rows.view(*x.shape[:-1], -1)


def replaced(model: Any, kind: type[nn.Module]) -> Any:
    """Every linear layer, the head too, in another kind."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            model.set_submodule(name, kind(module))
    return model


def with_bitsandbytes(spec: ModelSpec, **settings: Any) -> Any:
    config = BitsAndBytesConfig(**settings)
    return AutoModelForCausalLM.from_pretrained(
        resolve(spec), dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )


def quantize_dynamic(spec: ModelSpec) -> Any:
    return torch.ao.quantization.quantize_dynamic(load_model(spec), {nn.Linear}, dtype=torch.qint8)


def with_torchao(spec: ModelSpec, name: str) -> Any:
    import torchao.quantization as torchao

    model = load_model(spec, dtype="bfloat16")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # else the embedding is quantised too
    torchao.quantize_(model, getattr(torchao, name)())
    return model


def ways(torchao: Path | None) -> dict[str, Way]:
    """Every way that works here, ours first."""
    found: dict[str, Way] = {
        "8bit": lambda spec: load_for_generation(spec, quantization="8bit")[0],
        "4bit": lambda spec: load_for_generation(spec, dtype="bfloat16", quantization="4bit")[0],
        "float32": lambda spec: load_model(spec),
        "bfloat16": lambda spec: load_model(spec, dtype="bfloat16"),
        "bfloat16_prepacked": lambda spec: replaced(load_model(spec, dtype="bfloat16"), Prepacked),
        "weight_only_int8": lambda spec: replaced(load_model(spec, dtype="bfloat16"), WeightOnly8),
        "quantize_dynamic": quantize_dynamic,
        "bitsandbytes_int8": lambda spec: with_bitsandbytes(spec, load_in_8bit=True),
        "bitsandbytes_nf4": lambda spec: with_bitsandbytes(
            spec, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    }
    if torchao is not None:
        sys.path.append(str(torchao))
        found["torchao_int8_weights"] = lambda spec: with_torchao(spec, "Int8WeightOnlyConfig")
        found["torchao_int8_dynamic"] = lambda spec: with_torchao(spec, "Int8DynamicActivationInt8WeightConfig")
    return found


@torch.inference_mode()
def truth(models: dict[str, Any], ids: torch.Tensor) -> dict[str, dict[str, float]]:
    """Agreement of the likeliest token and mean divergence from float32, for each model."""
    expected = models[REFERENCE](ids).logits[0].float().log_softmax(dim=-1)
    found = {}
    for name, model in models.items():
        logprobs = model(ids).logits[0].float().log_softmax(dim=-1)
        found[name] = {
            "agreement": float((logprobs.argmax(dim=-1) == expected.argmax(dim=-1)).float().mean()),
            "divergence": float((expected.exp() * (expected - logprobs)).sum(dim=-1).mean()),
        }
    return found


@torch.inference_mode()
def speeds(models: dict[str, Any], ids: torch.Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Tokens a CPU-second of decoding for 1 and 8 rows, and of reading prompts; medians."""
    prompt, token = ids[:, :PROMPT], ids[:, PROMPT : PROMPT + 1]
    many = prompt.repeat(ROWS, 1)
    caches = {
        (name, rows): models[name](prompt.repeat(rows, 1)).past_key_values for name in models for rows in (1, ROWS)
    }
    times: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            for rows, metric in ((1, "single"), (ROWS, "batch8")):
                cache = caches[name, rows]
                seconds = timed(lambda m=model, r=rows, c=cache: m(token.repeat(r, 1), past_key_values=c))
                cache.crop(-1)
                times[name].setdefault(metric, []).append(rows / seconds)
            if turn == 0 or (repeats - turn) % PROMPT_EVERY == 0:
                seconds = timed(lambda m=model: m(many, logits_to_keep=1))
                times[name].setdefault("prompt", []).append(many.numel() / seconds)
    # the first turn warms up
    return {name: {key: statistics.median(runs[1:]) for key, runs in rest.items()} for name, rest in times.items()}


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def results(name: str, true: dict[str, float], fast: dict[str, dict[str, float]], repeats: int) -> list[Result]:
    """Lines of one way against bfloat16."""
    what = {"single": "1 row", "batch8": f"{ROWS} rows", "prompt": f"reading {ROWS} prompts of {PROMPT}"}
    lines = []
    for metric, words in what.items():
        runs = -(-repeats // PROMPT_EVERY) if metric == "prompt" else repeats
        note = f"median of {runs}, one thread"
        ours, peer = fast[name][metric], fast[PEER][metric]
        lines.append(
            Result(f"quantized.{name}.{metric}", ours, peer, PEER, ours / peer, "tokens/CPU-s", f"{words}, {note}")
        )
    against = f"{TEXT_TOKENS} tokens against float32"
    for metric, unit in (("agreement", "of tokens"), ("divergence", "nats")):
        lines.append(Result(f"quantized.{name}.{metric}", true[metric], None, None, None, unit, against))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--torchao", type=Path)
    parser.add_argument("--only", nargs="*", help="names of ways; float32 and bfloat16 are always there; nothing saved")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: give 1 or more")
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    spec = find_model(arguments.model)
    chosen = {
        name: way
        for name, way in ways(arguments.torchao).items()
        if not arguments.only or name in {*arguments.only, REFERENCE, PEER}
    }
    models = {}
    for name, way in chosen.items():
        models[name] = way(spec).eval()
        print(f"loaded {name}", file=sys.stderr, flush=True)
    pages = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("corpus.md", "training.md"))
    ids = torch.tensor([load_tokenizer(spec)(pages).input_ids[:TEXT_TOKENS]])
    true, fast = truth(models, ids), speeds(models, ids, arguments.repeats)
    print(f"{'':22}{'1 row':>10}{'8 rows':>10}{'prompts':>10}  tokens/CPU-s{'agreement':>12}{'divergence':>12}")
    for name in models:
        speed = "".join(f"{fast[name][metric]:10.1f}" for metric in ("single", "batch8", "prompt"))
        print(f"{name:22}{speed}{'':14}{true[name]['agreement']:12.3f}{true[name]['divergence']:12.5f}")
    if not arguments.only:
        lines = [line for name in models for line in results(name, true[name], fast, arguments.repeats)]
        packages = ("torch", "transformers", "bitsandbytes", *(["torchao"] if arguments.torchao else []))
        save("quantized_loading", [asdict(line) for line in lines], packages)


if __name__ == "__main__":
    main()
