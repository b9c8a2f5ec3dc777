#!/usr/bin/env python
"""Reading and scoring of extraction answers: a fuzz of the parser, and agreement with IEPile's published evaluator.

    python benchmarks/extraction_parsing.py DATA [--answers 10000] [--iepile CHECKOUT] [--packages FOLDER]

DATA is a folder with ``iepile_format/TASK/{train,test}.json``, IEPile's samples, and ``SET.jsonl`` or ``SET/dev.jsonl``
files of annotated texts; what is not there is left out. CHECKOUT is IEPile's repository: its evaluator is run in a
process of its own on the same answers, and needs the packages jieba, rouge-chinese and six, in FOLDER or installed.

The answers of the fuzz are right ones of all seven tasks after one to three mutations (``answer_mutations.py``). None
may raise, and one that is valid JSON must be read the same with and without tolerance. The evaluator is given IEPile's
own training answers, and these with every third changed by chance, so that other numbers than 100 are compared too;
relations are then under ``subject`` and ``object``, the keys that it reads.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from answer_mutations import mutated
from rich.console import Console
from rich.table import Table
from saving import Result, save

from src.extraction.formats.batching import questions
from src.extraction.formats.format import Status
from src.extraction.formats.oneke import OneKE
from src.extraction.items import Sample
from src.extraction.readers.iepile import read_questions
from src.extraction.readers.read import read_samples
from src.extraction.readers.schemas import read_schema
from src.extraction.schema import Question, Task
from src.extraction.scoring.iepile import iepile_score
from src.extraction.scoring.scoring import Answer, grade, score

SETS = {  # right answers are made of these: file, schema, tasks
    "crossner/politics_dev.jsonl": ("crossner_politics", (Task.NER,)),
    "weibo/dev.jsonl": ("weibo", (Task.NER,)),
    "conll04/dev.jsonl": ("conll04", (Task.NER, Task.RE, Task.SPO)),
    "phee/dev.jsonl": ("phee", (Task.EE, Task.EET, Task.EEA)),
    "duie2/train_5000.jsonl": ("duie2", (Task.RE, Task.SPO, Task.KG)),
}
TEXTS = 300  # of each set
PEER = "IEPile's evaluator"


def right_answers(data: Path) -> Iterator[tuple[str, Task, list[Answer]]]:
    """For each set and task the right answers to all questions about its first texts."""
    format = OneKE()
    for name, (schema_name, tasks) in SETS.items():
        if not (data / name).exists():
            continue
        samples = [sample for sample, _ in zip(read_samples(data / name), range(TEXTS), strict=False)]
        schema = read_schema(schema_name)
        for task in tasks:
            asked = questions(schema, task)
            answers = [
                Answer(sample, question, format.answer(question, sample.items, sample.text))
                for sample in samples
                for question in asked
            ]
            yield name.partition(".")[0], task, answers


def fuzz(answers: list[Answer], count: int) -> tuple[Counter[Status], int, list[float]]:
    """Statuses, how many answers raised or were read otherwise than strictly, and seconds of each."""
    generator, format = random.Random(0), OneKE()
    statuses: Counter[Status] = Counter()
    wrong, seconds = 0, []
    filled = [answer for answer in answers if len(answer.text) > 40]
    for _ in range(count):
        answer = generator.choice(filled)
        text = mutated(answer.text, generator)
        start = time.perf_counter()
        try:
            parsed = format.parse(text, answer.question, answer.gold.text)
        except Exception as error:  # what the fuzz looks for
            print(f"raised {error!r} at {text!r}", file=sys.stderr)
            wrong += 1
            continue
        seconds.append(time.perf_counter() - start)
        strict = format.parse(text, answer.question, answer.gold.text, strict=True)
        wrong += strict.status is Status.EXACT and (strict.items, strict.notes) != (parsed.items, parsed.notes)
        statuses[parsed.status] += 1
    return statuses, wrong, seconds


def iepile_answers(folder: Path, task: Task, damaged: bool) -> list[Answer]:
    """IEPile's training answers beside the labels of its test file; where ``damaged`` every third one is changed."""
    golds = {sample.text: sample for _, sample in read_questions(folder / "test.json")}
    generator = random.Random(0)
    answers = []
    for number, line in enumerate((folder / "train.json").read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        text = json.loads(row["instruction"])["input"]
        output = row["output"]
        if damaged and task is Task.RE:  # it reads no other keys, and 0 agrees with everything
            output = output.replace('"head"', '"subject"').replace('"tail"', '"object"')
        if damaged and number % 3 == 0:  # half a surrogate pair ends it when it prints the answer
            output = mutated(output, generator).encode(errors="replace").decode()
        answers.append(Answer(Sample(text, text, golds[text].items), Question(task, ()), output))
    return answers


def published(checkout: Path, packages: Path | None, folder: Path, task: Task, answers: list[Answer]) -> dict[str, Any]:
    """What IEPile's evaluator prints for the answers; what it raised under ``error``."""
    labels = {}
    for line in (folder / "test.json").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        labels[json.loads(row["instruction"])["input"]] = row
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "answers.json"
        rows = [
            {"id": row["id"], "instruction": row["instruction"], "label": row["label"], "output": answer.text}
            for answer in answers
            for row in [labels[answer.gold.text]]
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths = [str(checkout / "ie2instruction"), *([str(packages)] if packages else [])]
        command = [sys.executable, "ie2instruction/eval_func.py", "--path1", str(path), "--task", task.upper()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        return json.loads((path.parent / "output_msg" / path.name).read_text(encoding="utf-8"))["total"]


def agreement(data: Path, checkout: Path | None, packages: Path | None, table: Table) -> Iterator[Result]:
    """Our reading of its rules beside what it says, and beside our own scores."""
    for task in (Task.NER, Task.RE, Task.EE, Task.EEA):
        folder = data / "iepile_format" / task.upper()
        if not folder.exists():
            continue
        for damaged in (False, True):
            answers = iepile_answers(folder, task, damaged)
            ours = iepile_score(answers)
            theirs = published(checkout, packages, folder, task, answers) if checkout else {}
            for view, found in ours.scores.items():
                key = f"{view}_F1" if len(ours.scores) > 1 else "F1"
                peer = theirs.get(key)
                note = f"{task}, {view} F1 of IEPile's own answers{', every third damaged' if damaged else ''}"
                shown = "–" if peer is None else str(peer)
                table.add_row(note, str(found.f1), shown, theirs.get("error", ""))
                ratio = found.f1 / peer if peer else (1.0 if peer == found.f1 else None)
                yield Result("extraction.iepile_agreement", found.f1, peer, PEER, ratio, "percent", note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("--answers", type=int, default=10_000, help="mutated answers")
    parser.add_argument("--iepile", type=Path, help="checkout of IEPile's repository")
    parser.add_argument("--packages", type=Path, help="folder with jieba, rouge_chinese and six")
    options = parser.parse_args()
    results: list[Result] = []
    everything: list[Answer] = []

    table = Table("set", "task", "answers", "F1", "unreadable", title="right answers read back and scored")
    for name, task, answers in right_answers(options.data):
        everything += answers
        report = score(grade(answers, OneKE()))
        f1 = min(each.total.f1 for each in report.scores[task].values())
        table.add_row(name, str(task), str(len(answers)), f"{f1:.2f}", str(report.failed))
        note = f"{name}, {task}, {len(answers)} answers"
        results.append(Result("extraction.gold_f1", f1, None, None, None, "percent", note))
    Console().print(table)

    statuses, wrong, seconds = fuzz(everything, options.answers)
    shares = ", ".join(f"{100 * count / options.answers:.1f} % {status}" for status, count in statuses.most_common())
    print(
        f"fuzz: {options.answers} mutated answers, {wrong} raised or read otherwise than strictly; {shares}; "
        f"median {1e6 * statistics.median(seconds):.0f} us, longest {1e3 * max(seconds):.1f} ms"
    )
    note = f"raised, or valid and read otherwise than strictly, of {options.answers} mutated answers: {shares}"
    results.append(Result("extraction.fuzz_failures", wrong, None, None, None, "answers", note))
    median = 1e6 * statistics.median(seconds)
    results.append(Result("extraction.parse_time", median, None, None, None, "us", "median of a mutated answer"))

    table = Table("answers", "ours", "IEPile's evaluator", "it raised", title="IEPile's rules")
    results += agreement(options.data, options.iepile, options.packages, table)
    Console().print(table)
    save("extraction_parsing", [vars(result) for result in results], ("json-repair", "jieba", "rouge-chinese"))


if __name__ == "__main__":
    main()
