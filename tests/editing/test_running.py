"""From the middle, on ends of rows, padded: the numbers of the whole model on whole rows, in each family."""

import pytest
import torch
from torch import Tensor

from src.editing.anatomy import find_anatomy
from src.editing.running import Ends, Row
from tests.editing.tiny_families import FAMILIES, tiny

ROWS = [Row((5, 9, 17, 30, 8, 4), 3), Row((7, 11, 6), 1), Row((40, 41, 42, 43, 44, 45, 46), 5), Row((9, 3, 8, 20), 0)]


def whole(model: torch.nn.Module, row: Row) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row.ids])).logits[0, row.start :]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_logits_are_those_of_whole_rows(family: str, layer: int) -> None:
    model = tiny(family)
    ends = Ends(model, find_anatomy(model), ROWS, pad_id=0)
    columns = range(ends.ids.shape[1])
    with torch.no_grad():
        first, again = ends.logits(columns, layer), ends.logits(columns, layer)
    assert torch.equal(first, again)
    for number, row in enumerate(ROWS):
        expected = whole(model, row)
        torch.testing.assert_close(first[number, : len(expected)], expected, rtol=1e-4, atol=1e-4)
    some = ends.logits([1, 0], layer)
    torch.testing.assert_close(some, first[:, [1, 0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "opt"])
@pytest.mark.parametrize("part", ["mlp", "block"])
def test_what_is_added_is_added_as_a_hook_on_the_whole_model_would(family: str, part: str) -> None:
    model = tiny(family).requires_grad_(False)
    anatomy = find_anatomy(model)
    name = anatomy.layer(1) + (f".{anatomy.mlp_out}" if part == "mlp" else "")
    added = torch.randn(32, requires_grad=True)

    def at_start(values: Tensor) -> Tensor:
        return torch.cat([values[:, :1] + added, values[:, 1:]], 1)

    ends = Ends(model, anatomy, ROWS, pad_id=0)
    found = ends.logits([0, 1], 1, {name: at_start})
    found.logsumexp(-1).sum().backward()
    gradient, added.grad = added.grad, None
    total = torch.zeros(())
    for number, row in enumerate(ROWS):

        def hook(module, args, output, row=row):  # type: ignore[no-untyped-def]
            value = output[0] if isinstance(output, tuple) else output
            flat = value.reshape(1, len(row.ids), -1)
            at = torch.zeros(1, len(row.ids), 1)
            at[:, row.start] = 1
            new = (flat + at * added).reshape(value.shape)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        with model.get_submodule(name).register_forward_hook(hook):
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.start : row.start + 2]
        torch.testing.assert_close(found[number, : len(logits)].detach(), logits.detach(), rtol=1e-4, atol=1e-4)
        total = total + logits.logsumexp(-1).sum()
    assert all(len(row.ids) - row.start >= 2 for row in ROWS)
    total.backward()
    torch.testing.assert_close(gradient, added.grad, rtol=1e-3, atol=1e-4)


def test_nothing_stays_on_the_model() -> None:
    model = tiny("llama")
    anatomy = find_anatomy(model)
    before = whole(model, ROWS[0])
    ends = Ends(model, anatomy, ROWS, pad_id=0)

    def fails(values: Tensor) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        ends.logits([0], 2, {anatomy.layer(2): fails})
    ends.seen([anatomy.layer(1), f"{anatomy.layer(1)}.{anatomy.mlp_out}"], inputs=True)
    assert torch.equal(whole(model, ROWS[0]), before)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_keys_are_the_inputs_of_the_last_matrix() -> None:
    model = tiny("llama")
    anatomy = find_anatomy(model)
    ends = Ends(model, anatomy, ROWS, pad_id=0)
    name = f"{anatomy.layer(1)}.{anatomy.mlp_out}"
    (keys,) = ends.seen([name], inputs=True, columns=slice(0, 1))
    (values,) = ends.seen([name], columns=slice(0, 1))
    assert keys.shape == (4, 1, 80)
    torch.testing.assert_close(keys @ anatomy.weight(model, 1).T, values)
