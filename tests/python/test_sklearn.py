"""scikit-learn's StandardScaler.partial_fit judges the preset standard_scaler: any split, any order, far from zero."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

import normd

SPLITS = {"whole": [1000], "halves": [500, 500], "ones": [1] * 40 + [960], "uneven": [1, 7, 990, 2],
          "growing": [10, 40, 150, 300, 500]}


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_partial_fit(client: normd.Client, layer: str, split: str, offset: float, backwards: bool) -> None:
    rng = np.random.default_rng(5)
    data = rng.standard_normal((1000, 4)) * [1, 10, 0.1, 1e3] + offset
    parts = np.split(data, np.cumsum(SPLITS[split])[:-1])
    if backwards:
        parts.reverse()
    client.create_layer(layer, 4, normd.presets.standard_scaler())
    scaler = StandardScaler()
    for count, part in enumerate(parts):
        scaler.partial_fit(part)
        step = client.train_step(layer, part)
        if count == len(parts) - 1:
            # Its training output is normalized with everything seen, this batch too.
            np.testing.assert_allclose(step.y, scaler.transform(part), rtol=1e-6, atol=1e-6)
    state = client.get_layer(layer).state
    np.testing.assert_allclose(state.running_mean, scaler.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.running_var, scaler.var_, rtol=1e-9)
    # Judged by the one-pass answer as well.
    np.testing.assert_allclose(state.running_mean, data.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.running_var, (data - data.mean(0)).var(0), rtol=1e-9)
    assert state.sample_count.tolist() == [1000] * 4
    y = client.infer(layer, data).output
    np.testing.assert_allclose(y, scaler.transform(data), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(client.denormalize(layer, y).output, data, rtol=1e-9, atol=1e-9)


def test_digits(client: normd.Client, layer: str) -> None:
    """Real data, whose border pixels are constant (scikit-learn: scale 1)."""
    data = load_digits().data
    client.create_layer(layer, 64, "standard_scaler")
    scaler = StandardScaler()
    for part in np.array_split(data, 7):
        scaler.partial_fit(part)
        client.train_step(layer, part, omit_output=True)
    state = client.get_layer(layer).state
    np.testing.assert_allclose(state.running_mean, scaler.mean_, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(state.running_var, scaler.var_, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(client.infer(layer, data).output, scaler.transform(data), rtol=1e-9, atol=1e-9)
