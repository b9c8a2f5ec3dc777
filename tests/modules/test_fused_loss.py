"""The chunked cross-entropy computes what PyTorch's does, with gradients, without ever having all logits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.errors import UserError
from src.modules.fused_loss import LossKernel, head_losses


def example(
    tokens: int, width: int, words: int, dtype: torch.dtype = torch.float32
) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens * 1000 + width * 10 + words)
    head = nn.Linear(width, words, bias=False, dtype=dtype)
    head.weight.data.normal_(generator=generator)
    hidden = torch.randn(tokens, width, generator=generator, dtype=dtype, requires_grad=True)
    return head, hidden, torch.randint(words, (tokens,), generator=generator)


def gradients(head: nn.Linear, hidden: Tensor, total: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Of ``scale × total`` after something nonlinear, so that what comes from above is no constant."""
    (scale * total.sin()).backward()
    assert hidden.grad is not None
    return hidden.grad, head.weight.grad


def plain(head: nn.Linear, hidden: Tensor, targets: Tensor) -> tuple[nn.Linear, Tensor, Tensor]:
    head, hidden = copy.deepcopy(head), hidden.detach().requires_grad_()
    return head, hidden, F.cross_entropy(F.linear(hidden, head.weight), targets, reduction="none")


def relative(found: Tensor | None, wanted: Tensor | None) -> float:
    assert found is not None and wanted is not None
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(0, 40), width=st.integers(1, 24), words=st.integers(2, 90), chunk_tokens=st.integers(1, 50))
def test_losses_and_all_gradients_equal_autograds(tokens: int, width: int, words: int, chunk_tokens: int) -> None:
    head, hidden, targets = example(tokens, width, words, torch.float64)
    plain_head, plain_hidden, wanted = plain(head, hidden, targets)
    total, losses = head_losses(head, hidden, targets, LossKernel("chunked", chunk_tokens))
    torch.testing.assert_close(losses, wanted.detach())
    torch.testing.assert_close(total, wanted.sum())
    found = gradients(head, hidden, total)
    torch.testing.assert_close(found, gradients(plain_head, plain_hidden, wanted.sum()))


def test_in_float32_everything_agrees_to_a_millionth() -> None:
    head, hidden, targets = example(300, 64, 1000)
    plain_head, plain_hidden, wanted = plain(head, hidden, targets)
    total, losses = head_losses(head, hidden, targets, LossKernel("chunked", 77))
    found, expected = gradients(head, hidden, total), gradients(plain_head, plain_hidden, wanted.sum())
    assert relative(losses, wanted.detach()) < 1e-6
    assert relative(found[0], expected[0]) < 1e-6 and relative(found[1], expected[1]) < 1e-6


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_gradients_pass_pytorchs_own_check_in_double(chunk_tokens: int) -> None:
    head, hidden, targets = example(7, 5, 11, torch.float64)

    def total(hidden: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight}, (hidden, targets, kernel))[0]

    kernel = LossKernel("chunked", chunk_tokens)
    head_losses(head, hidden, targets, kernel)  # from then on the head takes targets
    assert torch.autograd.gradcheck(total, (hidden, head.weight.detach().clone().requires_grad_()))


def test_a_frozen_head_gets_no_gradient_and_its_inputs_get_theirs() -> None:
    head, hidden, targets = example(20, 8, 30, torch.float64)  # the sine of a sum magnifies what float32 rounds
    plain_head, plain_hidden, wanted = plain(head, hidden, targets)
    head.weight.requires_grad_(False)
    total, _ = head_losses(head, hidden, targets, LossKernel("chunked", 6))
    found, of_head = gradients(head, hidden, total)
    assert of_head is None
    torch.testing.assert_close(found, gradients(plain_head, plain_hidden, wanted.sum())[0])


def test_under_bf16_autocast_gradients_are_as_close_to_the_exact_ones_as_pytorchs() -> None:
    head, hidden, targets = example(400, 64, 500)
    exact_head, exact_hidden, exact = plain(head, hidden, targets)
    auto_head, auto_hidden, _ = plain(head, hidden, targets)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = head_losses(head, hidden, targets, LossKernel("chunked", 64))
        auto = F.cross_entropy(auto_head(auto_hidden).float(), targets, reduction="none")
    assert losses.dtype == torch.float32 and relative(losses, exact.detach()) < 2e-3
    assert head.weight.grad is None
    for network, states, loss in (
        (head, hidden, total),
        (auto_head, auto_hidden, auto.sum()),
        (exact_head, exact_hidden, exact.sum()),
    ):
        loss.backward()
        assert network.weight.grad is not None and network.weight.grad.dtype == states.grad.dtype == torch.float32  # type: ignore[union-attr]
    for of_chunks, of_autocast, of_exact in (
        (hidden.grad, auto_hidden.grad, exact_hidden.grad),
        (head.weight.grad, auto_head.weight.grad, exact_head.weight.grad),
    ):
        assert relative(of_chunks, of_exact) < 1.5 * relative(of_autocast, of_exact) + 1e-3


def test_in_float16_small_gradients_survive_by_the_loss_scale() -> None:
    words, scale = 50, 2.0**12
    head, hidden = nn.Linear(2, words, bias=False), torch.tensor([[4.0, 0.5], [4.0, -0.5], [4.0, 1.0]])
    head.weight.data[:] = torch.tensor([-4.5, 0.1])  # probabilities of e⁻¹⁸, which float16 rounds to 0
    head.weight.data[:2] = 0
    targets = torch.tensor([0, 1, 1])
    exact_head, _, exact = plain(head, hidden, targets)
    head, hidden = head.half(), hidden.half().requires_grad_()
    total, _ = head_losses(head, hidden, targets, LossKernel("chunked", 2))
    (total * scale).backward()
    exact.sum().backward()
    assert hidden.grad is not None and head.weight.grad is not None and exact_head.weight.grad is not None
    rare = slice(2, None)
    assert (exact_head.weight.grad[rare].abs() < torch.finfo(torch.float16).tiny).all()
    assert relative(head.weight.grad[rare].float() / scale, exact_head.weight.grad[rare]) < 1e-2


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(settings or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return result


def largest(kernel: LossKernel, tokens: int, width: int, words: int) -> int:
    head, hidden, targets = example(tokens, width, words)
    with LargestTensor() as seen:
        head_losses(head, hidden, targets, kernel)[0].backward()
    return seen.elements


def test_no_tensor_of_all_logits_is_ever_made() -> None:
    tokens, width, words = 600, 8, 2000
    assert largest(LossKernel("full"), tokens, width, words) == tokens * words
    assert largest(LossKernel("chunked", 50), tokens, width, words) == 50 * words


def test_without_gradients_only_losses_are_computed() -> None:
    head, hidden, targets = example(60, 8, 40)
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        total, losses = head_losses(head, hidden, targets, LossKernel("chunked", 20))
    assert not total.requires_grad and not losses.requires_grad
    products = sum(event.count for event in profile.key_averages() if event.key == "aten::mm")
    assert products == 3  # one for each chunk


def test_a_head_that_took_targets_still_gives_logits_and_keeps_its_weights_name() -> None:
    head, hidden, targets = example(5, 4, 9)
    head_losses(head, hidden, targets, LossKernel("chunked"))
    torch.testing.assert_close(head(hidden), hidden @ head.weight.T)
    assert list(head.state_dict()) == ["weight"] and type(head) is nn.Linear
    copied = copy.deepcopy(head)
    copied.weight.data.zero_()
    assert not copied(hidden).any() and head(hidden).any()


def test_hooks_of_the_head_run_around_the_chunks() -> None:
    head, hidden, targets = example(10, 4, 9)
    calls = []
    head.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    head_losses(head, hidden, targets, LossKernel("chunked", 2))
    assert calls == [(10, 4)]


class Softcapped(nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return 3 * torch.tanh(super().forward(hidden) / 3)


@pytest.mark.parametrize("head", [nn.Linear(6, 12), Softcapped(6, 12, bias=False)], ids=["bias", "softcapped"])
def test_other_heads_are_called_as_they_are(head: nn.Module) -> None:
    hidden, targets = torch.randn(5, 6, requires_grad=True), torch.tensor([0, 3, 11, 3, 7])
    total, losses = head_losses(head, hidden, targets, LossKernel("chunked", 2))
    torch.testing.assert_close(losses, F.cross_entropy(head(hidden), targets, reduction="none").detach())
    assert total.requires_grad


@pytest.mark.parametrize(
    ("name", "chunk_tokens", "words"),
    [
        ("fast", 512, "auto, chunked, liger, full, found 'fast'"),
        ("chunked", 0, "loss_chunk_tokens must be a whole number of at least 1, found 0"),
        ("chunked", True, "found True"),
    ],
)
def test_impossible_settings_are_refused(name: str, chunk_tokens: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        LossKernel(name, chunk_tokens)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_liger_where_it_cannot_run_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"module.loss=liger .*give module.loss=chunked"):
        LossKernel("liger")
