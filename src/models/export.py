"""From a model in memory or a training checkpoint to folders other people's tools load.

An export is a Hugging Face folder (safetensors, tokenizer, generation config, model card), a PEFT adapter folder or a
GGUF file: ``AutoModelForCausalLM.from_pretrained``, ``PeftModel.from_pretrained`` and llama.cpp need nothing of this
project. Each is written under a temporary name and renamed when complete. A checkpoint, which is for resuming, only
becomes one here.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.models.atomic_folder import put_in_place, scratch_folder
from src.models.download import resolve
from src.models.gguf.convert import write_json
from src.models.gguf.export import base_config, write_gguf
from src.models.gguf.lora import write_adapter
from src.models.gguf.quantize import check_file_type
from src.models.gguf.verify import Verification, check_memory, verify_gguf
from src.models.load import attach_adapter, check_adapter_folder, load_model, load_tokenizer
from src.models.merge import MANIFEST, merge, merge_manifest
from src.models.spec import HUB_ID, ModelSpec

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMATS = ("hf", "gguf", "gguf_adapter")
EXPORT_MARKS = ("config.json", "adapter_config.json")
STATE_PREFIX = "model."  # a LightningModule keeps its model as `self.model`


def export(
    spec: ModelSpec,
    folder: str | Path,
    adapter_path: str | Path | None = None,
    checkpoint: str | Path | None = None,
    dtype: str = "float32",
    card_fields: dict[str, Any] | None = None,
) -> Path:
    """Write what was asked for: an adapter merged into its model, the weights of a checkpoint, or the model itself."""
    if adapter_path and checkpoint:
        raise UserError("adapter_path and checkpoint were both given: expected one of them")
    if adapter_path:
        return merge_adapter(spec, adapter_path, folder, dtype, card_fields)
    if checkpoint:
        return export_checkpoint(spec, checkpoint, folder, dtype, card_fields)
    fields = {**_card_of(spec), **(card_fields or {})}
    return export_model(load_model(spec, dtype), load_tokenizer(spec), folder, fields)


def export_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    card_fields: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Write a Hugging Face folder in the model's own dtype, replacing an earlier export of the same name.

    card_fields: ``base_model``, ``license``, ``training_data``, ``command``, ``note``; what is missing is left out.
    weights: of the model, in the dtype to write them in, where the model itself holds only pieces of them.
    finish: what else to do in the folder before it gets its name.
    Raises `UserError` when the folder holds something that is not an export.
    """

    def write(work: Path) -> None:
        use_cache = model.config.use_cache  # off while training with checkpointed activations; slow if left off
        model.config.use_cache = True
        try:
            model.save_pretrained(work, state_dict=dict(weights) if weights else None)
        finally:
            model.config.use_cache = use_cache
        if weights:
            _say_dtype(work, next(iter(weights.values())).dtype)
        tokenizer.save_pretrained(work)
        _say_it_for_older_readers(work)
        (work / "README.md").write_text(model_card(Path(folder).name, card_fields or {}), encoding="utf-8")
        if finish:
            finish(work)

    return _write_atomically(Path(folder), write)


def _say_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Name the dtype of the written weights, which may not be the model's: it is what they are loaded in."""
    file = folder / "config.json"
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "dtype": str(dtype).removeprefix("torch.")})


def _say_it_for_older_readers(folder: Path) -> None:
    """Repeat in transformers 4's words what version 5 renamed, for engines that pin the older one.

    Without ``rope_theta`` those take its default, 10000, and without the class name they find no tokenizer.
    """
    config_file, tokenizer_file = folder / "config.json", folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if theta := (config.get("rope_parameters") or {}).get("rope_theta"):
        write_json(config_file, {**config, "rope_theta": theta})
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        for key in ("backend", "is_local", "local_files_only"):
            tokenizer.pop(key, None)
        write_json(tokenizer_file, {**tokenizer, "tokenizer_class": "PreTrainedTokenizerFast"})


def export_adapter(
    peft_model: PeftModel,
    folder: str | Path,
    base: str | None = None,
    card_fields: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Path:
    """Write a PEFT adapter folder that names its base model.

    base: hub id or local folder to write as ``base_model_name_or_path`` (see `base_reference`); by default the folder
    the base model was loaded from.
    weights: of the adapter, where the model itself holds only pieces of them.
    """
    name = base or str(peft_model.base_model.config._name_or_path)  # type: ignore[union-attr]

    def write(work: Path) -> None:
        for config in peft_model.peft_config.values():
            config.base_model_name_or_path = name
        # "auto" would ask the hub whether the base model's vocabulary has grown
        peft_model.save_pretrained(str(work), save_embedding_layers=False, state_dict=weights)
        fields = {"base_model": name, "library_name": "peft", **(card_fields or {})}
        (work / "README.md").write_text(model_card(Path(folder).name, fields), encoding="utf-8")

    return _write_atomically(Path(folder), write)


def base_reference(spec: ModelSpec) -> str:
    """How an adapter names its base model: the hub id, which works anywhere, or else the local folder."""
    return spec.hub_id or str(resolve(spec))


def merge_adapter(
    spec: ModelSpec,
    adapter_path: str | Path,
    folder: str | Path,
    dtype: str = "float32",
    card_fields: dict[str, Any] | None = None,
) -> Path:
    """Write the base model with an adapter's change added to its weights: one Hugging Face folder, no PEFT needed.

    Its ``merge.json`` says what was merged and how much that changed.

    Raises:
        UserError: the adapter does not fit, or merging it changes nothing.
    """
    check_adapter_folder(adapter_path)
    peft_model: Any = attach_adapter(load_model(spec, dtype=dtype), adapter_path)
    merged, modules = merge(peft_model, adapter_path)

    def finish(work: Path) -> None:
        base = {"name": spec.name, "source": base_reference(spec)}
        write_json(work / MANIFEST, merge_manifest(base, resolve(spec), Path(adapter_path), work, modules))

    fields = {**_card_of(spec), **(card_fields or {})}
    return export_model(merged, load_tokenizer(spec), folder, fields, finish=finish)


def export_gguf(
    spec: ModelSpec,
    file: str | Path,
    file_type: str = "q8_0",
    adapter_path: str | Path | None = None,
    checkpoint: str | Path | None = None,
    verify: bool = True,
) -> Verification:
    """Write a model as one GGUF file, with its adapter or a checkpoint's weights in it, and compare it with the source.

    Beside the file lie ``FILE.json``, what the comparison found, and for a merged model ``FILE.merge.json``. verify:
    whether the numbers are compared too; the structure always is. That needs the model in memory as float32, as an
    adapter or a checkpoint does.

    Raises:
        UserError: what `write_gguf` and `verify_gguf` raise; an earlier file of the same name is then left alone.
    """
    target = _gguf_target(file)
    check_file_type(file_type)
    with scratch_folder(target) as scratch:
        if (adapter_path or checkpoint) and spec.kind != "config":  # random weights are in no file to tell their size
            check_memory(resolve(spec), "putting other weights into a model", "use a machine with more memory")
        source = _gguf_source(spec, scratch / "source", adapter_path, checkpoint)
        if verify:
            check_memory(source)
        work = scratch / target.name
        write_gguf(source, work, file_type, {"name": spec.name, "license": spec.license})
        found = verify_gguf(work, source, file_type, verify)
        if (source / MANIFEST).is_file():
            shutil.copy(source / MANIFEST, scratch / f"{work.name}.merge.json")
        made = {name: scratch / name for name in (f"{work.name}.json", f"{work.name}.merge.json")}
        for name in made:  # so that what lies beside a file is always of that file
            target.with_name(name).unlink(missing_ok=True)
        work.replace(target)
        for name, file in made.items():
            if file.is_file():
                file.replace(target.with_name(name))
    return found


def export_gguf_adapter(spec: ModelSpec, file: str | Path, adapter_path: str | Path) -> Path:
    """Write a LoRA adapter as a GGUF file that llama.cpp adds to its model as it loads it."""
    target = _gguf_target(file)
    with scratch_folder(target) as scratch:
        write_adapter(adapter_path, base_config(spec), scratch / target.name)
        (scratch / target.name).replace(target)
    return target


def _gguf_target(file: str | Path) -> Path:
    target = Path(file)
    if target.suffix != ".gguf":
        raise UserError(f"output '{file}' is no name for a GGUF file: give one that ends in .gguf")
    if target.exists():
        content = target.open("rb").read(4) if target.is_file() else b""
        if content != b"GGUF":
            raise UserError(f"'{target}' exists and is no GGUF file: give another output or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _gguf_source(spec: ModelSpec, folder: Path, adapter_path: str | Path | None, checkpoint: str | Path | None) -> Path:
    """A Hugging Face folder of what is to be written: the model's own, or one made in `folder`."""
    if not adapter_path and not checkpoint and spec.kind != "config":
        return resolve(spec)
    export(spec, folder, adapter_path, checkpoint)
    if not (folder / "adapter_config.json").is_file():
        return folder
    return merge_adapter(spec, folder, folder.with_name("merged"))  # the checkpoint was of an adapter


def export_checkpoint(
    spec: ModelSpec,
    checkpoint: str | Path,
    folder: str | Path,
    dtype: str = "float32",
    card_fields: dict[str, Any] | None = None,
) -> Path:
    """Write the weights of a Lightning checkpoint: all weights as a Hugging Face folder, adapter weights as a PEFT one.

    `spec` is the model the run started from. An adapter's settings are read from the checkpoint's hyper-parameter
    ``adapter`` (arguments of ``peft.LoraConfig``).
    """
    state, hyper_parameters = read_checkpoint(Path(checkpoint))
    fields = {**_card_of(spec), **(card_fields or {})}
    if not any("lora_" in key for key in state):
        model = load_model(spec, dtype=dtype, from_scratch=True)
        _load_state(model, state, checkpoint, spec)
        return export_model(model, load_tokenizer(spec), folder, fields)
    from peft import LoraConfig, get_peft_model

    adapter = hyper_parameters.get("adapter")
    if not adapter:
        raise UserError(
            f"checkpoint '{checkpoint}' holds adapter weights but not their settings (hyper-parameter adapter)"
        )
    peft_model = get_peft_model(load_model(spec, dtype=dtype), LoraConfig(task_type="CAUSAL_LM", **adapter))
    _load_state(peft_model, state, checkpoint, spec)
    return export_adapter(peft_model, folder, base=base_reference(spec), card_fields=fields)


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict, without the LightningModule's prefix, and hyper-parameters of a Lightning checkpoint."""
    import pickle

    import torch

    if not checkpoint.exists():
        raise UserError(f"checkpoint '{checkpoint}' does not exist: expected one such as checkpoints/last.ckpt")
    try:
        if checkpoint.is_dir():
            content = _consolidated(checkpoint)
        else:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        state = content["state_dict"]
    except (RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"'{checkpoint}' is not a Lightning checkpoint ({str(error).splitlines()[0]})") from error
    trained = {key.removeprefix(STATE_PREFIX): value for key, value in state.items() if key.startswith(STATE_PREFIX)}
    return trained, dict(content.get("hyper_parameters") or {})


def _consolidated(folder: Path) -> dict[str, Any]:
    """A checkpoint in pieces, of DeepSpeed ZeRO or FSDP2, as one with whole weights; they must fit in memory."""
    from src.models.fsdp2_checkpoint import consolidated, is_sharded_checkpoint
    from src.models.zero_checkpoint import ZeroCheckpoint

    if is_sharded_checkpoint(folder):
        return consolidated(folder)
    checkpoint = ZeroCheckpoint(folder)
    return {
        "state_dict": checkpoint.weights(),
        "hyper_parameters": checkpoint.model_state.get("hyper_parameters"),
    }


def _load_state(model: Any, state: dict[str, Any], checkpoint: str | Path, spec: ModelSpec) -> None:
    """Copy a state dict into a model of which it may lack only what is tied or, with an adapter, frozen."""
    adapter_only = any("lora_" in key for key in state)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint '{checkpoint}' does not fit model '{spec.name}' ({str(error).splitlines()[-1].strip()})"
        ) from error
    tied = {"lm_head.weight"} if getattr(model.config, "tie_word_embeddings", False) else set()
    absent = [key for key in missing if ("lora_" in key if adapter_only else key not in tied)]
    if absent or unexpected:
        raise UserError(
            f"checkpoint '{checkpoint}' does not fit model '{spec.name}': {len(absent)} weights are missing and "
            f"{len(unexpected)} unknown, such as {(absent + unexpected)[0]}; give the model the run was started with"
        )


def model_card(title: str, fields: dict[str, Any]) -> str:
    """A README.md whose front matter the hub understands."""
    front = {key: fields.get(key) for key in ("license", "base_model", "library_name")}
    front["library_name"] = front["library_name"] or "transformers"
    if not HUB_ID.fullmatch(str(front["base_model"])):  # the hub links this field to a model of its own
        del front["base_model"]
    license_name = str(front["license"] or "")
    if " " in license_name:  # the hub knows short identifiers only
        front["license"] = "other"
    lines = [
        "---",
        *(f"{key}: {value}" for key, value in front.items() if value),
        "pipeline_tag: text-generation",
        "---",
    ]
    lines += ["", f"# {title}", ""]
    if fields.get("note"):
        lines += [str(fields["note"]), ""]
    facts = {
        "Base model": fields.get("base_model"),
        "Licence": fields.get("license"),
        "Training data": fields.get("training_data"),
        "Made with": f"`{fields['command']}`" if fields.get("command") else None,
    }
    lines += [f"- {key}: {value}" for key, value in facts.items() if value]
    return "\n".join([*lines, "", "Exported by KnowLM-Lightning.", ""])


def _card_of(spec: ModelSpec) -> dict[str, Any]:
    """What a model card can say of the model a run started from."""
    base = spec.hub_id or (f"{spec.package['distribution']} {spec.package['version']}" if spec.package else spec.name)
    return {"base_model": base, "license": spec.license, "command": shlex.join(["python", *sys.argv])}


def _write_atomically(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, made by `write` under a temporary name; an earlier export there is replaced, anything else refused."""
    occupied = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if occupied and not any((folder / mark).is_file() for mark in EXPORT_MARKS):
        raise UserError(f"'{folder}' exists and is not an earlier export: give another output folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as work:
        write(work)
        put_in_place(work, folder)
    return folder
