"""Whether a GGUF file is the model it was written from: structure, numbers, and what llama.cpp makes of it.

Three looks. The structure is read back: every tensor there, in its shape. The numbers: the file's tensors, dequantised,
go into the source's own network, whose predictions on a short bilingual text are compared with the source's by
perplexity, divergence (KL, natural logarithms, source to file) and agreement on the likeliest token. That measures what
quantising lost. Last, llama.cpp continues three prompts greedily, and its tokens and their probabilities are compared
with the same network: that measures whether llama.cpp reads the file as meant (order of rows, rotary settings, norms,
tokenizer).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.errors import UserError
from src.models.gguf.architecture import Decoder, NotWrittenHereError, tensors_of
from src.models.gguf.convert import write_json
from src.models.gguf.quantize import open_gguf
from src.models.gguf.run import ask_llama_cpp, llama_cpp_installed
from src.models.gguf.text import HARD_TO_CUT, PROMPTS, TEXT
from src.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Mean divergence above which a file is worse than its type should be, from SmolLM2-135M, which is small and so suffers
KL_LIMITS = {"f32": 1e-4, "f16": 1e-3, "bf16": 5e-3, "q8_0": 5e-3, "q6_k": 0.02, "q5": 0.2, "q4": 0.5}
BROKEN_TOP1 = 0.5
NEW_TOKENS = 16
LLAMA_CPP_GAP = 0.1  # mean difference of log-probabilities between llama.cpp and the network, above which is a warning
MEMORY_MARGIN = 1.15


@dataclass
class Fidelity:
    """How the file's weights predict the text, beside the source's. kl: mean over tokens, in nats."""

    tokens: int
    perplexity_source: float
    perplexity: float
    kl: float
    top1: float


@dataclass
class LlamaCpp:
    """llama.cpp's greedy tokens that the network, fed with them, finds likeliest too, and how far the two are apart.

    gap: mean absolute difference of the tokens' log-probabilities. texts: how many of them were cut into equal tokens.
    """

    tokens: int
    agreed: int
    gap: float
    texts: int
    texts_equal: int
    first_other: str | None  # the first text that is cut otherwise
    opening_equal: bool


@dataclass
class Verification:
    """What was found of one file. fidelity: None where the numbers can't be put back into the source's network."""

    file: str
    file_type: str
    nbytes: int
    tensors: int
    types: dict[str, int]
    fell_back: dict[str, int]
    fidelity: Fidelity | None = None
    llama_cpp: LlamaCpp | None = None
    warnings: list[str] = field(default_factory=list)


def verify_gguf(file: Path, source: Path, file_type: str, numbers: bool = True) -> Verification:
    """Compare a written file with its source and leave the result beside it as ``FILE.json``.

    numbers: also what needs the model in memory; otherwise the structure alone.

    Raises:
        UserError: the file is not the model: tensors are missing, llama.cpp does not load it, or its likeliest token is
            another one than the source's more often than not. The file is removed then.
    """
    try:
        reader = open_gguf(file)
        found = _structure(reader, file, source, file_type)
        if numbers:
            _compare(found, reader, file, source)
    except UserError:
        file.unlink(missing_ok=True)
        raise
    write_json(file.with_name(file.name + ".json"), asdict(found))
    return found


def check_memory(
    source: Path,
    work: str = "comparing the file with its source",
    instead: str = "give verify=false, which still checks the structure",
) -> None:
    """Raises `UserError` when a model does not fit into free memory as float32, as `work` needs it."""
    from src.models.devices import free_host_bytes

    sizes = [tensor.shape for tensor in WeightFiles(source).tensors.values()]
    needed = int(sum(4 * np.prod(shape) for shape in sizes) * MEMORY_MARGIN)
    if needed > (free := free_host_bytes()):
        raise UserError(
            f"{work} needs {needed / 1e9:.0f} GB of memory (weights as float32) and {free / 1e9:.0f} are free: "
            f"{instead}"
        )


def verification_table(found: Verification) -> Table:
    """A verification for the terminal."""
    from rich.table import Table

    table = Table("check", "result", box=None, header_style="bold")
    types = ", ".join(f"{count} {name}" for name, count in sorted(found.types.items(), key=lambda item: -item[1]))
    table.add_row("size", f"{found.nbytes / 1e6:,.1f} MB")
    table.add_row("tensors", f"{found.tensors} ({types})")
    if found.fell_back:
        others = ", ".join(f"{count} {name}" for name, count in found.fell_back.items())
        table.add_row("other type than asked", f"{others} (row lengths do not fit)")
    if (numbers := found.fidelity) is not None:
        table.add_row("perplexity", f"{numbers.perplexity:.3f} (source {numbers.perplexity_source:.3f})")
        table.add_row("mean KL", f"{numbers.kl:.5f} over {numbers.tokens} tokens")
        table.add_row("same likeliest token", f"{numbers.top1:.1%}")
    if (run := found.llama_cpp) is not None:
        table.add_row("llama.cpp agrees", f"{run.agreed} of {run.tokens} greedy tokens, log p {run.gap:.4f} apart")
        table.add_row("llama.cpp cuts alike", f"{run.texts_equal} of {run.texts} texts")
    for warning in found.warnings:
        table.add_row("[yellow]warning", warning)
    return table


def _structure(reader: Any, file: Path, source: Path, file_type: str) -> Verification:
    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    found = Verification(
        file.name, file_type, file.stat().st_size, len(reader.tensors), types, _fell_back(reader, file_type)
    )
    if found.fell_back:
        found.warnings.append(
            f"{sum(found.fell_back.values())} of {found.tensors} tensors have row lengths that {file_type} can't take"
        )
    try:
        expected = _expected(source)
    except NotWrittenHereError:
        return found
    written = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    wrong = [name for name, (_, shape) in expected.items() if written.get(name) != shape]
    if wrong:
        raise UserError(
            f"'{file.name}' holds {written.get(wrong[0], 'nothing')} as {wrong[0]}, and {expected[wrong[0]][1]} was to "
            f"be written ({len(wrong)} tensors differ): the file was removed, write it again"
        )
    return found


def _expected(source: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The source's name and shape of each tensor by llama.cpp's name."""
    tensors = tensors_of(_decoder(source), WeightFiles(source))
    return {name: (tensor.name, tensor.shape) for name, tensor in tensors.items()}


def _fell_back(reader: Any, file_type: str) -> dict[str, int]:
    """Tensors whose rows don't fit the blocks of the type asked for, by the type they got."""
    block = 256 if "_k" in file_type else 32 if file_type.startswith("q") else 1
    counts: dict[str, int] = {}
    for tensor in reader.tensors:
        if len(tensor.shape) > 1 and int(tensor.shape[0]) % block and tensor.tensor_type.name != "F32":
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
    return counts


def _decoder(source: Path) -> Decoder:
    return Decoder(json.loads((source / "config.json").read_text(encoding="utf-8")), source)


def _compare(found: Verification, reader: Any, file: Path, source: Path) -> None:
    """Put the source's network, and then the file's numbers in it, through the text, and llama.cpp beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(TEXT)["input_ids"][: model.config.max_position_embeddings]])
    with torch.inference_mode():
        before = torch.log_softmax(model(ids).logits[0, :-1], dim=-1)
    try:
        _load_numbers(model, reader, source)
        with torch.inference_mode():
            after = torch.log_softmax(model(ids).logits[0, :-1], dim=-1)
        found.fidelity = fidelity(before, after, ids[0, 1:])
    except NotWrittenHereError:
        found.warnings.append("perplexity and divergence were not measured: the architecture is not known here")
    if llama_cpp_installed():
        found.llama_cpp = _llama_cpp(file, model, tokenizer)
    else:
        found.warnings.append("llama.cpp did not read the file: it is not installed (pip install -e '.[cpu]')")
    found.warnings += _judge(found)


def fidelity(source: Tensor, file: Tensor, targets: Tensor) -> Fidelity:
    """Compare two tables of log-probabilities ``[tokens, vocabulary]`` over the tokens that came, ``[tokens]``."""
    rows = targets[:, None]
    divergence = (source.exp() * (source - file)).sum(-1)
    return Fidelity(
        tokens=len(targets),
        perplexity_source=float((-source.gather(1, rows).mean()).exp()),
        perplexity=float((-file.gather(1, rows).mean()).exp()),
        kl=float(divergence.mean()),
        top1=float((source.argmax(-1) == file.argmax(-1)).float().mean()),
    )


def _load_numbers(model: PreTrainedModel, reader: Any, source: Path) -> None:
    """Overwrite a model's weights with the dequantised tensors of a file."""
    import torch
    from gguf import dequantize

    decoder, expected = _decoder(source), _expected(source)
    parameters = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for tensor in reader.tensors:
        if tensor.name not in expected:
            continue  # what the writer added, such as factors of rotary frequencies
        stored, shape = expected[tensor.name]
        values = decoder.arrange_back(stored, dequantize(tensor.data, tensor.tensor_type).reshape(shape))
        with torch.no_grad():
            parameters[stored].copy_(torch.tensor(values))


def _llama_cpp(file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LlamaCpp:
    import torch

    prompts: list[list[int]] = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]  # type: ignore[misc]
    answers = ask_llama_cpp(file, prompts, list(HARD_TO_CUT), NEW_TOKENS)
    total, agreed, gaps = 0, 0, []
    for prompt, continuation in zip(prompts, answers["continuations"], strict=True):
        tokens = [token for token, _ in continuation]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        table = torch.log_softmax(logits, dim=-1)
        total += len(tokens)
        agreed += int((table.argmax(-1) == torch.tensor(tokens)).sum())
        ours = table[torch.arange(len(tokens)), tokens].tolist()
        gaps += [abs(mine - theirs) for mine, (_, theirs) in zip(ours, continuation, strict=True) if theirs is not None]
    cut = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in HARD_TO_CUT]
    others = [text for text, mine, theirs in zip(HARD_TO_CUT, cut, answers["tokens"], strict=True) if mine != theirs]
    return LlamaCpp(
        tokens=total,
        agreed=agreed,
        gap=float(np.mean(gaps)),
        texts=len(cut),
        texts_equal=len(cut) - len(others),
        first_other=next(iter(others), None),
        opening_equal=tokenizer("")["input_ids"] == answers["opening"],
    )


def _judge(found: Verification) -> list[str]:
    """Warnings about numbers that are worse than the file's type should give. Raises `UserError` for a broken file."""
    numbers, run, warnings = found.fidelity, found.llama_cpp, []
    limit = KL_LIMITS.get(found.file_type, KL_LIMITS.get(found.file_type[:2], KL_LIMITS["q4"]))
    if numbers is not None:
        if numbers.top1 < BROKEN_TOP1:
            raise UserError(
                f"'{found.file}' predicts the source's likeliest token in {numbers.top1:.0%} of {numbers.tokens} "
                "cases: it is not the same model any more and was removed, so give a type of more bits"
            )
        if numbers.kl > limit:
            warnings.append(f"mean KL is {numbers.kl:.4f}, above {limit} that {found.file_type} usually stays below")
    if run is not None:
        if run.agreed < BROKEN_TOP1 * run.tokens:
            raise UserError(
                f"llama.cpp chooses {run.agreed} of {run.tokens} tokens as the source's network does with the file's "
                f"weights: it reads '{found.file}' differently, and the file was removed"
            )
        if numbers is not None and run.gap > LLAMA_CPP_GAP:
            warnings.append(f"llama.cpp's log-probabilities are {run.gap:.3f} away from the network's on average")
        if run.first_other is not None:
            warnings.append(
                f"llama.cpp cuts {run.texts - run.texts_equal} of {run.texts} texts into other tokens than the model's "
                f"tokenizer, such as {run.first_other[:30]!r}"
            )
        if not run.opening_equal:
            warnings.append("llama.cpp opens a text with other tokens than the model's tokenizer")
    return warnings
