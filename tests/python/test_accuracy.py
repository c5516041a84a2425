"""Accuracy over the wire against float64 NumPy, far from zero too: error in y <= 4 * 2^-24 * max(1, |y|)."""

from __future__ import annotations

import numpy as np
import pytest

import normd
from support import along, axes, moments, normalize, y_error

SHAPES = {"NC": ((4099, 7), "channels_first"), "NCL": ((33, 7, 65), "channels_first"),
          "NCHW": ((16, 7, 17, 13), "channels_first"), "NHWC": ((16, 17, 13, 7), "channels_last"),
          "NCDHW": ((4, 7, 5, 9, 11), "channels_first"), "NDHWC": ((4, 5, 9, 11, 7), "channels_last")}


def sample(shape: tuple[int, ...], layout: str, ratio: float, std: float, dtype: str) -> np.ndarray:
    x = np.random.default_rng(7).standard_normal(shape)
    channels = shape[1] if layout == "channels_first" else shape[-1]
    # Every channel at another distance from zero, on both sides, up to `ratio` standard deviations.
    offset = ratio * std * np.linspace(-1, 1, channels)
    return (x * std + along(offset, x, layout)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ratio, std", [(0, 1), (1e3, 1), (1e5, 1), (1e6, 1), (1e6, 1e-2), (1e6, 1e4)])
@pytest.mark.parametrize("kind", SHAPES)
def test_train_and_infer(client: normd.Client, layer: str, kind: str, ratio: float, std: float, dtype: str) -> None:
    shape, layout = SHAPES[kind]
    x = sample(shape, layout, ratio, std, dtype)
    channels = shape[1] if layout == "channels_first" else shape[-1]
    rng = np.random.default_rng(8)
    gamma, beta = rng.uniform(0.5, 1, channels), rng.uniform(-1, 1, channels)
    # The batch's own statistics become the running ones.
    client.create_layer(layer, channels, update_weight=1.0,
                        initial_state=normd.LayerState(gamma=gamma, beta=beta))
    step = client.train_step(layer, x, layout=layout)
    mean, var, _ = moments(x, layout)
    np.testing.assert_allclose(step.batch_mean, mean, rtol=1e-12, atol=1e-12 * std)
    np.testing.assert_allclose(step.batch_var, var, rtol=1e-9)
    want = normalize(x, mean, var, 1e-5, gamma, beta, layout)
    assert step.y.dtype == np.dtype(dtype)
    assert y_error(step.y, want) <= 1
    assert y_error(client.infer(layer, x, layout=layout).output, want) <= 1
    if dtype == "float64":
        np.testing.assert_allclose(step.y, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", SHAPES)
def test_backward(client: normd.Client, layer: str, kind: str) -> None:
    shape, layout = SHAPES[kind]
    x = sample(shape, layout, 1e4, 1, "float32")
    dy = np.random.default_rng(9).standard_normal(shape).astype("float32")
    channels = shape[1] if layout == "channels_first" else shape[-1]
    gamma = np.linspace(-2, 2, channels)
    client.create_layer(layer, channels, initial_state=normd.LayerState(gamma=gamma, beta=np.zeros(channels)))
    step = client.train_step(layer, x, layout=layout)
    back = client.backward(layer, x, dy, layout=layout, batch_mean=step.batch_mean, batch_var=step.batch_var)
    mean, var, n = moments(x, layout)
    hat, g = normalize(x, mean, var, 1e-5, layout=layout), dy.astype(np.float64)
    dbeta, dgamma = g.sum(axes(x, layout)), (g * hat).sum(axes(x, layout))
    dx = along(gamma / np.sqrt(var + 1e-5), x, layout) * (
        g - along(dbeta / n, x, layout) - hat * along(dgamma / n, x, layout))
    np.testing.assert_allclose(back.dgamma, dgamma, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(back.dbeta, dbeta, rtol=1e-12, atol=1e-10)
    assert y_error(back.dx, dx) <= 1


@pytest.mark.parametrize("kind", ["NC", "NCHW", "NHWC"])
def test_denormalize_inverts_infer(client: normd.Client, layer: str, kind: str) -> None:
    shape, layout = SHAPES[kind]
    x = sample(shape, layout, 10, 2, "float64")
    channels = shape[1] if layout == "channels_first" else shape[-1]
    client.create_layer(layer, channels, "pytorch", update_weight=1.0,
                        initial_state=normd.LayerState(gamma=np.linspace(-3, -1, channels), beta=np.ones(channels)))
    client.train_step(layer, x, layout=layout, omit_output=True)
    inferred = client.infer(layer, x, layout=layout)
    back = client.denormalize(layer, inferred.output, layout=layout)
    np.testing.assert_allclose(back.output, x, rtol=1e-12, atol=1e-12)
    assert (back.version, back.content_hash) == (inferred.version, inferred.content_hash)


@pytest.mark.parametrize("value", [1e10 / 3, 0.1, -16777217.0, 3e38])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_channel_becomes_exactly_zero(client: normd.Client, layer: str, value: float, dtype: str) -> None:
    client.create_layer(layer, 2)
    step = client.train_step(layer, np.full((7, 2, 3, 3), value, dtype))
    assert not step.y.any()
    assert not step.batch_var.any()


def test_layouts_and_strides_give_the_same_bits(client: normd.Client, layer: str) -> None:
    x = np.random.default_rng(3).standard_normal((8, 5, 6, 7)).astype("float32") * 3 + 100
    client.create_layer(layer, 5)
    plain = client.train_step(layer, x, skip_update=True)
    strided = np.repeat(x, 2, axis=3)[..., ::2]
    reordered = np.asfortranarray(x)
    swapped = x.astype(">f4")
    for other in (strided, reordered, swapped):
        step = client.train_step(layer, other, skip_update=True)
        assert step.y.tobytes() == plain.y.tobytes()
        assert step.y.dtype == np.float32 and step.y.flags.writeable and step.y.flags.c_contiguous
    last = client.train_step(layer, x.transpose(0, 2, 3, 1), layout="channels_last", skip_update=True)
    assert y_error(last.y.transpose(0, 3, 1, 2), plain.y.astype(np.float64)) <= 1
