"""From the settings of a command to an engine: which one, device, precision, template, and whether the model talks.

Each kind of engine is a small class here whose fields are a file in ``configs/engine/``; `Auto` chooses among them.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers.utils import logging as transformers_logging

from src.errors import UserError
from src.generation.engine import Engine
from src.generation.engines.transformers_engine import TransformersEngine
from src.generation.prompts import PromptEncoder
from src.models.architecture import architecture_of
from src.models.devices import cpu_has_bf16, free_host_bytes, gpu_has_bf16
from src.models.download import resolve
from src.models.load import DTYPES, check_adapter_folder, load_adapters, load_for_generation, load_tokenizer
from src.models.placement import Allocation, place
from src.models.quantized import QUANTIZATIONS, check_quantization, compute_dtype
from src.models.spec import ModelSpec
from src.models.templates import Template, load_template

log = logging.getLogger(__name__)

ROUNDED_FROM = 10**9  # parameters from which llama.cpp serves a model in 8 bits
CACHE_SHARE = 0.25  # of free memory for the key-value caches of llama.cpp's slots, and of vLLM on a CPU


@dataclass(frozen=True)
class Use:
    """What a model is opened for: everything but the kind of engine. See `load_engine`."""

    spec: ModelSpec
    adapter_path: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    template: str | None = "auto"
    chat: bool | str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    max_parallel: int | None = None
    context_length: int | None = None
    allocation: Allocation | None = None
    quantization: str = "none"
    report: Callable[[str], None] | None = None

    def refuse(self, engine: str, **unfit: Any) -> None:
        """Raise `UserError` for the settings of these names that an engine has no use for."""
        defaults = Use(self.spec)
        for name, advice in unfit.items():
            if getattr(self, name) != getattr(defaults, name):
                shown = {"allocation": "allocate"}.get(name, name)
                raise UserError(f"engine={engine} takes no {shown}: {advice}")

    def on(self, device: str) -> "Use":
        """The same without the device, where that is the one an engine runs on anyway."""
        return replace(self, device="auto") if self.device == device else self

    def encoder(self) -> tuple[PromptEncoder, bool]:
        """The prompt encoder for engines in other processes, and whether the model talks."""
        tokenizer = load_tokenizer(self.spec)
        folder = resolve(self.spec)
        template, talks = choose_template(self.spec, tokenizer, self.template, self.chat)
        most = self.spec.context_length or 2**31
        length = self.context_length or most
        if not 1 < length <= most:
            raise UserError(f"context_length={length} must be between 2 and the model's {most}")
        return PromptEncoder(tokenizer, template if talks else None, length, _end_ids(folder)), talks

    def all_adapters(self) -> dict[str, Path]:
        """The PEFT folders that requests can ask for, by name. Raises `UserError` for what is none."""
        found = {name: Path(path) for name, path in self.adapters.items()}
        for path in found.values():
            check_adapter_folder(path)
        return found


class EngineKind(Protocol):
    """A file in ``configs/engine/``."""

    def open(self, use: Use) -> tuple[Engine, bool]: ...


@dataclass(frozen=True)
class Transformers:
    """transformers in this process: beams, hidden states, edited weights, every device.

    batch_size: requests generated together where nothing else says it.
    """

    batch_size: int = 8

    def open(self, use: Use) -> tuple[TransformersEngine, bool]:
        where = choose_device(use.device)
        quantization = check_quantization(use.quantization, where)
        kind = choose_dtype(use.dtype, where, quantization)
        placement = None if use.allocation is None else place(use.spec, use.allocation, kind, quantization, where)
        if placement is not None and use.report is not None:
            use.report(str(placement))
        if use.adapter_path and use.adapters:
            raise UserError("adapter_path and adapters were both given: name every adapter under adapters=")
        adapters = use.all_adapters()
        tokenizer = load_tokenizer(use.spec)
        template, talks = choose_template(use.spec, tokenizer, use.template, use.chat)
        transformers_logging.disable_progress_bar()
        model, _ = load_for_generation(use.spec, use.adapter_path, kind, where, quantization, placement)
        if adapters:
            model = load_adapters(model, adapters)
        engine = TransformersEngine(
            model, tokenizer, template if talks else None, use.max_parallel or self.batch_size, list(adapters)
        )
        if use.context_length:
            engine.limit_context(use.context_length)
        return engine, talks


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp in a child process: the fastest on a CPU.

    file_type: of the GGUF file that is made of the model once: f32, f16, bf16, q8_0, q5_1, q4_1, q4_0, K-quants where
        they can be made; ``as_is`` takes a ``.gguf`` file as it lies. ``auto``: see `choose_file_type`.
        ``quantization=8bit`` is q8_0, ``4bit`` q4_1.
    threads: of the processor; null is all cores.
    gpu_layers: on a GPU, where xllamacpp was built for one; -1 is all.
    """

    file_type: str = "auto"
    threads: int | None = None
    gpu_layers: int = -1

    def open(self, use: Use) -> tuple[Engine, bool]:
        from src.generation.engines.llamacpp_engine import LlamaCppEngine
        from src.models.gguf.export import gguf_adapter, gguf_file

        # a GPU is used where xllamacpp was built for one, and left alone with device=cpu
        advice = {"allocation": "it uses what is free", "dtype": "give engine.file_type", "device": "auto or cpu"}
        use.on("cpu").refuse("llamacpp", **advice)
        gpu_layers = 0 if use.device == "cpu" else self.gpu_layers
        if use.quantization != "none" and self.file_type != LlamaCpp.file_type:
            raise UserError(
                f"quantization={use.quantization} and engine.file_type={self.file_type} were given: give one of them"
            )
        file_type = {"none": self.file_type, "8bit": "q8_0", "4bit": "q4_1"}[use.quantization]
        if file_type == "auto":
            file_type = choose_file_type(use.spec)
        prompts, talks = use.encoder()
        parallel = use.max_parallel or slots(use.spec, prompts.context_length)
        file = gguf_file(use.spec, file_type)
        adapters = {name: gguf_adapter(path, use.spec, use.spec.cache_dir) for name, path in _with_default(use).items()}
        log.info("llama.cpp serves %s (%s), %d requests at a time", use.spec.name, file_type, parallel)
        engine = LlamaCppEngine(file, prompts, adapters, parallel, self.threads, gpu_layers)
        engine.default_adapter = _default_name(use)
        return engine, talks


@dataclass(frozen=True)
class Vllm:
    """vLLM in an environment and a process of its own. Fields: see `src.generation.engines.vllm_engine.VllmEngine`.

    python: its interpreter.
    """

    python: str = ".venv-vllm/bin/python"
    max_parallel: int = 32
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    kv_cache_gb: int | None = None
    enforce_eager: bool = False
    quantization: str | None = None
    arguments: Sequence[str] = ()

    def open(self, use: Use) -> tuple[Engine, bool]:
        from src.generation.engines.vllm_engine import VllmEngine

        on_cpu = not torch.cuda.is_available()
        where = "cpu" if on_cpu else "cuda"
        use.on(where).refuse(
            "vllm",
            allocation="give engine.tensor_parallel_size=N and engine.gpu_memory_utilization",
            device=f"it runs on {where} here, and CUDA_VISIBLE_DEVICES says on which GPUs",
        )
        if use.quantization != "none":
            raise UserError(
                "engine=vllm takes no quantization=8bit or 4bit: give a GPTQ or AWQ checkpoint as model=, or "
                "engine.quantization=NAME of one of vLLM's own"
            )
        if use.spec.kind == "config":
            raise UserError(f"model '{use.spec.name}' has random weights and no file of them: engine=transformers")
        prompts, talks = use.encoder()
        cache_gb = self.kv_cache_gb or (max(1, int(free_host_bytes() * CACHE_SHARE / 2**30)) if on_cpu else None)
        engine = VllmEngine(
            resolve(use.spec),
            self.python,
            prompts,
            _with_default(use),
            use.max_parallel or self.max_parallel,
            choose_dtype(use.dtype, where),
            self.tensor_parallel_size,
            self.pipeline_parallel_size,
            self.gpu_memory_utilization,
            cache_gb,
            self.enforce_eager,
            on_cpu,
            [*(["--quantization", self.quantization] if self.quantization else []), *map(str, self.arguments)],
        )
        engine.default_adapter = _default_name(use)
        return engine, talks


@dataclass(frozen=True)
class OpenAI:
    """Any endpoint that speaks the OpenAI API. Fields: see `src.generation.engines.openai_engine.OpenAIEngine`.

    api_key_variable: the environment variable with the key.
    """

    base_url: str
    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    extensions: Sequence[str] = ()
    max_parallel: int = 16
    timeout_s: float = 300.0

    def open(self, use: Use) -> tuple[Engine, bool]:
        from src.generation.engines.openai_engine import OpenAIEngine

        use.refuse(
            "openai",
            allocation="the endpoint has its own",
            adapter_path="name it as engine.model",
            adapters="name one as engine.model",
            quantization="the endpoint has its own",
            template="the endpoint has its own; chat=false sends plain prompts",
            dtype="the endpoint has its own",
            device="the endpoint has its own",
            context_length="the endpoint has its own",
        )
        key = os.environ.get(self.api_key_variable, "")
        parallel = use.max_parallel or self.max_parallel
        engine = OpenAIEngine(self.base_url, self.model, key, self.extensions, parallel, self.timeout_s)
        return engine, use.chat is not False


@dataclass(frozen=True)
class Auto:
    """The engine that fits the machine: vLLM where there is a GPU and its environment, llama.cpp on a CPU, else
    transformers. ``python`` is vLLM's interpreter."""

    python: str = ".venv-vllm/bin/python"

    def choose(self, use: Use) -> tuple[EngineKind, str]:
        """The engine, and why."""
        if use.spec.kind == "config":
            return Transformers(), "the model has random weights"
        if use.allocation is not None:
            return Transformers(), "allocate= spreads a transformers model"
        if torch.cuda.is_available() and use.device in ("auto", "cuda"):
            if Path(self.python).is_file() and use.quantization == "none":
                return Vllm(python=self.python), "there is a GPU and vLLM's environment"
            return Transformers(), "there is a GPU, and no environment of vLLM (make vllm) for what was asked"
        if use.device not in ("auto", "cpu") or use.dtype != "auto":
            return Transformers(), f"device={use.device} dtype={use.dtype} were asked for"
        if importlib.util.find_spec("xllamacpp") is None:
            return Transformers(), "there is no xllamacpp (pip install -e '.[cpu]')"
        return LlamaCpp(), "there is no GPU"

    def open(self, use: Use) -> tuple[Engine, bool]:
        kind, why = self.choose(use)
        log.info("engine=%s, since %s", type(kind).__name__.lower(), why)
        return kind.open(use)


def load_engine(
    spec: ModelSpec,
    engine: EngineKind | None = None,
    *,
    adapter_path: str | None = None,
    adapters: Mapping[str, str] | None = None,
    template: str | None = "auto",
    chat: bool | str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    max_parallel: int | None = None,
    context_length: int | None = None,
    allocation: Allocation | None = None,
    quantization: str | None = "none",
    report: Callable[[str], None] | None = None,
) -> tuple[Engine, bool]:
    """Load a model for generation; returns the engine and whether prompts go through a template.

    Args:
        engine: which; transformers by default.
        adapter_path: a PEFT folder that is put on the model for every request.
        adapters: PEFT folders by the name requests ask for them.
        template: ``auto`` is the one the zoo names for the model, or else the tokenizer's own; ``none`` is plain text.
        chat: ``auto`` is yes where a template was named, the zoo names one, or the tokenizer of a model with learned
            weights carries one.
        max_parallel: requests generated together; None leaves it to the engine.
        context_length: tokens of prompt and answer, where fewer than the model's are wanted.
        allocation: spread the model over several devices; ``report`` is given the estimate of their memory before a
            weight is read.

    Raises:
        UserError: chat is asked for and there is no template, the model doesn't fit, the engine is not installed or
            can't do what was asked.
    """
    if chat not in ("auto", True, False):
        raise UserError(f"chat={chat} is not known: set auto, true or false")
    if quantization not in (None, *QUANTIZATIONS):
        raise UserError(f"quantization={quantization} is not known: set {', '.join(QUANTIZATIONS)}")
    use = Use(
        spec,
        adapter_path,
        dict(adapters or {}),
        template,
        chat,
        dtype,
        device,
        max_parallel,
        context_length,
        allocation,
        quantization or "none",
        report,
    )
    return (engine or Transformers()).open(use)


def choose_template(spec: ModelSpec, tokenizer: Any, template: str | None, chat: bool | str) -> tuple[Any, bool]:
    """The template of a model, and whether prompts go through it. See `load_engine`."""
    chosen: Template | None = None
    if template == "auto":
        if spec.template is not None or (tokenizer.chat_template and (spec.config is None or chat is True)):
            chosen = load_template(spec.template, tokenizer)
    elif template is not None and template != "none":
        chosen = load_template(template, tokenizer)
    if chat is True and chosen is None:
        raise UserError(f"model '{spec.name}' has no chat template: set template=alpaca, llama2 or chatml")
    return chosen, chosen is not None and chat is not False


def choose_file_type(spec: ModelSpec) -> str:
    """The GGUF type that llama.cpp serves a model in: a ``.gguf`` file as it lies, small models in half precision.

    llama.cpp rounds activations too where the weights have 8 bits or fewer. Models below ``ROUNDED_FROM`` parameters
    answer otherwise for it (docs/engines.md); larger ones are what people serve in 8 bits.
    """
    if spec.kind == "gguf":
        return "as_is"
    return "f16" if architecture_of(spec).parameters < ROUNDED_FROM else "q8_0"


def slots(spec: ModelSpec, context_length: int) -> int:
    """How many requests llama.cpp should work on at a time: as many whole contexts as fit in a share of memory."""
    shape = architecture_of(spec)
    cache = 2 * 2 * shape.layers * shape.key_value_heads * shape.head_dim * context_length  # keys and values, 16 bits
    return max(1, min(32, int(free_host_bytes() * CACHE_SHARE / cache)))


def choose_device(device: str) -> str:
    """``auto`` is cuda, else mps, else cpu; anything else must be there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise UserError(f"device={device} is not known: set auto, cpu, cuda or mps")
    if not there[kind]:
        raise UserError(f"device={device} is not on this machine: set device=auto or cpu")
    return device


def choose_dtype(dtype: str, device: str, quantization: str = "none") -> str:
    """``auto`` is what a quantisation is fastest in, or bfloat16 where the hardware has it, or float32."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UserError(f"dtype={dtype} is not known: set auto, {', '.join(DTYPES)}")
        return dtype
    if fastest := compute_dtype(quantization, device):
        return fastest
    if device.startswith("cuda"):
        return "bfloat16" if gpu_has_bf16() else "float16"
    return "bfloat16" if device == "cpu" and cpu_has_bf16() else "float32"


def _default_name(use: Use) -> str | None:
    return None if use.adapter_path is None else Path(use.adapter_path).resolve().name


def _with_default(use: Use) -> dict[str, Path]:
    """All adapters, with that of ``adapter_path`` under the name of its folder."""
    found = use.all_adapters()
    if use.adapter_path is not None:
        check_adapter_folder(use.adapter_path)
        name = str(_default_name(use))
        if name in found:
            raise UserError(f"adapters has the name '{name}' of adapter_path's folder: give that adapter another name")
        found[name] = Path(use.adapter_path)
    return found


def _end_ids(folder: Path) -> frozenset[int]:
    """The end tokens that a folder's generation config names."""
    file = folder / "generation_config.json"
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
