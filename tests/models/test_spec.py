"""What a model's description accepts, works out and refuses."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.errors import UserError
from src.models.spec import ModelSpec, llama_parameters

LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize("sources", [{}, {"hub_id": "a/b", "config": {}}])
def test_a_model_without_exactly_one_source_is_refused(sources: dict) -> None:
    with pytest.raises(UserError, match="exactly one of package, hub_id, path, config"):
        ModelSpec(name="m", **sources)


def test_a_hub_id_given_as_path_is_a_hub_model() -> None:
    spec = ModelSpec(path="zjunlp/OneKE")
    assert (spec.kind, spec.hub_id, spec.path, spec.name) == ("hub", "zjunlp/OneKE", None, "OneKE")


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "missing.gguf", "two words/here"])
def test_a_path_that_does_not_exist_is_refused_with_what_would_do(path: str) -> None:
    with pytest.raises(UserError, match=r"does not exist: expected a Hugging Face folder, a \.gguf file, a hub id"):
        ModelSpec(path=path)


def test_a_checkpoint_given_as_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"expected a folder or a \.gguf file"):
        ModelSpec(path=str(tmp_path / "last.ckpt"))


def test_a_folder_gives_name_context_length_and_parameter_count(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    spec = ModelSpec(path=str(folder))
    assert (spec.kind, spec.name, spec.context_length, spec.parameters) == ("folder", "my-model", 4096, 6_738_415_616)


def test_a_config_that_is_not_a_llama_has_an_unknown_parameter_count() -> None:
    assert llama_parameters({"n_embd": 768, "n_layer": 12}) == 0


def test_containers_from_hydra_become_plain_ones() -> None:
    spec = ModelSpec(config=OmegaConf.create({"rope_parameters": {"rope_theta": 1.0}}))  # type: ignore[arg-type]
    assert json.dumps(spec.config) == '{"rope_parameters": {"rope_theta": 1.0}}'
