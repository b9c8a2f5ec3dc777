"""Integer layers give what a float product with their rounded weights gives, whatever the activations look like."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from src.models.cpu_linear import GROUP, Int4Linear, Int8Linear


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def rounded8(weight: torch.Tensor) -> torch.Tensor:
    scale = weight.abs().amax(dim=1, keepdim=True).double() / 127
    return (weight.double() / scale).round() * scale


def rounded4(weight: torch.Tensor) -> torch.Tensor:
    groups = weight.double().view(weight.shape[0], -1, GROUP)
    low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    step = (high - low) / 15
    return (((groups - low) / step).round() * step + low).view(weight.shape)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**16))
def test_8_bit_weights_meet_activations_of_16_bits_even_beside_an_outlier(outputs, inputs, rows, outlier, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    x = torch.randn(rows, inputs, generator=generator)
    x[:, outlier % inputs] *= 10.0**outlier
    expected = linear(x.double(), rounded8(weight))
    # half a step of the second plane in each input, times the weights
    step = x.abs().amax(dim=1).double() / 127 / 254
    bound = 0.51 * step[:, None] * rounded8(weight).abs().sum(dim=1) + 1e-5 * expected.abs().max()
    assert ((Int8Linear(weight)(x).double() - expected).abs() <= bound).all()


def test_plain_8_bit_activations_would_be_a_hundred_times_worse_beside_an_outlier():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 128, generator=generator), torch.randn(4, 128, generator=generator)
    x[:, 5] = 300
    weight[:, 5] /= 300  # what counts is in the other inputs
    expected = linear(x.double(), rounded8(weight))
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    plain = linear(((x / scale).round() * scale).double(), rounded8(weight))
    assert relative_error(Int8Linear(weight)(x), expected) < relative_error(plain, expected) / 100


def test_without_vnni_activations_have_7_bits_a_plane_and_the_result_is_nearly_as_good():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 96, generator=generator), torch.randn(3, 5, 96, generator=generator)
    layer = Int8Linear(weight)
    layer.reduce_range, layer.steps = True, 63
    assert relative_error(layer(x), linear(x.double(), rounded8(weight))) < 1e-4


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_4_bit_weights_are_the_nearest_of_sixteen_steps_of_their_group(outputs, groups, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(16 * outputs, GROUP * groups, generator=generator)
    x = torch.randn(rows, GROUP * groups, generator=generator)
    assert relative_error(Int4Linear(weight)(x), linear(x.double(), rounded4(weight))) < 1e-3


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_dtype_and_bias_are_those_of_the_layer_it_stands_for(kind, dtype):
    weight, bias, x = torch.randn(32, 64), torch.full((32,), 100.0), torch.randn(2, 3, 64, dtype=dtype)
    output = kind(weight, bias.to(dtype))(x)
    assert output.shape == (2, 3, 32) and output.dtype == dtype
    assert torch.allclose(output.float().mean(), torch.tensor(100.0), atol=5)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_zeros_stay_zeros(kind):
    assert not kind(torch.zeros(16, 32))(torch.randn(2, 32)).any()
    assert kind(torch.randn(16, 32))(torch.zeros(2, 32)).abs().max() < 1e-6


def test_shapes_that_the_4_bit_kernel_lacks_are_known():
    assert Int4Linear.fits(torch.empty(48, 96))
    assert not Int4Linear.fits(torch.empty(24, 96)) and not Int4Linear.fits(torch.empty(48, 100))
