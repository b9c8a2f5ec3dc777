"""From a model's description to a model and a tokenizer in memory.

torch and transformers are imported when a function is called, so that commands which only look stay quick.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.models.download import resolve, resolve_tokenizer
from src.models.placement import Placement, device_name
from src.models.quantized import check_checkpoint, quantized_settings, training_settings
from src.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DTYPES = ("float32", "bfloat16", "float16")
# peft imports bitsandbytes wherever it is installed, and that warns on each CPU without an optional package of kernels
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # that parts lie elsewhere, as was asked for
_WITHOUT_WEIGHTS = ContextVar("without_weights", default=False)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerFast:
    """The model's tokenizer, with a pad token: its own, else the unknown token, else the end token."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(resolve_tokenizer(spec))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(
    spec: ModelSpec,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    from_scratch: bool = False,
    device: str | int | torch.device | None = None,
    quantization: str | None = None,
) -> PreTrainedModel:
    """The model with its weights, or with random ones for a random model and where `from_scratch` says so.

    ``config.use_cache`` stays as the checkpoint has it: training turns it off. Random weights follow torch's seed.
    With ``quantization`` the linear layers hold 4 bits a weight and multiply in ``dtype``, see `training_settings`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.integrations import is_deepspeed_zero3_enabled

    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not known: expected one of {', '.join(DTYPES)}")
    folder = resolve(spec)
    torch_dtype = getattr(torch, dtype)
    if _WITHOUT_WEIGHTS.get():
        return _model_without_weights(folder, torch_dtype, attn_implementation)
    random = from_scratch or spec.kind == "config"
    if quantization is not None:
        settings = training_settings(quantization, torch_dtype, random)
        settings |= {"device_map": {"": device or "cpu"}, "attn_implementation": attn_implementation}
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype, **settings)
        module: Any
        for module in model.modules():
            # On a CPU an evaluation would turn the weights into a layout through which no gradients pass, for good and
            # without an error (bitsandbytes 0.50).
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model
    if random:
        config = AutoConfig.from_pretrained(folder)
        with no_init_weights():  # torch's own initial values would move the random state, which they don't under ZeRO-3
            model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype, attn_implementation=attn_implementation)
        if not is_deepspeed_zero3_enabled():  # there they are initialised already, piece by piece
            model.init_weights()
        model.config._name_or_path = str(folder)  # what an adapter names as its base
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype, attn_implementation=attn_implementation)
    return model.to(device) if device is not None else model


@contextmanager
def without_weights() -> Iterator[None]:
    """Within it `load_model` makes parameters that take no memory: the right shapes, every element the same zero.

    For strategies that put the weights in after cutting the model into pieces. Unlike parameters on the meta device,
    these let adapters be made on them as usual. The random state is left as it was.
    """
    token = _WITHOUT_WEIGHTS.set(True)
    try:
        yield
    finally:
        _WITHOUT_WEIGHTS.reset(token)


def _model_without_weights(folder: Path, dtype: torch.dtype, attn_implementation: str) -> PreTrainedModel:
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    model.config._name_or_path = str(folder)
    model.tie_weights()  # accelerate makes a parameter of its own at each place
    made: dict[int, torch.nn.Parameter] = {}  # tied parameters stay one
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                made[id(parameter)] = torch.nn.Parameter(zeros)
            setattr(module, name, made[id(parameter)])
    return model


def load_for_generation(
    spec: ModelSpec,
    adapter_path: str | Path | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    quantization: str = "none",
    placement: Placement | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model, with a PEFT adapter on it if given, in evaluation mode, and a tokenizer that pads on the left.

    Args:
        quantization: 8bit or 4bit stores the linear layers of the decoder so; none leaves them as the checkpoint has
            them, which may be quantised itself.
        placement: what goes on which device; None puts everything on `device`.

    Raises:
        UserError: the adapter folder is not one or was made for a model of another shape, or a package is missing.
    """
    if adapter_path is not None:
        check_adapter_folder(adapter_path)
        if placement is not None and placement.spills:
            away = " and ".join(map(device_name, placement.devices[1:]))
            raise UserError(
                f"an adapter can't be put on a model that lies partly on {away}: merge it first with "
                "python scripts/export.py model=… adapter_path=… output=FOLDER, and give model=FOLDER"
            )
    tokenizer = load_tokenizer(spec)
    tokenizer.padding_side = "left"
    model = _load_placed(spec, dtype, device, quantization, placement)
    if adapter_path is not None:
        model = attach_adapter(model, adapter_path)
    model.config.use_cache = True
    model.generation_config.use_cache = True
    return model.eval(), tokenizer


def _load_placed(
    spec: ModelSpec,
    dtype: str,
    device: str | int | torch.device | None,
    quantization: str,
    placement: Placement | None,
) -> PreTrainedModel:
    """The model quantised, or spread over devices, or as it is."""
    import torch
    from transformers import AutoModelForCausalLM

    if placement is not None and len(placement.devices) == 1 and not placement.spills:
        device, placement = placement.devices[0], None
    plain = quantization == "none" and placement is None
    if plain and spec.kind in ("config", "package", "gguf"):  # which are never quantised in transformers' own ways
        return load_model(spec, dtype=dtype, device=device)
    if spec.kind == "config":
        raise UserError(f"model '{spec.name}' has random weights: quantization= and allocate= are for those of a file")
    folder = resolve(spec)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check_checkpoint(config, spec.name, quantization)
    if plain and "quantization_config" not in config:
        return load_model(spec, dtype=dtype, device=device)
    torch_dtype = getattr(torch, dtype)
    settings: dict[str, Any] = {"device_map": {"": "cpu" if device is None else device}}
    if placement is not None:
        if "disk" in placement.devices and not placement.offload_folder and not list(folder.glob("*.safetensors")):
            raise UserError(f"'{spec.name}' has .bin files, whose weights can't be read in place: set offload_folder=")
        settings = {"device_map": placement.device_map, "offload_folder": placement.offload_folder}
    if quantization != "none":
        settings |= quantized_settings(quantization, torch_dtype, on_cpu=_main_device(settings["device_map"]) == "cpu")
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype, **settings)  # type: ignore[no-any-return]
    except (ImportError, RuntimeError) as error:
        if "quantization_config" not in config:
            raise
        raise UserError(
            f"model '{spec.name}' is a quantised checkpoint that transformers can't load here ({error}): give the "
            "model it was made of with quantization=8bit or 4bit"
        ) from error


def _main_device(device_map: Mapping[str, Any]) -> str:
    """``cpu`` where nothing lies on a GPU."""
    devices = [str(device) for device in device_map.values() if str(device) not in ("cpu", "disk")]
    return devices[0] if devices else "cpu"


def attach_adapter(model: PreTrainedModel, adapter_path: str | Path) -> PreTrainedModel:
    """`model` as a ``PeftModel`` with the adapter of a PEFT folder."""
    from peft import PeftModel

    base = check_adapter_folder(adapter_path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft's look at transformers 5
            adapted: Any = PeftModel.from_pretrained(model, str(adapter_path))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"adapter '{adapter_path}' does not fit model '{model.config._name_or_path}' "
            f"({str(error).splitlines()[0]}): it was made for '{base}'"
        ) from error
    return adapted


def load_adapters(model: PreTrainedModel, adapters: Mapping[str, Path]) -> PreTrainedModel:
    """`model` as a ``PeftModel`` with several adapters, of which each row of a batch can take one by its name."""
    from peft import PeftModel

    adapted: Any = model
    for name, path in adapters.items():
        base = check_adapter_folder(path)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
                if adapted is model:
                    adapted = PeftModel.from_pretrained(model, str(path), adapter_name=name)
                else:
                    adapted.load_adapter(str(path), adapter_name=name)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"adapter '{name}' does not fit model '{model.config._name_or_path}' "
                f"({str(error).splitlines()[0]}): it was made for '{base}'"
            ) from error
    return adapted.eval()  # type: ignore[no-any-return]


def check_adapter_folder(adapter_path: str | Path) -> str:
    """The base model a PEFT folder names. Raises `UserError` when it is not a PEFT folder."""
    folder = Path(adapter_path)
    config, weights = folder / "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
    if not config.is_file() or not any((folder / name).is_file() for name in weights):
        raise UserError(
            f"adapter_path '{adapter_path}' is not a PEFT folder: expected adapter_config.json and {weights[0]} in it, "
            "as a tuning run exports them"
        )
    return str(json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path"))
