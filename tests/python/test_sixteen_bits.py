"""float16 and bfloat16: the answers are the exact ones, from the 16-bit values as they are, rounded once.

Judged by NumPy and torch in float64; and bfloat16 by torch's own modules too, which round more than once where weight
and bias are bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import normd
import normd.torch
from support import along, axes, moments, normalize
from test_torch_modules import pair

# Bits of the significand, with the one that is not stored; exponent of the smallest normal number.
FORMATS = {torch.float16: (11, -14), torch.bfloat16: (8, -126)}
SHAPES = {"1d-NC": (64, 5), "1d-NCL": (6, 5, 9), "2d": (4, 5, 6, 7), "3d": (3, 5, 2, 4, 3)}


def assert_rounded_once(got: np.ndarray, want: np.ndarray, dtype: torch.dtype, steps: float = 1) -> None:
    """|got - want| is at most `steps` roundings to dtype. It may have been rounded to float32 before."""
    digits, smallest = FORMATS[dtype]
    exponent = np.maximum(np.frexp(want)[1] - 1, smallest)
    allowed = np.ldexp(0.5, exponent - digits + 1) + np.abs(want) * 2.0**-24 + 1e-13
    assert (np.abs(got - want) / allowed).max() <= steps


@pytest.mark.parametrize("shape, layout", [((64, 7), "channels_first"), ((4, 7, 9, 5), "channels_first"),
                                           ((4, 9, 5, 7), "channels_last")])
def test_float16_arrays(client: normd.Client, layer: str, shape: tuple[int, ...], layout: Any) -> None:
    rng = np.random.default_rng(5)
    x, dy = ((rng.standard_normal(shape) * 3 + 2).astype(np.float16) for _ in range(2))
    gamma, beta = rng.uniform(0.5, 2, 7), rng.uniform(-1, 1, 7)
    client.create_layer(layer, 7, update_weight=1.0, initial_state=normd.LayerState(gamma=gamma, beta=beta))
    step = client.train_step(layer, x, layout=layout)
    mean, var, n = moments(x, layout)
    np.testing.assert_allclose(step.batch_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(step.batch_var, var, rtol=1e-12)
    want = normalize(x, mean, var, 1e-5, gamma, beta, layout)
    inferred = client.infer(layer, x, layout=layout).output
    for y in (step.y, inferred):
        assert y.dtype == np.float16 and y.shape == shape and y.flags.writeable
        assert_rounded_once(y, want, torch.float16)

    back = client.denormalize(layer, inferred, layout=layout).output
    assert back.dtype == np.float16
    x_again = (inferred.astype(np.float64) - along(beta, x, layout)) / along(gamma / np.sqrt(var + 1e-5), x, layout)
    assert_rounded_once(back, x_again + along(mean, x, layout), torch.float16)

    gradients = client.backward(layer, x, dy, layout=layout, batch_mean=step.batch_mean, batch_var=step.batch_var)
    hat, g = normalize(x, mean, var, 1e-5, layout=layout), dy.astype(np.float64)
    dbeta, dgamma = g.sum(axes(x, layout)), (g * hat).sum(axes(x, layout))
    dx = along(gamma / np.sqrt(var + 1e-5), x, layout) * (
        g - along(dbeta / n, x, layout) - hat * along(dgamma / n, x, layout))
    assert gradients.dx.dtype == np.float16 and gradients.dgamma.dtype == np.float64
    np.testing.assert_allclose(gradients.dgamma, dgamma, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(gradients.dbeta, dbeta, rtol=1e-11, atol=1e-11)
    assert_rounded_once(gradients.dx, dx, torch.float16)


def test_float16_in_any_order_of_bytes_and_strides(client: normd.Client, layer: str) -> None:
    x = np.random.default_rng(3).standard_normal((8, 5, 6)).astype(np.float16)
    client.create_layer(layer, 5)
    plain = client.train_step(layer, x, skip_update=True).y
    for other in (np.repeat(x, 2, axis=2)[..., ::2], np.asfortranarray(x), x.astype(">f2")):
        y = client.train_step(layer, other, skip_update=True).y
        assert y.tobytes() == plain.tobytes() and y.dtype == np.float16


def test_float16_overflows_to_infinity(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 1, initial_state=normd.LayerState(gamma=np.array([6e4]), beta=np.zeros(1)))
    y = client.infer(layer, np.array([[1], [2], [-2]], np.float16)).output
    np.testing.assert_array_equal(y[1:].ravel(), [np.inf, -np.inf])
    assert np.isfinite(y[0])


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("weight_dtype", ["same", "float32"])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", SHAPES)
def test_modules(client: normd.Client, layer: str, kind: str, dtype: torch.dtype, weight_dtype: str,
                 memory: str) -> None:
    parameters = dtype if weight_dtype == "same" else torch.float32
    _, ours = pair(client, layer, kind, 5, dtype=parameters)
    # float64 all through, on the same 16-bit input, weight and bias.
    exact = getattr(torch.nn, f"BatchNorm{kind[:2]}")(5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for theirs, mine in ((exact.weight, ours.weight), (exact.bias, ours.bias)):
            mine.copy_(torch.rand(5, generator=generator) * 2 - 1)
            theirs.copy_(mine)
    for training in (True, True, False):
        x, dy = ((torch.randn(SHAPES[kind], generator=generator) * 3 + 2).to(dtype) for _ in range(2))
        if memory == "channels_last" and x.dim() > 3:
            x = x.contiguous(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}[x.dim()])
        elif memory == "strided":
            x = x.repeat_interleave(2, -1)[..., ::2]
            dy = dy.transpose(0, -1).contiguous().transpose(0, -1)
        ours.zero_grad()
        exact.zero_grad()
        mine, theirs = x.detach().requires_grad_(), x.double().requires_grad_()
        y = ours.train(training)(mine)
        y.backward(dy)
        want = exact.train(training)(theirs)
        want.backward(dy.double())
        assert y.dtype == mine.grad.dtype == dtype and y.shape == x.shape
        if memory == "channels_last" and x.dim() > 3:
            assert y.stride() == x.stride()
        assert_rounded_once(y.detach().double().numpy(), want.detach().numpy(), dtype)
        assert_rounded_once(mine.grad.double().numpy(), theirs.grad.numpy(), dtype)
        for parameter, reference in ((ours.weight, exact.weight), (ours.bias, exact.bias)):
            assert parameter.grad.dtype == parameters
            digits = 24 if weight_dtype == "float32" else FORMATS[dtype][0]
            torch.testing.assert_close(parameter.grad.double(), reference.grad, rtol=2.0**-digits, atol=1e-6)
    # The layer's own statistics are float64, whatever the buffers that show them are.
    state = client.get_layer(layer).state
    np.testing.assert_allclose(state.running_mean, exact.running_mean, rtol=1e-12)
    np.testing.assert_allclose(state.running_var, exact.running_var, rtol=1e-12)
    assert ours.running_mean.dtype == parameters
    torch.testing.assert_close(ours.running_mean, exact.running_mean.to(parameters), rtol=0, atol=0)


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", SHAPES)
def test_bfloat16_is_like_torchs(client: normd.Client, layer: str, kind: str, weight_dtype: torch.dtype) -> None:
    theirs, ours = pair(client, layer, kind, 5, dtype=weight_dtype)
    # One step of bfloat16, in which two numbers that are rounded once may differ; three where torch rounds more often.
    tolerance = 2.0**-7 if weight_dtype == torch.float32 else 3 * 2.0**-7
    generator = torch.Generator().manual_seed(1)
    for training in (True, True, False):
        x = torch.randn(SHAPES[kind], generator=generator).bfloat16()
        dy = torch.randn(SHAPES[kind], generator=generator).bfloat16()
        answers = []
        for module in (theirs, ours):
            argument = x.clone().requires_grad_()
            y = module.train(training)(argument)
            y.backward(dy)
            answers.append((y.detach(), argument.grad))
        assert ours(x).dtype == theirs(x).dtype == torch.bfloat16
        for got, want in zip(answers[1], answers[0]):
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance / 4)


@pytest.mark.parametrize("dtype", FORMATS)
def test_state_and_learning(client: normd.Client, layer: str, dtype: torch.dtype) -> None:
    _, ours = pair(client, layer, "1d", 5, dtype=dtype)
    x = torch.randn(16, 5).to(dtype)
    # An output may be overwritten, as ReLU(inplace=True) does. (torch has no ReLU of float16 on the CPU.)
    ours(x).mul_(2).backward(torch.ones_like(x))
    torch.optim.SGD(ours.parameters(), 0.5).step()
    ours.eval()
    state = client.get_layer(layer).state
    assert torch.equal(ours.weight, torch.from_numpy(state.gamma).to(dtype))
    version = client.get_layer(layer).version
    ours(x.detach())
    assert client.get_layer(layer).version == version, "nothing has changed, nothing is sent"

    other = normd.torch.BatchNorm1d(5, dtype=dtype, client=client, layer=f"{layer}.copy")
    other.load_state_dict(ours.state_dict())
    for key, value in ours.state_dict().items():
        assert value.dtype == other.state_dict()[key].dtype
        assert torch.equal(other.state_dict()[key], value), key

    learning = normd.torch.BatchNorm1d(5, dtype=dtype, client=client, layer=f"{layer}.sgd", optimizer=normd.SGD(0.5))
    learning(x).backward(torch.ones_like(x))
    np.testing.assert_allclose(client.get_layer(f"{layer}.sgd").state.beta, -8)
    assert torch.equal(learning.bias, torch.full((5,), -8, dtype=dtype))


def test_wrong_dtypes(client: normd.Client, layer: str) -> None:
    _, ours = pair(client, layer, "1d", 5, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=f"'{layer}'.*int32, want one of: .*float32.*float64.*float16.*bfloat16"):
        ours(torch.zeros(4, 5, dtype=torch.int32))
    for dtype, want in ((torch.float32, "float32"), (torch.float64, "float64"),
                        (torch.float16, "float16 or torch.float32")):
        with pytest.raises(TypeError, match=f"input is {dtype} and the weight torch.bfloat16, want torch.{want}$"):
            ours(torch.zeros(4, 5, dtype=dtype))
    _, wide = pair(client, f"{layer}.wide", "1d", 5, dtype=torch.float64)
    with pytest.raises(TypeError, match="bfloat16 and the weight torch.float64, want torch.bfloat16 or torch.float32"):
        wide(torch.zeros(4, 5, dtype=torch.bfloat16))
    # The bits of a bfloat16 are no numbers to NumPy, and nothing is guessed.
    with pytest.raises(TypeError, match="has dtype int16, want float16, float32 or float64"):
        client.infer(layer, torch.zeros(4, 5, dtype=torch.bfloat16).view(torch.int16).numpy())
    halves = np.zeros((4, 5), np.float16)
    with pytest.raises(normd.InvalidArgumentError, match="dy.*FLOAT32.*FLOAT16"):
        client.backward(layer, halves, halves.astype(np.float32), batch_mean=[0] * 5, batch_var=[1] * 5)
