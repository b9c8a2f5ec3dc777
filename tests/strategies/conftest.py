"""What runs under every strategy start from."""

import json
from pathlib import Path

import pytest
import torch

from src.models.export import export_model
from src.models.load import load_model, load_tokenizer
from src.models.spec import ModelSpec


@pytest.fixture(scope="package")
def pretrained(llama_tiny: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with weights that are no initial ones."""
    torch.manual_seed(5)
    model = load_model(llama_tiny)
    return export_model(model, load_tokenizer(llama_tiny), tmp_path_factory.mktemp("models") / "pretrained")


@pytest.fixture(scope="package")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {"instruction": f"Add {n} and {n * 7 % 13}." + " Please." * (n % 5), "output": f"{n + n * 7 % 13}!"}
        for n in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
