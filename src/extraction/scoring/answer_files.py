"""Answers that some model wrote, in the file that IEPile's evaluator reads, and their three scores side by side.

A row is a converted test record (``id``, ``source``, ``instruction``, ``label``) with the answer under ``output``; rows
that are equal in these, the schema in the instruction aside, are the prompts of one text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.formats.format import PromptFormat
from src.extraction.items import Sample
from src.extraction.readers.iepile import read_converted
from src.extraction.readers.rejects import RejectedError, Rejects
from src.extraction.readers.rows import read_rows
from src.extraction.schema import Task
from src.extraction.scoring.iepile import IEPILE_TASKS, iepile_score
from src.extraction.scoring.scoring import Answer, Mode, grade, score
from src.extraction.scoring.units import ArgumentMatch


def read_answers(path: str | Path, limit: int | None = None) -> list[Answer]:
    """The answers of a file.

    Args:
        limit: of texts, each with all its prompts.

    Raises:
        UserError: there is no such file, or a row, which is named, has no answer, label or prompt.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {path}: give IEPile's test records with answers under 'output'")
    answers: list[Answer] = []
    texts: set[Sample] = set()
    rejects = Rejects()
    for number, row in read_rows(file, rejects):
        if not isinstance(row.get("output"), str) or "label" not in row:
            raise UserError(f"{path}:{number} has no 'label' or no text under 'output': give it both")
        try:
            question, gold = read_converted({key: value for key, value in row.items() if key != "output"})
        except RejectedError as error:
            raise UserError(f"{path}:{number} is not a test record of IEPile ({error}): mend it") from error
        if limit is None or len(texts) < limit or gold in texts:
            texts.add(gold)
            answers.append(Answer(gold, question, row["output"]))
    if rejects:
        raise UserError(f"{path} has rows that are no records ({rejects}): mend them")
    if not answers:
        raise UserError(f"{path} holds no records: give at least one")
    return answers


def side_by_side(
    answers: Sequence[Answer], format: PromptFormat, mode: Mode = "set", match: ArgumentMatch = "by_type"
) -> dict[str, Any]:
    """For JSON: scores of the answers read with tolerance and strictly, and those of IEPile's evaluator by task.

    Tasks that IEPile's evaluator can't score are left out of ``iepile``.
    """
    found: dict[str, Any] = {
        "tolerant": score(grade(answers, format), mode, match).as_dict(),
        "strict": score(grade(answers, format, strict=True), mode, match).as_dict(),
        "iepile": {},
    }
    for task in Task:
        own = [answer for answer in answers if answer.question.task is task]
        if own and task in IEPILE_TASKS:
            found["iepile"][str(task)] = iepile_score(own).as_dict()
    return found
