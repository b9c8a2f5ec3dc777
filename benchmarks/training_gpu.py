"""Tokens a second, MFU and peak memory on one GPU, each optimisation on and off, beside a plain Hugging Face Trainer.

    python benchmarks/training.py gpu [--sizes 135m 1b largest] [--lengths 1024 4096] [--budget-s 540]
    python benchmarks/training.py gpu --device cpu --sizes tiny --lengths 64     the same code; nothing is written

Llama shapes with random weights and random token ids in full rows, so no download is needed. Every case is a process of
its own that runs ``train.py`` or the ``Trainer``: one turn to warm up and compile, then three that count. While one
case has the GPU the next one loads its libraries. Cases come in the order of their importance, and those that the
budget leaves no time for are named. ``largest`` is as deep as the memory allows with weights and AdamW in float32.

MFU is of 6 FLOPs for each token and weight, the input embedding's lookup left out, and 12 × layers × hidden for each
query and key before it (PaLM, arXiv:2204.02311, appendix B, with half of the square), over the data sheet's dense peak.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from saving import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from training_turns import Contestant

VOCABULARY = 32000
PACKAGES = ("torch", "lightning", "transformers", "accelerate", "liger-kernel", "flash-attn", "triton")
TURNS = 4  # the first one warms up
BYTES_OF_A_WEIGHT = 18  # weight, gradient and two moments in float32, and the copy in bfloat16 that autocast keeps
ATTENTION = {  # what can be asked for, and the package it needs beside PyTorch
    "sdpa": None,
    "varlen": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
HF = "Hugging Face Trainer"
OURS = "ours"


@dataclass(frozen=True)
class Size:
    """A Llama shape, and how many tokens go through it at once."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    tied: bool
    tokens: int

    def config(self, length: int) -> dict[str, Any]:
        """Arguments of ``transformers.LlamaConfig``."""
        return {
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "intermediate_size": self.intermediate,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": length,
        }

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        attention = 2 * self.hidden * self.hidden * (self.heads + self.key_value_heads) // self.heads
        return attention + 3 * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        """All weights, but for the norms'."""
        return self.layers * self.layer_weights + (1 if self.tied else 2) * VOCABULARY * self.hidden

    def flops(self, length: int) -> float:
        """Of one token, forward and backward, in rows of one segment."""
        matrices = self.layers * self.layer_weights + VOCABULARY * self.hidden
        return 6 * matrices + 12 * self.layers * self.hidden * (length + 1) / 2


SIZES = {
    "tiny": Size(64, 2, 4, 2, 128, True, 512),
    "135m": Size(576, 30, 9, 3, 1536, True, 32768),
    "1b": Size(2048, 24, 16, 16, 5504, False, 16384),  # 1.34e9, the shape of many models of this size
    "largest": Size(3072, 28, 24, 8, 8192, True, 8192),  # a guide: its depth follows from the memory
}


@dataclass(frozen=True)
class Case:
    """One process: a size at a length, with some settings of ours or with the peer's.

    overrides: of ``configs/train.yaml``, beside those that all cases have.
    hf_arguments: of the peer.
    """

    size: str
    shape: Size
    length: int
    name: str
    overrides: tuple[str, ...] = ()
    hf_arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.size} {self.length} {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a case measured."""

    case: Case
    tokens_per_s: float
    mfu: float
    memory_gb: float


def cases(sizes: Sequence[str], lengths: Sequence[int], device: str) -> Iterator[Case]:
    """What to measure, the most important first."""
    shapes = {name: deepest(device) if name == "largest" else SIZES[name] for name in sizes}
    fixed = [name for name in sizes if name != "largest"]
    for name in fixed:
        for length in lengths:
            for loop in (OURS, HF):
                yield Case(name, shapes[name], length, loop)
    largest = [
        case
        for length in lengths
        if "largest" in sizes
        for case in (
            Case("largest", shapes["largest"], length, OURS, ("module.activation_checkpointing=full",)),
            Case("largest", shapes["largest"], length, HF, hf_arguments={"gradient_checkpointing": True}),
        )
    ]
    yield from largest[:1]
    for main in ["1b"] if "1b" in fixed else fixed[:1]:
        for name, overrides in switches(device).items():
            yield Case(main, shapes[main], lengths[0], name, overrides)
    yield from largest[1:]


def switches(device: str) -> dict[str, tuple[str, ...]]:
    """Each optimisation in another position than `OURS` has it."""
    attention = [name for name, package in ATTENTION.items() if package is None or importlib.util.find_spec(package)]
    if device == "cpu":
        attention.remove("flex_attention")  # it has no backward pass there
    found: dict[str, tuple[str, ...]] = {
        "all logits": ("module.loss=full",),
        "compile off": ("module.compile=false",),
        "compile whole": ("module.compile=true",),
        "checkpointing selective": ("module.activation_checkpointing=selective",),
        "checkpointing full": ("module.activation_checkpointing=full",),
        "AdamW not fused": ("optimizer.fused=false",),
    }
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        found["chunked loss"] = ("module.loss=chunked",)  # auto takes Liger's
    # Compiling the CPU's loop over segments breaks its graph at every call: there attention is compared uncompiled.
    plain = () if device == "cuda" else ("module.compile=false",)
    return found | {f"attention {name}": (f"module.attn_implementation={name}", *plain) for name in attention}


def deepest(device: str, share: float = 0.85) -> Size:
    """As many layers as this share of the memory holds with gradients and AdamW's moments."""
    guide = SIZES["largest"]
    if device == "cpu":
        return replace(SIZES["tiny"], layers=4)
    room = share * torch.cuda.get_device_properties(0).total_memory / BYTES_OF_A_WEIGHT
    return replace(guide, layers=int((room - VOCABULARY * guide.hidden) / guide.layer_weights))


class Bench:
    """Runs cases one after the other, the next one's process loading meanwhile."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path, console: Console) -> None:
        self.arguments, self.scratch, self.console = arguments, scratch, console
        self.tokenizer = write_tokenizer(scratch / "tokenizer")
        self.started = time.monotonic()
        self.number = 0

    def contestant(self, case: Case) -> Contestant:
        """The process of a case, not started yet."""
        self.number += 1
        steps, length = self.arguments.steps, case.length
        rows = max(1, case.shape.tokens // length)
        model = {
            "_target_": "src.models.spec.ModelSpec",
            "name": "bench",
            "config": case.shape.config(length),
            "tokenizer": str(self.tokenizer),
            "context_length": length,
            "cache_dir": str(self.scratch / "models"),
        }
        data = {
            "_target_": "training_data.SyntheticDataModule",
            "vocabulary_size": VOCABULARY,
            "rows": 4 * rows,
            "max_length": length,
            "micro_batch_size": rows,
            "global_batch_size": rows,
            "num_workers": 2 if self.arguments.device == "cuda" else 0,
            "seed": 0,
        }
        overrides = [
            "trainer=gpu" if self.arguments.device == "cuda" else "trainer=cpu",
            "scheduler=constant",
            "scheduler.warmup_steps=0",
            "trainer.precision=bf16-mixed",
            f"trainer.max_steps={TURNS * steps}",
            f"trainer.val_every_n_steps={TURNS * steps}",
            "trainer.limit_val_batches=0",
            *(() if any("module.compile" in override for override in case.overrides) else ("module.compile=regional",)),
            *case.overrides,
        ]
        settings = {
            "loop": "hf" if case.name == HF else "ours",
            "overrides": overrides,
            "replaced": {"model": model, "data": data},
            "steps_per_turn": steps,
            "device": self.arguments.device,
            "hf_batch_size": rows,
            "hf_collator": "stack",
            "hf_arguments": {"dataloader_num_workers": data["num_workers"], **case.hf_arguments},
        }
        return Contestant(case.label, settings, self.scratch / f"case{self.number}")

    def run(self, planned: Sequence[Case]) -> list[Outcome]:
        """All cases that there is time for."""
        outcomes: list[Outcome] = []
        waiting = list(planned)
        following = self._start(waiting[0]) if waiting else None
        while waiting and following is not None:
            case, contestant = waiting.pop(0), following
            if time.monotonic() - self.started > self.arguments.budget_s:
                contestant.stop()
                left = ", ".join(case.label for case in [case, *waiting])
                self.console.print(f"no time was left for: {left}", style="yellow")
                break
            following = self._start(waiting[0]) if waiting else None
            outcome = self._measure(case, contestant)
            if "error" in contestant.end and case.size == "largest" and case.name == OURS and case.shape.layers > 4:
                smaller = replace(case, shape=replace(case.shape, layers=case.shape.layers * 9 // 10))
                waiting = [replace(c, shape=smaller.shape) if c.size == "largest" else c for c in [smaller, *waiting]]
                if following is not None:
                    following.stop()
                following = self._start(waiting[0])
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _start(self, case: Case) -> Contestant:
        contestant = self.contestant(case)
        contestant.start()
        return contestant

    def _measure(self, case: Case, contestant: Contestant) -> Outcome | None:
        """Run a case; None where it does not fit or has failed, which is said."""
        try:
            contestant.ready()
            while not contestant.end:
                contestant.go()
        except RuntimeError as error:
            self.console.print(f"{case.label} is left out: …{str(error)[-600:]}", style="yellow", markup=False)
            return None
        finally:
            contestant.stop()
        if "error" in contestant.end:
            self.console.print(f"{case.label}: {contestant.end['error']}", style="yellow")
            return None
        speed = statistics.median(turn.tokens / turn.wall_s for turn in contestant.measured)
        mfu = speed * case.shape.flops(case.length) / contestant.end["peak_flops"]
        memory = contestant.end["memory_gb"]
        self.console.print(f"{case.label}: {speed:,.0f} tokens/s, MFU {mfu:.3f}, {memory:.1f} GB", highlight=False)
        return Outcome(case, speed, mfu, memory)


def write_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer with a vocabulary of the right size, so that nothing need be fetched."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"token{number}" for number in range(VOCABULARY - len(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "llama", "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def results(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """The lines of the results file."""
    speeds = {(o.case.size, o.case.length, o.case.name): o for o in outcomes}
    for outcome in outcomes:
        case = outcome.case
        peer = speeds.get((case.size, case.length, HF)) if case.name != HF else None
        note = (
            f"{case.shape.weights / 1e9:.3f}e9 weights, {case.shape.layers} layers, {case.shape.tokens} tokens a step; "
            f"MFU {outcome.mfu:.3f}, peak {outcome.memory_gb:.1f} GB"
        )
        name = case.name.replace(" ", "_")
        yield _line(f"training.gpu.{case.size}.{case.length}.{name}", outcome, peer, "tokens/s", note)
    mine = [o for o in outcomes if o.case.size == "1b" and o.case.name != HF and _recomputes_nothing(o.case)]
    if mine:
        best = max(mine, key=lambda o: o.mfu)
        note = f"{best.case.label}: {best.tokens_per_s:,.0f} tokens/s, {best.memory_gb:.1f} GB; all cases are beside it"
        yield {"metric": "training.mfu_1b", "ours": best.mfu, "peer": None, "peer_name": None, "ratio": None} | {
            "unit": "share of the dense bf16 peak",
            "note": note,
        }
    lengths = dict.fromkeys(o.case.length for o in outcomes)
    pairs = [(length, speeds.get(("1b", length, OURS)), speeds.get(("1b", length, HF))) for length in lengths]
    metric = "training.tokens_per_s_1b_vs_hf"
    for number, (length, ours, peer) in enumerate(pair for pair in pairs if all(pair)):
        assert ours and peer
        note = f"{length} tokens a row; ours with module.compile=regional, the peer as it comes, not compiled"
        yield _line(f"{metric}.{length}" if number else metric, ours, peer, "tokens/s", note)


def _recomputes_nothing(case: Case) -> bool:
    return not any("checkpointing" in override for override in case.overrides)


def _line(metric: str, ours: Outcome, peer: Outcome | None, unit: str, note: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "ours": ours.tokens_per_s,
        "peer": peer.tokens_per_s if peer else None,
        "peer_name": HF if peer else None,
        "ratio": ours.tokens_per_s / peer.tokens_per_s if peer else None,
        "unit": unit,
        "note": note,
    }


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """All cases, each beside ours of its size and length."""
    base = {(o.case.size, o.case.length): o.tokens_per_s for o in outcomes if o.case.name == OURS}
    table = Table("model", "length", "settings", "tokens/s", "over ours", "MFU", "peak GB", title="one device")
    for o in outcomes:
        over = base.get((o.case.size, o.case.length))
        shares = f"{o.tokens_per_s / over:.3f}" if over else ""
        numbers = (f"{o.tokens_per_s:,.0f}", shares, f"{o.mfu:.3f}", f"{o.memory_gb:.1f}")
        table.add_row(o.case.size, str(o.case.length), o.case.name, *numbers)
    console.print(table)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="training.py gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: try the code, write nothing")
    parser.add_argument("--sizes", nargs="+", default=["1b", "135m", "largest"], choices=list(SIZES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 4096], help="tokens of a row")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a turn; the first of four warms up")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds after which no further case is begun")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is visible here, so nothing was measured or written: run it on a machine with one")
        return
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Bench(given, Path(folder), console).run(list(cases(given.sizes, given.lengths, given.device)))
    show(outcomes, console)
    lines = list(results(outcomes))
    for line in lines:
        if not line["metric"].startswith("training.gpu."):
            console.print(f"{line['metric']}: {line['ratio'] or line['ours']:.3f} ({line['note']})", highlight=False)
    if given.device == "cuda":
        save("training_gpu", lines, PACKAGES)
