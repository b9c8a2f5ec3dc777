"""The shape of a model without its weights."""

import json
from pathlib import Path

import pytest

from src.errors import UserError
from src.models.architecture import Architecture, architecture_of, meta_parameters
from src.models.spec import ModelSpec
from src.models.zoo import find_model, list_models

NAMES = [spec.name for spec in list_models()]


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_zoo_has_as_many_parameters_as_transformers_makes(name: str) -> None:
    spec = find_model(name)
    shape = architecture_of(spec)
    config = spec.architecture or {**(spec.config or {}), "vocab_size": shape.vocabulary}
    assert shape.parameters == spec.parameters == meta_parameters(config)


def test_parameters_are_those_of_layers_and_what_is_around_them() -> None:
    shape = architecture_of(find_model("llama2_7b"))
    assert shape.layers * shape.layer_parameters + shape.outer_parameters == shape.parameters == 6_738_415_616


def test_biases_and_norms_of_other_decoders_count(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 100,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = architecture_of(ModelSpec(path=str(tmp_path)))
    assert shape.other_parameters == 2 * (64 + 32 + 32)
    assert shape.parameters == meta_parameters(config)


def test_a_wrong_number_of_parameters_is_an_error() -> None:
    spec = find_model("llama2_7b")
    spec.parameters += 1
    with pytest.raises(UserError, match=r"correct one of them in configs/model/llama2_7b\.yaml"):
        architecture_of(spec)


def test_an_unknown_kind_of_model_is_an_error() -> None:
    with pytest.raises(UserError, match="Llama-type decoder"):
        Architecture.from_config({"model_type": "gpt2", "n_embd": 768})


def test_a_hub_model_that_nothing_here_describes_is_an_error() -> None:
    with pytest.raises(UserError, match=r"give model\.architecture"):
        architecture_of(ModelSpec(name="other", hub_id="nobody/nothing-at-all"))


def test_the_architecture_does_not_change_where_a_model_comes_from() -> None:
    spec = find_model("smollm2_135m")
    assert spec.kind == "package" and spec.architecture is not None
