"""Extraction scored in the middle of a training."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import pytest
from omegaconf import DictConfig

from src.errors import UserError
from src.extraction.schema import Task
from src.extraction.scoring.evaluation import read_gold
from src.extraction.training.callback import ExtractionScores, _part
from src.models.spec import ModelSpec
from src.training import train
from tests.end_to_end.tiny_runs import tiny_run

ROWS = [
    {"id": str(number), "text": f"Curie met Nobel {number}.", "entity": [{"entity": "Curie", "entity_type": "person"}]}
    for number in range(5)
]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "dev.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_logs_scores_at_its_validations_and_goes_on_learning(
    llama_tiny: ModelSpec, instructions: Path, samples: Path, compose_train: Callable[[Sequence[str]], DictConfig]
) -> None:
    def losses(*more: str) -> tuple[list[dict[str, str]], Path]:
        cfg = compose_train(
            tiny_run(
                instructions,
                "trainer.max_steps=4",
                "trainer.val_every_n_steps=2",
                "callbacks.samples=null",
                "callbacks.export=null",
                "callbacks.best=null",
                *more,
            )
        )
        train(cfg)
        with next(Path(cfg.paths.output_dir).rglob("metrics.csv")).open(encoding="utf-8") as file:
            return list(csv.DictReader(file)), Path(cfg.paths.output_dir)

    setting = {
        "_target_": "src.extraction.training.callback.ExtractionScores",
        "samples": str(samples),
        "schema": ["person"],
    }
    settings = ",".join(f"{key}:{value}" for key, value in setting.items())
    rows, _ = losses(f"+callbacks.extraction={{{settings},task:ner,limit:2,max_new_tokens:8,constraint:json}}")
    scored = [row for row in rows if row.get("val/extraction_f1")]
    assert [row["step"] for row in scored] == ["2", "4"]
    assert all(float(row["val/extraction_unreadable"]) == 0 for row in scored)  # JSON is closed within the limit
    plain, _ = losses()
    name = "val/loss"
    assert [row[name] for row in rows if row.get(name)] == [row[name] for row in plain if row.get(name)]


def test_ranks_share_the_texts(samples: Path) -> None:
    gold = read_gold(samples, ["person"], Task.NER)
    parts = [[sample.id for sample in _part(gold, rank, 2).samples] for rank in range(2)]
    assert parts == [["0", "2", "4"], ["1", "3"]]


def test_impossible_settings_are_refused_before_the_run(samples: Path) -> None:
    with pytest.raises(UserError, match="every_n_validations"):
        ExtractionScores(str(samples), ["person"], "ner", every_n_validations=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="no events"):
        ExtractionScores(str(samples), ["person"], "ee").setup(trainer, L.LightningModule(), "fit")
