"""Score an engine on instructions whose answers are known."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.scoring.text_triples import exact_match, parse_triples, score_by
from src.generation.engine import Decoding, Engine
from src.generation.tasks import Answer, answers, make_request
from src.models.templates import messages_from_record


@dataclass(frozen=True)
class Prediction:
    """One record's answer beside its reference; the triples as (head, relation, tail)."""

    id: str
    language: str
    prompt: str
    predicted: str
    expected: str
    finish_reason: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the triples that were read in both texts."""
        relations = {triple.relation for triple in parse_triples(self.expected)}
        triples = {
            "predicted_triples": parse_triples(self.predicted, relations),
            "expected_triples": parse_triples(self.expected),
        }
        return vars(self) | {key: sorted([t.head, t.relation, t.tail] for t in value) for key, value in triples.items()}


@dataclass(frozen=True)
class Evaluation:
    """Scores by language and under ``all``, with how long it took, and every prediction."""

    metrics: dict[str, Any]
    predictions: list[Prediction]

    def save(self, folder: str | Path) -> None:
        """Write ``metrics.json`` and ``predictions.jsonl``."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.metrics, indent=2, ensure_ascii=False) + "\n"
        (target / "metrics.json").write_text(text, encoding="utf-8")
        lines = [json.dumps(prediction.as_dict(), ensure_ascii=False) for prediction in self.predictions]
        (target / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_records(path: str | Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Records of a JSONL file, each with an answer and an ``id``; UserError names the line that has none."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"data file '{path}' does not exist: python scripts/make_instructions.py makes one")
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it, with iconv for instance") from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (limit is not None and len(records) >= limit):
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise TypeError(f"found a {type(record).__name__}: give one record, a JSON object, a line")
            answered = messages_from_record(record)[-1].role == "assistant"
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: {error}") from error
        if not answered:
            raise UserError(f"{path}:{number} has no answer to compare with: give it an 'output'")
        records.append({"id": str(number), **record})
    if not records:
        raise UserError(f"data file '{path}' holds no records: give at least one")
    return records


def evaluate(
    engine: Engine,
    records: list[dict[str, Any]],
    decoding: Decoding | None = None,
    system: str | None = None,
    done: Callable[[Answer], None] | None = None,
) -> Evaluation:
    """Answer every record through the engine's template and compare; ``done`` is called after each answer.

    ``metrics``: one entry for each language and ``all``, with ``text_exact_match`` and, where references are triples,
    the fields of `src.extraction.scoring.text_triples.Scores`; ``seconds``, ``completion_tokens`` and
    ``tokens_per_second`` beside.
    """
    decoding = decoding or Decoding(max_new_tokens=128)
    # by number, because two records of a file may have one id
    requests = [make_request(record, str(number), True, decoding, system) for number, record in enumerate(records)]
    start, found = time.perf_counter(), {}
    for answer in answers(engine, requests):
        found[answer.id] = answer
        if done is not None:
            done(answer)
    seconds = time.perf_counter() - start
    predictions = []
    for number, record in enumerate(records):
        answer, expected = found[str(number)], messages_from_record(record)[-1].content
        language = str(record.get("language", "all"))
        predictions.append(
            Prediction(str(record["id"]), language, answer.prompt, answer.text.strip(), expected, answer.finish_reason)
        )
    tokens = sum(answer.completion_tokens for answer in found.values())
    speed = {"seconds": seconds, "completion_tokens": tokens, "tokens_per_second": tokens / max(seconds, 1e-9)}
    return Evaluation({"scores": compare(predictions), **speed}, predictions)


def compare(predictions: list[Prediction]) -> dict[str, dict[str, float]]:
    """Scores of all predictions and of each language; those of triples only where every reference states some."""
    languages = [prediction.language for prediction in predictions]
    texts = [prediction.predicted for prediction in predictions]
    references = [prediction.expected for prediction in predictions]
    scores: dict[str, dict[str, float]] = {}
    if all(parse_triples(reference) for reference in references):
        scores = {name: value.as_dict() for name, value in score_by(languages, texts, references).items()}
    for name in ["all", *sorted(set(languages) - {"all"})]:
        chosen = [i for i, language in enumerate(languages) if name in ("all", language)]
        value = exact_match([texts[i] for i in chosen], [references[i] for i in chosen])
        scores.setdefault(name, {"records": len(chosen)})["text_exact_match"] = value
    return scores
