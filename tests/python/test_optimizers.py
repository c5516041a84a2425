"""The optimizers that Backward applies on the server, against torch.optim over many steps, in float64."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest
import torch

import normd

Case = tuple[normd.Optimizer, Callable[[Any], torch.optim.Optimizer]]
CASES: dict[str, Case] = {
    "sgd": (normd.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd-momentum": (normd.SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
    "sgd-dampening": (normd.SGD(0.1, momentum=0.9, dampening=0.3), lambda p: torch.optim.SGD(p, 0.1, 0.9, 0.3)),
    "sgd-nesterov": (normd.SGD(0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
                     lambda p: torch.optim.SGD(p, 0.05, 0.8, nesterov=True, weight_decay=0.1)),
    "sgd-zero-rate": (normd.SGD(0.0, momentum=0.5), lambda p: torch.optim.SGD(p, 0.0, 0.5)),
    "adam": (normd.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam-all": (normd.Adam(0.02, 0.8, 0.95, 1e-4, 0.1), lambda p: torch.optim.Adam(p, 0.02, (0.8, 0.95), 1e-4, 0.1)),
    "adam-no-decay": (normd.Adam(0.01, 0.0, 0.0), lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.0))),
    "adamw": (normd.AdamW(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    "adamw-all": (normd.AdamW(0.02, 0.8, 0.95, 1e-4, 0.3),
                  lambda p: torch.optim.AdamW(p, 0.02, (0.8, 0.95), 1e-4, 0.3)),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["training", "frozen"])
@pytest.mark.parametrize("case", CASES)
def test_against_torch(client: normd.Client, layer: str, case: str, frozen: bool) -> None:
    ours, make = CASES[case]
    module = torch.nn.BatchNorm1d(4, dtype=torch.float64)
    optimizer = make(module.parameters())
    client.create_layer(layer, 4, "pytorch")
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        x = torch.randn(8, 4, dtype=torch.float64, generator=generator)
        dy = torch.randn(8, 4, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        module.train(not frozen)(x).backward(dy)
        optimizer.step()
        if frozen:
            answer = client.backward(layer, x.numpy(), dy.numpy(), frozen=True, optimizer=ours, omit_dx=True)
        else:
            forward = client.train_step(layer, x.numpy())
            answer = client.backward(layer, x.numpy(), dy.numpy(), batch_mean=forward.batch_mean,
                                     batch_var=forward.batch_var, optimizer=ours, omit_dx=True)
        np.testing.assert_allclose(answer.dgamma, module.weight.grad, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(answer.gamma, module.weight.detach(), rtol=1e-8, atol=1e-10, err_msg=f"step {step}")
        np.testing.assert_allclose(answer.beta, module.bias.detach(), rtol=1e-8, atol=1e-10, err_msg=f"step {step}")
        assert answer.dx is None
    state = client.get_layer(layer).state
    np.testing.assert_array_equal(state.gamma, answer.gamma)
    np.testing.assert_array_equal(state.beta, answer.beta)


def test_the_other_kind_starts_anew_and_so_does_reset(client: normd.Client, layer: str) -> None:
    x, dy = np.random.default_rng(0).standard_normal((2, 8, 3))
    client.create_layer(layer, 3)

    def step(optimizer: normd.Optimizer) -> np.ndarray:
        before = client.get_layer(layer).state.gamma
        answer = client.backward(layer, x, dy, frozen=True, optimizer=optimizer)
        return before - answer.gamma

    heavy = normd.SGD(0.1, momentum=0.5)
    first = step(heavy)
    np.testing.assert_allclose(step(heavy), 1.5 * first)
    np.testing.assert_allclose(np.abs(step(normd.Adam(0.1))), 0.1, rtol=1e-6)
    np.testing.assert_allclose(step(heavy), first)
    np.testing.assert_allclose(step(heavy), 1.5 * first)
    state = client.get_layer(layer).state
    client.set_state(layer, normd.LayerState(gamma=state.gamma, beta=state.beta), reset_optimizer=True)
    np.testing.assert_allclose(step(heavy), first)


@pytest.mark.parametrize("optimizer, word", [
    (normd.SGD(-0.1), "learning_rate"), (normd.SGD(float("nan")), "learning_rate"),
    (normd.SGD(0.1, momentum=1), "momentum"),
    (normd.SGD(0.1, nesterov=True), "nesterov"), (normd.SGD(0.1, 0.9, 0.1, nesterov=True), "dampening"),
    (normd.SGD(0.1, weight_decay=-1), "weight_decay"), (normd.Adam(0.1, beta1=1), "beta1"),
    (normd.Adam(0.1, beta2=-0.1), "beta2"), (normd.Adam(0.1, eps=0), "eps")])
def test_bad_values(client: normd.Client, layer: str, optimizer: normd.Optimizer, word: str) -> None:
    client.create_layer(layer, 3)
    x = np.ones((4, 3))
    with pytest.raises(normd.InvalidArgumentError, match=word):
        client.backward(layer, x, x, frozen=True, optimizer=optimizer)
    assert client.get_layer(layer).version == 1
