"""Data of the runs in `tiny_runs`."""

import json
from pathlib import Path

import pytest

from src.models.spec import ModelSpec


@pytest.fixture(scope="package")
def instructions(llama_tiny: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred instructions with short answers."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"instruction": f"Double {n}.", "input": "", "output": f"{2 * n}"} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
