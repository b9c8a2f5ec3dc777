"""The configurations under configs/cleaning, on the texts of this repository and on the shared corpora."""

import gzip
import pickle
from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest
from datatrove.data import Document
from omegaconf import OmegaConf

from src.corpus.steps import CleaningStep

ROOT = Path(__file__).resolve().parents[3]
LANGUAGES = ("zh", "en", "code")


def cleaned(steps: Iterable[CleaningStep], file: Path, limit: int) -> tuple[int, int, int]:
    """How many documents of a file go in, come out, and are dropped."""
    with gzip.open(file) as lines:
        texts = [orjson.loads(line)["text"] for line, _ in zip(lines, range(limit), strict=False)]
    data = iter([Document(text=text, id=str(index)) for index, text in enumerate(texts)])
    steps = list(steps)
    for step in steps:
        data = step.run(data)
    kept = len(list(data))
    return len(texts), kept, sum(drop.documents for step in steps for drop in step.report.dropped.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_step_can_be_sent_to_a_worker(language, standard_steps):
    for step in standard_steps(language).values():
        again = pickle.loads(pickle.dumps(step))
        text = "一段文字 and some words of a text to be looked at, x = 1\n" * 2
        assert again.apply(text) == step.apply(text)
        assert again.name == step.name


def test_no_cleaning_has_no_steps():
    config = OmegaConf.load(ROOT / "configs/cleaning/none.yaml")
    assert {language: len(config[language]) for language in LANGUAGES} == dict.fromkeys(LANGUAGES, 0)


def test_classical_verse_stays(standard_steps):
    documents, kept, dropped = cleaned(standard_steps("zh").values(), ROOT / "data/demo/zh_verse.jsonl.gz", 10_000)
    assert documents == kept + dropped
    assert kept >= 0.99 * documents


@pytest.mark.parametrize(("language", "least"), [("zh", 0.88), ("en", 0.8), ("code", 0.9)])
def test_most_of_real_corpora_stays_and_every_document_is_counted(language, least, standard_steps, corpora):
    documents, kept, dropped = cleaned(standard_steps(language).values(), corpora / f"{language}.jsonl.gz", 400)
    assert documents == kept + dropped
    assert least * documents <= kept < documents
