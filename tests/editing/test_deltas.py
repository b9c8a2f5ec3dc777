"""Deltas on a model: exact when taken off, in any order, in any precision; small and checked on disk."""

import random
from pathlib import Path

import pytest
import torch

from src.editing.anatomy import find_anatomy
from src.editing.deltas import Change, EditedWeights, compressed, fingerprint, read_delta, summed, write_delta
from src.errors import UserError
from tests.editing.tiny_families import tiny


def rank_one(model: torch.nn.Module, seed: int, layers: tuple[int, ...] = (1,)) -> dict[str, Change]:
    torch.manual_seed(seed)
    anatomy = find_anatomy(model)  # type: ignore[arg-type]
    return {
        anatomy.parameter(layer): Change(torch.randn(anatomy.hidden_size, 1), torch.randn(1, anatomy.key_size))
        for layer in layers
    }


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_whatever_comes_and_goes_what_remains_is_as_if_it_had_been_alone(family: str, dtype: torch.dtype) -> None:
    model = tiny(family).to(dtype)
    before = state(model)
    deltas = {str(n): rank_one(model, n, (n % 2, 1)) for n in range(12)}
    weights, draw = EditedWeights(model), random.Random(0)
    for step in range(60):
        there = weights.ids
        if there and (len(there) == len(deltas) or draw.random() < 0.5):
            weights.remove(draw.choice(there))
        else:
            name = draw.choice([each for each in deltas if each not in weights])
            weights.apply(name, deltas[name])
        if step % 10 == 9:
            fresh = tiny(family).to(dtype)
            others = EditedWeights(fresh)
            for name in weights.ids:
                others.apply(name, deltas[name])
            assert same(state(model), state(fresh))
    assert len(weights)
    weights.clear()
    assert same(state(model), before) and not weights.ids


def test_a_product_is_what_its_dense_form_is() -> None:
    change = Change(torch.randn(4, 2), torch.randn(2, 6))
    assert change.shape == (4, 6) and change.numbers == 20
    assert change.norm == pytest.approx(float(change.dense().norm()), rel=1e-5)
    both = summed([change, Change(torch.ones(4, 6)), change])
    torch.testing.assert_close(both, 2 * change.dense() + 1)
    small = compressed(change.dense())
    assert small.right is not None and small.left.shape[1] == 2
    torch.testing.assert_close(small.dense(), change.dense(), rtol=1e-4, atol=1e-5)
    full = compressed(torch.randn(5, 5))
    assert full.right is None
    assert compressed(torch.zeros(8, 8)).norm == 0
    with pytest.raises(ValueError, match="a change is"):
        Change(torch.ones(4, 2), torch.ones(3, 6))


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    model = tiny("llama")
    before, weights, delta = state(model), EditedWeights(model), rank_one(tiny("llama"), 0)
    (name,) = delta
    bad = {
        "it is of another model": {name: Change(torch.ones(3, 3))},
        "no parameter nowhere": {"nowhere.weight": Change(torch.ones(3, 3))},
        "not finite": {name: Change(delta[name].left * float("nan"), delta[name].right)},
    }
    for said, wrong in bad.items():
        with pytest.raises(UserError, match=said):
            weights.apply("x", {**delta, **wrong})
    with pytest.raises(UserError, match="there is no edit 'x'"):
        weights.remove("x")
    assert same(state(model), before) and not weights.ids
    weights.apply("x", delta)
    with pytest.raises(UserError, match="on the model already"):
        weights.apply("x", delta)


def test_files_are_read_back_and_checked(tmp_path: Path) -> None:
    delta = {"a.b.weight": Change(torch.randn(3, 1), torch.randn(1, 4)), "c.weight": Change(torch.randn(2, 2))}
    path = tmp_path / "d.safetensors"
    sha256 = write_delta(path, delta, {"method": "rome"})
    found = read_delta(path, sha256)
    assert set(found) == set(delta)
    assert all(torch.equal(found[name].dense(), delta[name].dense()) for name in delta)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="SHA-256 differs"):
        read_delta(path, sha256)
    path.write_bytes(b"none")
    with pytest.raises(UserError, match="no safetensors file"):
        read_delta(path)
    with pytest.raises(UserError, match="is gone"):
        read_delta(tmp_path / "other")


def test_a_fingerprint_is_of_the_weights() -> None:
    first, second = tiny("llama"), tiny("llama")
    assert fingerprint(first) == fingerprint(second) != fingerprint(tiny("llama_tied"))
    EditedWeights(second).apply("x", rank_one(second, 0))
    assert fingerprint(first) != fingerprint(second)
