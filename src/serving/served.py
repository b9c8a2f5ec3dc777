"""The models of a server: names that requests use, each an engine and perhaps one of its adapters."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from src.errors import UserError
from src.generation.engine import Engine
from src.generation.prompts import PromptEncoder
from src.serving.errors import ApiError, unsupported

ENDLESS = 2**31  # a context that no prompt fills, for counting tokens


@dataclass(frozen=True)
class ServedModel:
    """One name that requests can ask for.

    Args:
        id: the name.
        engine: what answers; several models may share one.
        adapter: one of the engine's adapters, if any.
        parent: id of the model that the adapter changes.
        talks: whether it has a template for messages.
    """

    id: str
    engine: Engine
    adapter: str | None = None
    parent: str | None = None
    talks: bool = True
    created: int = field(default_factory=lambda: int(time.time()))

    def card(self) -> dict[str, Any]:
        """The entry of /v1/models."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "knowlm-lightning",
            "root": self.parent or self.id,
            "parent": self.parent,
            "max_model_len": self.engine.context_length or None,
            "engine": self.engine.name,
            "chat": self.talks,
            "capabilities": sorted(capability.name.lower() for capability in self.engine.capabilities),
        }

    def encoder(self) -> PromptEncoder:
        """What turns text into this model's tokens. Raises 400 where only another server knows them."""
        prompts = getattr(self.engine, "prompts", None)
        if not isinstance(prompts, PromptEncoder):
            raise unsupported(f"the tokens of '{self.id}' are known only to the {self.engine.name} engine", "model")
        return PromptEncoder(prompts.tokenizer, prompts.template, ENDLESS)


class Catalogue:
    """All models by name; the first is the one that requests mean which name none."""

    def __init__(self, models: Sequence[ServedModel]):
        if not models:
            raise UserError("there is no model to serve: give model=NAME")
        self._models = {model.id: model for model in models}
        if len(self._models) < len(models):
            raise UserError("two models have the same name: give each adapter and each further model its own")
        for model in models:
            if model.adapter is not None and model.adapter not in model.engine.adapters:
                raise UserError(f"the {model.engine.name} engine has no adapter '{model.adapter}'")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str | None) -> ServedModel:
        """The model of a name. Raises 404."""
        if name is None:
            return next(iter(self))
        if name not in self._models:
            raise ApiError(
                404,
                f"there is no model '{name[:100]}': choose one of {', '.join(self._models)}",
                param="model",
                code="model_not_found",
            )
        return self._models[name]

    def engines(self) -> list[Engine]:
        """Each engine once."""
        return list({id(model.engine): model.engine for model in self}.values())
