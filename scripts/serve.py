#!/usr/bin/env python
"""Serve models over HTTP; see configs/serve.yaml."""

import importlib.util
import logging
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.command import command
from src.errors import UserError
from src.models.spec import ModelSpec
from src.models.zoo import find_model
from src.serving.keys import load_keys, new_key

if TYPE_CHECKING:
    from src.serving.served import ServedModel
    from src.serving.settings import Settings

KEYS_VARIABLE = "KNOWLM_API_KEYS"
PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@command("serve")
def main(cfg: DictConfig) -> None:
    if cfg.new_key:
        key, line = new_key(str(cfg.new_key))
        print(f"key, shown only now: {key}\nline for keys_file:  {line}")
        return
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"serving needs {', '.join(missing)}: pip install -e '.[serve,cpu]'")
    settings, plan = settings_of(cfg), plan_of(cfg)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("src").setLevel(logging.INFO)

    from src.serving.server import bind, serve

    listener = bind(cfg.host, cfg.port, settings.slow_reader_s)  # what is refused here needs no model
    from src.serving.app import create_app

    models = load_models(cfg, plan)
    try:
        app = create_app(models, settings)
        host, port = listener.getsockname()[:2]
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if cfg.web:
            from src.serving.web.page import mount

            mount(app, base.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"), own=True)
        warm_up(models)
    except BaseException:
        for model in models:
            model.engine.close()
        raise
    print(greeting(models, settings, base, bool(cfg.web)), file=sys.stderr, flush=True)
    serve(app, listener)
    os._exit(0)  # all is closed and written; Python would take seconds to take torch down


def settings_of(cfg: DictConfig) -> "Settings":
    """The settings of the server. Raises `UserError` where they contradict each other."""
    from src.serving.settings import Settings

    values: dict[str, Any] = {field.name: cfg[field.name] for field in fields(Settings) if field.name in cfg}
    values["cors_origins"] = tuple(cfg.cors_origins or ())
    values["decoding"] = instantiate(cfg.decoding) if cfg.get("decoding") else None
    given = [*(cfg.api_keys or ()), *filter(None, os.environ.get(KEYS_VARIABLE, "").split(","))]
    values["keys"] = load_keys(cfg.keys_file, map(str, given))
    return Settings(**values)


@dataclass(frozen=True)
class Plan:
    """What is to be served: the model under its name, PEFT folders and further models by theirs."""

    name: str
    spec: ModelSpec
    adapters: dict[str, str]
    more: dict[str, ModelSpec]


def plan_of(cfg: DictConfig) -> Plan:
    """What a config names. Raises `UserError` where two have one name, or there is no such model."""
    spec = instantiate(cfg.model)
    adapters = {str(name): str(path) for name, path in (cfg.adapters or {}).items()}
    more = {str(name): find_model(str(reference)) for name, reference in (cfg.more_models or {}).items()}
    names = [str(cfg.name or spec.name), *adapters, *more]
    if taken := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two models would be called '{taken[0]}': give another name")
    return Plan(names[0], spec, adapters, more)


def load_models(cfg: DictConfig, plan: Plan) -> "list[ServedModel]":
    """The model, its adapters, and further models with engines of their own."""
    from src.generation.setup import load_engine
    from src.serving.served import ServedModel

    shared = {name: cfg[name] for name in ("template", "chat", "dtype", "device", "max_parallel", "context_length")}
    shared["quantization"] = cfg.quantization
    engine, talks = load_engine(
        plan.spec, instantiate(cfg.engine), adapter_path=cfg.adapter_path, adapters=plan.adapters, **shared
    )
    models = [ServedModel(plan.name, engine, talks=talks)]
    models += [ServedModel(name, engine, name, parent=plan.name, talks=talks) for name in plan.adapters]
    try:
        for name, spec in plan.more.items():
            engine, talks = load_engine(spec, instantiate(cfg.engine), **shared)
            models.append(ServedModel(name, engine, talks=talks))
    except BaseException:
        for model in models:
            model.engine.close()
        raise
    return models


def warm_up(models: "list[ServedModel]") -> None:
    """Let every model write one token, so that the first request does not pay for first times."""
    from src.generation.engine import Decoding, Request

    for model in models:
        if model.engine.name != "openai":  # whose tokens cost money
            request = Request("warm-up", prompt="Hello", decoding=Decoding(max_new_tokens=1), adapter=model.adapter)
            list(model.engine.generate([request]))


def greeting(models: "list[ServedModel]", settings: "Settings", base: str, web: bool) -> str:
    """What is served where, and a command to try it."""
    names = [f"{model.id} (adapter of {model.parent})" if model.parent else model.id for model in models]
    engine = models[0].engine
    keys = f"{len(settings.keys) or 'no'} API key{'' if len(settings.keys) == 1 else 's'}"
    body = '"messages": [{"role": "user", "content": "Hello"}]' if models[0].talks else '"prompt": "Hello"'
    route = "chat/completions" if models[0].talks else "completions"
    key = " -H 'Authorization: Bearer KEY'" if len(settings.keys) else ""
    lines = [
        f"serving {', '.join(names)} on {base} ({engine.name}, {engine.max_parallel} at a time, {keys})",
        f"  curl {base}/v1/{route} -H 'Content-Type: application/json'{key} -d '{{{body}}}'",
    ]
    return "\n".join(lines + ([f"  page: {base}/ui/"] if web else []))


if __name__ == "__main__":
    main()
